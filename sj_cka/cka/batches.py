"""The batches of one loader, or of two that go together."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sj_cka.cka.layers import MIN_SAMPLES
from sj_cka.recording import Layout, inputs_of, to_device
from sj_cka.recording.drive import Drive, Forward, sample_axis

_END = object()


@dataclass(frozen=True)
class Batch:
    """One batch as both sides are given it.

    Args:
        number: of the batch, from 0.
        place: of its first sample among all.
        n: its samples.
        items: what the loader of x gave, and that of y.
        layout, forward: as of `compare`.
    """

    number: int
    place: int
    n: int
    items: tuple[Any, Any]
    layout: Layout | None
    forward: Forward | None

    @property
    def usable(self) -> bool:
        """Whether the unbiased HSIC is defined for so many samples."""
        return self.n >= MIN_SAMPLES

    def inputs(self, side: str, device: torch.device) -> Any:
        """What the network of a side is given."""
        return to_device(inputs_of(self.items["xy".index(side)], self.layout, self.forward), device)


class Batches:
    """Reads loaders once, batch by batch.

    Args:
        loader: as of `compare`.
        y_loader: what y sees, None for the same.
        layout, forward: as of `compare`.
        limit: read no more than so many batches.
    """

    def __init__(
        self,
        loader: Iterable[Any] | Tensor,
        y_loader: Iterable[Any] | Tensor | None,
        layout: Layout | None,
        forward: Forward | None,
        limit: int | None,
    ) -> None:
        self.layout, self.forward = layout, forward
        self.two = y_loader is not None
        self.count = _length(loader) if limit is None else limit
        sources = [_source(loader)] + ([_source(y_loader)] if y_loader is not None else [])
        self._items = itertools.islice(itertools.zip_longest(*sources, fillvalue=_END), limit)
        self._head: list[Batch] = []
        self._labels_agree = True
        self._next = (0, 0)

    def first(self) -> Batch:
        """The first batch that can be used; it comes again in the iteration.

        Raises:
            ValueError: there is none.
        """
        for batch in self._read():
            self._head.append(batch)
            if batch.usable:
                return batch
        if not self._head:
            raise ValueError("the loader gave no batch")
        raise ValueError(f"expected batches of at least {MIN_SAMPLES} samples, got none: raise the loader's batch_size")

    def __iter__(self) -> Iterator[Batch]:
        return itertools.chain(self._head, self._read())

    def _read(self) -> Iterator[Batch]:
        for items in self._items:
            number, place = self._next
            if _END in items:
                shorter = "xy"[items.index(_END)]
                raise ValueError(
                    f"the loader of {shorter} ended after {number} batches and the other went on: expected loaders of "
                    "the same samples in the same batches"
                )
            n = self._samples(items[0])
            if self.two:
                self._check(items, n, number, place)
            self._next = number + 1, place + n
            yield Batch(number, place, n, (items[0], items[-1]), self.layout, self.forward)

    def _samples(self, item: Any) -> int:
        inputs = inputs_of(item, self.layout, self.forward)
        return Drive("as is", sample_axis=sample_axis(self.layout, self.forward)).samples(inputs)

    def _check(self, items: tuple[Any, Any], n: int, number: int, place: int) -> None:
        if (other := self._samples(items[1])) != n:
            raise ValueError(
                f"batch {number}: expected the same samples on both sides, got {n} for x and {other} for y"
            )
        x, y = (labels_of(item) for item in items)
        if x is None or y is None or not self._labels_agree or x.shape != y.shape:
            return
        differing = (x.cpu() != y.cpu()).flatten(1).any(1) if x.ndim > 1 else x.cpu() != y.cpu()
        if differing.any():
            self._labels_agree = False
            at = int(differing.nonzero()[0])
            warnings.warn(
                f"the loaders of x and y differ in labels, first at sample {place + at} (batch {number}): "
                f"{x[at].tolist()} for x, {y[at].tolist()} for y. CKA needs the same samples in the same order; is one "
                "of them shuffled?",
                stacklevel=5,
            )


def labels_of(item: Any) -> Tensor | None:
    """The labels `[N, ...]` of a batch (inputs, labels, ...), None if it has none."""
    if not isinstance(item, tuple | list) or len(item) < 2:
        return None
    labels = torch.as_tensor(item[1]) if not isinstance(item[1], dict | str) else None
    return labels if labels is not None and labels.ndim else None


def _source(loader: Iterable[Any] | Tensor) -> Iterator[Any]:
    return iter([loader] if isinstance(loader, Tensor) else loader)


def _length(loader: Any) -> int | None:
    try:
        return len(loader) if not isinstance(loader, Tensor) else 1
    except TypeError:
        return None
