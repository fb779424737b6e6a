"""What a training costs another one beside it: processes at one thread each, as those of a study.

    python benchmarks/side_by_side.py [--processes 2] [--depth 14] [--epochs 3] [--rounds 3] [--tiny]

A ResNet SNN (T = 4) on the digits of the quick studies, and a ResNet-20 on 32 x 32 images. One process trains alone,
then so many at once, in turn; the first epoch of each does not count. Printed are seconds of an epoch, and how many
times as long it takes beside the others; wanted is at most 1.3 for two on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from sj_cka.data import DATASETS, Images, Shape, imagine
from sj_cka.models import build
from sj_cka.training import DeviceLoader, Settings, train

MOST = 1.3
TINY = {"depth": 8, "epochs": 2, "rounds": 1, "images": 64}


def data(name: str, images: int) -> Images:
    found = DATASETS["digits"]() if name == "digits" else imagine(Shape((3, 32, 32), 10, images, images), train=images)
    assert isinstance(found, Images)
    return found


def epochs(name: str, depth: int, images: int, count: int, together: threading.Barrier) -> list[float]:
    """Seconds of each epoch of a training that begins when all others do."""
    torch.set_num_threads(1)
    samples = data(name, images)
    x, y = samples.x_train[:images], samples.y_train[:images]
    net = build("snn", {"name": "resnet", "depth": depth}, in_channels=x.shape[1], num_classes=samples.classes, T=4)
    batches = DeviceLoader(x, y, batch_size=64, seed=0, classes=samples.classes, prepare=samples.as_input)
    ended: list[float] = []
    together.wait()
    train(
        net, batches, Settings(epochs=count, batch_size=64), seed=0, report=lambda _: ended.append(time.perf_counter())
    )
    return [after - before for before, after in pairwise(ended)]


def run(count: int, given: tuple[Any, ...], threads: bool) -> list[list[float]]:
    """`epochs` in so many processes at once, or in threads of this one."""
    context = multiprocessing.get_context("spawn")
    if threads:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(epochs, *zip(*[(*given, threading.Barrier(count))] * count, strict=True)))
    with context.Manager() as manager, ProcessPoolExecutor(count, context) as pool:
        return list(pool.map(epochs, *zip(*[(*given, manager.Barrier(count))] * count, strict=True)))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--depth", type=int, default=14, help="of the ResNet on digits")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512, help="of an epoch, at most")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    cases = {"digits": options.depth} | ({} if options.tiny else {"32 x 32": 20})
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, one thread a process: seconds of an epoch")
    worst = 0.0
    for name, depth in cases.items():
        seconds: dict[int, list[float]] = {1: [], options.processes: []}
        for _ in range(options.rounds):
            for count, taken in seconds.items():
                given = name, depth, options.images, options.epochs
                taken += [second for own in run(count, given, threads=options.tiny) for second in own]
        alone, beside = (median(taken) for taken in seconds.values())
        worst = max(worst, beside / alone)
        times = f"alone {alone:.2f}, {options.processes} at once {beside:.2f}: {beside / alone:.2f}"
        print(f"  ResNet-{depth} on {name}: {times}")
    print(f"target: at most {MOST} times as long: {worst:.2f}: {'met' if worst <= MOST else 'missed'}")


if __name__ == "__main__":
    main()
