"""The bound on memory, and what a comparison says it will take."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import CKA, Space, compare
from sj_cka.cka.layer_grams import grams
from sj_cka.cka.memory import bytes_of, in_file, in_words


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = nn.Sequential(layer.Linear(6, 12), neuron.LIFNode(v_threshold=0.3), layer.Linear(12, 9)).eval()
    functional.set_step_mode(made, "m")
    return made


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("2 gib", 2**31),
        ("500MB", 5 * 10**8),
        ("1.5k", 1500),
        (12345, 12345),
        ("7", 7),
        ("10 b", 10),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["lots", "", "-2GB", "2 PB", True, None])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r'a size in bytes, e\.g\. memory="2GB"'):
        bytes_of(text)


def test_a_file_serves_as_memory():
    space = in_file((3, 5))
    space[:] = torch.arange(15.0).view(3, 5)
    assert space.dtype == torch.float64
    assert torch.equal(space.sum(1), torch.tensor([10.0, 35, 60], dtype=torch.float64))


def test_grams_beyond_the_bound_go_to_a_file_and_give_the_same_values(net, caplog):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    free = compare(net, loader=x.split(20), T=4, observe=("output", "rate"), progress=False)
    with caplog.at_level("WARNING", logger="sj_cka"):
        bound = compare(
            net, loader=x.split(20), T=4, observe=("output", "rate"), space=Space(memory="10kB"), progress=False
        )
    assert "a temporary file: more than memory='10kB'" in caplog.text
    assert bound.data.attrs["grams"].endswith("in a temporary file")
    assert free.data.attrs["grams"].endswith("in memory")
    for name in free.data:
        assert np.allclose(free.data[name], bound.data[name], rtol=0, atol=1e-12, equal_nan=True), name
    assert np.allclose(free.matrix("rate"), bound.matrix("rate"), rtol=0, atol=1e-12)
    assert int(bound.data.n) == 40  # never fewer samples


def test_a_null_that_must_hold_more_features_than_the_bound_is_refused(net):
    functional.set_step_mode(net, "s")
    with pytest.raises(ValueError, match=r"the permutation of steps holds .* of features"):
        compare(
            net,
            loader=[torch.randn(20, 6)],
            T=4,
            into=CKA(permutations={"steps": 1}),
            space=Space(memory=100),
            progress=False,
        )


@pytest.mark.parametrize(("observe", "bytes_each"), [("rate", 4), ("latency", 5), (("output", "rate", "latency"), 9)])
def test_sums_over_the_calls_of_all_layers_count_as_held(net, observe, bytes_each):
    x, held = torch.randn(20, 6), 20 * 12 * bytes_each  # one layer of 12 units
    options = {"loader": [x], "T": 4, "observe": observe, "layers": neuron.LIFNode, "progress": False}
    compare(net, space=Space(memory=1), **options)  # the multi-step network holds nothing beyond its Grams
    functional.set_step_mode(net, "s")
    with pytest.raises(ValueError, match=r"memory=\d+: observe='(rate|latency)'.* holds? .* of features"):
        compare(net, space=Space(memory=held - 1), **options)
    compare(net, space=Space(memory=held), **options)


def test_the_plan_tells_layers_grams_bytes_and_seconds_before_the_work(net, capsys):
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    ann = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9)).eval()
    result = compare(net, ann, [x, x], T=4, space=Space(forecast=True), progress=False)
    told = capsys.readouterr().out
    assert "x: Sequential on cpu, 2 layers, 4 steps; input repeated 4 times" in told
    assert "  1: 12 features, 4 steps in an axis (neuron)" in told
    assert "y: Sequential on cpu, 2 layers, 1 step; input as it comes" in told
    # 4 + 4 Grams and 2 sums over steps of x, 2 of y, of 20 * 19 / 2 numbers of 8 bytes
    assert f"10 Grams of 20 samples, {in_words(12 * 190 * 8)} in memory" in told
    assert "in all 2" in told
    assert result.data.sizes["step_x"] == 4


def test_the_plan_is_printed_before_the_first_batch_is_run(net, capsys):
    told = {}

    def note(module, args, output):
        told.setdefault(output.shape[1], []).append(capsys.readouterr().out)

    handle = net[0].register_forward_hook(note)
    compare(net, loader=[torch.randn(20, 6)], T=4, space=Space(forecast=True), progress=False)
    handle.remove()
    assert "Grams of 20 samples" in told[20][0]


@pytest.mark.parametrize("same", [True, False])
def test_blocks_of_layers_and_samples_change_no_value(monkeypatch, same):
    g = torch.Generator().manual_seed(0)
    batches = [
        {layer: torch.randn(T, n, 6, generator=g) for layer, T in (("a", 3), ("b", 3), ("c", 1))} for n in (80, 9)
    ]
    batches[1]["b"][1, 3, 2] = float("nan")

    def value(allocate):
        found = CKA(permutations=3, measures=["rsa", "procrustes"])
        for batch in batches:
            x, y = grams(batch), grams({layer: X.flip(2) ** 2 for layer, X in batch.items()})
            x.allocate = y.allocate = allocate
            z = grams({"z": batch["c"]})
            found.update_grams(x, x if same else y, given=z, groups={"g": torch.arange(x.n) % 2 == 0})
        return found.compute().data

    expected = value(None)
    for module in ("permutations", "gram", "measures", "sums", "layer_grams"):
        monkeypatch.setattr(sys.modules[f"sj_cka.cka.{module}"], "_CHUNK", 700)
    for found in (value(None), value(in_file)):
        for name in expected:
            tolerance = 1e-6 if name.startswith("sample") else 1e-11  # kept in float32
            assert np.allclose(found[name], expected[name], rtol=1e-12, atol=tolerance, equal_nan=True), name


LARGE = """
import sys, threading, time
import torch
from torch import nn
from sj_cka import CKA, Space, compare

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("RssAnon"))

torch.manual_seed(0)
net = nn.Sequential(*[nn.Linear(8, 8) for _ in range(41)]).eval()
x = torch.randn(1024, 8)
def compared(x, memory, groups):
    into = CKA(permutations=1, measures=["rsa"])
    return compare(net, loader=[x], space=Space(memory=memory), groups=groups, into=into, progress=False)

compared(x[:64], 1000, [0] * 64)
start, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
result = compared(x, "20MB", [0] * 512 + [1] * 512)
done = True
thread.join()
print(peak - start, result.data.sample_xy.nbytes / 1e6)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell memory from mapped files")
def test_memory_stays_within_the_bound_and_what_one_gram_takes():
    took, kept = map(float, subprocess.check_output([sys.executable, "-c", LARGE], text=True).split())
    grams_in_all, one = (count * 1024**2 / 2 * 8 / 1e6 for count in (40, 1))
    assert grams_in_all > 160
    assert took < 20 + 20 * one + kept  # MB


def test_a_larger_batch_later_on_is_judged_by_its_own_size():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2)).eval()
    batches = [torch.randn(n, 6) for n in (8, 200, 8)]
    free = compare(net, loader=batches, progress=False)
    bound = compare(net, loader=batches, space=Space(memory="100kB"), progress=False)
    assert bound.data.attrs["grams"] == "318.4 kB in a temporary file"
    assert free.data.attrs["grams"] == "318.4 kB in memory"
    assert bound.matrix().equals(free.matrix())
    first = compare(net, loader=batches[:1], space=Space(memory="100kB"), progress=False)
    assert first.data.attrs["grams"].endswith("in memory")
