"""What PGD costs beside the forward and backward passes that it is made of, and beside foolbox's.

    python benchmarks/attacks.py [--images 256] [--rounds 5] [--threads 2] [--tiny]

PGD of 20 steps, with a random start and the best iterate kept, on random 32 x 32 images, ResNet-20, spiking (T = 4) and
artificial. Beside it, in the same round: 20 forward and backward passes in evaluation mode to the images alone, 20 to
images and weights, as a training has them, and foolbox's LinfPGD of 20 steps, which keeps the last iterate. All take
the images in turn, so that a busy machine hits them alike; a ratio is taken within one round and given as the median
over rounds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from statistics import median

import torch
from torch import Tensor, nn

from sj_cka.attacks import PixelModel, pgd, pixel_model
from sj_cka.models import build
from sj_cka.neurons import lif_backend
from sj_cka.training import calibrate

EPS, T = 8 / 255, 4
TARGET = 1.1  # times as many forward and backward passes to the images alone
TINY = {"images": 4, "rounds": 1, "threads": 1, "depth": 8, "side": 8, "steps": 2}
PGD, INPUT, WEIGHTS, FOOLBOX = "PGD", "passes to images", "passes to weights too", "foolbox's LinfPGD"


def network(kind: str, depth: int, x: Tensor) -> PixelModel:
    net = build(
        "snn" if kind == "snn" else "ann",
        {"name": "resnet", "depth": depth},
        in_channels=3,
        num_classes=10,
        T=T,
        device=x.device,
    )
    calibrate(net, (x[:64] - 0.5) / 0.25)  # untrained, hardly anything would spike
    return pixel_model(net.eval(), 0.5, 0.25)


def passes(net: nn.Module, x: Tensor, y: Tensor, steps: int, weights: bool) -> Callable[[], object]:
    """As many forward and backward passes as PGD has steps."""

    def run() -> None:
        for parameter in net.parameters():
            parameter.requires_grad_(weights)
        for _ in range(steps):
            inputs = x.clone().requires_grad_()
            nn.functional.cross_entropy(net(inputs), y, reduction="sum").backward()
            net.zero_grad(set_to_none=True)
        for parameter in net.parameters():
            parameter.requires_grad_(True)

    return run


def of_foolbox(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> Callable[[], object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its import, from SciPy
        import foolbox
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device=x.device)
    attack = foolbox.attacks.LinfPGD(steps=steps)
    return lambda: attack.run(model, x, y, epsilon=EPS)


def measured(runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each, by round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--steps", type=int, default=20, help="of PGD")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    steps = options.steps
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(options.images, 3, options.side, options.side, generator=generator).to(device)
    y = torch.randint(10, (options.images,), generator=generator).to(device)
    print(
        f"torch {torch.__version__}, foolbox {version('foolbox')}, {device}, {options.threads} threads, "
        f"{options.images} images; LIF: {lif_backend(device.type).name}"
    )
    for kind in ("snn", "ann"):
        net = network(kind, options.depth, x)
        seconds = measured(
            {
                PGD: lambda net=net: pgd(net, x, y, eps=EPS, steps=steps),  # type: ignore[misc]
                INPUT: passes(net, x, y, steps, weights=False),
                WEIGHTS: passes(net, x, y, steps, weights=True),
                FOOLBOX: of_foolbox(net, x, y, steps),
            },
            options.rounds,
            device,
        )
        print(f"\n  ResNet-{options.depth}, {kind.upper()}" + (f", T = {T}" if kind == "snn" else ""))
        for name, own in seconds.items():
            print(f"    {name:24s}{1000 * median(own) / options.images:9.2f} ms an image")
        for name in (INPUT, WEIGHTS, FOOLBOX):
            ratio = median(a / b for a, b in zip(seconds[PGD], seconds[name], strict=True))
            verdict = "met" if ratio <= TARGET else "missed"
            told = f"; target: at most {TARGET}: {verdict}" if name == INPUT else ""
            print(f"    PGD takes {ratio:.2f} times as long as {name}{told}")


if __name__ == "__main__":
    main()
