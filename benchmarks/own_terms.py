"""What dynamics by split halves costs beside the Grams of the same pass, by kind of layer, on one thread of the CPU.

    python benchmarks/own_terms.py [--tries 7] [--tiny]

Each line: shape [T, n, C, ...] of the features, samples that the own terms are taken over, milliseconds of the Grams,
and the time of the own terms over that of the Grams, of real features and of spikes (bytes, where the CPU has fast
products of them).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from math import prod

import torch

from sj_cka.cka.gram import raw_grams
from sj_cka.cka.own_terms import own_terms, samples_for, units_of

SHAPES = (
    (4, 256, 16, 32, 32),
    (4, 256, 32, 16, 16),
    (4, 256, 64, 8, 8),
    (16, 256, 64, 8, 8),
    (4, 512, 64, 8, 8),
    (4, 128, 64, 8, 8),
    (4, 256, 128, 4, 4),
    (4, 256, 256, 2, 2),
    (4, 256, 512),
    (16, 256, 512),
    (4, 512, 512),
    (4, 256, 4096),
)


TINY = ((2, 40, 9, 3, 3), (2, 40, 9))


def seconds(function: Callable[[], object], tries: int) -> float:
    """The fastest of some tries."""
    function()
    times = []
    for _ in range(tries):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="sizes that measure nothing")
    given = parser.parse_args()
    tries = given.tries
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for T, n, C, *space in TINY if given.tiny else SHAPES:
        P = prod(space)
        X = torch.rand(T, n, C * P, generator=generator)
        spikes = (X < 0.2).float()
        size = raw_grams(X).diagonal.abs().amax(1).sqrt()
        blocks, b = samples_for(n, C * P, P, T)
        own = seconds(lambda X=X, C=C, T=T, size=size: own_terms(units_of(X, C, T, size)), tries)
        real = seconds(lambda X=X: raw_grams(X), tries)
        of_spikes = seconds(lambda X=spikes: raw_grams(X, spikes=True), tries)
        shape = [T, n, C, *space]
        print(f"{shape!s:24} {blocks * b:4} samples {1e3 * real:7.1f} ms   {own / real:.2f}   {own / of_spikes:.2f}")
    print("time of own terms over that of Grams: of real features, of spikes")


if __name__ == "__main__":
    main()
