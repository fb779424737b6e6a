"""CKA over minibatches: sums, weights, merging, what is undefined."""

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from sj_cka import CKA, compare
from sj_cka.cka.layer_grams import grams


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(n, seed=0, T=3):
    """Two layers over time and one without, of which the second follows the first."""
    a = randn(T, n, 5, seed=seed)
    return {"a": a, "b": a[..., :2] + 0.5 * randn(T, n, 2, seed=seed + 50), "stem": randn(1, n, 4, seed=seed + 90)}


def accumulated(batches):
    cka = CKA()
    for x, y in batches:
        cka.update(x, y)
    return cka


def test_single_steps_equal_the_trace_formula(trace_cka):
    x, y = features(12), features(12, seed=7, T=1)
    data = accumulated([(x, y)]).compute().data
    for layer in x:
        for t in (1, 2, 3):
            X = x[layer][min(t, len(x[layer])) - 1]
            for other in y:
                expected = trace_cka(X.numpy(), y[other][0].numpy())
                found = float(data.cka.sel(layer_x=layer, step_x=t, layer_y=other, step_y=1))
                assert found == pytest.approx(expected, abs=1e-12), (layer, t, other)


def test_block_sums_equal_the_cka_of_features_concatenated_over_time(trace_cka):
    x, y = features(12), features(12, seed=7)
    matrix = accumulated([(x, y)]).compute().matrix()

    def concatenated(X, T=3):
        return X.expand(T, *X.shape[1:]).permute(1, 0, 2).reshape(X.shape[1], -1).numpy()

    for layer in x:
        for other in y:
            expected = trace_cka(concatenated(x[layer]), concatenated(y[other]))
            assert matrix.loc[layer, other] == pytest.approx(expected, abs=1e-9)


def test_the_per_step_attribution_of_a_concatenated_value_adds_up_to_it():
    data = accumulated([(features(12), features(12, seed=7))]).compute()
    d = data.data
    scale = np.sqrt(d.hsic_xx.sel(layer_x="a").sum() * d.hsic_yy.sel(layer_y="b").sum())
    attribution = d.hsic_xy.sel(layer_x="a", layer_y="b").sum("step_y") / scale
    assert float(attribution.sum()) == pytest.approx(data.matrix().loc["a", "b"], abs=1e-12)


def test_minibatches_add_their_hsic_weighted_by_their_samples_and_the_ratio_comes_last(trace_hsic):
    parts = [(randn(n, 4, seed=n), randn(n, 3, seed=n + 1)) for n in (16, 16, 5)]
    cka = accumulated([({"a": X[None]}, {"b": Y[None]}) for X, Y in parts])

    def total(i, j):
        return sum(len(p[0]) * trace_hsic((p[i] @ p[i].T).numpy(), (p[j] @ p[j].T).numpy()) for p in parts)

    expected = total(0, 1) / np.sqrt(total(0, 0) * total(1, 1))
    assert cka.compute().matrix().iloc[0, 0] == pytest.approx(expected, abs=1e-12)
    assert int(cka.compute().data.n) == 37


def test_the_mean_of_the_batches_ratios_would_be_another_number():
    parts = [({"a": randn(1, n, 4, seed=n)}, {"a": randn(1, n, 4, seed=n) ** 3}) for n in (16, 5)]
    ratios = [accumulated([part]).compute().matrix().iloc[0, 0] for part in parts]
    assert abs(accumulated(parts).compute().matrix().iloc[0, 0] - np.mean(ratios)) > 1e-3


def test_merged_accumulators_equal_one_that_saw_everything():
    parts = [(features(8, seed=s), features(8, seed=s + 3)) for s in range(4)]
    left, right = accumulated(parts[:1]), accumulated(parts[1:])
    left.merge(right)
    whole = accumulated(parts)
    assert np.allclose(left.compute().data.cka, whole.compute().data.cka, rtol=0, atol=1e-13)
    assert left.n == whole.n
    assert left.batches == 4


def test_merging_with_an_empty_one_changes_nothing_on_either_side():
    seen, empty = accumulated([(features(8), features(8, seed=1))]), CKA()
    before = seen.compute().data
    seen.merge(CKA())
    empty.merge(seen)
    assert before.equals(seen.compute().data)
    assert before.equals(empty.compute().data)


def test_a_state_dict_brings_everything_back():
    seen, other = accumulated([(features(8), features(8, seed=1))]), CKA()
    other.load_state_dict(seen.state_dict())
    assert seen.compute().data.identical(other.compute().data)
    seen.update(features(8, seed=5), features(8, seed=6))
    assert other.batches == 1


def test_x_against_itself_is_one_on_the_diagonal():
    cka = CKA()
    cka.update(features(10))
    assert np.allclose(cka.compute().paired(), 1, rtol=0, atol=1e-12)


def test_a_layer_without_time_counts_at_every_step():
    result = accumulated([(features(10), features(10, seed=2))]).compute()
    stem = result.data.cka.sel(layer_x="stem", layer_y="b")
    assert np.allclose(stem.sel(step_x=1), stem.sel(step_x=3), rtol=0, atol=0)
    assert np.allclose(result.steps("stem"), 1, rtol=0, atol=1e-12)


def test_a_layer_silent_in_one_batch_of_two_is_defined_and_in_all_is_named():
    x, y = features(8), features(8, seed=1)
    quiet = {**x, "b": torch.zeros_like(x["b"])}
    both = accumulated([(quiet, y), (x, y)]).compute()
    assert both.undefined.empty
    assert both.matrix().notna().all(axis=None)
    never = accumulated([(quiet, y), (quiet, y)]).compute()
    assert never.matrix().loc["b"].isna().all()
    assert never.matrix().drop(index="b").notna().all(axis=None)
    assert set(
        zip(never.undefined.side, never.undefined.layer, never.undefined.step, never.undefined.reason, strict=True)
    ) == {("x", "b", t, "silent") for t in (1, 2, 3)}


def test_a_silent_step_is_undefined_alone_and_counts_as_nothing_in_the_concatenated_value(trace_cka):
    x = features(10)
    x["a"][1] = 0
    y = {"b": randn(1, 10, 4, seed=3)}
    result = accumulated([(x, y)]).compute()
    assert np.isnan(result.data.cka.sel(layer_x="a", step_x=2)).all()
    expected = trace_cka(x["a"][[0, 2]].permute(1, 0, 2).reshape(10, -1).numpy(), y["b"][0].numpy())
    assert result.matrix().loc["a", "b"] == pytest.approx(expected, abs=1e-12)


def test_a_nan_is_named_by_its_place_among_all_samples_and_spreads_no_further():
    x, y = features(8), features(8, seed=1)
    broken = {**x, "a": x["a"].clone()}
    broken["a"][2, 5, 0] = float("nan")
    result = accumulated([(x, y), (broken, y)]).compute()
    row = result.undefined.iloc[0]
    assert (row.side, row.layer, row.step, row.reason) == ("x", "a", 3, "NaN or infinite at sample 13")
    assert result.matrix().loc["a"].isna().all()
    assert result.matrix().loc["b"].notna().all()
    assert result.data.cka.sel(layer_x="a", step_x=1).notnull().all()


def test_merging_keeps_a_nan_and_moves_its_sample():
    x, y = features(8), features(8, seed=1)
    broken = {**x, "a": x["a"].clone()}
    broken["a"][0, 2, 0] = float("inf")
    left = accumulated([(x, y)])
    left.merge(accumulated([(broken, y)]))
    assert left.compute().undefined.reason.tolist() == ["NaN or infinite at sample 10"]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ({"a": randn(2, 3, 4)}, {"a": randn(2, 3, 4)}, "at least 4 samples in a minibatch, got N = 3"),
        ({"a": randn(2, 8, 4)}, {"a": randn(2, 9, 4)}, "same samples on both sides, got N = 8 and 9"),
        ({"a": randn(2, 8, 4), "b": randn(3, 8, 4)}, {"a": randn(2, 8, 4)}, r"layer 'a': expected features \[T, N"),
        ({"a": randn(8)}, {"a": randn(2, 8, 4)}, r"layer 'a': expected features \[T, N, ...\]"),
        ({}, {"a": randn(2, 8, 4)}, "at least one layer"),
    ],
)
def test_features_that_do_not_fit_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        CKA().update(x, y)


def test_other_layers_than_before_are_refused_and_the_sums_stay():
    cka = accumulated([(features(8), features(8, seed=1))])
    before = cka.compute().data
    with pytest.raises(
        ValueError, match=r"x: expected the layers and steps of the batches before, 3 layers.*got 1 layers"
    ):
        cka.update({"a": randn(3, 8, 5)}, features(8, seed=1))
    assert before.equals(cka.compute().data)


def test_computing_without_data_is_refused():
    with pytest.raises(ValueError, match="at least one minibatch before compute"):
        CKA().compute()


@pytest.mark.parametrize("scale", [1e-20, 1e-9, 1e9])
def test_features_of_any_scale_have_the_same_values_and_nothing_undefined(scale):
    found = []
    for factor in (1.0, scale):
        cka = CKA()
        for seed in (0, 1):
            X, Y = randn(3, 12, 5, seed=seed), randn(1, 12, 4, seed=seed + 9)
            cka.update({"a": factor * X}, {"b": factor * (Y + X[:1, :, :4])}, groups={"g": torch.arange(12) < 6})
        found.append(cka.compute())
    plain, scaled = found
    assert scaled.undefined.empty
    assert np.allclose(scaled.data.cka, plain.data.cka, rtol=0, atol=1e-9)
    assert np.allclose(scaled.matrix(), plain.matrix(), rtol=0, atol=1e-9)
    assert np.allclose(scaled.steps("a"), plain.steps("a"), rtol=0, atol=1e-9)
    assert np.allclose(scaled.matrix(group="g"), plain.matrix(group="g"), rtol=0, atol=1e-9)
    assert np.allclose(scaled.dynamics().cka, plain.dynamics().cka, rtol=0, atol=1e-9)
    assert np.allclose(scaled.interval(), plain.interval(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-150, 1e-90, 1e80, 1e200])
def test_what_float64_does_not_hold_is_named_and_leaves_the_rest_alone(scale):
    x, y = features(8), features(8, seed=1)
    large = {**x, "a": scale * x["a"]}
    result = accumulated([(x, y), (large, y)]).compute()
    assert set(result.undefined.reason) == {"beyond the range of float64"}
    assert set(result.undefined.layer) == {"a"}
    assert result.matrix().loc["a"].isna().all()
    assert np.isfinite(result.matrix().loc[["b", "stem"]]).all(axis=None)
    merged = CKA()
    merged.merge(accumulated([(x, y)]))
    merged.merge(accumulated([(large, y)]))
    assert merged.compute().undefined.equals(result.undefined)


def test_a_merged_part_lies_behind_what_was_left_out_as_well():
    x, y = features(8), features(8, seed=1)
    broken = {**x, "a": x["a"].clone()}
    broken["a"][0, 2, 0] = float("nan")
    left, right = CKA(), CKA()
    left.update(x, y, place=0)
    left.update(x, y, place=11)  # a batch of 3 was left out before
    right.update(broken, y)
    right.update(x, y)
    left.merge(right)
    left.update(x, y)
    found = left.compute()
    assert found.data.batch_place.values.tolist() == [0, 11, 19, 27, 35]
    assert set(found.undefined.reason) == {"NaN or infinite at sample 21"}
    assert left.n == 40


def test_features_with_a_gradient_are_compared_without_it():
    x, y = features(8), features(8, seed=1)
    found = accumulated([({layer: X.clone().requires_grad_() for layer, X in x.items()}, y)])
    assert found.compute().data.equals(accumulated([(x, y)]).compute().data)
    held = [value for part in found.parts for values in part.tensors.values() for value in values]
    assert held
    assert not any(value.requires_grad for value in held)


@pytest.mark.parametrize(
    "changed",
    [
        lambda X: X,
        lambda X: X.astype(">f8"),
        lambda X: X[..., ::-1].copy()[..., ::-1],
        lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),  # read-only
    ],
    ids=["as it is", "other byte order", "backwards", "read-only"],
)
def test_arrays_of_any_kind_are_taken(changed):
    x, y = features(8), features(8, seed=1)
    found = accumulated([({layer: changed(X.numpy()) for layer, X in x.items()}, y)])
    assert found.compute().data.equals(accumulated([(x, y)]).compute().data)


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_a_default_dtype_of_float64_changes_nothing(double):
    options = {"permutations": 2, "measures": ["rsa", "procrustes"]}
    groups = {"g": torch.arange(80) < 40, "few": torch.arange(80) < 2}
    found, expected = CKA(**options), CKA(**options)
    x, y = features(80), features(80, seed=1)
    found.update(x, y, groups=groups)
    torch.set_default_dtype(torch.float32)
    expected.update(x, y, groups=groups)
    assert found.compute().data.identical(expected.compute().data)
    assert (
        next(part.tensors["sample_xy"][0].dtype for part in found.parts if "sample_xy" in part.tensors) == torch.float32
    )


def test_networks_of_float64_are_compared_where_that_is_the_default(double, trace_cka):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 20), neuron.LIFNode(v_threshold=0.3), nn.Linear(20, 5)).eval()
    functional.set_step_mode(net, "m")
    x = torch.randn(20, 6)
    into = CKA(permutations={"samples": 2, "steps": 1}, measures=["rsa"])
    result = compare(net, "input", [x], T=4, observe=("output", "latency"), into=into, progress=False)
    assert result.matrix().loc["0", "input"] == pytest.approx(trace_cka(net[0](x).detach(), x), abs=1e-9)


def test_permuted_steps_are_kept_merged_and_restored_with_the_rest():
    options = {"permutations": {"samples": 2, "steps": 1}}
    parts = [(features(8, seed=s), features(8, seed=s + 3)) for s in range(3)]
    whole, left, right, again = (CKA(**options) for _ in range(4))
    for number, (x, y) in enumerate(parts):
        whole.update(x, y, seed=number)
        (left if number < 1 else right).update(x, y, seed=number)
    left.merge(right)
    again.load_state_dict(left.state_dict())
    expected = whole.compute()
    for found in (left.compute(), again.compute()):
        assert np.allclose(found.data.permuted_xy, expected.data.permuted_xy, rtol=0, atol=1e-13)
        permuted = found.permuted_steps.data.cka
        assert np.allclose(permuted, expected.permuted_steps.data.cka, rtol=0, atol=1e-13)
        assert not np.allclose(permuted, found.data.cka, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match=r"expected also=.*Grams of the permuted steps that were asked for"):
        CKA(**options).update_grams(grams(parts[0][0]), grams(parts[0][1]))
    with pytest.raises(ValueError, match="accumulators of the same options"):
        left.merge(accumulated(parts))


@pytest.mark.parametrize("asked", [-1, True, 1.5, {"rows": 1}, {"steps": 2}, {"samples": -1}])
def test_permutations_that_cannot_be_are_refused(asked):
    with pytest.raises(ValueError, match=r"a number of permutations from 0, .*steps at most once, got"):
        CKA(permutations=asked)


def test_minibatches_left_out_are_numbered_on_where_accumulators_merge():
    parts = [CKA() for _ in range(3)]
    for part in parts[1:]:
        part.update(features(8), features(8, seed=1))
    for part, n in ((parts[0], 2), (parts[1], 3), (parts[2], 1)):
        part.leave_out(n)
    whole = CKA()
    for part in parts:
        whole.merge(part)
    assert whole.left_out == [0, 2, 4]
    assert (whole.read, whole.n) == (5, 16)
    assert whole.compute().data.batch_place.values.tolist() == [2, 13]  # behind all that was left out before


def test_units_that_vary_are_forgotten_by_whichever_accumulator_meets_them():
    def counted(units):
        x = grams(features(8))
        x.counts = {"a": torch.full((3, units), 2.0), "b": torch.full((3, 4), 8.0)}
        cka = CKA()
        cka.update_grams(x, grams(features(8, seed=1)))
        return cka

    merged, other = counted(5), counted(5)
    merged.merge(other)
    assert merged.compute().activity.set_index(["layer", "step"]).loc[("a", 1), "rate"] == 4 / 16
    other = counted(6)
    other.merge(counted(6))  # of one number again
    merged.merge(other)
    assert set(merged.compute().activity.layer) == {"b"}
    assert set(merged.compute().activity.saturated) == {1.0}
