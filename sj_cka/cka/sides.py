"""The two sides of a comparison: a network that is run on every batch, or the inputs or labels themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sj_cka.cka.batches import Batch, labels_of
from sj_cka.cka.layers import Allocate, Grams, grams
from sj_cka.cka.observation import NULL, OF_NEURONS, Book, Observer, Spatial
from sj_cka.recording import Observation, Plan, What, reset_states
from sj_cka.recording.drive import sample_axis

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

    def grams(self, batch: Any, number: int, allocate: Allocate | None) -> dict[str, Grams]:
        """Centred Grams of every layer and step on one batch, for each observable.

        Args:
            batch: what the network is given, on its device.
            number: of the batch, for the orders of the timing null.
            allocate: makes the space for the Grams; None for the device's memory.
        """
        n, T = self.plan.drive.samples(batch), self.plan.T
        books = {name: Book(taps, name, n, T, self.device, allocate) for name, taps in self.taps.items()}
        self._run(batch, books, number)
        again = set().union(*(book.to_take_again() for book in books.values()))
        if again:
            self._run(batch, books, number, again)
        found = {name: book.grams() for name, book in books.items()}
        return {name: found[source] for name, source in self.source.items()}

    def _run(self, batch: Any, books: Mapping[str, Book], number: int, only: set[str] | None = None) -> None:
        plan, n = self.plan, self.plan.drive.samples(batch)
        orders = torch.Generator().manual_seed(2 * number + (self.side == "y"))  # both sides draw their own
        observer = Observer(plan, books, self.spatial, orders, only)
        what: tuple[What, ...] = ("output", "membrane") if "membrane" in self.taps else ("output",)
        layers = {tap.layer for taps in self.taps.values() for tap in taps} if only is None else only
        taps = tuple(tap for tap in plan.taps if tap.layer in layers)
        observation = Observation(self.model, plan, n, observer.receive, observe=what, taps=taps)
        try:
            self.model.eval()
            reset_states(self.model)
            with torch.no_grad():
                plan.drive.run(self.model, batch)
        finally:
            observation.close()
        observation.check()


def fixed_grams(what: Fixed, batch: Batch) -> Grams:
    """Centred Gram of a batch's inputs, or of its labels: one layer of that name.

    Labels give 1 for two samples of the same class and 0 otherwise; labels of several numbers are taken as features.
    Frames are concatenated over time.

    Raises:
        TypeError: a batch without labels, or inputs that are no tensor.
    """
    if what == "labels":
        return grams({"labels": _as_features(_labels(batch))})
    inputs = batch.inputs("x", torch.device("cpu"))
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"the Gram of the input needs batches that are a tensor or start with one, got {type(inputs).__name__}"
        )
    axis = sample_axis(batch.layout, batch.forward)
    return grams({"input": inputs.movedim(axis, 0).flatten(1).unsqueeze(0)})


def _labels(batch: Batch) -> Tensor:
    labels = labels_of(batch.items[0])
    if labels is None:
        raise TypeError(f"expected batches (inputs, labels), got {type(batch.items[0]).__name__} without labels")
    if len(labels) != batch.n:
        raise ValueError(f"expected a label for each of {batch.n} samples, got labels of shape {tuple(labels.shape)}")
    return labels.cpu()


def _as_features(labels: Tensor) -> Tensor:
    if labels.ndim > 1:
        return labels.flatten(1).unsqueeze(0)
    _, classes = labels.unique(return_inverse=True)
    return torch.nn.functional.one_hot(classes).to(torch.float32).unsqueeze(0)


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
        return {str(name): torch.as_tensor(mask) for name, mask in own.items()}
    ids = [str(value) for value in (own.tolist() if hasattr(own, "tolist") else list(own))]
    if len(ids) != batch.n:
        raise ValueError(f"groups: expected an id for each of {batch.n} samples, got {len(ids)}")
    return {name: torch.tensor([value == name for value in ids]) for name in sorted(set(ids))}


def _part(values: Any, batch: Batch, what: str) -> Any:
    end = batch.place + batch.n
    if len(values) < end:
        raise ValueError(f"groups: expected {what} of all samples, at least {end} of them, got {len(values)}")
    return values[batch.place : end]
