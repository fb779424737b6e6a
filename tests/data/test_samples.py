"""Counts of events as a network is given them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sj_cka.data import Frames, digits

resource = pytest.importorskip("resource", reason="Windows has none")
STATM = Path("/proc/self/statm")


def frames(x=None, **changes):
    x = torch.arange(3 * 4 * 2 * 5 * 6).view(3, 4, 2, 5, 6).to(torch.int16) if x is None else x
    y = torch.arange(3)
    return Frames(**{"x_train": x, "y_train": y, "x_test": x, "y_test": y, "classes": 3, "fingerprint": "f"} | changes)


def test_a_network_is_given_frames_with_time_first_and_counts_as_they_are():
    made = frames()
    x = made.as_input(made.x_train[:2])
    assert x.shape == (4, 2, 2, 5, 6)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    for n in range(2):
        for t in range(4):
            assert torch.equal(x[t, n], made.x_train[n, t].float())


def test_steps_channels_and_layout_are_those_of_the_recordings():
    made = frames()
    assert (made.T, made.channels, made.layout, made.called) == (4, 2, "TNCHW", "recordings")
    spikes = frames(torch.zeros(3, 4, 70, dtype=torch.uint8))
    assert (spikes.T, spikes.channels) == (4, 70)
    assert spikes.as_input(spikes.x_test).shape == (4, 3, 70)
    still = digits()
    assert (still.T, still.channels, still.layout, still.called) == (None, 1, None, "images")


def resident():
    """Bytes of this process that are in memory."""
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not STATM.exists(), reason="memory is read from /proc, which only Linux has")
def test_frames_of_a_file_come_into_memory_only_where_they_are_looked_at(tmp_path):
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (2000, 4, 2, 64, 64)).flush()
    mapped = torch.from_numpy(np.load(path, mmap_mode="c"))
    before = resident()
    made = frames(mapped, x_test=mapped)
    batch = made.as_input(made.x_train[[3, 700, 1999]])
    assert batch.shape == (4, 3, 2, 64, 64)
    assert resident() - before < 20e6 < mapped.numel()


def test_what_must_be_known_of_the_samples_is_told():
    made = frames(remarks=("Two were left out.",), held_out=("a.bin", "b.bin"))
    assert made.remarks == ("Two were left out.",)
    assert made.held_out == ("a.bin", "b.bin")
    assert frames().remarks == frames().held_out == digits().held_out == ()
