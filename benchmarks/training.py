"""Images a second that a ResNet-20 trains with: this project, a straightforward SpikingJelly script, a plain loop.

    python benchmarks/training.py [--images 256] [--rounds 5] [--threads 2] [--layouts] [--tiny]

Spiking (T = 4) and artificial, on 32 x 32 images that are cropped, flipped and normalised; SGD, batches of 64 (256 on
CUDA). All take an epoch of the same images in turn, so that a busy machine hits them alike; a ratio is taken within one
round and given as the median over rounds.

- "this project": `sj_cka.training.train`; images live as bytes on the device and are augmented there.
- "fused", on CUDA: this project with `neuron: {backend: fused}`, whose kernels torch.compile makes in the first epoch.
- "SpikingJelly": its own LIFNode, multi-step, torch backend (2.0.0 on CUDA: the kernels that it chooses); a DataLoader
  with torchvision's transforms on PIL images.
- "plain loop": as released code has it: neurons loop over time and leave the rest to autograd, the image is repeated
  before the first layer; the same DataLoader.

An artificial network has no neurons, so that the last two are one there. On CUDA this project trains with precision
"auto" for the spiking network, as the `paper` profiles do, and the share of the time that is spent in kernels is taken
by torch's profiler. From the rate follows what 300 epochs of CIFAR-10's 50,000 images take. --layouts compares layouts
in memory instead, at sides of 8, 16 and 32 pixels: where "auto" changes over.
"""

from __future__ import annotations

import argparse
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
from sj_cka.training import Resident, Settings, train

T, OURS, SCRIPT, LOOP = 4, "this project", "SpikingJelly", "plain loop"
TINY = {"images": 4, "rounds": 1, "threads": 1, "depth": 8, "side": 8}
FUSED = "fused"  # this project with the fused neurons, which CUDA has to be asked for
TARGETS = {("cpu", "snn"): 1.4, ("cuda", "snn"): 4.0}  # times the plain loop
IN_KERNELS = 0.8  # of the time, on CUDA
Epoch = Callable[[], object]


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
    own = "torch" if device == "cpu" or node_chooses() else "auto"  # 2.0.0 takes its kernels on CUDA by itself
    net = build(
        "snn" if kind == "snn" else "ann",
        {"name": "resnet", "depth": depth},
        in_channels=3,
        num_classes=10,
        T=T,
        neuron={"name": "lif", "backend": {OURS: "auto", FUSED: "fused"}.get(form, own)} if kind == "snn" else None,
        device=device,
    )
    if form == LOOP:
        for name, module in list(net.named_modules()):
            if isinstance(module, neuron.BaseNode):
                net.set_submodule(name, PlainLoop())
    return net


def ours(
    kind: str, depth: int, device: str, data: Images, batch_size: int, layout: str = "auto", form: str = OURS
) -> Epoch:
    net = network(kind, depth, device, form)
    settings = Settings(
        epochs=1,
        batch_size=batch_size,
        precision="auto" if kind == "snn" else "float32",
        layout=layout,  # type: ignore[arg-type]
    )
    batches = Resident(
        data.x_train.to(device),
        data.y_train.to(device),
        batch_size=batch_size,
        seed=0,
        classes=10,
        prepare=data.as_input,
        augment=[AUGMENTATIONS["crop"], AUGMENTATIONS["flip"]],
    )
    return lambda: train(net, batches, settings, seed=0)


def script(kind: str, depth: int, device: str, data: Images, batch_size: int, form: str) -> Epoch:
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

    return epoch


def measured(runs: Mapping[str, Epoch], images: int, device: str, rounds: int) -> dict[str, list[float]]:
    """Images a second of each, by round."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                rates[name].append(images / (time.perf_counter() - began))
    return rates


def shown(rates: Mapping[str, list[float]]) -> None:
    first = next(iter(rates))
    print(f"    {'':16s}{'images/s':>10s}{'range':>16s}{first + ' / it':>22s}")
    for name, own in rates.items():
        ratio = median(a / b for a, b in zip(rates[first], own, strict=True))
        print(f"    {name:16s}{median(own):10.0f}{f'{min(own):.0f} to {max(own):.0f}':>16s}{ratio:22.2f}")


def in_kernels(run: Epoch) -> float:
    """Share of a run's time in which the CUDA device runs a kernel."""
    from torch.profiler import ProfilerActivity, profile

    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
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
            rates = measured(runs, count, "cpu", rounds)
            ratio = median(a / b for a, b in zip(rates["channels_last"], rates["contiguous"], strict=True))
            print(f"    {kind}, {side:2d} x {side:<2d}: channels-last is {ratio:.2f} times as fast")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="of an epoch; 256, on CUDA 12,800")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
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
    images, batch_size = options.images or (12_800 if device == "cuda" else 256), 256 if device == "cuda" else 64
    data, depth = pictures(options.side, images), options.depth
    print(
        f"{device}, {images} images an epoch, batches of {batch_size}; LIF of this project: {lif_backend(device).name}"
    )
    for kind in ("snn", "ann"):
        runs = {OURS: ours(kind, depth, device, data, batch_size)}
        if kind == "snn":
            if device == "cuda":
                runs[FUSED] = ours(kind, depth, device, data, batch_size, form=FUSED)
            runs[SCRIPT] = script(kind, depth, device, data, batch_size, SCRIPT)
        runs[LOOP] = script(kind, depth, device, data, batch_size, LOOP)
        print(f"\n  ResNet-{depth}, {kind.upper()}" + (f", T = {T}" if kind == "snn" else ", the two scripts are one"))
        rates = measured(runs, images, device, options.rounds)
        shown(rates)
        hours = 300 * 50_000 / median(rates[OURS]) / 3600
        print(f"    300 epochs of CIFAR-10 follow: {hours:.1f} hours")
        if (limit := TARGETS.get((device, kind))) is not None:
            ratio = median(a / b for a, b in zip(rates[OURS], rates[LOOP], strict=True))
            verdict = "met" if ratio >= limit else "missed"
            print(f"    target: {OURS} at least {limit} times the {LOOP}: {ratio:.2f}: {verdict}")
        if device == "cuda":
            share = in_kernels(runs[OURS])
            verdict = "met" if share >= IN_KERNELS else "missed"
            print(f"    target: at least {IN_KERNELS:.0%} of the time in kernels: {share:.0%}: {verdict}")


if __name__ == "__main__":
    main()
