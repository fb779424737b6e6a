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
    normalise: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 512,
) -> float:
    """Share of images classified right, in evaluation mode; the network's mode is put back.

    Args:
        x: images `[N, ...]`.
        y: labels `[N]`.
        normalise: from a batch of x to what the network is given; None for as it is.
    """
    was_training = network.training
    network.eval()
    right = 0
    for start in range(0, len(x), batch_size):
        reset_states(network)
        batch = x[start : start + batch_size]
        scores = class_scores(network(batch if normalise is None else normalise(batch)))
        right += int((scores.argmax(1) == y[start : start + batch_size]).sum())
    reset_states(network)
    network.train(was_training)
    return right / len(x)


@torch.no_grad()
def calibrate(
    network: nn.Module, x: Tensor, *, normalise: Callable[[Tensor], Tensor] | None = None, batch_size: int = 256
) -> None:
    """Sets the statistics of batch normalisation to the mean over one pass of the data; weights stay.

    Untrained networks need it: with the initial statistics hardly anything spikes.

    Args:
        x: images `[N, ...]`.
        normalise: as of `accuracy`.
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
        batch = x[start : start + batch_size]
        network(batch if normalise is None else normalise(batch))
    reset_states(network)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
