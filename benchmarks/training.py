"""Images a second that a ResNet-20 trains with: this project, a straightforward SpikingJelly script, a plain loop.

    python benchmarks/training.py [--images 256] [--rounds 5] [--threads 2] [--batch-size 64] [--layouts] [--tiny]

Spiking (T = 4) and artificial, on 32 x 32 images that are cropped, flipped and normalised; SGD, batches of 64 (256 on
CUDA). On the CPU all take an epoch of the same images in turn, so that a busy machine hits them alike; a ratio is taken
within one round and given as the median over rounds. On CUDA each trains for one epoch more than there are rounds, and
the first, in which graphs are captured and kernels chosen, does not count.

- "this project": `sj_cka.training.train`; images live as bytes on the device and are augmented there; on CUDA a step is
  one captured graph.
- on CUDA also: "no graph"; "SpikingJelly's launch", the same with its own launch of the CuPy kernels; "fused" and
  "fused, no graph": `neuron: {backend: fused}`, whose kernels torch.compile makes in the first epoch.
- "SpikingJelly": its own LIFNode, multi-step, torch backend (2.0.0 on CUDA: the kernels that it chooses); a DataLoader
  with torchvision's transforms on PIL images.
- "plain loop": as released code has it: neurons loop over time and leave the rest to autograd, the image is repeated
  before the first layer; the same DataLoader.

An artificial network has no neurons, so that the last two are one there. On CUDA this project trains with precision
"auto" for the spiking network, as the `paper` profiles do, and the time of an epoch's kernels, by torch's profiler, is
compared with the time of an epoch without it. From the rate follows what 300 epochs of CIFAR-10's 50,000 images take.
--layouts compares layouts in memory instead, at sides of 8, 16 and 32 pixels: where "auto" changes over.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from statistics import median

import torch
from neuron_backends import PlainLoop
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from sj_cka.data import AUGMENTATIONS, Images, Shape, imagine
from sj_cka.models import build
from sj_cka.neurons import lif_backend
from sj_cka.neurons.backends import node_chooses
from sj_cka.neurons.nodes import FusedNode
from sj_cka.training import DeviceLoader, Settings, train

T, OURS, SCRIPT, LOOP = 4, "this project", "SpikingJelly", "plain loop"
TINY = {"images": 4, "rounds": 1, "threads": 1, "depth": 8, "side": 8}
FUSED, THEIRS = "fused", "SpikingJelly's launch"
CUDA_FORMS = ("no graph", THEIRS, FUSED, "fused, no graph")  # of this project, beside OURS
TARGETS = {("cpu", "snn"): 1.4, ("cuda", "snn"): 4.0, ("cuda", "ann"): 3.0}  # times the plain loop
IN_KERNELS = 0.8  # of the time, on CUDA
Run = Callable[[int], list[float]]  # images a second of so many epochs


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as a script of the field loads them."""

    def __init__(self, data: Images) -> None:
        self.images = data.x_train.permute(0, 2, 3, 1).numpy()
        self.labels = data.y_train.tolist()
        self.change = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(data.x_train.shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.change(self.images[i]), self.labels[i]


def network(kind: str, depth: int, device: str, form: str) -> nn.Module:
    plain = "torch" if device == "cpu" or node_chooses() else "auto"  # 2.0.0 takes its kernels on CUDA by itself
    backend = plain if form in (SCRIPT, LOOP) else "fused" if form.startswith(FUSED) else "auto"
    net = build(
        "snn" if kind == "snn" else "ann",
        {"name": "resnet", "depth": depth},
        in_channels=3,
        num_classes=10,
        T=T,
        neuron={"name": "lif", "backend": backend} if kind == "snn" else None,
        device=device,
    )
    if form == THEIRS:
        for module in net.modules():
            if isinstance(module, FusedNode):
                module.lean = False
    if form == LOOP:
        for name, module in list(net.named_modules()):
            if isinstance(module, neuron.BaseNode):
                net.set_submodule(name, PlainLoop())
    return net


def ours(
    kind: str, depth: int, device: str, data: Images, batch_size: int, layout: str = "auto", form: str = OURS
) -> Run:
    net = network(kind, depth, device, form)
    settings = Settings(
        epochs=1,
        batch_size=batch_size,
        precision="auto" if kind == "snn" else "float32",
        layout=layout,  # type: ignore[arg-type]
        graph=form in (OURS, FUSED),
    )
    batches = DeviceLoader(
        data.x_train.to(device),
        data.y_train.to(device),
        batch_size=batch_size,
        seed=0,
        classes=10,
        prepare=data.as_input,
        augment=[AUGMENTATIONS["crop"], AUGMENTATIONS["flip"]],
    )

    def run(epochs: int, report: Callable[[object], None] | None = None) -> list[float]:
        made = train(net, batches, dataclasses.replace(settings, epochs=epochs), seed=0, report=report)
        return [epoch.images_s for epoch in made.history]

    return run


def script(kind: str, depth: int, device: str, data: Images, batch_size: int, form: str) -> Run:
    net = network(kind, depth, device, form).train()
    workers = 0 if device == "cpu" else 4
    loader = DataLoader(
        Pictures(data),
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device == "cuda",
        persistent_workers=workers > 0,  # to start them takes longer than these epochs
    )
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def epoch() -> None:
        hits = 0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            functional.reset_net(net)
            optimiser.zero_grad()
            logits = net(x.repeat(T, 1, 1, 1, 1) if kind == "snn" and form == LOOP else x)
            logits = logits.mean(0) if kind == "snn" else logits
            loss = nn.functional.cross_entropy(logits, y)
            loss.backward()
            optimiser.step()
            hits += int((logits.argmax(1) == y).sum())

    def run(epochs: int) -> list[float]:
        rates = []
        for _ in range(epochs):
            began = time.perf_counter()
            epoch()  # waits for the device at each step
            rates.append(len(data.y_train) / (time.perf_counter() - began))
        return rates

    return run


def measured(runs: Mapping[str, Run], device: str, rounds: int) -> dict[str, list[float]]:
    """Images a second of each, by round."""
    if device == "cuda":
        return {name: run(rounds + 1)[1:] for name, run in runs.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            [rate] = run(1)
            if turn:  # the first warms up
                rates[name].append(rate)
    return rates


def shown(rates: Mapping[str, list[float]]) -> None:
    first = next(iter(rates))
    print(f"    {'':22s}{'images/s':>10s}{'range':>16s}{first + ' / it':>22s}")
    for name, own in rates.items():
        ratio = median(a / b for a, b in zip(rates[first], own, strict=True))
        print(f"    {name:22s}{median(own):10.0f}{f'{min(own):.0f} to {max(own):.0f}':>16s}{ratio:22.2f}")


def in_kernels(run: Callable[..., list[float]], images: int) -> float:
    """Time of the kernels of an epoch, as a share of the time that one takes without a profiler."""
    from torch.profiler import ProfilerActivity, profile

    seconds = images / run(2)[1]
    profiler = profile(activities=[ProfilerActivity.CUDA], acc_events=True)
    epochs: list[object] = []

    def report(epoch: object) -> None:  # the second alone is looked at
        torch.cuda.synchronize()
        (profiler.stop if epochs else profiler.start)()
        epochs.append(epoch)

    run(2, report)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, until = 0.0, 0.0
    for start, end in spans:  # kernels of several streams may overlap
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e6 / seconds


def pictures(side: int, count: int) -> Images:
    """Random colour images of ten classes."""
    data = imagine(Shape((3, side, side), 10, count, count), train=count)
    assert isinstance(data, Images)
    return data


def layouts(rounds: int, depth: int, images: int | None) -> None:
    print("\nlayouts in memory, training on the CPU, contiguous / channels-last in images a second")
    for side in (8, 16, 32):
        count = images or 64 * (32 // side)
        data = pictures(side, count)
        for kind in ("snn", "ann"):
            runs = {layout: ours(kind, depth, "cpu", data, 64, layout) for layout in ("channels_last", "contiguous")}
            rates = measured(runs, "cpu", rounds)
            ratio = median(a / b for a, b in zip(rates["channels_last"], rates["contiguous"], strict=True))
            print(f"    {kind}, {side:2d} x {side:<2d}: channels-last is {ratio:.2f} times as fast")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="of an epoch; 256, on CUDA 50,000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="64, on CUDA 256")
    parser.add_argument("--without-scripts", action="store_true", help="this project alone")
    parser.add_argument("--layouts", action="store_true", help="compare layouts in memory on the CPU instead")
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does it run? Measures nothing")
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, spikingjelly {version('spikingjelly')}, {options.threads} threads")
    if options.layouts:
        return layouts(options.rounds, options.depth, options.images)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = options.images or (50_000 if device == "cuda" else 256)
    batch_size = options.batch_size or (256 if device == "cuda" else 64)
    data, depth = pictures(options.side, images), options.depth
    print(
        f"{device}, {images} images an epoch, batches of {batch_size}; LIF of this project: {lif_backend(device).name}"
    )
    for kind in ("snn", "ann"):
        forms = (OURS, *(CUDA_FORMS if kind == "snn" else CUDA_FORMS[:1])) if device == "cuda" else (OURS,)
        runs = {form: ours(kind, depth, device, data, batch_size, form=form) for form in forms}
        if not options.without_scripts:
            names = (SCRIPT, LOOP) if kind == "snn" else (LOOP,)
            runs |= {name: script(kind, depth, device, data, batch_size, name) for name in names}
        print(f"\n  ResNet-{depth}, {kind.upper()}" + (f", T = {T}" if kind == "snn" else ", the two scripts are one"))
        rates = measured(runs, device, options.rounds)
        shown(rates)
        print(f"    a step of {OURS}: {1000 * batch_size / median(rates[OURS]):.1f} ms")
        hours = 300 * 50_000 / median(rates[OURS]) / 3600
        print(f"    300 epochs of CIFAR-10 follow: {hours:.1f} hours")
        if LOOP in rates and (limit := TARGETS.get((device, kind))) is not None:
            ratio = median(rates[OURS]) / median(rates[LOOP])
            verdict = "met" if ratio >= limit else "missed"
            print(f"    target: {OURS} at least {limit} times the {LOOP}: {ratio:.2f}: {verdict}")
        if device == "cuda":
            share = in_kernels(ours(kind, depth, device, data, batch_size), images)
            verdict = "met" if share >= IN_KERNELS else "missed"
            print(f"    target: at least {IN_KERNELS:.0%} of the time in kernels: {share:.0%}: {verdict}")


if __name__ == "__main__":
    main()
