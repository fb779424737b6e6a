"""LIF: one layer, and a ResNet-20's training step, with the chosen backend, SpikingJelly's torch code and a plain loop.

    python benchmarks/neuron_backends.py [--threads 1 2] [--rounds 30] [--steps 8] [--only cpu|cuda] [--tiny]

The layer takes a float32 input [4, 32, 16, 32, 32], forward and backward; the training step (forward, loss, backward,
SGD) a batch of 32 images [3, 32, 32], shown for 4 time steps. "plain loop" is a module that loops over time and leaves
the rest to autograd, as the code released with papers has it; its network sees the image repeated, as there. The step
of the chosen backend is taken in torch's default layout and with weights and images in channels-last, which the fused
layers keep; the target is that of the latter. On the CPU both also run "fused, compiled" (`compiled=True`, the step in
channels-last), if torch.compile finds a C++ compiler; the time to compile is not counted.

All take the same input in turn, so that a busy machine hits them alike; a ratio is taken within one round and given as
the median over rounds with the quartiles. Before any timing, spikes and gradients, and losses, of all are compared. On
CUDA: SpikingJelly's kernels, where they are, against its torch code and the loop. At the end come the targets.
"""

from __future__ import annotations

import argparse
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from sj_cka.models import build
from sj_cka.neurons import lif, lif_backend

T = 4
SHAPE = (T, 32, 16, 32, 32)  # T, N, C, H, W
TINY = {"threads": [1], "rounds": 2, "steps": 2, "depth": 8, "shape": (T, 2, 4, 8, 8)}
LOOP = "plain loop"
CHANNELS_LAST = ", channels-last"
COMPILED = ", compiled"
TOLERANCE = {"cpu": 1e-6, "cuda": 1e-4}  # of gradients: SpikingJelly compiles its CuPy kernels with fast math
# ratios to reach, by device, what runs, variant of the chosen backend, and whose time in its; on the CPU with 2 threads
TARGETS = {
    ("cpu", "layer", "", "torch"): 2.4,
    ("cpu", "layer", COMPILED, "torch"): 3.5,
    ("cpu", "training step", CHANNELS_LAST, LOOP): 1.4,
    ("cuda", "training step", CHANNELS_LAST, LOOP): 3.0,
}
Seconds = Mapping[str, list[float]]


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


class PlainLoop(nn.Module):
    """LIF as a paper's code writes it: one autograd graph node per operation and step."""

    def forward(self, x_seq: Tensor) -> Tensor:
        u = torch.zeros_like(x_seq[0])
        spikes = []
        for x in x_seq:
            u = 0.5 * u + x
            s = TanhSpike.apply(u - 1.0)
            u = u * (1 - s)
            spikes.append(s)
        return torch.stack(spikes)


def backends_on(device: str) -> list[str]:
    """What runs on the device: the chosen backend first, then the others, then the loop."""
    chosen = lif_backend(device).name
    found = [chosen]
    for backend in ("fused", "cupy", "native", "triton", "torch"):
        try:
            found += [lif_backend(device, backend).name] if backend != chosen else []
        except ValueError as error:
            print(f"  not here: {error}")
    return [*found, LOOP]


def compiles(device: str, options: Namespace) -> bool:
    """Whether the chosen backend can be compiled, with a line on why not; --tiny has no time for it."""
    if device != "cpu" or options.tiny:
        return False
    try:
        lif(backend="fused", compiled=True)
    except ValueError as error:
        print(f"  not here: {error}")
        return False
    return True


def network(backend: str, depth: int, device: str, compiled: bool = False) -> nn.Module:
    """A ResNet with equal weights for each backend."""
    options = {"compiled": True} if compiled else {}
    net = build(
        "snn",
        {"name": "resnet", "depth": depth},
        in_channels=3,
        num_classes=10,
        T=T,
        neuron={"name": "lif", "backend": lif_backend(device).name if backend == LOOP else backend, **options},
        device=device,
    )
    if backend == LOOP:
        for name, module in list(net.named_modules()):
            if isinstance(module, neuron.BaseNode):
                net.set_submodule(name, PlainLoop())
    return net


def layer_runs(
    device: str, backends: list[str], options: Namespace
) -> tuple[dict[str, Callable[[], Any]], bool | None]:
    """A forward and backward of each backend's layer, and whether the chosen one's spikes equal those of torch."""
    generator = torch.Generator().manual_seed(0)
    x_seq = torch.randn(options.shape, generator=generator).to(device).requires_grad_()
    grad = torch.randn(options.shape, generator=generator).to(device)
    layers = {name: PlainLoop() if name == LOOP else lif(backend=name, device=device) for name in backends}  # type: ignore[arg-type]
    if compiles(device, options):
        layers[f"{backends[0]}{COMPILED}"] = lif(backend="fused", compiled=True)

    def run(layer: nn.Module) -> tuple[Tensor, Tensor]:
        functional.reset_net(layer)
        spikes = layer.to(device)(x_seq)
        return spikes, torch.autograd.grad(spikes, x_seq, grad)[0]

    results = {name: run(layer) for name, layer in layers.items()}
    spikes, grad_x = results[backends[0]]
    for name, (other_spikes, other_grad_x) in results.items():
        differing = (other_spikes != spikes).double().mean().item()
        error = ((other_grad_x - grad_x).norm() / grad_x.norm()).item()
        if differing > 1e-7 or (differing == 0 and error > TOLERANCE[device]):
            raise SystemExit(f"{name}: spikes differ in {differing:.1e} of all places, gradients by {error:.1e}")
    equal = torch.equal(spikes, results["torch"][0]) if "torch" in results else None
    return {name: lambda layer=layer: run(layer) for name, layer in layers.items()}, equal


def step_runs(device: str, backends: list[str], options: Namespace) -> dict[str, Callable[[], Any]]:
    """A training step of each backend's network."""
    generator = torch.Generator().manual_seed(0)
    _, N, _, H, W = options.shape
    images = torch.randn(N, 3, H, W, generator=generator).to(device)
    labels = torch.randint(10, (N,), generator=generator).to(device)

    def stepper(backend: str, layout: torch.memory_format, compiled: bool = False) -> Callable[[], Tensor]:
        net = network(backend, options.depth, device, compiled).to(memory_format=layout)
        shown = images.contiguous(memory_format=layout)
        if backend == LOOP:
            shown = images.repeat(T, 1, 1, 1, 1)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

        def step() -> Tensor:
            functional.reset_net(net)
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(net(shown).mean(0), labels)
            loss.backward()
            optimiser.step()
            return loss.detach()

        return step

    chosen = f"{backends[0]}{CHANNELS_LAST}"
    runs = {chosen: stepper(backends[0], torch.channels_last)}
    if compiles(device, options):
        runs[f"{chosen}{COMPILED}"] = stepper(backends[0], torch.channels_last, compiled=True)
    runs |= {backend: stepper(backend, torch.contiguous_format) for backend in backends}
    losses = {name: float(step()) for name, step in runs.items()}
    for name, loss in losses.items():  # convolutions in another layout round otherwise, and some neurons fire otherwise
        if abs(loss - losses[backends[0]]) > (1e-2 if CHANNELS_LAST in name else 1e-3):
            raise SystemExit(f"losses of the first step differ: {losses}")
    return runs


def measure(runs: Mapping[str, Callable[[], Any]], device: str, rounds: int, repeats: int) -> Seconds:
    """Prints the time of each, and its median ratio to the first one's; gives the times by round."""

    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    reference = next(iter(runs))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for timed in range(rounds + 1):
        for name, run in runs.items():
            synchronise()
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            synchronise()
            if timed:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / repeats)

    print(f"    {'':31s}{'median':>12s}{'time over ' + reference:>36s}")
    for name in runs:
        low, middle, high = quartiles(seconds, reference, name)
        milliseconds = 1e3 * statistics.median(seconds[name])
        print(f"    {name:31s}{milliseconds:9.2f} ms{middle:10.2f} ({low:.2f} to {high:.2f})")
    return seconds


def quartiles(seconds: Seconds, own: str, other: str) -> list[float]:
    """Of the other's time over its own, each within a round."""
    return statistics.quantiles((y / x for x, y in zip(seconds[own], seconds[other], strict=True)), n=4)


def verdict(target: str, reached: str, met: bool) -> str:
    return f"  {'met   ' if met else 'missed'}  {target}: {reached}"


def measure_on(device: str, options: Namespace) -> list[str]:
    """Measures layer and training step; gives the verdict on each target of the device."""
    backends = backends_on(device)
    runs, equal = layer_runs(device, backends, options)
    verdicts = []
    if device == "cuda":
        if version("spikingjelly") == "2.0.0rc1" and find_spec("cupy") is not None:
            verdicts.append(verdict("cupy chosen on CUDA", f"{backends[0]} is chosen", backends[0] == "cupy"))
        if equal is not None:
            verdicts.append(verdict("spikes equal to those of torch on CUDA", "equal" if equal else "not equal", equal))
    print("  layer, forward and backward")
    seconds = {"layer": measure(runs, device, options.rounds, repeats=3)}
    print(f"  training step of a ResNet-{options.depth}, batch {options.shape[1]}")
    seconds["training step"] = measure(step_runs(device, backends, options), device, options.steps, repeats=1)
    for (where, what, variant, other), least in TARGETS.items():
        if where == device:
            own = f"{backends[0]}{variant}"
            text = f"{device}, {what}: {own} at least {least} times as fast as {other}"
            if own in seconds[what]:
                ratio = quartiles(seconds[what], own, other)[1]
                verdicts.append(verdict(text, f"{ratio:.2f} times", ratio >= least))
            else:
                verdicts.append(verdict(text, "does not run here", False))
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=30, help="of the layer, 3 passes each; 2 or more")
    parser.add_argument("--steps", type=int, default=8, help="training steps of each; 2 or more")
    parser.add_argument("--only", choices=["cpu", "cuda"], help="one device alone; both where they are by default")
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    parser.set_defaults(shape=SHAPE)
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    print(f"torch {torch.__version__}, spikingjelly {version('spikingjelly')}, [T, N, C, H, W] = {list(options.shape)}")
    verdicts = []
    for threads in options.threads if options.only != "cuda" else []:
        torch.set_num_threads(threads)
        print(f"cpu, {threads} thread{'s'[: threads - 1]}; chosen: {lif_backend('cpu').name}")
        reached = measure_on("cpu", options)
        verdicts += reached if threads == 2 else []
    if options.only != "cpu" and torch.cuda.is_available():
        print(f"{torch.cuda.get_device_name()}; chosen: {lif_backend('cuda').name}")
        verdicts += measure_on("cuda", options)
    print("targets (on the CPU with 2 threads)")
    print("\n".join(verdicts) if verdicts else "  none measured: ask for --threads 2")


if __name__ == "__main__":
    main()
