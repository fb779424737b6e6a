"""compare: against inputs and labels, groups, two loaders, selectors, and what stops it halfway."""

import inspect
import re

import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import CKA, ComparisonStopped, Space, cka, compare, compare_features
from sj_cka.cka.observed_network import _device as device_of

T = 4


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def ann():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.Tanh()).eval()


@pytest.fixture
def snn():
    torch.manual_seed(1)
    made = nn.Sequential(layer.Linear(6, 12), neuron.LIFNode(v_threshold=0.3), layer.Linear(12, 9)).eval()
    functional.set_step_mode(made, "m")
    return made


@pytest.fixture
def labelled():
    return [(randn(20, 6), torch.arange(20) % 3), (randn(12, 6, seed=1), torch.arange(12) % 3)]


def activations(ann, x):
    with torch.no_grad():
        return ann[0](x), ann[1](ann[0](x))


def test_against_the_input_is_the_cka_with_the_pixels(ann, trace_cka):
    x = randn(20, 1, 2, 3)
    net = nn.Sequential(nn.Flatten(), *ann).eval()
    result = compare(net, "input", loader=[x], progress=False)
    assert result.layers_y == ["input"]
    expected = trace_cka(activations(ann, x.flatten(1))[1].numpy(), x.numpy())
    assert result.matrix().loc["2", "input"] == pytest.approx(expected, abs=1e-6)


def test_against_the_labels_is_the_cka_with_the_class_gram(ann, snn, labelled, trace_hsic):
    x, labels = labelled[0]
    result = compare(ann, "labels", loader=[labelled[0]], progress=False)
    L = (labels[:, None] == labels[None]).double().numpy()
    out = activations(ann, x)[1].double()
    K = (out @ out.T).numpy()
    expected = trace_hsic(K, L) / np.sqrt(trace_hsic(K, K) * trace_hsic(L, L))
    assert result.matrix().loc["1", "labels"] == pytest.approx(expected, abs=1e-6)
    over_time = compare(snn, "labels", loader=labelled, T=T, observe=("output", "rate"), progress=False)
    assert over_time.matrix(2).shape == (2, 1)
    assert over_time.matrix("rate").notna().all(axis=None)


def test_frames_count_all_their_steps_as_input(snn, trace_cka):
    frames = randn(T, 20, 6)
    result = compare(snn, "input", loader=[frames], layout="TNCHW", layers="0", progress=False)
    functional.reset_net(snn)
    with torch.no_grad():
        out = snn[0](frames).transpose(0, 1).flatten(1).numpy()
    assert result.matrix().iloc[0, 0] == pytest.approx(
        trace_cka(out, frames.transpose(0, 1).flatten(1).numpy()), abs=1e-6
    )


@pytest.mark.parametrize("given", ["input", "labels"])
def test_given_takes_the_third_gram_in_the_same_pass(ann, snn, labelled, given):
    result = compare(snn, ann, labelled, T=T, given=given, progress=False)
    xz = compare(snn, given, loader=labelled, T=T, progress=False).matrix()[given]
    yz = compare(ann, given, loader=labelled, progress=False).matrix()[given]
    xy = result.matrix()
    expected = (xy - np.outer(xz, yz)) / np.sqrt(np.outer(1 - xz**2, 1 - yz**2))
    assert np.allclose(result.partial(), expected, rtol=0, atol=1e-9)


def by_labels(labelled):
    return torch.cat([labels for _, labels in labelled])


@pytest.mark.parametrize(
    "groups",
    [
        lambda labelled: "labels",
        by_labels,
        lambda labelled: {"1": (by_labels(labelled) == 1).tolist()},
        lambda labelled: lambda batch: batch[1].tolist(),
        lambda labelled: lambda batch: {"1": batch[1] == 1},
    ],
    ids=["labels", "ids", "masks", "function of ids", "function of masks"],
)
def test_groups_in_every_form_are_the_samples_alone(ann, labelled, groups):
    result = compare(ann, loader=labelled, layers=["1", "3"], groups=groups(labelled), progress=False)
    alone = [x[labels == 1] for x, labels in labelled]
    expected = compare(ann, loader=alone, layers=["1", "3"], progress=False)
    assert np.allclose(result.matrix(group="1"), expected.matrix(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [pd.Series, pd.array, np.array, list, tuple, torch.tensor])
def test_ids_and_masks_may_be_anything_like_an_array_over_several_batches(ann, labelled, kind):
    ids = by_labels(labelled)
    mask = kind((ids == 1).tolist())
    expected = compare(ann, loader=labelled, layers=["1", "3"], groups=ids, progress=False).matrix(group="1")
    for groups in ({"1": mask}, kind(ids.tolist())):
        result = compare(ann, loader=labelled, layers=["1", "3"], groups=groups, progress=False)
        assert result.matrix(group="1").equals(expected)


def test_a_series_of_part_of_a_table_goes_by_place_not_by_its_index(ann, labelled):
    ids = pd.Series(by_labels(labelled).numpy(), index=range(100, 132))
    found = [
        compare(ann, loader=labelled, layers=["1"], groups=groups, progress=False).matrix(group="1")
        for groups in ({"1": ids == 1}, ids, ids.to_list())
    ]
    assert found[0].equals(found[2])
    assert found[1].equals(found[2])


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, lambda text: np.array(text, dtype=object)])
def test_labels_may_be_text(ann, labelled, kind):
    words = ["cat", "dog", "a bird"]
    named = [(x, kind([words[i] for i in labels])) for x, labels in labelled]
    options = {"layers": ["1", "3"], "progress": False}
    by_number = compare(ann, loader=labelled, groups="labels", **options)
    by_word = compare(ann, loader=named, groups="labels", **options)
    assert set(by_word.data.group.values) == set(words)
    for i, word in enumerate(words):
        assert by_word.matrix(group=word).equals(by_number.matrix(group=str(i)))
    against = [compare(ann, "labels", loader=loader, **options).matrix() for loader in (labelled, named)]
    assert np.allclose(*against, rtol=0, atol=1e-12)


def test_text_labels_of_two_loaders_are_compared(ann, labelled):
    named = [(x, [f"class {i}" for i in labels]) for x, labels in labelled]
    compare(ann, ann, {"x": named, "y": named}, progress=False)
    other = [named[0], (named[1][0], np.array([*named[1][1][:5], "another", *named[1][1][6:]]))]
    with pytest.warns(UserWarning, match=r"first at sample 25 \(batch 1\): class 2 for x, another for y"):
        compare(ann, ann, {"x": named, "y": other}, progress=False)
    numbers_as_text = [(x, [str(int(i)) for i in labels]) for x, labels in labelled]
    compare(ann, ann, {"x": labelled, "y": numbers_as_text}, progress=False)


def test_targets_that_are_no_labels_are_left_alone(ann, labelled):
    boxes = [(x, [{"box": torch.zeros(4)} for _ in x]) for x, _ in labelled]
    compare(ann, ann, {"x": boxes, "y": boxes}, progress=False)
    with pytest.raises(TypeError, match="got tuple without labels"):
        compare(ann, "labels", loader=boxes, progress=False)


@pytest.mark.parametrize("two", [False, True])
def test_batches_may_be_numpy_arrays(ann, labelled, two):
    arrays = [(x.numpy(), labels.numpy()) for x, labels in labelled]
    arrays[0][0].flags.writeable = False  # as of a file that is mapped
    loader = {"x": arrays, "y": arrays} if two else arrays
    expected = compare(ann, ann, {"x": labelled, "y": labelled}, progress=False)
    found = compare(ann, ann, loader, progress=False)
    assert np.array_equal(found.data.cka, expected.data.cka)
    bare = [x for x, _ in arrays]
    loader = {"x": bare, "y": bare} if two else bare
    assert np.array_equal(compare(ann, ann, loader, progress=False).data.cka, expected.data.cka)
    one = compare(ann, loader=np.concatenate(bare), progress=False)
    assert int(one.data.n) == 32
    assert one.data.attrs["batches"] == 1


def test_arrays_for_a_caller_s_forward_and_arrays_of_no_numbers_are_refused_by_name(ann):
    with pytest.raises(TypeError, match="expected a batch that holds a tensor with an axis of samples, got ndarray"):
        compare(ann, loader=[np.zeros((8, 6))], forward=lambda net, x: net(torch.tensor(x)), progress=False)
    with pytest.raises(TypeError, match="expected batches that are a tensor or start with one, got ndarray"):
        compare(ann, loader=[np.array(["a", "b"])], progress=False)


def test_one_iterator_for_both_networks_is_refused(ann, labelled):
    batches = iter(labelled)
    with pytest.raises(ValueError, match="a loader of its own for y, got the very iterator that x is given"):
        compare(ann, ann, {"x": batches, "y": batches}, progress=False)
    assert len(list(batches)) == 2  # none was taken
    compare(ann, ann, {"x": labelled, "y": labelled}, progress=False)


@pytest.mark.parametrize(
    ("batch", "forward"),
    [
        (lambda x, labels: (x, labels), lambda net, b: net(b[0])),
        (lambda x, labels: (labels, x), lambda net, b: net(b[1])),
        (lambda x, labels: {"label": labels, "scale": torch.ones(2), "image": x}, lambda net, b: net(b["image"])),
    ],
)
def test_the_input_of_a_caller_s_forward_is_the_first_tensor_of_features_in_the_batch(ann, labelled, batch, forward):
    batches = [batch(x, labels) for x, labels in labelled]
    found = compare(ann, "input", loader=batches, forward=forward, progress=False)
    assert np.array_equal(found.data.cka, compare(ann, "input", loader=labelled, progress=False).data.cka)
    partial = [
        compare(ann, loader=loader, given="input", progress=False, **options).partial()
        for loader, options in ((batches, {"forward": forward}), (labelled, {}))
    ]
    assert partial[0].equals(partial[1])


def test_two_loaders_show_each_network_its_own_view_of_the_same_samples(ann, labelled):
    views = [(2 * x + 1, labels) for x, labels in labelled]
    result = compare(ann, ann, {"x": labelled, "y": views}, layers=["0", "1"], progress=False)
    x, y = labelled[0][0], views[0][0]
    first = compare(ann, ann, {"x": labelled[:1], "y": views[:1]}, layers=["0", "1"], progress=False)
    expected = cka(activations(ann, x)[1], activations(ann, y)[1])
    assert first.matrix().loc["1", "1"] == pytest.approx(expected, abs=1e-6)
    assert result.matrix().loc["0", "0"] == pytest.approx(1, abs=1e-6)
    assert result.matrix().loc["1", "1"] < 0.999


def test_labels_in_another_order_are_named_once(ann, labelled):
    (x0, y0), (x1, y1) = labelled
    other = y1.clone()
    other[4:] = (other[4:] + 1) % 3
    with pytest.warns(UserWarning, match=r"first at sample 24 \(batch 1\): 1 for x, 2 for y.*shuffled") as told:
        compare(ann, ann, {"x": labelled, "y": [(x0, y0), (x1, other)]}, progress=False)
    assert len(told) == 1


def test_a_loader_that_ends_before_the_other_stops_and_keeps_what_was_seen(ann, labelled):
    with pytest.raises(
        ComparisonStopped, match="the loader of y ended after 1 batches and the other went on"
    ) as stopped:
        compare(ann, ann, {"x": labelled, "y": labelled[:1]}, progress=False)
    expected = compare(ann, ann, labelled[:1], progress=False)
    assert np.array_equal(stopped.value.so_far.data.cka, expected.data.cka)


def test_batches_of_other_sizes_on_both_sides_are_refused(ann):
    with pytest.raises(ValueError, match="batch 0: expected the same samples on both sides, got 20 for x and 12 for y"):
        compare(ann, ann, {"x": [randn(20, 6)], "y": [randn(12, 6)]}, progress=False)


def test_a_batch_that_cannot_be_used_stops_and_keeps_those_before(ann):
    batches = [randn(10, 6), randn(10, 6, seed=1), randn(10, 5)]
    with pytest.raises(
        ComparisonStopped, match=r"after 2 minibatches, whose result is in this exception's so_far"
    ) as stopped:
        compare(ann, loader=batches, progress=False)
    assert int(stopped.value.so_far.data.n) == 20
    expected = compare(ann, loader=batches[:2], progress=False)
    assert np.array_equal(stopped.value.so_far.data.cka, expected.data.cka)
    assert stopped.value.so_far.interval().equals(expected.interval())
    assert all(not module._forward_hooks for module in ann.modules())


def test_nan_in_a_later_batch_is_a_value_not_an_end(ann):
    bad = randn(10, 6)
    bad[3, 0] = float("nan")
    result = compare(ann, loader=[randn(10, 6), bad], progress=False)
    assert set(result.undefined.reason) == {"NaN or infinite at sample 13"}
    assert result.matrix().isna().all(axis=None)


def test_one_network_at_two_numbers_of_steps(snn):
    result = compare(snn, snn, [randn(20, 6)], T={"x": 2, "y": 5}, layers="1", progress=False)
    assert (result.data.sizes["step_x"], result.data.sizes["step_y"]) == (2, 5)
    alone = compare(snn, loader=[randn(20, 6)], T=5, layers="1", progress=False)
    assert np.allclose(result.steps("1"), alone.steps("1").iloc[:2, :2])
    assert np.allclose(result.data.cka[0, :, 0, :], alone.data.cka[0, :2, 0, :])


def test_a_selector_picks_the_tensor_of_a_tuple(trace_cka):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(6, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    net, x = Reads().eval(), randn(20, 7, 6)
    with pytest.raises(ValueError, match="select="):
        compare(net, loader=[x], progress=False)
    result = compare(net, "input", loader=[x], layers="lstm", select={"lstm": 0}, progress=False)
    with torch.no_grad():
        expected = trace_cka(net.lstm(x)[0].numpy(), x.numpy())
    assert result.matrix().iloc[0, 0] == pytest.approx(expected, abs=1e-6)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(42, 4), nn.ReLU()).eval()
    both = compare(net, plain, [x], select={"lstm": 0}, layers={"x": "lstm"}, progress=False)  # only one of them has it
    assert both.layers_y == ["2"]
    with pytest.raises(ValueError, match="select: 'gru' matches no module of x or y"):
        compare(net, plain, [x], select={"gru": 0}, progress=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"y": "pixels"}, ValueError, "y to be one of None, 'input', 'labels', got 'pixels'"),
        ({"given": "y"}, ValueError, "given to be one of"),
        ({"space": lambda: Space(spatial="max")}, ValueError, "spatial to be one of 'flatten', 'mean', got 'max'"),
        ({"into": lambda: CKA(permutations={"rows": 1})}, ValueError, "expected a number of permutations from 0"),
        ({"y": "input", "layers": {"y": "1"}}, ValueError, 'expected no "y" in loader, layers or T beside y='),
        ({"y": "labels"}, TypeError, r"expected batches \(inputs, labels\), got Tensor without labels"),
        ({"groups": "classes"}, ValueError, 'groups="labels", ids, masks or a function'),
        ({"groups": [1, 2, 3]}, ValueError, "ids of all samples, at least 20 of them, got 3"),
        ({"groups": lambda batch: [1, 2]}, ValueError, "an id for each of 20 samples, got 2"),
        ({"into": lambda: CKA(permutations=-1)}, ValueError, "permutations from 0, .* got -1"),
        ({"into": lambda: CKA(measures=["mse"])}, ValueError, "unknown measure 'mse'"),
        ({"space": lambda: Space(memory="lots")}, ValueError, "a size in bytes"),
        ({"layers": 3}, TypeError, "layers: expected a dotted name, glob, module type or predicate, got 3"),
        ({"layers": {"x": [3]}}, TypeError, "layers: expected a dotted name, glob, module type or predicate, got 3"),
        ({"device": "meta"}, ValueError, r"network x is on cpu, device='meta' was asked for: move it there first"),
    ],
)
def test_wrong_options_get_one_clear_message(ann, options, error, message):
    def run():
        made = {name: value() if name in ("into", "space") else value for name, value in options.items()}
        compare(ann, loader=[randn(20, 6)], progress=False, **made)

    with pytest.raises(error, match=message):
        run()


def test_a_network_on_two_devices_is_refused(ann):
    ann[2].to("meta")  # the only other device that every machine has; `compare` itself refuses it before
    with pytest.raises(ValueError, match=r"network x has parameters on several devices \(cpu, meta\)"):
        device_of("x", ann, None)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_after_an_exception_in_a_later_batch(snn, error):
    seen = []

    def explode(module, args, output):
        seen.append(1)
        if len(seen) == 7:  # five probes, one batch, then this
            raise error("boom")

    handle = snn[2].register_forward_hook(explode)
    snn(randn(T, 3, 6))
    v, flags = snn[1].v.clone(), [m.training for m in snn.modules()]
    seen.clear()
    before = torch.random.get_rng_state()
    with pytest.raises((ComparisonStopped, KeyboardInterrupt)):
        compare(
            snn,
            loader=[randn(10, 6)] * 3,
            T=T,
            observe=("output", "membrane"),
            into=CKA(permutations={"steps": 1}),
            progress=False,
        )
    handle.remove()
    assert torch.equal(snn[1].v, v)
    assert [m.training for m in snn.modules()] == flags
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(not m._forward_hooks for m in snn.modules())
    assert not snn[1].store_v_seq


def test_measures_permutations_and_samples_come_through(ann):
    result = compare(
        ann,
        loader=[randn(70, 6)],
        layers=["0", "1"],
        into=CKA(measures=["rsa", "procrustes"], permutations=19),
        progress=False,
    )
    assert np.allclose(np.diag(result.matrix(measure="rsa")), 1)
    assert np.allclose(np.diag(result.matrix(measure="procrustes")), 0, atol=1e-5)
    assert (result.baseline().loc[("0", "0")].p) == 0.05
    assert result.against_n().index.tolist() == [64, 70]
    assert len(result.influence("0", "1", k=3)) == 3
    slim = compare(ann, loader=[randn(70, 6)], layers=["0", "1"], into=CKA(samples=False), progress=False)
    assert "sample_xy" not in slim.data
    assert np.array_equal(slim.data.cka, result.data.cka)


def test_maps_of_multi_step_layers_without_time_are_averaged_over_space() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU()).eval()

    class OneStep(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.unsqueeze(0)).squeeze(0)

    one_step = OneStep(layer.Conv2d(2, 5, 3, step_mode="m"), nn.ReLU()).eval()
    one_step.load_state_dict(plain.state_dict())
    x = torch.randn(12, 2, 7, 6)
    found = compare(plain, one_step, [x], layers=["0"], space=Space(spatial="mean"), progress=False)
    assert found.matrix().to_numpy() == pytest.approx(1, abs=1e-6)


def test_the_signature_stays_one_that_can_be_read():
    for function, most in ((compare, 18), (compare_features, 10)):
        assert len(inspect.signature(function).parameters) <= most


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ({"to": "labels"}, 'y="labels" or y="input"'),
        ({"y_loader": []}, 'loader={"x": ..., "y": ...}'),
        ({"layers_x": "1"}, 'layers={"x": ..., "y": ...}'),
        ({"layers_y": "1"}, 'layers={"x": ..., "y": ...}'),
        ({"null": "timing"}, 'into=CKA(permutations={"steps": 1})'),
        ({"measures": ["rsa"]}, "into=CKA(measures=...)"),
        ({"permutations": 3}, "into=CKA(permutations=...)"),
        ({"samples": False}, "into=CKA(samples=...)"),
        ({"memory": "2GB"}, "space=Space(memory=...)"),
        ({"spatial": "mean"}, "space=Space(spatial=...)"),
        ({"plan": True}, "space=Space(forecast=True)"),
    ],
)
def test_a_name_of_before_is_answered_by_how_it_is_said_now(ann, old, now):
    with pytest.raises(TypeError, match=re.escape(f"compare() takes no {next(iter(old))}= any more: give {now}")):
        compare(ann, loader=[randn(20, 6)], **old)


def test_names_that_never_were_and_pairs_of_before_are_refused_with_what_there_is(ann):
    with pytest.raises(TypeError, match=r"compare\(\) got an unexpected argument 'layer'; did you mean 'layers'"):
        compare(ann, loader=[randn(20, 6)], layer="1")
    with pytest.raises(TypeError, match="got an unexpected argument 'memory'; known: x, y, layers"):
        compare_features({"a": randn(1, 20, 6)}, memory="2GB")
    with pytest.raises(TypeError, match=r'T as one number of steps or {"x": 4, "y": 8}, got \(2, 5\)'):
        compare(ann, loader=[randn(20, 6)], T=(2, 5))
    with pytest.raises(ValueError, match=r"layers: expected one for both sides or .*, got keys \['ann'\]"):
        compare(ann, loader=[randn(20, 6)], layers={"ann": "1"})
    with pytest.raises(ValueError, match=r"compare needs loader=.* or two of the same samples"):
        compare(ann, ann, {"x": [randn(20, 6)]})


def test_sums_that_are_told_to_resume_go_on_as_one_comparison_of_all(ann, labelled):
    options = {"measures": ["rsa"], "permutations": {"samples": 2, "steps": 0}}
    tiny = (randn(2, 6), torch.arange(2))
    whole, into = CKA(**options), CKA(**options, resume=True)
    with pytest.warns(UserWarning, match="batch 1 holds 2 samples"):
        expected = compare(ann, loader=[labelled[0], tiny, labelled[1]], groups="labels", into=whole, progress=False)
    with pytest.warns(UserWarning, match="batch 1 holds 2 samples"):
        compare(ann, loader=[labelled[0], tiny], groups="labels", into=into, progress=False)
    found = compare(ann, loader=labelled[1:], groups="labels", into=into, progress=False)
    assert (into.n, into.batches, into.left_out) == (32, 2, [1])
    assert whole.compute().data.equals(expected.data)  # it holds the sums
    assert found.data.equals(expected.data)
    assert found.data.batch_place.values.tolist() == [0, 22]
    assert found.data.attrs["batches_left_out"] == "[1]"


def test_sums_of_before_are_not_added_to_unasked(ann, labelled):
    into = CKA()
    compare(ann, loader=labelled, into=into, progress=False)
    before = into.compute().data
    with pytest.raises(ValueError, match=r"into= to be empty, got a CKA that holds 2 minibatches.* resume=True"):
        compare(ann, loader=labelled, into=into, progress=False)
    with pytest.raises(ValueError, match="into= to be empty"):
        compare_features({"0": randn(1, 20, 12)}, into=into, progress=False)
    resumed = CKA(resume=True)
    resumed.load_state_dict(into.state_dict())
    with pytest.raises(ValueError, match="x: expected the layers and steps of the batches before"):
        compare(ann, loader=labelled, layers="1", into=resumed, progress=False)
    assert resumed.compute().data.equals(before)


def test_a_stopped_comparison_leaves_what_was_seen_in_its_sums(ann):
    into = CKA()
    with pytest.raises(ComparisonStopped) as stopped:
        compare(ann, loader=[randn(10, 6), randn(10, 5)], into=into, progress=False)
    assert into.batches == 1
    assert into.compute().data.equals(stopped.value.so_far.data)


@pytest.mark.parametrize(("old", "new"), [("null", "permuted_steps"), ("heaviest", "influence")])
def test_what_a_result_was_asked_by_is_told_under_its_new_name(old, new):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    result = compare(net, loader=torch.randn(8, 3), progress=False)
    with pytest.raises(AttributeError, match=f"no attribute '{old}': it is called {new} now"):
        getattr(result, old)
    assert not hasattr(result, "unknown")


@pytest.mark.parametrize(
    ("options", "message"), [({"into": CKA}, "into= to be a CKA"), ({"space": 5}, "a Space, got 5")]
)
def test_what_is_accumulated_and_the_bounds_are_objects_of_their_kinds(options, message):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(TypeError, match=message):
        compare(net, loader=torch.randn(8, 3), progress=False, **options)
