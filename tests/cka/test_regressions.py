"""Values that were once wrong without a word, each with what is right."""

import copy
import json
import socket
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import CKA, CKAResult, compare, compare_features
from sj_cka.cka import MEASURES
from sj_cka.cka.layer_grams import grams


def in_place():
    """A network whose first operations change what it is given."""

    class Centres(nn.Module):
        def forward(self, x):
            return x.sub_(0.5).div_(2.0)

    torch.manual_seed(0)
    return nn.Sequential(nn.ReLU(inplace=True), Centres(), nn.Linear(6, 8), nn.Tanh()).eval()


def by_hand(net, x):
    with torch.no_grad():
        return net[2]((x.relu() - 0.5) / 2).tanh()


def test_a_network_that_works_in_place_changes_neither_batch_nor_the_other_network_nor_the_input(trace_cka):
    net, x = in_place(), torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    other, before = nn.Sequential(nn.Linear(6, 7), nn.Sigmoid()).eval(), x.clone()
    with torch.no_grad():
        a, b = by_hand(net, x).numpy(), other(x).numpy()
    for _ in range(2):  # a later call sees the same batch
        result = compare(net, other, [x], given="input", layers={"x": "3", "y": "1"}, progress=False)
        assert torch.equal(x, before)
        assert result.matrix().iloc[0, 0] == pytest.approx(trace_cka(a, b), abs=1e-6)
    xy, xz, yz = trace_cka(a, b), trace_cka(a, x.numpy()), trace_cka(b, x.numpy())
    partial = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert result.partial().iloc[0, 0] == pytest.approx(partial, abs=1e-6)
    to_input = compare(net, "input", loader=[x], layers="3", progress=False)
    assert to_input.matrix().iloc[0, 0] == pytest.approx(xz, abs=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("batch", "forward"),
    [
        (lambda x: {"image": x}, lambda net, b: net(b["image"])),
        (lambda x: (torch.ones(len(x)), [x]), lambda net, b: net(b[1][0])),
        (lambda x: x, lambda net, b: net(b)),
    ],
)
def test_a_caller_s_forward_is_given_a_copy_too(trace_cka, batch, forward):
    net, x = in_place(), torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    result = compare(net, net, [batch(x)], forward=forward, layers=["3"], given="input", progress=False)
    assert torch.equal(x, before)
    to_input = compare(net, "input", loader=[batch(x)], forward=forward, layers="3", progress=False)
    assert to_input.matrix().iloc[0, 0] == pytest.approx(trace_cka(by_hand(net, x).numpy(), x.numpy()), abs=1e-6)
    assert result.matrix().iloc[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("layout", ["NCHW", "TNCHW", "NTCHW"])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_every_step_of_a_network_that_works_in_place_is_given_its_own_copy(layout, mode):
    class Halves(nn.Module):
        def __init__(self, in_place):
            super().__init__()
            self.in_place = in_place

        def forward(self, x):
            return x.mul_(0.5) if self.in_place else x * 0.5

    def made(in_place):
        torch.manual_seed(0)
        net = nn.Sequential(Halves(in_place), layer.Linear(6, 9), neuron.LIFNode(v_threshold=0.3)).eval()
        functional.set_step_mode(net, mode)
        return net

    x = torch.randn(*{"NCHW": (20, 6), "TNCHW": (4, 20, 6), "NTCHW": (20, 4, 6)}[layout])
    before, options = x.clone(), {"T": 4, "layout": layout, "layers": ["1", "2"], "progress": False}
    expected = compare(made(False), loader=[x], **options)
    found = compare(made(True), made(False), [x], **options)
    assert torch.equal(x, before)
    for name in ("hsic_xx", "hsic_yy"):
        assert np.allclose(found.data[name], expected.data.hsic_xx, rtol=1e-6, atol=0)


def test_images_of_several_sizes_have_cka_and_no_shares_of_units(trace_hsic):
    torch.manual_seed(0)
    conv = layer.Conv2d(1, 3, 3, padding=1)
    net = nn.Sequential(conv, neuron.LIFNode(v_threshold=0.2), layer.AdaptiveAvgPool2d(1), neuron.LIFNode()).eval()
    functional.set_step_mode(net, "m")
    parts = [torch.randn(10, 1, 4, 4), torch.randn(12, 1, 5, 4), torch.randn(8, 1, 4, 4)]
    kk = 0.0
    for x in parts:
        functional.reset_net(net)
        with torch.no_grad():
            spikes = net[1](conv(x.repeat(3, 1, 1, 1, 1))).transpose(0, 1).flatten(1).double().numpy()
        kk += len(x) * trace_hsic(spikes @ spikes.T, spikes @ spikes.T)
    functional.reset_net(net)
    options = {"T": 3, "layers": ["1", "3"], "observe": ("output", "rate"), "progress": False}
    for sides in ((net,), (net, copy.deepcopy(net))):
        result = compare(*sides, loader=parts, **options)
        assert result.data.hsic_xx.sel(layer_x="1").sum().item() == pytest.approx(kk / 30, rel=1e-9)
        assert set(result.activity.layer) == {"3"}
        assert np.isnan(result.data.silent_x.sel(layer_x="1")).all()
    same = compare(net, loader=[parts[0], parts[2]], **options)
    assert set(same.activity.layer) == {"1", "3"}


def test_a_step_without_cka_still_counts_in_distances():
    g = np.random.default_rng(0)
    X, Y = g.random((2, 10, 20)), g.random((2, 10, 20))
    X[0] = 0
    X[0, 0, 3] = 5.0  # fewer than two samples differ
    found = (
        compare_features({"a": X}, {"b": Y}, into=CKA(measures=["rsa"]), progress=False)
        .matrix(measure="rsa")
        .iloc[0, 0]
    )
    flat = [side.transpose(1, 0, 2).reshape(10, -1) for side in (X, Y)]
    assert found == pytest.approx(stats.spearmanr(*map(pdist, flat)).statistic, abs=1e-12)


def test_equal_distances_of_spikes_are_ties_whatever_the_largest_is():
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        sides = [(torch.rand(4, 24, 12, generator=g) < 0.15).float() for _ in range(2)]
        found = MEASURES["rsa"].of(*(grams({"a": X}).whole for X in sides)).item()
        flat = [X.transpose(0, 1).flatten(1).numpy() for X in sides]
        assert found == pytest.approx(stats.spearmanr(*map(pdist, flat)).statistic, abs=1e-12)


def test_four_samples_have_no_interval():
    row = compare_features({"a": np.random.default_rng(0).random((1, 4, 20))}, progress=False).interval().iloc[0]
    assert row.cka == pytest.approx(1)
    assert np.isnan([row.low, row.high]).all()


def test_minibatches_of_four_are_left_out_whole_with_one_of_their_samples():
    g = torch.Generator().manual_seed(0)
    parts = [(torch.randn(1, 4, 6, generator=g), torch.randn(1, 4, 6, generator=g)) for _ in range(10)]
    found = CKA()
    for X, Y in parts:
        found.update({"a": X}, {"a": X + Y})
    row, over_batches = found.compute().interval().iloc[0], found.compute().interval(over="batches").iloc[0]
    left = [
        value_of([p for k, p in enumerate(parts) if k != i]) for i in range(10) for _ in range(4)
    ]  # without any of four, the other three cannot be used
    half = stats.t.ppf(0.975, 39) * np.sqrt(39 / 40 * ((left - np.mean(left)) ** 2).sum())
    width = (np.arctanh(row.high) - np.arctanh(row.cka)) * (1 - row.cka**2)
    assert width == pytest.approx(half, rel=1e-5)
    assert over_batches.high > over_batches.cka


def value_of(parts):
    found = CKA(samples=False)
    for X, Y in parts:
        found.update({"a": X}, {"a": X + Y})
    return found.compute().matrix().iloc[0, 0]


@pytest.fixture
def snn():
    torch.manual_seed(1)
    made = nn.Sequential(layer.Linear(6, 40), neuron.LIFNode(v_threshold=0.3), layer.Linear(40, 9)).eval()
    functional.set_step_mode(made, "m")
    return made


def test_the_nulls_of_both_sides_are_drawn_each_for_itself(snn):
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    twin = copy.deepcopy(snn)
    null = compare(snn, twin, [x], T=4, layers="1", into=CKA(permutations={"steps": 1}), progress=False).permuted_steps
    assert null.matrix(1).iloc[0, 0] < 0.999
    spikes = {"a": torch.rand(4, 20, 30).round().numpy()}
    assert (
        compare_features(spikes, spikes, into=CKA(permutations={"steps": 1}), progress=False)
        .permuted_steps.matrix(1)
        .iloc[0, 0]
        < 0.999
    )


def test_accumulators_of_other_options_do_not_merge():
    X = torch.rand(2, 10, 5)
    a, b, c = CKA(measures=["rsa"]), CKA(samples=False), CKA(measures=["rsa"])
    for state in (a, b):
        state.update({"a": X})
    with pytest.raises(ValueError, match="accumulators of the same options"):
        a.merge(b)
    c.update({"a": X}, given={"z": X[:1]})
    with pytest.raises(ValueError, match="accumulators of the same options"):
        a.merge(c)
    with pytest.raises(ValueError, match="given= for every minibatch or for none"):
        c.update({"a": X})
    with pytest.raises(ValueError, match="given: expected one layer of one step"):
        CKA().update({"a": X}, given={"z": X})
    fresh = CKA()
    fresh.merge(a)
    assert fresh.compute().matrix(measure="rsa").iloc[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rate_is_not_rounded_in_half_precision(snn, dtype):
    snn[2].weight.data *= 1000  # beyond half precision once summed over steps
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    half = copy.deepcopy(snn).to(dtype)
    result = compare(half, loader=[x.to(dtype)], T=8, layers="2", observe=("output", "rate"), progress=False)
    with torch.no_grad():
        outputs = half(x.to(dtype).repeat(8, 1, 1)).double()
    functional.reset_net(half)
    expected = compare_features({"2": outputs.mean(0, keepdim=True).numpy()}, progress=False)
    assert result.also["rate"].data.hsic_xx.values.item() == pytest.approx(
        expected.data.hsic_xx.values.item(), rel=1e-5
    )


def test_samples_are_numbered_as_the_loader_gives_them():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).eval()
    batches = [torch.randn(8, 3), torch.randn(3, 3), torch.randn(8, 3)]
    batches[2][2] *= 40
    with pytest.warns(UserWarning, match="batch 1 holds 3 samples"):
        result = compare(net, "input", loader=batches, layers="0", progress=False)
    plain = compare(net, "input", loader=[batches[0], batches[2]], layers="0", progress=False)
    numbers = plain.influence("0", "input", k=16)["sample"]
    assert result.influence("0", "input", k=16)["sample"].tolist() == [i if i < 8 else i + 3 for i in numbers]
    batches[2][2, 0] = float("nan")
    with pytest.warns(UserWarning, match="batch 1 holds 3 samples"):
        broken = compare(net, loader=batches, layers="0", progress=False)
    assert set(broken.undefined.reason) == {"NaN or infinite at sample 13"}
    with pytest.raises(ValueError, match="has no CKA"):
        broken.influence("0")


def test_a_structure_hidden_by_its_offset_is_called_that():
    X = np.random.default_rng(0).normal(size=(1, 12, 5)) + 1e9
    found = compare_features({"a": X}, progress=False)
    assert set(found.undefined.reason) == {"samples differ by less than a millionth of what they have in common"}
    big = (np.arange(24).reshape(1, 12, 2) + 2_000_000).astype(np.uint32)
    assert compare_features({"a": big}, progress=False).undefined.empty


def test_a_group_of_too_few_is_there_without_a_value():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).eval()
    with pytest.warns(UserWarning, match="groups 1 have fewer than 4 samples in every minibatch"):
        result = compare(net, loader=[torch.randn(20, 3)], groups=[0] * 17 + [1] * 3, progress=False)
    assert result.matrix(group="1").isna().all(axis=None)
    assert result.matrix(group=0).notna().all(axis=None)
    assert result.data.group_n.values.tolist() == [17, 0]
    with pytest.raises(ValueError, match="group 'a': expected one bool for each of 20 samples"):
        compare(net, loader=[torch.randn(20, 3)], groups={"a": list(range(20))}, progress=False)


def test_a_measure_skips_minibatches_in_which_a_layer_is_silent():
    X = torch.rand(1, 10, 5)
    found = CKA(measures=["rsa"])
    found.update({"a": X})
    found.update({"a": torch.zeros(1, 10, 5)})
    assert found.compute().matrix(measure="rsa").iloc[0, 0] == pytest.approx(1)


def test_results_with_and_without_samples_differ_over_their_minibatches():
    parts = [torch.rand(1, 12, 5, generator=torch.Generator().manual_seed(s)) for s in range(8)]
    results = []
    for samples in (True, False):
        state = CKA(samples=samples)
        for X in parts:
            state.update({"a": X}, {"a": X[..., :2]})
        results.append(state.compute())
    assert results[0].difference(results[1]).difference.tolist() == [0.0]


FAILS = """
import sys, torch
from torch import nn
from sj_cka import compare
rank, port, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.manual_seed(0)
torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).eval()
other = [torch.randn(2, 3)] if what == "short" else [torch.randn(8, 3), torch.randn(8, 2)]
try:
    result = compare(net, loader=[[torch.randn(8, 3)], other][rank], progress=False)
    print(rank, "n", int(result.data.n))
except RuntimeError as error:
    print(rank, type(error).__name__, error)
"""


@pytest.mark.parametrize("what", ["short", "broken"])
def test_no_process_waits_for_ever_for_one_that_has_nothing_or_fails(what, together):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    told = together(FAILS, *((rank, port, what) for rank in (0, 1)))
    if what == "short":
        assert [out.split()[1:] for out in told] == [["n", "8"], ["n", "8"]]
    else:
        assert "RuntimeError the comparison ended because process 1 failed: ComparisonStopped" in told[0]
        assert "ComparisonStopped" in told[1]


SHARES = """
import json, sys, warnings
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from sj_cka import CKA, compare

def made():
    torch.manual_seed(0)
    net = nn.Sequential(layer.Conv2d(1, 2, 3), neuron.LIFNode(v_threshold=0.3), layer.Conv2d(2, 2, 1)).eval()
    functional.set_step_mode(net, "m")
    return net

def batches():
    g = torch.Generator().manual_seed(0)
    sizes = [(8, 5), (2, 5), (9, 5), (3, 5)] + [(8, 6), (8, 6)] * ("sizes" in sys.argv)
    return [torch.randn(n, 1, 4, width, generator=g) for n, width in sizes]

def result(mine):
    into = CKA(permutations={"samples": 2, "steps": 1})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = compare(made(), made(), mine, T=3, into=into, progress=False)
    return found, [str(one.message) for one in told if "left out" in str(one.message)]
"""
WORK = (
    SHARES
    + """
rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
found, told = result([batches()[i] for i in (range(3), range(3, len(batches())))[rank]])
found.save(f"{folder}/{rank}.nc")
print(json.dumps(told))
torch.distributed.destroy_process_group()
"""
)


@pytest.mark.parametrize("sizes", ["same", "sizes"])  # where no batch of one can be used, and of images that differ
def test_two_processes_give_nulls_names_and_shares_as_one_does(tmp_path, sizes, monkeypatch, together):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    named = list(map(json.loads, together(WORK, *((rank, port, tmp_path, sizes) for rank in (0, 1)))))
    assert named[0][0].startswith("batch 1 holds 2 samples and is left out")
    assert named[1][0].startswith("batch 0 holds 3 samples and is left out")
    monkeypatch.setattr(sys, "argv", ["one", sizes])
    here: dict = {}
    exec(SHARES, here)
    one, names = here["result"](here["batches"]())
    assert len(names) == 2
    assert one.data.attrs["batches_left_out"] == "[1, 3]"
    assert set(one.activity.layer) == (set() if sizes == "sizes" else {"1"})
    for rank in (0, 1):
        both = CKAResult.load(tmp_path / f"{rank}.nc")
        assert both.data.attrs["batches_left_out"] == "[1, 3]"
        for mine, theirs in ((one, both), (one.permuted_steps, both.permuted_steps)):
            assert set(mine.data) == set(theirs.data)
            for name in mine.data:
                tolerance = 1e-6 if name.startswith("sample") else 1e-12  # kept in float32
                assert np.allclose(mine.data[name], theirs.data[name], rtol=0, atol=tolerance, equal_nan=True), name
