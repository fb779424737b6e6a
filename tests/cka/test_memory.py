"""The bound on memory, and what a comparison says it will take."""

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import compare
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
        bound = compare(net, loader=x.split(20), T=4, observe=("output", "rate"), memory="10kB", progress=False)
    assert "a temporary file: more than memory='10kB'" in caplog.text
    assert bound.data.attrs["grams"].endswith("in a temporary file")
    assert free.data.attrs["grams"].endswith("in memory")
    for name in free.data:
        assert np.allclose(free.data[name], bound.data[name], rtol=0, atol=1e-12, equal_nan=True), name
    assert np.allclose(free.matrix("rate"), bound.matrix("rate"), rtol=0, atol=1e-12)
    assert int(bound.data.n) == 40  # never fewer samples


def test_a_null_that_must_hold_more_features_than_the_bound_is_refused(net):
    functional.set_step_mode(net, "s")
    with pytest.raises(ValueError, match=r"the timing null holds .* of features"):
        compare(net, loader=[torch.randn(20, 6)], T=4, null="timing", memory=100, progress=False)


def test_the_plan_tells_layers_grams_bytes_and_seconds_before_the_work(net, capsys):
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    ann = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9)).eval()
    result = compare(net, ann, [x, x], T=4, plan=True, progress=False)
    told = capsys.readouterr().out
    assert "x: Sequential on cpu, 2 layers, 4 steps; input repeated 4 times" in told
    assert "  1: 12 features, 4 steps in an axis (neuron)" in told
    assert "y: Sequential on cpu, 2 layers, 1 step; input as it comes" in told
    # 4 + 4 Grams and 2 sums over steps of x, 2 of y, of 20 * 19 / 2 numbers of 8 bytes
    assert f"10 Grams of 20 samples, {in_words(12 * 190 * 8)} in memory" in told
    assert "in all 2" in told
    assert result.data.sizes["step_x"] == 4
