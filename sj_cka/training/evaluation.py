"""How good a network is, and batch normalisation of one that never trained."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sj_cka.recording import check_network, from_rest, kept, reset_states, to_evaluation


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
    """Share of samples classified right, in evaluation mode; the network is left as it was, its states at rest.

    Args:
        x: samples `[N, ...]`, wherever they are.
        y: labels `[N]`.
        prepare: from a batch of x to what the network is given; None for as it is.
    """
    check_network(network, watched=False)
    right = 0
    with kept(network):
        to_evaluation(network)
        for samples, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = from_rest(network, functools.partial(_logits, network, samples, prepare))
            right += int((class_scores(logits).argmax(1) == labels.to(logits.device)).sum())
    reset_states(network)
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
    check_network(network, watched=False)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with kept(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over batches
        network.train()
        for start in range(0, len(x) - 1, batch_size):
            reset_states(network)
            _logits(network, x[start : start + batch_size], prepare)
        of_data = [{key: value.clone() for key, value in norm.named_buffers()} for norm in norms]
    for norm, statistics in zip(norms, of_data, strict=True):
        norm.load_state_dict(statistics, strict=False)
    reset_states(network)


def _logits(network: nn.Module, samples: Tensor, prepare: Callable[[Tensor], Tensor] | None) -> Tensor:
    """What a network gives for samples that lie anywhere."""
    x = samples.to(next(network.parameters()).device)
    given = x if prepare is None else prepare(x)
    logits: Tensor = network(given.clone())  # it may work in place
    return logits
