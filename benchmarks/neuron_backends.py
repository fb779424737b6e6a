"""One LIF layer, forward and backward: the fused CPU path against SpikingJelly's torch code and a plain loop over time.

    python benchmarks/neuron_backends.py [--threads 1 2] [--rounds 30]

All take the same [4, 32, 16, 32, 32] float32 input in turn, so that a busy machine hits them alike; a ratio is taken
within one round and given as the median over rounds with the quartiles. Before any timing, spikes and gradients of all
are compared. On CUDA: SpikingJelly's kernels, where they are, against its torch code and the loop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from spikingjelly.activation_based import functional
from torch import Tensor
from torch.autograd.function import FunctionCtx

from sj_cka.neurons import lif, lif_backend

SHAPE = (4, 32, 16, 32, 32)  # T, N, C, H, W
Layer = Callable[[Tensor], Tensor]


class TanhSpike(torch.autograd.Function):
    """H(d) with the derivative of tanh(3 d) / 2."""

    @staticmethod
    def forward(ctx: FunctionCtx, d: Tensor) -> Tensor:
        ctx.save_for_backward(d)
        return (d >= 0).to(d.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (d,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * 1.5 * (1 - torch.tanh(3 * d) ** 2)


def plain_loop(x_seq: Tensor) -> Tensor:
    """LIF as a paper's code writes it: one autograd graph node per operation and step."""
    u = torch.zeros_like(x_seq[0])
    spikes = []
    for x in x_seq:
        u = 0.5 * u + x
        s = TanhSpike.apply(u - 1.0)
        u = u * (1 - s)
        spikes.append(s)
    return torch.stack(spikes)


def node(backend: str, device: str) -> Layer:
    """A layer that starts from the reset state at every call."""
    layer = lif(backend=backend, device=device).to(device)  # type: ignore[arg-type]

    def run(x_seq: Tensor) -> Tensor:
        functional.reset_net(layer)
        return layer(x_seq)

    return run


def layers_on(device: str) -> dict[str, Layer]:
    """What runs on the device, the reference of the ratios first."""
    layers: dict[str, Layer] = {}
    for backend in ("fused", "torch", "cupy", "native", "triton"):
        try:
            layers[backend] = node(backend, device)
        except ValueError as error:
            print(f"  not here: {error}")
    return layers | {"plain loop": plain_loop}


def forward_backward(layer: Layer, x_seq: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    spikes = layer(x_seq)
    (grad_x,) = torch.autograd.grad(spikes, x_seq, grad)
    return spikes, grad_x


def measure(device: str, rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x_seq = torch.randn(SHAPE, generator=generator).to(device).requires_grad_()
    grad = torch.randn(SHAPE, generator=generator).to(device)
    layers = layers_on(device)
    reference = next(iter(layers))
    spikes, grad_x = forward_backward(layers[reference], x_seq, grad)
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    for layer in layers.values():
        other_spikes, other_grad_x = forward_backward(layer, x_seq, grad)
        differing = (other_spikes != spikes).double().mean().item()
        error = ((other_grad_x - grad_x).norm() / grad_x.norm()).item()
        if differing > 1e-7 or (differing == 0 and error > 1e-6):
            raise SystemExit(f"spikes differ in {differing:.1e} of all places, gradients by {error:.1e} of the norm")
    for _ in range(rounds):
        for name, layer in layers.items():
            start = time.perf_counter()
            for _ in range(3):
                forward_backward(layer, x_seq, grad)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - start) / 3)

    print(f"  {'':12s}{'median':>10s}{'time over ' + reference:>22s}")
    for name in layers:
        ratios = [other / own for other, own in zip(seconds[name], seconds[reference], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = 1e3 * statistics.median(seconds[name])
        print(f"  {name:12s}{milliseconds:7.2f} ms{middle:10.2f} ({low:.2f} to {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, spikingjelly {version('spikingjelly')}, [T, N, C, H, W] = {list(SHAPE)}")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        print(f"cpu, {threads} thread{'s'[: threads - 1]}; chosen: {lif_backend('cpu').name}")
        measure("cpu", arguments.rounds)
    if torch.cuda.is_available():
        print(f"{torch.cuda.get_device_name()}; chosen: {lif_backend('cuda').name}")
        measure("cuda", arguments.rounds)


if __name__ == "__main__":
    main()
