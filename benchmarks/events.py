"""Events counted in frames: this project, a Python loop over the events, and SpikingJelly.

    python benchmarks/events.py [--events 100000] [--rounds 5] [--root FOLDER] [--tiny]

Binning: random events of a camera of 128 x 128 pixels, T = 10. All ways take the same recording in turn, so that a busy
machine hits them alike; a ratio is taken within one round and given as the median over rounds. By number the ways must
agree, by time too (in these events no time is empty, where SpikingJelly's function raises).

With --root, a data root with N-MNIST (recordings or what they are made from), the same of whole recordings, read from
SpikingJelly's files and written as frames: recordings a second here, and of SpikingJelly's own integration, which takes
as many threads as it likes and compresses what it writes; without compression in the last line.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from spikingjelly.datasets import n_mnist
from spikingjelly.datasets import utils as spikingjelly

from sj_cka.data import EVENT_SETS, bin_events
from sj_cka.data.events.binning import SplitBy

T, H, W = 10, 128, 128
TARGET = 20.0  # times the loop
TINY = {"events": 1000, "rounds": 1}


def loop(t: Any, x: Any, y: Any, p: Any, split_by: SplitBy) -> np.ndarray:
    """Event by event, on Python's own numbers."""
    counts = np.zeros((T, 2, H, W), np.float32)
    first, each = t[0], (len(t) if split_by == "number" else t[-1] - t[0]) // T
    for i, (time_us, column, row, polarity) in enumerate(zip(t, x, y, p, strict=True)):
        since = i if split_by == "number" else time_us - first
        counts[min(since // each, T - 1), polarity, row, column] += 1
    return counts


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it gives."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def binning(n: int, rounds: int) -> None:
    """Prints the ratios of binning."""
    random = np.random.default_rng(0)
    t = np.sort(random.integers(0, 1_000_000, n))
    x, y, p = (random.integers(0, end, n) for end in (W, H, 2))
    events = {"t": t, "x": x, "y": y, "p": p}
    splits: tuple[SplitBy, ...] = ("number", "time")
    for split_by in splits:
        ours = partial(bin_events, t, x, y, p, T=T, H=H, W=W, split_by=split_by)
        spikingjelly_s = partial(spikingjelly.integrate_events_by_fixed_frames_number, events, split_by, T, H, W)
        ways = {
            "a Python loop": partial(loop, t.tolist(), x.tolist(), y.tolist(), p.tolist(), split_by),
            "SpikingJelly": spikingjelly_s,
        }
        ratios: dict[str, list[float]] = {name: [] for name in ways}
        ours()
        own: list[float] = []
        for _ in range(rounds):
            took, found = seconds(ours)
            own.append(took)
            for name, way in ways.items():
                other, expected = seconds(way)
                assert np.array_equal(found.numpy(), expected), name
                ratios[name].append(other / took)
        text = ", ".join(f"{median(r):.1f} ({min(r):.1f} to {max(r):.1f}) times {name}" for name, r in ratios.items())
        met = "met" if median(ratios["a Python loop"]) >= TARGET else "NOT met"
        print(f"{n:,} events by {split_by}: {1000 * median(own):.2f} ms, {text}; target {TARGET:.0f} {met}")


def integration(root: Path, rounds: int) -> None:
    """Prints recordings a second."""
    data = EVENT_SETS["nmnist"](root, T=T)
    total = len(data.x_train) + len(data.x_test)
    rates: dict[str, list[float]] = {"this project": [], "SpikingJelly": [], "SpikingJelly, uncompressed": []}
    compressed = spikingjelly.np_savez
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            took, _ = seconds(partial(EVENT_SETS["nmnist"], root, T=T, cache=Path(cache)))
            rates["this project"].append(total / took)
        for name, save in (("SpikingJelly", compressed), ("SpikingJelly, uncompressed", np.savez)):
            spikingjelly.np_savez = save
            with tempfile.TemporaryDirectory() as own:
                (Path(own) / "events_np").symlink_to((root / "NMNIST" / "events_np").absolute())
                took, _ = seconds(partial(n_mnist.NMNIST, own, True, "frame", frames_number=T, split_by="number"))
            spikingjelly.np_savez = compressed
            rates[name].append(total / took)
    print(f"{total:,} recordings of N-MNIST, T = {T}:")
    for name, rate in rates.items():
        ratio = median(a / b for a, b in zip(rates["this project"], rate, strict=True))
        print(f"  {name}: {median(rate):,.0f} recordings a second; this project is {ratio:.1f} times as fast")


def main() -> None:
    """Prints times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="of the recording")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, help="data root with NMNIST")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    torch.set_num_threads(1)
    binning(options.events, options.rounds)
    if options.root is not None:
        integration(options.root, options.rounds)


if __name__ == "__main__":
    main()
