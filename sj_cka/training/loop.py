"""The training loop: SGD with momentum, a cosine to zero, cross-entropy on the mean over time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sj_cka.recording import is_neuron, reset_states


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the defaults are those of Li et al. 2023 but for epochs and batch size.

    Args:
        epochs: passes over the training split.
        batch_size: images a step; a last batch of one image is left out (batch normalisation needs two).
        lr: learning rate of the first step, falling to 0 along a cosine over all steps.
        momentum: of SGD.
        weight_decay: on all parameters.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4


class Epoch(NamedTuple):
    """One epoch of a training: means over its images; `firing_rate` spikes per neuron and step, NaN without neurons."""

    epoch: int
    loss: float
    accuracy: float
    firing_rate: float
    lr: float
    seconds: float


class NotFinite(RuntimeError):
    """The loss became NaN or infinite."""


def class_scores(logits: Tensor) -> Tensor:
    """Class scores `[N, classes]`: the mean over time of logits `[T, N, classes]`; logits without time as they are."""
    return logits.mean(0) if logits.ndim == 3 else logits


def train(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    settings: Settings,
    *,
    seed: int,
    report: Callable[[Epoch], None] | None = None,
    progress: bool = False,
) -> list[Epoch]:
    """Trains a network in place; the weights of the last epoch stand at the end.

    Args:
        network: takes `[N, ...]`, gives logits `[N, classes]` or `[T, N, classes]`.
        x: images `[N, ...]`, on the network's device.
        y: labels `[N]`.
        settings: epochs, rates and sizes.
        seed: of the order of the images; the same seed gives every network the same order.
        report: called after each epoch.
        progress: show a bar with loss, accuracy and firing rate.

    Returns:
        One `Epoch` for each epoch.

    Raises:
        NotFinite: the loss became NaN or infinite; the message names epoch and step.
    """
    order = torch.Generator().manual_seed(seed)
    steps = [batch for batch in range(0, len(x), settings.batch_size) if len(x) - batch > 1]
    optimiser = torch.optim.SGD(
        network.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(1, settings.epochs * len(steps)))
    history: list[Epoch] = []
    network.train()
    with (
        _RateMeter(network) as rate,
        tqdm(total=settings.epochs * len(steps), unit="step", disable=not progress) as bar,
    ):
        for epoch in range(1, settings.epochs + 1):
            began = time.perf_counter()
            shuffled = torch.randperm(len(x), generator=order).to(x.device)
            lr, seen, loss_sum, right = (
                float(schedule.get_last_lr()[0]),
                0,
                torch.zeros((), device=x.device),
                torch.zeros((), device=x.device),
            )
            for step, start in enumerate(steps, start=1):
                chosen = shuffled[start : start + settings.batch_size]
                reset_states(network)
                scores = class_scores(network(x[chosen]))
                loss = nn.functional.cross_entropy(scores, y[chosen])
                if not torch.isfinite(loss):
                    raise NotFinite(
                        f"the loss became {loss.item()} in epoch {epoch}, step {step} of {len(steps)}: "
                        f"lower train.lr (now {settings.lr:g}) or check the data"
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                seen += len(chosen)
                loss_sum += loss.detach() * len(chosen)
                right += (scores.detach().argmax(1) == y[chosen]).sum()
                bar.update()
            done = Epoch(
                epoch, loss_sum.item() / seen, right.item() / seen, rate.take(), lr, time.perf_counter() - began
            )
            history.append(done)
            bar.set_postfix(
                epoch=epoch, loss=f"{done.loss:.3f}", accuracy=f"{done.accuracy:.3f}", rate=f"{done.firing_rate:.3f}"
            )
            if report is not None:
                report(done)
    reset_states(network)
    return history


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 512) -> float:
    """Share of images classified right, in evaluation mode; the network's mode is put back."""
    was_training = network.training
    network.eval()
    right = 0
    for start in range(0, len(x), batch_size):
        reset_states(network)
        scores = class_scores(network(x[start : start + batch_size]))
        right += int((scores.argmax(1) == y[start : start + batch_size]).sum())
    reset_states(network)
    network.train(was_training)
    return right / len(x)


@torch.no_grad()
def calibrate(network: nn.Module, x: Tensor, *, batch_size: int = 256) -> None:
    """Sets the statistics of batch normalisation to the mean over one pass of the data; weights stay.

    Untrained networks need it: with the initial statistics hardly anything spikes.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
    network.train()
    for start in range(0, len(x) - 1, batch_size):
        reset_states(network)
        network(x[start : start + batch_size])
    reset_states(network)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)


class _RateMeter:
    """Hooks that sum the spikes of all neurons; `take()` gives spikes per neuron and step since the last time."""

    def __init__(self, network: nn.Module) -> None:
        self.neurons = [module for module in network.modules() if is_neuron(module)]
        self.hooks = ExitStack()
        self.spikes: list[Tensor] = []
        self.count = 0

    def __enter__(self) -> _RateMeter:
        for module in self.neurons:
            self.hooks.callback(module.register_forward_hook(self._add).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.close()

    def _add(self, module: nn.Module, args: Any, spikes: Tensor) -> None:
        self.spikes.append(spikes.detach().sum())  # exact: float32 counts to 2^24
        self.count += spikes.numel()

    def take(self) -> float:
        rate = torch.stack(self.spikes).sum(dtype=torch.float64).item() / self.count if self.count else float("nan")
        self.spikes, self.count = [], 0
        return rate
