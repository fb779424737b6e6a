"""From what the layers of a network put out on one minibatch to centred Grams, for each observable."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from sj_cka.cka.gram import as_real
from sj_cka.cka.layer_grams import Allocate, Book, defers, flat
from sj_cka.cka.permutations import STEPS, permuted_steps
from sj_cka.recording import ObservationPlan, Tap

Observable = Literal["output", "membrane", "rate", "latency"]
OBSERVABLES: tuple[Observable, ...] = ("output", "membrane", "rate", "latency")
OF_NEURONS = ("membrane", "latency")  # other layers have none
Spatial = Literal["flatten", "mean"]


def steps_of(tap: Tap, T: int, observable: str) -> int:
    """Number of steps of an observable of a layer."""
    return T if tap.time != "static" and observable not in ("rate", "latency") else 1


def book_of(
    taps: Sequence[Tap], observable: str, n: int, T: int, device: torch.device, allocate: Allocate | None = None
) -> Book:
    """An empty book of an observable of some layers."""
    steps = {tap.layer: steps_of(tap, T, observable) for tap in taps}
    return Book(steps, 1 if observable in ("rate", "latency") else T, n, device, allocate)


def held_bytes(taps: Sequence[Tap], T: int, n: int, observable: str) -> int:
    """Bytes of features that wait for their last step where layers are called once a step."""
    # all steps; their sum; the latency, and whether a unit was silent so far
    each = {STEPS: 4 * T, "rate": 4, "latency": 5}.get(observable, 0)
    return sum(each * n * tap.width for tap in taps if tap.time == "calls")


def over_samples(X: Tensor) -> Tensor:
    """Sums `[S, D]` over the samples of `[S, n, D]`, as a product with ones: half the time of `sum`, counts exact."""
    with torch.autocast(X.device.type, enabled=False):  # it would count in bfloat16
        return (X.new_ones(1, X.shape[1]) @ X).squeeze(1).float()


class Observer:
    """Receives what the hooks of a pass give, makes the observables of it and enters their Grams into books.

    Args:
        plan: of the network.
        books: observable -> its book. Their taps decide of which layers it is taken.
        spatial: "mean" averages maps over space.
        generator: of the orders of permuted steps.
        only: layers to take (again), None for all.
    """

    def __init__(
        self,
        plan: ObservationPlan,
        books: Mapping[str, Book],
        spatial: Spatial,
        generator: torch.Generator,
        only: Collection[str] | None = None,
    ) -> None:
        self.T, self.books, self.spatial, self.generator, self.only = plan.T, books, spatial, generator, only
        self.sums: dict[str, Tensor] = {}
        self.first_spikes: dict[str, tuple[Tensor, Tensor]] = {}
        self.held: dict[str, list[Tensor]] = {}

    def receive(self, tap: Tap, step: int, rows: Tensor, what: str) -> None:
        """Takes `[S, n, ...]` of one call of a layer, its first step and whether it is output or membrane."""
        if self.only is not None and tap.layer not in self.only:
            return
        try:
            X = as_real(rows.detach())  # sums over steps and space would be rounded in half precision
        except TypeError as error:
            raise TypeError(f"layer {tap.layer!r}: {error}; or choose layers= without it") from error
        if self.spatial == "mean" and tap.maps:
            X = X.flatten(3).mean(3)
        X = flat(X)
        books = {name: book for name, book in self.books.items() if tap.layer in book.first}
        if what == "membrane":
            books["membrane"].put(tap.layer, step, X, again=self.only is not None)
            return
        unchanging = tap.time == "static" or self._steady(books, tap, X)
        step, steps = (0, len(X)) if unchanging else (step, self.T)
        if tap.neuron and self.only is None and books:
            # of books the one that knows single steps, if there is one
            book = books.get("output") or max(books.values(), key=lambda book: book.index.shape[1])
            book.count(tap.layer, step, over_samples(X), self.T if tap.time == "calls" else len(X))
        for name, book in books.items():
            if name == "latency":
                self._latency(book, tap, step, X, steps)
            elif name != "membrane" and unchanging:  # taken once: its rate is its output, all its orders are one
                book.put(tap.layer, 0, X[:1], spikes=tap.neuron, again=self.only is not None)
                book.repeat(tap.layer, 1 if name == "rate" else len(X))
            elif name == "rate":
                self._rate(book, tap, step, X)
            elif name == STEPS:
                self._permuted(book, tap, step, X)
            elif name == "output":
                book.put(tap.layer, step, X, spikes=tap.neuron, again=self.only is not None)

    def _steady(self, books: Mapping[str, Book], tap: Tap, X: Tensor) -> bool:
        """Whether all steps of this output are the same; looked at only where they were in the probe.

        A device that would have to be waited for is believed to repeat the probe, and asked after the pass.
        """
        if not tap.steady or len(X) != self.T:
            return False
        if self.only is not None or not defers(X.device):
            return all(torch.equal(x, X[0]) for x in X[1:])
        for book in list(books.values())[:1]:
            book.redo.append((tap.layer, (X[1:] != X[:1]).any().view(1)))
        return True

    def _rate(self, book: Book, tap: Tap, step: int, X: Tensor) -> None:
        total = X.sum(0)  # counts of spikes stay integers; the Gram is divided by T^2 instead
        if tap.layer in self.sums:
            total = self.sums.pop(tap.layer) + total
        if step + len(X) < self.T:
            self.sums[tap.layer] = total
            return
        book.put(tap.layer, 0, total.unsqueeze(0), again=self.only is not None)
        book.scale(tap.layer, self.T**-2)

    def _latency(self, book: Book, tap: Tap, step: int, X: Tensor, steps: int) -> None:
        latency, silent = self.first_spikes.pop(tap.layer, (None, None))
        for x in X:
            quiet = x <= 0
            silent = quiet if silent is None else silent & quiet
            latency = silent.float() if latency is None else latency.add_(silent)
        if latency is None or silent is None:
            return
        if step + len(X) < steps:
            self.first_spikes[tap.layer] = latency, silent
        else:
            book.put(tap.layer, 0, latency.unsqueeze(0), again=self.only is not None)

    def _permuted(self, book: Book, tap: Tap, step: int, X: Tensor) -> None:
        if tap.time == "calls":  # an order cannot be permuted before its last step is known
            held = self.held.setdefault(tap.layer, [])
            held.append(X.clone())
            if step + 1 < self.T:
                return
            X = torch.cat(self.held.pop(tap.layer))
        book.put(tap.layer, 0, permuted_steps(X, self.generator), spikes=tap.neuron, again=self.only is not None)
