"""How good a network is, and batch normalisation of one that never trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sj_cka.recording import reset_states


def class_scores(logits: Tensor) -> Tensor:
    """Class scores `[N, classes]`: the mean over time of logits `[T, N, classes]`; logits without time as they are."""
    return logits.mean(0) if logits.ndim == 3 else logits


@torch.no_grad()
def accuracy(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 512,
) -> float:
    """Share of samples classified right, in evaluation mode; the network's mode is put back.

    Args:
        x: samples `[N, ...]`, wherever they are.
        y: labels `[N]`.
        prepare: from a batch of x to what the network is given; None for as it is.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    right = 0
    for start in range(0, len(x), batch_size):
        reset_states(network)
        batch = x[start : start + batch_size].to(device)
        scores = class_scores(network(batch if prepare is None else prepare(batch)))
        right += int((scores.argmax(1) == y[start : start + batch_size].to(device)).sum())
    reset_states(network)
    network.train(was_training)
    return right / len(x)


@torch.no_grad()
def calibrate(
    network: nn.Module, x: Tensor, *, prepare: Callable[[Tensor], Tensor] | None = None, batch_size: int = 256
) -> None:
    """Sets the statistics of batch normalisation to the mean over one pass of the data; weights stay.

    Untrained networks need it: with the initial statistics hardly anything spikes.

    Args:
        x: samples `[N, ...]`, wherever they are.
        prepare: as of `accuracy`.
    """
    device = next(network.parameters()).device
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
    network.train()
    for start in range(0, len(x) - 1, batch_size):
        reset_states(network)
        batch = x[start : start + batch_size].to(device)
        network(batch if prepare is None else prepare(batch))
    reset_states(network)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
