"""A network with the plan of its observation, which gives centred Grams of every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sj_cka.cka.layer_grams import Allocate, Grams
from sj_cka.cka.observables import NULL, OF_NEURONS, Book, Observer, Spatial
from sj_cka.recording import Observation, ObservationPlan, What, at_rest, own_run, to_evaluation


@dataclass
class ObservedNetwork:
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
    plan: ObservationPlan
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
