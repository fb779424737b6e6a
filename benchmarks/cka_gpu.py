"""What `compare` costs past the forward pass on a CUDA device, against the pairwise trace formula on the same device.

    python benchmarks/cka_gpu.py [--n 1024] [--repeats 5] [--tiny]

The paper's comparison: ResNet-20 SNN (T = 4) and ANN with random weights, all 73 x 73 layers, 32 x 32 images. The
formula takes float32 Grams of features concatenated over time in hooks and then evaluates
tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1 for every pair of layers and every layer with itself. Both take
turns in one process; times are medians less the median of the forward passes alone. Spikes are checked to give the same
Grams as in float64. The parts of one comparison are timed as well, each with a wait for the device at its end. Without
a CUDA device it says so and ends; --tiny runs on the CPU then.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any
from unittest import mock

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_cka import CKA, compare
from sj_cka.cka.gram import centred_grams, raw_grams
from sj_cka.cka.products import half_products
from sj_cka.models import build
from sj_cka.recording import plan_observation
from sj_cka.training import calibrate

T = 4
TINY = {"n": 8, "repeats": 1, "depth": 8, "side": 8}


def run(net: nn.Module, x: Tensor) -> None:
    """One forward pass from reset states."""
    functional.reset_net(net)
    with torch.no_grad():
        net(x)
    functional.reset_net(net)


def pairwise(
    nets: list[nn.Module], x: Tensor, layers: list[tuple[str, ...]], dtype: torch.dtype = torch.float32
) -> Tensor:
    """CKA by the trace formula, pair by pair."""
    sides = []
    for net, names in zip(nets, layers, strict=True):
        K: dict[str, Tensor] = {}

        def hook(name: str, into: dict[str, Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
            def take(module: nn.Module, args: object, output: Tensor) -> None:
                steps = output.ndim == 5 or (output.ndim == 3 and len(output) == T)
                flat = (output.transpose(0, 1).flatten(1) if steps else output.flatten(1)).to(dtype)
                into[name] = (flat @ flat.T).fill_diagonal_(0)

            return take

        modules = dict(net.named_modules())
        handles = [modules[name].register_forward_hook(hook(name, K)) for name in names]
        run(net, x)
        for handle in handles:
            handle.remove()
        sides.append([K[name] for name in names])
    n = len(x)

    def hsic(K: Tensor, L: Tensor) -> Tensor:
        product = K @ L
        terms = product.trace() + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * product.sum()
        return terms / (n * (n - 3))

    own = [[hsic(K, K) for K in side] for side in sides]
    rows = [
        torch.stack([hsic(K, L) / (a * b).sqrt() for L, b in zip(sides[1], own[1], strict=True)])
        for K, a in zip(sides[0], own[0], strict=True)
    ]
    return torch.stack(rows)


def phases(nets: list[nn.Module], x: Tensor, synchronize: Callable[[], None]) -> dict[str, float]:
    """Seconds of the parts of one comparison, each of which waits for the device; what is left is "the rest"."""
    taken: dict[str, float] = {}

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            synchronize()
            began = time.perf_counter()
            result = function(*args, **options)
            synchronize()
            taken[name] = taken.get(name, 0.0) + time.perf_counter() - began
            return result

        return run

    module = sys.modules[compare.__module__]
    parts: list[tuple[Any, str, str]] = [
        (module, "observed_networks", "probes"),
        (module.ObservedNetwork, "grams", "forward passes with Grams"),
        (CKA, "update_grams", "sums"),
        (CKA, "compute", "result"),
    ]
    with ExitStack() as watched:
        for place, name, part in parts:
            watched.enter_context(mock.patch.object(place, name, timed(getattr(place, name), part)))
        timed(lambda: compare(*nets, [x], into=CKA(samples=False), progress=False), "whole")()
    whole = taken.pop("whole")
    return taken | {"the rest": whole - sum(taken.values())}


def main() -> None:
    """Prints times, ratio and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1024, help="images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    cuda = torch.cuda.is_available()
    if not cuda and not options.tiny:
        print("no CUDA device here: nothing was measured")
        return
    on = torch.device("cuda" if cuda else "cpu")
    synchronize = torch.cuda.synchronize if cuda else torch.cpu.synchronize
    x = torch.randn(options.n, 3, options.side, options.side, generator=torch.Generator().manual_seed(0)).to(on)
    nets: list[nn.Module] = []
    for kind in ("snn", "ann"):
        net = build(
            kind, {"name": "resnet", "depth": options.depth}, in_channels=3, num_classes=10, T=T, seed=1, device=on
        )  # type: ignore[arg-type]
        calibrate(net, x, batch_size=256)
        nets.append(net.eval())
    layers = [plan_observation(net, x).layers for net in nets]
    tools: dict[str, Callable[[], object]] = {
        "forward alone": lambda: [run(net, x) for net in nets],
        "this project": lambda: compare(*nets, [x], into=CKA(samples=False), progress=False),
        "with samples": lambda: compare(*nets, [x], progress=False),
        "pairwise formula": lambda: pairwise(nets, x, layers),
        "probes": lambda: [plan_observation(net, x) for net in nets],
    }
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    for turn in range(options.repeats + 1):
        for name, tool in tools.items():
            synchronize()
            began = time.perf_counter()
            tool()
            synchronize()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    forward = median(seconds["forward alone"])
    past = {name: median(times) - forward for name, times in seconds.items()}
    print(
        f"{torch.cuda.get_device_name() if cuda else on}, n = {options.n}, "
        f"{len(layers[0])} x {len(layers[1])} layers, T = {T}"
    )
    print(f"forward passes alone {1000 * forward:.1f} ms, probes {1000 * median(seconds['probes']):.1f} ms; past them:")
    for name in ("this project", "with samples", "pairwise formula"):
        print(f"  {name:18} {1000 * past[name]:8.1f} ms")
    taken = phases(nets, x, synchronize)
    print(f"of a comparison: {', '.join(f'{name} {1000 * took:.1f} ms' for name, took in taken.items())}")
    print(f"the formula takes {past['pairwise formula'] / past['this project']:.1f} times as long (wanted: at least 5)")
    found = torch.tensor(compare(*nets, [x], progress=False).matrix().to_numpy())
    right, formula = (pairwise(nets, x, layers, dtype).cpu().double() for dtype in (torch.float64, torch.float32))
    defined = found.isfinite()
    errors = [float((value - right)[defined].abs().max()) for value in (found, formula)]
    print(
        f"{int(defined.sum())} pairs; largest error against float64: {errors[0]:.1e} (wanted: at most 1e-6), of the "
        f"formula in float32 {errors[1]:.1e}"
    )
    spikes = (torch.rand(T, 256, 16 * options.side**2, device=on) < 0.2).float()
    exact = centred_grams(spikes.double().cpu()).rows
    error = (raw_grams(spikes, spikes=True).rows.cpu() - exact).abs().max()
    print(f"spikes in half precision: {half_products(on)}; largest error of their Grams {error:.1e}")


if __name__ == "__main__":
    main()
