"""Dynamics by split halves: the closed form, trains whose dynamics are known, what is undefined."""

from itertools import combinations

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import CKA, CKAResult, compare, compare_features
from sj_cka.cka.compare import Space
from sj_cka.cka.gram import raw_grams
from sj_cka.cka.own_terms import chosen, own_terms, samples_for, units_of

N, C, T = 300, 128, 8


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coded(T, n, *shape, noise=0.6):
    """Features of a code of three dimensions that all units share, its half anew at every step, and their own noise."""
    code = randn(1, n, 3, seed=3) + 0.5 * randn(T, n, 3, seed=4)
    return torch.tensordot(code, randn(3, *shape, seed=5), 1) + noise * randn(T, n, *shape, seed=6)


def unit_grams(X):
    """The Gram of every unit at every step, [T, C, N, N], of features [T, N, C, ...]."""
    units = X.flatten(3) if X.ndim > 3 else X.unsqueeze(-1)
    units = units.transpose(1, 2).numpy().astype(float)
    return units @ units.swapaxes(-1, -2)


def own(X, hsic):
    """Own terms [T, T] by the trace formula, unit for unit."""
    k = unit_grams(X)
    return np.array(
        [[sum(hsic(a, b) for a, b in zip(k[t], k[s], strict=True)) for s in range(len(k))] for t in range(len(k))]
    )


def split_of(across):
    """1 - C_ts / sqrt(C_tt C_ss), the mean over pairs of steps."""
    T = len(across)
    return np.mean([1 - across[t, s] / np.sqrt(across[t, t] * across[s, s]) for t in range(T) for s in range(t)])


def dynamics(X, **options):
    return compare_features({"a": X}, progress=False, **options).dynamics().loc["a"]


@pytest.mark.parametrize("space", [(), (3, 2)])
def test_it_is_the_mean_over_all_splits_of_the_units_into_halves(trace_hsic, space):
    X = coded(3, 14, 8, *space)
    k = unit_grams(X)
    across = np.zeros((3, 3))
    for half in combinations(range(8), 4):
        rest = [u for u in range(8) if u not in half]
        one, other = k[:, list(half)].sum(1), k[:, rest].sum(1)
        across += [[trace_hsic(a, b) for b in other] for a in one]
    assert dynamics(X).split == pytest.approx(split_of(across), abs=1e-9)


def test_minibatches_add_up_before_the_ratio(trace_hsic):
    X = coded(3, 50, 9)
    across = 0
    for part in X.split([20, 20, 10], 1):
        K = unit_grams(part).sum(1)
        across = across + part.shape[1] * (np.array([[trace_hsic(a, b) for b in K] for a in K]) - own(part, trace_hsic))
    result = compare_features({"a": X}, batch_size=20, progress=False)
    assert result.dynamics().loc["a", "split"] == pytest.approx(split_of(across), abs=1e-9)
    parts = [CKA(), CKA()]
    parts[0].update({"a": X[:, :20]})
    parts[0].update({"a": X[:, 20:40]})
    parts[1].update({"a": X[:, 40:]})
    parts[0].merge(parts[1])
    again = CKA()
    again.load_state_dict(parts[0].state_dict())
    assert again.compute().dynamics().loc["a", "split"] == pytest.approx(result.dynamics().loc["a", "split"], abs=1e-14)


@pytest.mark.parametrize(("n", "shape"), [(90, (400,)), (200, (9, 4, 3)), (400, (8, 8, 5))])
def test_of_many_samples_own_terms_are_taken_over_some_of_them(trace_hsic, n, shape):
    X = (randn(2, n, *shape) + 3).float()
    P = int(np.prod(shape[1:]))
    at = samples_for(n, shape[0] * P, P, 2)
    assert at.blocks * at.b < n
    rows = chosen(n, X.device)[0, : at.blocks * at.b].split(at.b)
    expected = np.mean([own(X[:, some], trace_hsic) for some in rows], axis=0)
    X = X.flatten(2)
    found = own_terms(units_of(X, shape[0], 2, raw_grams(X).diagonal.abs().amax(1).sqrt()))
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected[0, 0])


def test_own_terms_over_some_samples_are_right_in_the_mean():
    found = []
    for seed in range(300):
        g = torch.Generator().manual_seed(seed)
        X = torch.randn(1, 100, 8 * 4, generator=g) * torch.arange(1, 33)
        found.append(float(own_terms(units_of(X, 8, 4, raw_grams(X).diagonal.abs().amax(1).sqrt()))))
    # of independent features of variances v: HSIC of a unit with itself is sum v^2
    exact = float((torch.arange(1.0, 33) ** 4).sum())
    assert np.mean(found) == pytest.approx(exact, abs=4 * np.std(found) / 300**0.5)
    assert np.std(found) < 0.25 * exact


def trains(seed):
    """Spikes [T, N, C]: what they do over time, whose dynamics by split halves are known where a number is given."""
    g = np.random.default_rng(seed)

    def rates():  # a code of four dimensions
        return 1 / (1 + np.exp(1 - g.normal(size=(N, 4)) @ g.normal(size=(4, C))))

    def fire(rate):
        return (g.random((T, N, C)) < rate).astype(np.float32)

    A, B = rates(), rates()
    latency = (-A).argsort(axis=None).argsort().reshape(N, C) * T // A.size  # as many spikes at every step
    return {
        "static": (np.repeat(fire(A)[:1], T, 0), 0),
        "poisson": (fire(A), 0),
        "course": (fire(A * np.linspace(0.6, 1, T)[:, None, None]), 0),
        "change": (fire(np.stack([A] * 4 + [B] * 4)), 16 / 28),
        "synchrony": (fire(np.where(g.random((T, N, 1)) < 0.3, 0.6, 0.05)), None),  # all units, at any time
        "latency": ((np.arange(T)[:, None, None] == latency).astype(np.float32), None),
    }


@pytest.mark.parametrize("seed", range(3))
def test_trains_of_known_dynamics_have_them(seed):
    known = trains(seed)
    table = compare_features({name: X for name, (X, _) in known.items()}, progress=False).dynamics()
    for name, (_, expected) in known.items():
        if expected is not None:
            assert table.split[name] == pytest.approx(expected, abs=0.05), name
    assert table.split["static"] == pytest.approx(0, abs=1e-9)
    assert table.split["synchrony"] > 0.8
    assert table.split["latency"] > 0.25
    assert table.cka["course"] < 0.7  # which cannot tell noise of single units from a code that changes
    assert not table.split_undefined.any()


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_neither_scale_nor_offset_matters(factor):
    X = coded(3, 60, 10)
    expected = dynamics(X).split
    assert dynamics((X * factor).float()).split == pytest.approx(expected, abs=1e-5)
    assert dynamics(X * factor**5).split == pytest.approx(expected, abs=1e-9)
    assert dynamics((X + 1e4).float()).split == pytest.approx(expected, abs=1e-2)


def test_what_is_undefined_is_nan_and_named():
    noise = randn(4, 40, 16, seed=7)
    some = coded(4, 40, 16)
    some[1] = 0
    features = {"few": some[..., :7], "eight": some[..., :8], "noise": noise, "one": some[:1]}
    table = compare_features(features, progress=False).dynamics()
    assert np.isnan(table.split["few"])
    assert table.split_undefined["few"] == "7 units, under 8"
    assert table.split_undefined["eight"] == "same-step reliability at or below 0 at step 2"
    without = dynamics(some[[0, 2, 3], :, :8])
    assert table.split["eight"] == pytest.approx(without.split, abs=1e-9)
    assert table.reliability["noise"] < 0.1
    assert "reliability at or below 0 at step" in table.split_undefined["noise"]
    assert (table.split["one"], table.split_undefined["one"]) == (0, "")
    alone = compare_features({"a": some[:1]}, progress=False).dynamics()
    assert np.isnan(alone.split["a"])
    assert alone.split_undefined["a"] == "one step"
    broken = some.clone()
    broken[2, 3] = torch.inf
    row = dynamics(broken[:, :, :8])
    assert row.split_undefined == "same-step reliability at or below 0 at step 2, 3"
    assert np.isfinite(row.split)


def test_a_file_keeps_it_and_one_of_before_loads_without(tmp_path):
    X = coded(3, 30, 10)
    result = compare_features({"a": X}, {"b": X[:2]}, progress=False)
    kept = CKAResult.load(result.save(tmp_path / "result.nc"))
    for side in "xy":
        assert kept.dynamics(side).equals(result.dynamics(side))
        assert np.isfinite(kept.dynamics(side).split).all()
    before = CKAResult(result.data.drop_vars(["own_xx", "own_yy", "units_x", "units_y"]))
    before.save(tmp_path / "before.nc")
    row = CKAResult.load(tmp_path / "before.nc").dynamics().loc["a"]
    assert np.isnan(row.split)
    assert row.split_undefined == "own terms of units were not kept"
    assert row.cka == result.dynamics().loc["a", "cka"]


def images(n):
    return (1.5 + coded(1, n, 2, 6, 5, noise=0.2)[0]).float()


def network(step_mode="m"):
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(2, 9, 3), neuron.LIFNode(tau=2.0), layer.Flatten(), layer.Linear(9 * 4 * 3, 12), neuron.IFNode()
    ).eval()
    functional.set_step_mode(net, step_mode)
    return net


def test_channels_of_maps_are_units_in_whatever_way_the_steps_come(trace_hsic):
    x = images(60)
    found = {mode: compare(network(mode), loader=x, T=4, layers=["0", "1", "3"], progress=False) for mode in "ms"}
    bounded = compare(network("s"), loader=x, T=4, layers=["0", "1", "3"], progress=False, space=Space(memory="10kB"))
    assert bounded.data.grams.endswith("in a temporary file")
    for other in (found["s"], bounded):
        assert other.data.units_x.values.tolist() == [9, 9, 12]
        assert np.allclose(other.data.own_xx, found["m"].data.own_xx, rtol=1e-5, atol=1e-6)
    table = found["m"].dynamics()
    assert table.split["0"] == 0
    assert table.split_undefined["0"] == ""
    assert table.split["1"] > 0.01
    assert not table.split_undefined.any()
    few = compare(network(), loader=x[:20], T=4, layers="1", progress=False)
    with torch.no_grad():
        spikes = network()[:2](x[:20].expand(4, -1, -1, -1, -1))
    assert np.allclose(few.data.own_xx[0], own(spikes, trace_hsic), rtol=0, atol=1e-5)


def test_a_network_in_bfloat16_has_own_terms_in_float32(trace_hsic):
    x = images(20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compare(network(), loader=x, T=4, layers="1", progress=False)
        with torch.no_grad():
            spikes = network()[:2](x.expand(4, -1, -1, -1, -1))
    assert np.allclose(found.data.own_xx[0], own(spikes.float(), trace_hsic), rtol=0, atol=1e-5)


def test_space_and_other_observables_have_units_of_their_own():
    x = images(30)
    result = compare(
        network(), loader=x, T=4, layers="1", observe=("output", "membrane", "rate"), progress=False,
        space=Space(spatial="mean"), into=CKA(permutations={"steps": 1}),
    )  # fmt: skip
    assert result.data.units_x.values.tolist() == [9]
    assert np.isfinite(result.also["membrane"].dynamics().split["1"])
    assert result.also["rate"].dynamics().split_undefined["1"] == "one step"
    assert "own_xx" not in result.permuted_steps.data
    assert result.dynamics()[["split", "null"]].notna().all(axis=None)


def test_a_device_that_is_not_waited_for_has_the_same_own_terms(launches):
    x = images(60) + 100  # taken again
    expected = compare(network(), loader=x, T=4, layers=["0", "1"], progress=False)
    launches(True)
    found = compare(network(), loader=x, T=4, layers=["0", "1"], progress=False)
    assert np.array_equal(found.data.own_xx, expected.data.own_xx)
