"""The training loop: SGD with momentum, a warm-up and a cosine to zero, cross-entropy on the mean over time."""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sj_cka.processes import world
from sj_cka.recording import check_network, is_neuron, reset_states
from sj_cka.recording.state import outside_neurons
from sj_cka.training.checkpoint import Checkpoints, random_state, set_random_state
from sj_cka.training.device_loader import check_labels
from sj_cka.training.distributed import share_weights, sum_of, synchronised
from sj_cka.training.settings import Settings
from sj_cka.training.step import GraphStep, Step, check_precision, compiled, in_layout, on_side_stream


class Batches(Protocol):
    """An epoch in each iteration: `DeviceLoader`, or a DataLoader of pairs (images, labels)."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training.

    Args:
        epoch: its number, from 1.
        loss, accuracy: means over its images, in training mode.
        firing_rate: spikes per neuron and step, NaN without neurons.
        lr: learning rate of its first step.
        seconds: how long it took.
        images_s: images a second.
        memory_mb: largest memory so far: of the CUDA device, or of the process on the CPU (NaN on Windows); in MB of
            10^6 bytes.
        rates: firing rate of each layer of neurons.
    """

    epoch: int
    loss: float
    accuracy: float
    firing_rate: float
    lr: float
    seconds: float
    images_s: float
    memory_mb: float
    rates: Mapping[str, float] = field(default_factory=dict)


class Trained(NamedTuple):
    """What a training leaves beside the weights: its epochs, and the weights after those that were to be kept."""

    history: list[Epoch]
    kept: dict[int, dict[str, Tensor]]


class NotFinite(RuntimeError):
    """The loss became NaN or infinite."""


def train(
    network: nn.Module,
    batches: Batches,
    settings: Settings,
    *,
    seed: int,
    keep: Collection[int] = (),
    checkpoints: Checkpoints | None = None,
    report: Callable[[Epoch], None] | None = None,
    progress: bool = False,
) -> Trained:
    """Trains a network in place; the weights of the last epoch stand at the end.

    In a `torch.distributed` group every process calls this with the same network and settings and its share of every
    batch (`DeviceLoader` gives it): gradients are those of the whole batch, all processes end with the same weights.

    Args:
        network: takes `[N, ...]`, gives logits `[N, classes]` or `[T, N, classes]`.
        batches: images as the network takes them and labels `[N]`, an epoch in each iteration, e.g. `DeviceLoader` or a
            DataLoader with torchvision transforms. If it has `state_dict` and `load_state_dict`, they go into the
            checkpoint.
        settings: epochs, rates and sizes; its `batch_size` is that of `batches`.
        seed: of what is random in the network (dropout); that of the order is the batches'.
        keep: epochs after which the weights are kept.
        checkpoints: where the training saves how far it is; it starts from what lies there. On the CPU a training that
            was killed ends with the same weights, bit for bit.
        report: called with each epoch when it ends; first with those that a checkpoint holds.
        progress: show a bar with loss, accuracy and firing rate.

    Returns:
        Its epochs and the kept weights, `{epoch: state_dict}` on the CPU.

    Raises:
        NotFinite: the loss became NaN or infinite; the message names epoch and step.
        ValueError: labels outside the network's classes, or a precision that the network's neurons cannot have.
        RuntimeError: `settings.compile` where nothing can be compiled, or a checkpoint of another training.
    """
    check_network(network, watched=False)
    step = Step(network, settings)
    check_precision(network, settings, step.device)
    run = _Training(network, batches, settings, step, _captured(step), keep, report or (lambda epoch: None))
    with run.arranged(seed):
        run.begin(checkpoints)
        done = len(run.history) * len(batches)
        with tqdm(total=settings.epochs * len(batches), initial=done, unit="step", disable=not progress) as bar:
            for number in range(len(run.history) + 1, settings.epochs + 1):
                epoch = run.epoch(number, bar.update)
                shown = {"loss": epoch.loss, "accuracy": epoch.accuracy, "rate": epoch.firing_rate}
                bar.set_postfix(epoch=number, **{name: f"{value:.3f}" for name, value in shown.items()})
                if checkpoints is not None and number < settings.epochs:
                    checkpoints.offer(number, run.state)
                run.report(epoch)
    return Trained(run.history, run.kept)


def _captured(step: Step) -> GraphStep | None:
    """The step as a CUDA graph; None where it is to run, or can only run, as it is."""
    settings = step.settings
    wanted = settings.graph and not settings.compile and step.capturable
    return GraphStep(step) if wanted and step.device.type == "cuda" and world()[1] == 1 else None


@dataclass
class _Training:
    """A training under way."""

    network: nn.Module
    batches: Batches
    settings: Settings
    step: Step
    graph: GraphStep | None
    keep: Collection[int]
    report: Callable[[Epoch], None]
    history: list[Epoch] = field(default_factory=list)
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @contextmanager
    def arranged(self, seed: int) -> Iterator[None]:
        """Random numbers, layout, hooks and stream as the training needs them, and put back at the end."""
        network, device = self.network, self.step.device
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            on_side_stream(device) if self.graph else nullcontext(),
            in_layout(network, self.settings, device) as self.as_laid_out,
            synchronised(network) if self.settings.sync_bn else nullcontext(),
            RateMeter(network) as self.rate,
        ):
            torch.manual_seed((seed << 16) + world()[0])
            share_weights(network)
            yield
        reset_states(network)
        if self.graph:
            self.step.optimiser.zero_grad(set_to_none=True)  # gradients lie in the memory of the graph

    def begin(self, checkpoints: Checkpoints | None) -> None:
        """Goes on from a checkpoint, if there is one, whose epochs it reports."""
        saved = None if checkpoints is None else checkpoints.load()
        if saved is not None:
            self.load(saved)
        elif 0 in self.keep:
            self.kept[0] = _weights(self.network)
        for known in self.history:
            self.report(known)
        if self.settings.compile:
            self.step.forward = compiled(self.network)
        self.network.train()

    def epoch(self, epoch: int, after_step: Callable[[], Any]) -> Epoch:
        """One pass over the batches, added to the history."""
        began = time.perf_counter()
        device, done = self.step.device, (epoch - 1) * len(self.batches)
        images = 0
        self.step.begin_epoch()
        losses: list[Tensor] = []
        for number, (x, y) in enumerate(self.batches, start=1):
            if self.step.classes is not None and y.device.type == "cpu":  # a look at others would wait for the device
                check_labels(y, self.step.classes)
            # a copy: a network that works in place must not change what the next epoch is given
            x, y = self.as_laid_out(x.to(device, non_blocking=True, copy=True)), y.to(device, non_blocking=True)
            self.step.set_rate(self.lr(done + number - 1))
            size = len(y) if world()[1] == 1 else int(sum_of(torch.tensor(len(y), device=device))[0])
            # elsewhere than on the CPU a look at the loss would wait for the device
            look = functools.partial(self.check_finite, epoch=epoch, first=number) if device.type == "cpu" else None
            losses.append((self.graph or self.step)(x, y, size, look))
            images += size
            after_step()
        if device.type != "cpu":
            self.check_finite(torch.stack(losses), epoch=epoch, first=1)
        [total] = sum_of(self.step.sums)
        loss, right = (value / images for value in total.tolist())
        seconds = time.perf_counter() - began
        rate, rates = self.rate.take()
        memory = _peak_memory(device)
        self.history.append(Epoch(epoch, loss, right, rate, self.lr(done), seconds, images / seconds, memory, rates))
        if epoch in self.keep:
            self.kept[epoch] = _weights(self.network)
        return self.history[-1]

    def lr(self, step: int) -> float:
        """Learning rate of a step, from 0: a linear rise over the warm-up, then a cosine to 0 at the end."""
        warm = self.settings.warmup * len(self.batches)
        if step < warm:
            return self.settings.lr * (step + 1) / warm
        part = (step - warm) / max(1, self.settings.epochs * len(self.batches) - warm)
        return self.settings.lr * (1 + math.cos(math.pi * part)) / 2

    def check_finite(self, losses: Tensor, *, epoch: int, first: int) -> None:
        """Raises NotFinite if a loss is not; the losses are those from step `first` on."""
        finite = torch.isfinite(losses).view(-1)
        if not finite.all():
            step = int((~finite).nonzero()[0])
            raise NotFinite(
                f"the loss became {losses.view(-1)[step].item()} in epoch {epoch}, step {first + step} of "
                f"{len(self.batches)}: lower train.lr (now {self.settings.lr:g}) or check the data"
            )

    def state(self) -> dict[str, Any]:
        """All that is needed to go on after this epoch."""
        random = random_state() | {"batches": getattr(self.batches, "state_dict", dict)()}
        return {
            "network": self.network.state_dict(),
            **self.step.state_dict(),
            "random": random,
            "history": [asdict(epoch) for epoch in self.history],
            "kept": self.kept,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        try:
            self.network.load_state_dict(state["network"])
            self.step.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(f"expected a checkpoint of this training, got one of another: {error}") from error
        set_random_state(state["random"])
        if hasattr(self.batches, "load_state_dict"):
            self.batches.load_state_dict(state["random"]["batches"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.kept = state["kept"]


class RateMeter:
    """Hooks that sum the spikes of every layer of neurons; `take()` gives their rates since the last time.

    Both sums live on the device, and a hook knows no name: torch.compile then makes one graph of all hooks of a
    network, and compiles nothing anew as they count.
    """

    def __init__(self, network: nn.Module) -> None:
        self.neurons = {name: module for name, module in outside_neurons(network).items() if is_neuron(module)}
        self.device = next(network.parameters()).device
        self.hooks = ExitStack()
        self.spikes, self.counts = (
            [torch.zeros((), dtype=torch.float64, device=self.device) for _ in self.neurons] for _ in range(2)
        )

    def __enter__(self) -> RateMeter:
        for module, spikes, count in zip(self.neurons.values(), self.spikes, self.counts, strict=True):
            self.hooks.callback(module.register_forward_hook(_adder(spikes, count)).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.close()

    def take(self) -> tuple[float, dict[str, float]]:
        """Spikes per neuron and step of all layers together, NaN without neurons, and of each layer."""
        if not self.neurons:
            return float("nan"), {}
        spikes, counts = (total.cpu() for total in sum_of(torch.stack(self.spikes), torch.stack(self.counts)))
        for total in (*self.spikes, *self.counts):
            total.zero_()
        return float(spikes.sum() / counts.sum()), dict(zip(self.neurons, (spikes / counts).tolist(), strict=True))


def _adder(spikes: Tensor, count: Tensor) -> Any:
    """A hook that adds the spikes of a call, and the number of those that could have been."""

    def add(module: nn.Module, args: Any, out: Tensor) -> None:
        spikes.add_(out.detach().sum(dtype=torch.float32))
        count.add_(out.numel())

    return add


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo / 1e6
