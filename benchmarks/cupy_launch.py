"""SpikingJelly's CuPy kernels as `sj_cka.neurons.cupy_launch` launches them, against SpikingJelly's own launch.

    python benchmarks/cupy_launch.py [--repeats 50]

Three tables, on a CUDA device with SpikingJelly 2.0.0rc1 and CuPy:

- the same numbers: spikes, potentials and gradients of IF, LIF and PLIF in float32 and float16, contiguous and
  channels-last, with an odd number of neurons, on a side stream: how many differ, and by how much;
- microseconds of a layer, forward and backward, batch 32 at 16 x 32 x 32 and T = 4: launched here, by SpikingJelly, and
  by its torch code, as medians;
- a training step of a ResNet-20 as a CUDA graph: kernels of neurons in one replay (19 forward and 19 backward are
  right), and losses of 20 steps at a falling rate, a short batch among them, with and without the graph.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from sj_cka.data import Images, Shape, imagine
from sj_cka.models import build
from sj_cka.neurons import NEURONS, lif_backend
from sj_cka.neurons.nodes import FusedNode
from sj_cka.training import DeviceLoader, Settings, train
from sj_cka.training.step import GraphStep, Step, on_side_stream

T = 4


def node(kind: str, lean: bool, backend: str = "cupy") -> Any:
    made: Any = (
        NEURONS[kind](backend=backend, device="cuda", tau=3.0)
        if kind == "lif"
        else NEURONS[kind](backend=backend, device="cuda")
    )
    made.lean = lean
    return made.to("cuda")


def results(layer: Any, x: Tensor) -> list[Tensor]:
    """Spikes, last potential and gradients of two calls, the second from the states of the first."""
    layer.reset()
    own = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    first = layer(own)
    second = layer(own * 0.5)
    weights = torch.linspace(-1, 1, x.numel(), device=x.device, dtype=torch.float32).view(x.shape).to(x.dtype)
    ((first * weights).sum() + (second * weights.flip(0)).sum() + layer.v.sum()).backward()
    assert own.grad is not None
    return [first, second, layer.v, own.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


def compared() -> bool:
    print(f"\n  {'the same numbers':34s}{'spikes that differ':>20s}{'v':>10s}{'gradients':>12s}")
    right = True
    for kind in ("lif", "if", "plif"):
        for dtype in (torch.float32, torch.float16):
            for name, shape in (
                ("contiguous", (8, 4, 6, 10)),
                ("channels-last", (8, 4, 6, 10)),
                ("odd", (3, 1, 7, 5)),
                ("side stream", (8, 16, 8, 8)),
            ):
                if kind == "plif" and dtype == torch.float16 and name == "odd":
                    continue  # which SpikingJelly refuses
                x = 1.5 * torch.randn(T, *shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
                x = x.to(dtype)
                if name == "channels-last":
                    x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(x.shape)
                theirs = results(node(kind, lean=False), x)
                if name == "side stream":
                    with on_side_stream(x.device):
                        torch.cuda._sleep(20_000_000)
                        ours = results(node(kind, lean=True), x * 1)
                else:
                    ours = results(node(kind, lean=True), x)
                torch.cuda.synchronize()
                differ = sum(int((a != b).sum()) for a, b in zip(ours[:2], theirs[:2], strict=True))
                v, *gradients = (
                    float((a.detach().double() - b.detach().double()).abs().max() / b.detach().double().abs().max())
                    for a, b in zip(ours[2:], theirs[2:], strict=True)
                )
                assert 0.05 < ours[0].float().mean() < 0.95
                # SpikingJelly rounds the gradient of PLIF's w to the dtype of its input
                rounding = torch.finfo(dtype).eps if kind == "plif" else 0.0
                right &= differ == 0 and v == 0 and max(gradients) <= rounding
                print(f"  {kind:5s}{str(dtype)[6:]:9s}{name:20s}{differ:20d}{v:10.1e}{max(gradients):12.1e}")
    return right


def layer_times(repeats: int) -> None:
    print(f"\n  {'microseconds of a layer':34s}{'float32':>10s}{'float16':>10s}")
    for name, layer in (
        ("launched here", node("lif", lean=True)),
        ("launched by SpikingJelly", node("lif", lean=False)),
        ("its torch code", node("lif", lean=False, backend="torch")),
    ):
        times = []
        for dtype in (torch.float32, torch.float16):
            x = torch.randn(T, 32, 16, 32, 32, device="cuda").to(dtype).requires_grad_()
            grad = torch.ones_like(x)
            runs = []
            for _ in range(repeats + 5):
                torch.cuda.synchronize()
                began = time.perf_counter()
                layer.reset()
                torch.autograd.grad(layer(x), x, grad)
                torch.cuda.synchronize()
                runs.append(time.perf_counter() - began)
            times.append(1e6 * median(runs[5:]))
        print(f"  {name:34s}{times[0]:10.0f}{times[1]:10.0f}")


def net_of(backend: str = "cupy") -> nn.Module:
    return build(
        "snn", {"name": "resnet", "depth": 20}, in_channels=3, num_classes=10, T=T, seed=1,
        neuron={"name": "lif", "backend": backend}, device="cuda",
    )  # fmt: skip


def captured() -> bool:
    from torch.profiler import ProfilerActivity, profile

    step = Step(net_of().train(), Settings(batch_size=32, precision="fp16"))
    x, y = torch.randn(32, 3, 32, 32, device="cuda"), torch.arange(32, device="cuda") % 10
    with on_side_stream(x.device):
        graph = GraphStep(step)
        for _ in range(5):
            graph(x, y, 32)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            graph(x, y, 32)
            torch.cuda.synchronize()
    names = [event.name for event in profiler.events()]
    forward, backward = (sum(part in name for name in names) for part in ("FPTTKernel", "BPTTKernel"))
    print(
        f"\n  one replay: {len(names)} kernels, of neurons {forward} forward and {backward} backward; "
        f"refused: {graph.refused}"
    )
    data = imagine(Shape((3, 32, 32), 10, 300, 300), train=300)
    assert isinstance(data, Images)
    losses = []
    for whole in (True, False):
        net = net_of()
        batches = DeviceLoader(
            data.x_train.cuda(), data.y_train.cuda(), batch_size=64, seed=0, classes=10, prepare=data.as_input
        )
        settings = Settings(epochs=4, batch_size=64, precision="fp16", graph=whole)
        losses.append([epoch.loss for epoch in train(net, batches, settings, seed=0).history])
    worst = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
    print(
        "  loss of 4 epochs of 5 steps, the last of 44 images: "
        + "; ".join(
            f"{name} {', '.join(f'{loss:.5f}' for loss in own)}"
            for name, own in zip(("graph", "as it is"), losses, strict=True)
        )
    )
    return (forward, backward) == (19, 19) and worst < 0.02


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--tiny", action="store_true", help="does it start? Measures nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available() or lif_backend("cuda").name != "cupy":
        print("no CUDA device with CuPy here: nothing was measured")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    assert issubclass(type(node("lif", lean=True)), FusedNode)
    right = [compared(), captured()]
    layer_times(3 if options.tiny else options.repeats)
    print(f"\n  {'all as it must be' if all(right) else 'NOT as it must be'}")


if __name__ == "__main__":
    main()
