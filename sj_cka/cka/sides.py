"""The two sides of a comparison: a network that is run on every batch, or the inputs or labels themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sj_cka.cka.batches import Batch, labels_of
from sj_cka.cka.layers import Allocate, Grams, grams
from sj_cka.cka.observation import NULL, OF_NEURONS, Book, Observer, Spatial
from sj_cka.recording import Observation, Plan, What, at_rest, own_run, to_evaluation
from sj_cka.recording.drive import tensors_in

Fixed = Literal["input", "labels"]


@dataclass
class Network:
    """A network with the plan of its observation.

    Args:
        side: "x" or "y".
        model, plan, device: the network, how it is observed, where it runs.
        observables: what is observed; the first is the main one.
        null: whether to take the timing null of the output as well.
        spatial: how maps become features.
    """

    side: str
    model: nn.Module
    plan: Plan
    device: torch.device
    observables: Sequence[str]
    null: bool
    spatial: Spatial

    def __post_init__(self) -> None:
        neurons = tuple(tap for tap in self.plan.taps if tap.neuron)
        asked = [*self.observables, *([NULL] if self.null else [])]
        # without neurons there are no potentials and no spikes: then the activation stands for them
        self.source = {name: name if neurons or name not in OF_NEURONS else "output" for name in asked}
        self.taps = {name: neurons if name in OF_NEURONS else self.plan.taps for name in self.source.values()}

    def grams(self, batch: Any, seed: int, allocate: Allocate | None) -> dict[str, Grams]:
        """Centred Grams of every layer and step on one batch, for each observable.

        Args:
            batch: what the network is given, on its device.
            seed: of the batch, for the orders of the timing null.
            allocate: makes the space for the Grams; None for the device's memory.
        """
        n, T = self.plan.drive.samples(batch), self.plan.T
        books = {name: Book(taps, name, n, T, self.device, allocate) for name, taps in self.taps.items()}
        self._run(batch, books, seed)
        again = set().union(*(book.to_take_again() for book in books.values()))
        if again:
            self._run(batch, books, seed, again)
        found = {name: book.grams() for name, book in books.items()}
        return {name: found[source] for name, source in self.source.items()}

    def _run(self, batch: Any, books: Mapping[str, Book], seed: int, only: set[str] | None = None) -> None:
        plan, n = self.plan, self.plan.drive.samples(batch)
        orders = torch.Generator().manual_seed(2 * seed + (self.side == "y"))  # both sides draw their own
        observer = Observer(plan, books, self.spatial, orders, only)
        what: tuple[What, ...] = ("output", "membrane") if "membrane" in self.taps else ("output",)
        layers = {tap.layer for taps in self.taps.values() for tap in taps} if only is None else only
        taps = tuple(tap for tap in plan.taps if tap.layer in layers)
        with own_run():
            observation = Observation(self.model, plan, n, observer.receive, observe=what, taps=taps)
            try:
                to_evaluation(self.model)
                with torch.no_grad(), at_rest(self.model):
                    plan.drive.run(self.model, batch)
            finally:
                observation.close()
        observation.check()


def fixed_grams(what: Fixed, batch: Batch) -> Grams:
    """Centred Gram of a batch's inputs, or of its labels: one layer of that name.

    Labels give 1 for two samples of the same class and 0 otherwise; labels of several numbers are taken as features.
    Frames are concatenated over time. In a batch for a caller's `forward` the input is the first tensor that holds more
    than a number for each sample, or else the first with an axis of samples.

    Raises:
        TypeError: a batch without labels, or without a tensor of its samples.
    """
    if what == "labels":
        return grams({"labels": _as_features(_labels(batch))})
    axis = batch.sample_axis
    given = batch.inputs("x", torch.device("cpu"))
    found = [x for x in tensors_in(given) if x.ndim > axis and x.shape[axis] == batch.n]
    if not found:
        raise TypeError(
            f"the Gram of the input needs batches that hold a tensor of their {batch.n} samples, got "
            f"{type(given).__name__} without one"
        )
    inputs = next((x for x in found if x.ndim > axis + 1), found[0])
    return grams({"input": inputs.movedim(axis, 0).flatten(1).unsqueeze(0)})


def _labels(batch: Batch) -> np.ndarray:
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


def group_masks(groups: Any, batch: Batch) -> dict[str, Tensor] | None:
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
    own: Any
    if isinstance(groups, str):
        if groups != "labels":
            raise ValueError(f'expected groups="labels", ids, masks or a function of the batch, got {groups!r}')
        own = _labels(batch)
    elif callable(groups):
        own = groups(batch.items[0])
    elif isinstance(groups, Mapping):
        own = {name: _part(mask, batch, f"mask {name!r}") for name, mask in groups.items()}
    else:
        own = _part(groups, batch, "ids")
    if isinstance(own, Mapping):
        return {str(name): _mask(mask) for name, mask in own.items()}
    ids = [str(value) for value in (own.tolist() if hasattr(own, "tolist") else list(own))]
    if len(ids) != batch.n:
        raise ValueError(f"groups: expected an id for each of {batch.n} samples, got {len(ids)}")
    return {name: torch.tensor([value == name for value in ids]) for name in sorted(set(ids))}


def _mask(values: Any) -> Tensor:
    """A mask as a tensor, from anything like an array."""
    return torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values).tolist())


def _part(values: Any, batch: Batch, what: str) -> Any:
    if not isinstance(values, Tensor | list | tuple):
        values = np.asarray(values)  # slices go by place; a Series would look its labels up
    end = batch.place + batch.n
    if len(values) < end:
        raise ValueError(f"groups: expected {what} of all samples, at least {end} of them, got {len(values)}")
    return values[batch.place : end]
