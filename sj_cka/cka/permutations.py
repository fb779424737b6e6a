"""Permutations that a comparison stands beside: of the samples of y, of all or of each class, and of steps."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.gram import pack, places
from sj_cka.cka.sums import Accumulator, Centred, Dims

STEPS = "timing null"  # what files call the result with permuted steps
_CHUNK = 1 << 20  # numbers of an intermediate that are held at once
_ALL_ORDERS = 6  # steps up to which all T! orders are drawn from; beyond, from a sample of them
_ORDERS = 4096
_UNITS = 1 << 17


def permutations_of(asked: int | Mapping[str, int]) -> dict[str, int]:
    """How often samples of y, among all or within "classes", and "steps" of every unit and sample are permuted.

    A number is of "samples", among all.

    Raises:
        ValueError: neither a number nor such a mapping, or steps that are permuted more than once.
    """
    counts = {"samples": 0, "classes": 0, "steps": 0} | (
        dict(asked) if isinstance(asked, Mapping) else {"samples": asked}
    )
    sound = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts.values())
    if len(counts) > 3 or not sound or counts["steps"] > 1:
        raise ValueError(
            "expected a number of permutations from 0, of the samples of y, or "
            f'{{"samples": 200, "classes": 200, "steps": 1}}, steps at most once, got {asked!r}'
        )
    return counts


class PermutedSamples(Accumulator):
    """n_b HSIC_1 of all pairs of layers with the samples of y in other orders, drawn anew in every minibatch.

    Args:
        count: of orders.
        within: samples change places with those of their own class alone.
    """

    dims: ClassVar[Dims] = {
        "permuted_xy": ("permutation", "layer_x", "layer_y"),
        "permuted_within_xy": ("permutation_within", "layer_x", "layer_y"),
    }

    def __init__(self, count: int, *, within: bool = False) -> None:
        super().__init__()
        self.count, self.within = count, within

    def update(self, batch: Centred) -> None:
        x, y = batch.wholes[0], batch.wholes[-1]
        n, device = x.n, y.rows.device
        generator = torch.Generator().manual_seed(batch.number if batch.seed is None else batch.seed)
        sums = x.rows.new_zeros(self.count, len(x.layers), len(y.layers))
        place = places(n, slice(0, n), device).to(torch.int32)
        size = max(1, _CHUNK // len(y.layers))
        for into in sums:
            order = order_within(batch.classes, generator) if self.within else torch.randperm(n, generator=generator)
            order = order.to(device)
            at = pack(place[order.unsqueeze(1), order])
            for rows, some in zip(x.rows.split(size, 1), at.split(size), strict=True):
                moved = y.rows.index_select(1, some)
                into += rows @ moved.to(rows.device).mT
        self.add("permuted_within_xy" if self.within else "permuted_xy", sums * (2.0 / (n - 3)))


def order_within(classes: Tensor | None, generator: torch.Generator) -> Tensor:
    """An order of samples, int64 `[n]`, in which each place keeps its class `[n]`, any such order as likely."""
    assert classes is not None
    drawn = classes + torch.rand(len(classes), generator=generator, dtype=torch.float64)
    order = torch.empty_like(classes)
    order[classes.argsort(stable=True)] = drawn.argsort()
    return order


def classes_of(labels: Any, n: int) -> Tensor:
    """Classes int64 `[n]`, from 0, of labels `[n, ...]`: numbers, text, or several numbers for each sample.

    Raises:
        ValueError: not one for each of n samples.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim == 0 or len(values) != n:
        raise ValueError(f"labels: expected one for each of {n} samples, got shape {values.shape}")
    _, classes = np.unique(values, axis=0, return_inverse=True)
    return torch.from_numpy(classes.reshape(n).astype(np.int64))


def permuted_steps(X: Tensor, generator: torch.Generator) -> Tensor:
    """The steps of `[T, n, D]` in an order of its own for every sample and unit, each order as likely as any other.

    What every unit puts out, and how often, stays; when it does so does not.
    """
    T = len(X)
    if T <= _ALL_ORDERS:
        orders = torch.tensor(list(permutations(range(T))))
    else:
        orders = torch.rand(_ORDERS, T, generator=generator, dtype=torch.float32).argsort(1)
    orders = _on_device(orders.T.contiguous(), X.device)
    permuted = torch.empty_like(X)
    samples = max(1, _UNITS // max(1, X.shape[2]))
    for first in range(0, X.shape[1], samples):  # pieces that stay in the cache
        part = X[:, first : first + samples]
        drawn = _on_device(torch.randint(orders.shape[1], (part[0].numel(),), generator=generator), X.device)
        for t in range(T):
            source = orders[t].index_select(0, drawn).view(1, *part.shape[1:])
            torch.gather(part, 0, source, out=permuted[t : t + 1, first : first + samples])
    return permuted


def _on_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device is at."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
