"""The training loop: SGD with momentum, a warm-up and a cosine to zero, cross-entropy on the mean over time."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sj_cka.recording import reset_states
from sj_cka.training.batches import check_labels
from sj_cka.training.checkpoint import Checkpoints, random_state, set_random_state
from sj_cka.training.distributed import share_weights, sum_gradients, sum_of, synchronised, world
from sj_cka.training.evaluation import class_scores
from sj_cka.training.forward import autocast, check_precision, compiled, in_layout
from sj_cka.training.rates import RateMeter
from sj_cka.training.settings import Settings


class Batches(Protocol):
    """An epoch in each iteration: `Resident`, or a DataLoader of pairs (images, labels)."""

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
    batch (`Resident` gives it): gradients are those of the whole batch, and all processes end with the same weights.

    Args:
        network: takes `[N, ...]`, gives logits `[N, classes]` or `[T, N, classes]`.
        batches: images as the network takes them and labels `[N]`, an epoch in each iteration, e.g. `Resident` or a
            DataLoader with torchvision transforms. If it has `state_dict` and `load_state_dict`, they go into the
            checkpoint.
        settings: epochs, rates and sizes; its `batch_size` is that of `batches`.
        seed: of what is random in the network (dropout); that of the order is the batches'.
        keep: epochs after which the weights are kept.
        checkpoints: where the training saves how far it is; it starts from what lies there. On the CPU a training that
            was killed ends with the same weights, bit for bit.
        report: called after each epoch.
        progress: show a bar with loss, accuracy and firing rate.

    Returns:
        Its epochs and the kept weights, `{epoch: state_dict}` on the CPU.

    Raises:
        NotFinite: the loss became NaN or infinite; the message names epoch and step.
        ValueError: labels outside the network's classes, or a precision that the network's neurons cannot have.
        RuntimeError: `settings.compile` where nothing can be compiled, or a checkpoint of another training.
    """
    device = next(network.parameters()).device
    check_precision(network, settings, device)
    optimiser = torch.optim.SGD(_groups(network, settings), lr=settings.lr, momentum=settings.momentum)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.autocast_dtype(device) == torch.float16)
    run = _Run(network, batches, settings, optimiser, scaler, [], {})
    own = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
    devices = [own] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        in_layout(network, settings, device) as as_laid_out,
        synchronised(network) if settings.sync_bn else nullcontext(),
        RateMeter(network) as rate,
    ):
        torch.manual_seed((seed << 16) + world()[0])
        share_weights(network)
        saved = None if checkpoints is None else checkpoints.load()
        if saved is not None:
            run.load(saved)
        elif 0 in keep:
            run.kept[0] = _weights(network)
        forward = compiled(network) if settings.compile else network
        network.train()
        done = len(run.history)
        with tqdm(
            total=settings.epochs * len(batches), initial=done * len(batches), unit="step", disable=not progress
        ) as bar:
            for epoch in range(done + 1, settings.epochs + 1):
                began = time.perf_counter()
                lr, loss, accuracy, images = run.epoch(epoch, forward, as_laid_out, bar.update)
                seconds = time.perf_counter() - began
                overall, rates = rate.take()
                made = Epoch(epoch, loss, accuracy, overall, lr, seconds, images / seconds, _peak_memory(device), rates)
                run.history.append(made)
                if epoch in keep:
                    run.kept[epoch] = _weights(network)
                bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", rate=f"{overall:.3f}")
                if checkpoints is not None and epoch < settings.epochs:
                    checkpoints.offer(epoch, run.state)
                if report is not None:
                    report(made)
    reset_states(network)
    return Trained(run.history, run.kept)


@dataclass
class _Run:
    """A training under way."""

    network: nn.Module
    batches: Batches
    settings: Settings
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: list[Epoch]
    kept: dict[int, dict[str, Tensor]]
    classes: int | None = None

    def epoch(
        self,
        epoch: int,
        forward: Callable[[Tensor], Tensor],
        as_laid_out: Callable[[Tensor], Tensor],
        after_step: Callable[[], Any],
    ) -> tuple[float, float, float, int]:
        """One pass over the batches: learning rate of its first step, mean loss, accuracy and number of images."""
        device = next(self.network.parameters()).device
        first_lr, seen = self.lr((epoch - 1) * len(self.batches)), 0
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # of losses, of hits
        losses: list[Tensor] = []
        for step, (x, y) in enumerate(self.batches, start=1):
            if self.classes is not None and y.device.type == "cpu":  # a look at others would wait for the device
                check_labels(y, self.classes)
            x, y = as_laid_out(x.to(device, non_blocking=True)), y.to(device, non_blocking=True)
            for group in self.optimiser.param_groups:
                group["lr"] = self.lr((epoch - 1) * len(self.batches) + step - 1)
            size = len(y) if world()[1] == 1 else int(sum_of(torch.tensor(len(y), device=device))[0])
            reset_states(self.network)
            with autocast(self.settings, device):
                logits = forward(x)
                if self.classes is None:
                    self.classes = logits.shape[-1]
                    check_labels(y, self.classes)
                loss = self.loss(logits, y) / size
            losses.append(loss.detach())
            if device.type == "cpu":  # elsewhere a look at the loss would wait for the device
                self.check_finite(losses, epoch, step)
            self.optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            sum_gradients(self.network)
            if self.settings.clip is not None:
                self.scaler.unscale_(self.optimiser)
                nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
            self.scaler.step(self.optimiser)
            self.scaler.update()
            hits = (class_scores(logits.detach()).argmax(1) == y).sum()
            sums += torch.stack([losses[-1].double() * size, hits.double()])
            seen += size
            after_step()
        self.check_finite(losses, epoch, 1)
        [total] = sum_of(sums)
        loss_sum, right = total.tolist()
        return first_lr, loss_sum / seen, right / seen, seen

    def lr(self, step: int) -> float:
        """Learning rate of a step, from 0: a linear rise over the warm-up, then a cosine to 0 at the end."""
        warm = self.settings.warmup * len(self.batches)
        if step < warm:
            return self.settings.lr * (step + 1) / warm
        part = (step - warm) / max(1, self.settings.epochs * len(self.batches) - warm)
        return self.settings.lr * (1 + math.cos(math.pi * part)) / 2

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Sum over the images of their loss."""
        logits = logits.float()  # also under autocast
        if self.settings.loss == "tet" and logits.ndim == 3:
            T = len(logits)
            return nn.functional.cross_entropy(logits.flatten(0, 1), y.repeat(T), reduction="sum") / T
        return nn.functional.cross_entropy(class_scores(logits), y, reduction="sum")

    def check_finite(self, losses: list[Tensor], epoch: int, first: int) -> None:
        """Raises NotFinite if a loss, of those from step `first`, is not."""
        finite = torch.isfinite(torch.stack(losses[first - 1 :]))
        if not finite.all():
            step = first + int((~finite).nonzero()[0])
            raise NotFinite(
                f"the loss became {losses[step - 1].item()} in epoch {epoch}, step {step} of {len(self.batches)}: "
                f"lower train.lr (now {self.settings.lr:g}) or check the data"
            )

    def state(self) -> dict[str, Any]:
        """All that is needed to go on after this epoch."""
        random = random_state() | {"batches": getattr(self.batches, "state_dict", dict)()}
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random,
            "history": [asdict(epoch) for epoch in self.history],
            "kept": self.kept,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        try:
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(f"expected a checkpoint of this training, got one of another: {error}") from error
        self.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])
        if hasattr(self.batches, "load_state_dict"):
            self.batches.load_state_dict(state["random"]["batches"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.kept = state["kept"]


def _groups(network: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Parameters with the weight decay of each."""
    named = [p for p in network.parameters() if p.requires_grad]
    if settings.decay == "all":
        return [{"params": named, "weight_decay": settings.weight_decay}]
    parts = [p for p in named if p.ndim > 1], [p for p in named if p.ndim <= 1]
    return [
        {"params": part, "weight_decay": decay}
        for part, decay in zip(parts, (settings.weight_decay, 0.0), strict=True)
        if part
    ]


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
