"""The batches of one loader, or of two that go together; their labels, inputs and groups of samples."""

import itertools
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.layer_grams import MIN_SAMPLES, Grams, grams
from sj_cka.recording import Layout, inputs_of, to_device
from sj_cka.recording.drive import Drive, Forward, sample_axis, tensors_in

Reference = Literal["input", "labels"]
_END = object()
_SEEDING = 8  # samples that seeds are made of


@dataclass(frozen=True)
class Minibatch:
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

    @property
    def sample_axis(self) -> int:
        """Axis of the samples in what networks are given."""
        return sample_axis(self.layout, self.forward)

    @cached_property
    def seed(self) -> int:
        """A number made from some of the samples of x: the same batch has the same one in any process, at any place."""
        inputs = inputs_of(self.items[0], self.layout, self.forward)
        x = next(x for x in tensors_in(inputs) if x.ndim > self.sample_axis).detach().movedim(self.sample_axis, 0)
        some = x[torch.linspace(0, len(x) - 1, min(_SEEDING, len(x))).long().unique().to(x.device)]
        return zlib.crc32(some.contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes())


class Minibatches:
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
        if y_loader is loader and isinstance(loader, Iterator):
            raise ValueError(
                "expected a loader of its own for y, got the very iterator that x is given: each would see every other "
                "batch; pass loader= alone to show both networks the same batches"
            )
        self.layout, self.forward = layout, forward
        given = [one for one in (loader, y_loader) if one is not None]
        loaders = [[one] if isinstance(one, Tensor | np.ndarray) else one for one in given]
        self.count = _length(loaders[0]) if limit is None else limit
        self._items = itertools.islice(itertools.zip_longest(*loaders, fillvalue=_END), limit)
        self.head: list[Minibatch] = []  # what `first` has read; it comes again in the iteration
        self._labels_agree = True
        self._next = (0, 0)

    def first(self, needed: bool = True) -> Minibatch | None:
        """The first batch that can be used; it comes again in the iteration. None, if it is not needed and not there.

        Raises:
            ValueError: there is none.
        """
        for batch in self._read():
            self.head.append(batch)
            if batch.usable:
                return batch
        if needed and not self.head:
            raise ValueError("the loader gave no batch")
        if needed:
            raise ValueError(
                f"expected batches of at least {MIN_SAMPLES} samples, got none: raise the loader's batch_size"
            )
        return None

    def __iter__(self) -> Iterator[Minibatch]:
        return itertools.chain(self.head, self._read())

    def _read(self) -> Iterator[Minibatch]:
        for items in self._items:
            number, place = self._next
            ended = [item is _END for item in items]  # `in` would compare arrays
            if any(ended):
                shorter = "xy"[ended.index(True)]
                raise ValueError(
                    f"the loader of {shorter} ended after {number} batches and the other went on: expected loaders of "
                    "the same samples in the same batches"
                )
            n = self._samples(items[0])
            if len(items) > 1:
                self._check(items, n, number, place)
            self._next = number + 1, place + n
            yield Minibatch(number, place, n, (items[0], items[-1]), self.layout, self.forward)

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
        if "U" in (x.dtype.kind, y.dtype.kind):
            x, y = x.astype(str), y.astype(str)
        differing = (x != y).reshape(len(x), -1).any(1)
        if differing.any():
            self._labels_agree = False
            at = int(differing.argmax())
            warnings.warn(
                f"the loaders of x and y differ in labels, first at sample {place + at} (batch {number}): "
                f"{x[at].tolist()} for x, {y[at].tolist()} for y. CKA needs the same samples in the same order; is one "
                "of them shuffled?",
                stacklevel=5,
            )


def labels_of(item: Any) -> np.ndarray | None:
    """The labels `[N, ...]` of a batch (inputs, labels, ...), numbers or text; None if it has none."""
    if not isinstance(item, tuple | list) or len(item) < 2 or isinstance(item[1], dict | str | bytes):
        return None
    given = item[1]
    if isinstance(given, tuple | list) and given and all(isinstance(label, Tensor) for label in given):
        given = torch.stack(list(given)) if len({label.shape for label in given}) == 1 else None
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        labels = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
    else:
        try:
            labels = np.asarray(given)
        except ValueError:  # lists of different lengths: targets of another kind
            return None
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels)
    elif labels.dtype.kind in "OT" and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(str)
    return labels if labels.ndim and labels.dtype.kind in "biufU" else None


def reference_grams(what: Reference, batch: Minibatch) -> Grams:
    """Centred Gram of a batch's inputs, or of its labels: one layer of that name.

    Labels give 1 for two samples of the same class and 0 otherwise; labels of several numbers are taken as features.
    Frames are concatenated over time. In a batch for a caller's `forward` the input is the first tensor that holds more
    than a number for each sample, or else the first with an axis of samples.

    Raises:
        TypeError: a batch without labels, or without a tensor of its samples.
    """
    if what == "labels":
        return grams({"labels": _as_features(labels_in(batch))})
    axis = batch.sample_axis
    given = batch.inputs("x", torch.device("cpu"))
    holding = [x for x in tensors_in(given) if x.ndim > axis and x.shape[axis] == batch.n]
    if not holding:
        raise TypeError(
            f"the Gram of the input needs batches that hold a tensor of their {batch.n} samples, got "
            f"{type(given).__name__} without one"
        )
    inputs = next((x for x in holding if x.ndim > axis + 1), holding[0])
    return grams({"input": inputs.movedim(axis, 0).flatten(1).unsqueeze(0)})


def labels_in(batch: Minibatch) -> np.ndarray:
    """The labels `[n, ...]` of a batch, numbers or text.

    Raises:
        TypeError: a batch without labels.
        ValueError: not one for each sample.
    """
    labels = labels_of(batch.items[0])
    if labels is None:
        raise TypeError(f"expected batches (inputs, labels), got {type(batch.items[0]).__name__} without labels")
    if len(labels) != batch.n:
        raise ValueError(f"expected a label for each of {batch.n} samples, got labels of shape {tuple(labels.shape)}")
    return labels


def _as_features(labels: np.ndarray) -> Tensor:
    if labels.ndim > 1 and labels.dtype.kind != "U":
        return torch.tensor(labels).flatten(1).unsqueeze(0)
    if labels.ndim > 1:
        raise TypeError(f"expected one text as the label of a sample, got labels of shape {labels.shape}")
    _, classes = np.unique(labels, return_inverse=True)
    return torch.nn.functional.one_hot(torch.from_numpy(classes)).to(torch.float32).unsqueeze(0)


def group_masks(groups: Any, batch: Minibatch) -> dict[str, Tensor] | None:
    """Name -> bool `[n]` of the samples in each group that a comparison asks for.

    Args:
        groups: "labels"; a mapping name -> mask over all samples; ids of all samples; or a function of what the loader
            gives that returns ids or such a mapping for it.
        batch: the batch.

    Raises:
        ValueError: another text, or too few ids or masks.
    """
    if groups is None:
        return None
    chosen: Any
    if isinstance(groups, str):
        if groups != "labels":
            raise ValueError(f'expected groups="labels", ids, masks or a function of the batch, got {groups!r}')
        chosen = labels_in(batch)
    elif callable(groups):
        chosen = groups(batch.items[0])
    elif isinstance(groups, Mapping):
        chosen = {name: _part(mask, batch, f"mask {name!r}") for name, mask in groups.items()}
    else:
        chosen = _part(groups, batch, "ids")
    if isinstance(chosen, Mapping):
        return {str(name): _mask(mask) for name, mask in chosen.items()}
    ids = [str(value) for value in (chosen.tolist() if hasattr(chosen, "tolist") else list(chosen))]
    if len(ids) != batch.n:
        raise ValueError(f"groups: expected an id for each of {batch.n} samples, got {len(ids)}")
    return {name: torch.tensor([value == name for value in ids]) for name in sorted(set(ids))}


def _mask(values: Any) -> Tensor:
    """A mask as a tensor, from anything like an array."""
    return torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values).tolist())


def _part(values: Any, batch: Minibatch, what: str) -> Any:
    if not isinstance(values, Tensor | list | tuple):
        values = np.asarray(values)  # slices go by place; a Series would look its labels up
    end = batch.place + batch.n
    if len(values) < end:
        raise ValueError(f"groups: expected {what} of all samples, at least {end} of them, got {len(values)}")
    return values[batch.place : end]


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
