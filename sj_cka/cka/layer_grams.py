"""Centred Grams of all layers and steps of one network on one minibatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from sj_cka.cka.gram import LARGE_CHUNK, as_real, as_tensor, centred_grams, pack, places, u_centre, unpack
from sj_cka.cka.own_terms import MIN_UNITS, Units, own_terms, units_of
from sj_cka.cka.products import launch_bound, product
from sj_cka.cka.waiting import Waiting

MIN_SAMPLES = 4  # the unbiased HSIC divides by n - 3
# |K~| of some samples at or below this fraction of what it is cut from is rounding of float32 products
ALIKE = 1e-6
_CHUNK = 1 << 19  # numbers of an intermediate that are held at once
Allocate = Callable[[tuple[int, ...]], Tensor]  # float64, of a shape


@dataclass(frozen=True)
class Whole:
    """Centred Grams of the layers of one network on n samples, all steps concatenated.

    Args:
        layers: names, in order.
        rows: float64 `[L, n(n-1)/2]`.
        diagonal: float64 `[L, n]`, see `gram.RawGrams`.
        n: number of samples.
        allocate: makes the space for what is as large as the rows.
    """

    layers: tuple[str, ...]
    rows: Tensor
    diagonal: Tensor
    n: int
    allocate: Allocate | None = None

    def space(self, *shape: int, device: torch.device | str | None = None) -> Tensor:
        """Float64 of a shape where `allocate` makes it, else on a device, by default that of the rows."""
        if self.allocate is not None:
            return self.allocate(shape)
        return torch.empty(shape, dtype=torch.float64, device=self.rows.device if device is None else device)

    @cached_property
    def norms(self) -> Tensor:
        """|K~|_F of every layer, float64 `[L]`: its square is n (n-3) HSIC_1 of the layer with itself."""
        return 2**0.5 * torch.linalg.vector_norm(self.rows, dim=1)

    def part(self, samples: Tensor) -> Tensor:
        """Rows of the Grams of some samples alone, float64 `[L, m(m-1)/2]`, centred anew.

        U-centring takes away whatever was added to rows and columns, so that centred Grams serve as well as raw ones. A
        row is 0 where the samples do not differ beyond the rounding of the Gram of all of them.

        Args:
            samples: their positions, int64 `[m]`, ascending.
        """
        m = len(samples)
        high, low = torch.tril_indices(m, m, offset=-1)
        high = samples[high]
        at = ((high * (high - 1)) // 2).add_(samples[low]).to(self.rows.device)
        parts = self.space(len(self.rows), len(at))
        step = max(1, _CHUNK // m**2)
        for rows, into in zip(self.rows.split(step), parts.split(step), strict=True):
            before = rows.index_select(1, at)
            size = ALIKE * torch.linalg.vector_norm(before, dim=1)
            after = pack(u_centre(unpack(before, m)))
            alike = torch.linalg.vector_norm(after, dim=1) <= size
            into.copy_(after.masked_fill_(alike.unsqueeze(1), 0.0))
        return parts

    def first(self, m: int) -> tuple[Tensor, Tensor]:
        """Rows of the Grams of the first m samples, not centred anew, `[L, m(m-1)/2]`, and their row sums `[L, m]`."""
        rows = self.rows[:, : m * (m - 1) // 2]
        at = places(m, slice(0, m), rows.device).flatten()
        sums = []
        for part in rows.split(max(1, _CHUNK // m**2)):
            K = part.index_select(1, at).view(-1, m, m)
            K.diagonal(0, 1, 2).zero_()
            sums.append(K.sum(-1))
        return rows, torch.cat(sums)

    def squared_distances(self) -> Iterator[Tensor]:
        """Squared Euclidean distances of all pairs of samples, float64 `[n(n-1)/2]`, never below 0, layer by layer."""
        for rows, diagonal in zip(self.rows, self.diagonal, strict=True):
            sums = pack(diagonal.unsqueeze(-1) + diagonal)
            yield sums.sub_(rows, alpha=2).clamp_(min=0)


class Grams:
    """Centred Grams of the layers and steps of one network on one minibatch, layer after layer as they come.

    Args:
        steps: layer -> number of its steps, 1 or T; one step stands for all.
        T, n: steps and samples.
        device: where features come from.
        allocate: makes space, also for sums over steps, in place of the device's memory.

    Attributes:
        layers: names, in order.
        steps: layer -> number of its rows.
        rows: float64 `[R, n(n-1)/2]`.
        index: int64 `[layers, T]`, the row of each layer and step (a layer that does not change with time has one row).
        diagonal: float64 `[R, n]`, see `gram.RawGrams`.
        reasons: one a row; None where it is defined.
        counts: of layers of neurons: spikes of each unit at each step over the samples, `[S, D]`.
        units: of layers whose units are known, their number.
        own: float64 `[layers, T, T]`, see `own_terms`; NaN for fewer than 8 units, or where they are not known.
    """

    def __init__(
        self, steps: Mapping[str, int], T: int, n: int, device: torch.device, allocate: Allocate | None = None
    ) -> None:
        self.layers, self.n, self.allocate = tuple(steps), n, allocate
        self.steps = dict(steps)
        self.first = dict(zip(steps, accumulate(steps.values(), initial=0), strict=False))
        own = [[self.first[layer] + (t if S > 1 else 0) for t in range(T)] for layer, S in steps.items()]
        self.index = torch.tensor(own).view(len(steps), T)
        shape = (sum(steps.values()), n * (n - 1) // 2)
        self.rows = allocate(shape) if allocate else torch.empty(shape, dtype=torch.float64, device=device)
        self.diagonal = torch.empty(shape[0], n, dtype=torch.float64, device=self.rows.device)
        self.reasons: list[str | None] = [None] * shape[0]
        self.filled = [False] * shape[0]
        self.waiting = Waiting(self.rows, self.diagonal)
        self.counts: dict[str, Tensor] = {}
        self.units: dict[str, int] = {}
        self.own = torch.full((len(steps), T, T), torch.nan, dtype=torch.float64, device=device)
        self.held: dict[str, Units] = {}  # of layers whose steps come one by one, until the last
        self.held_as: dict[str, Tensor] = {}  # an empty one of the same dtype and device

    def put(
        self, layer: str, step: int, X: Tensor, *, units: int | None = None, spikes: bool = False, again: bool = False
    ) -> None:
        """Takes the Grams of some steps `[S, n, D]` of a layer, from `step` on.

        Args:
            units: number of units whose own terms are taken as well, if there is more than one step; the features of
                each lie one after the other.
            spikes: the features are believed to be 0 or 1.
            again: do not put off what has to be taken twice. (The CPU never does: it need not wait for itself.)
        """
        first = self.first[layer] + step
        part = slice(first, first + len(X))
        self.filled[part] = [True] * len(X)
        if again or not launch_bound(X.device):
            _, diagonal, self.reasons[part] = centred_grams(X, spikes=spikes, out=self.rows[part])
            self.diagonal[part] = diagonal
            largest = diagonal.abs().amax(1)
        else:
            largest = self._put_off(layer, first, X, spikes)
        if units is not None and self.own.shape[1] > 1:
            self.units[layer] = units
            if units >= MIN_UNITS and X.shape[2]:
                size = largest.to(torch.float64).sqrt()
                with torch.autocast(X.device.type, enabled=False):  # it would multiply in bfloat16
                    self._take_own(layer, step, X, units, size)

    def _put_off(self, layer: str, first: int, X: Tensor, spikes: bool) -> Tensor:
        """Multiplies features of some steps, and leaves their centring for later; the largest of each diagonal."""
        largest = []
        for piece in X.split(max(1, LARGE_CHUNK // X.shape[1] ** 2)):
            raw = product(piece, spikes)
            largest.append(raw.K.diagonal(dim1=1, dim2=2).abs().amax(1))
            self.waiting.add(layer, first, raw)
            first += len(piece)
            del raw  # else its memory would be held while it is centred
            if self.waiting.full:
                self.waiting.centre()
        return torch.cat(largest) if largest[1:] else largest[0]

    def _take_own(self, layer: str, step: int, X: Tensor, units: int, size: Tensor) -> None:
        """Takes the own terms of a layer, or what they need of some steps until the last."""
        place = self.layers.index(layer)
        T = self.steps[layer]
        some = units_of(X, units, T, size)
        if len(X) < T:
            held = self.held.get(layer)
            if held is None:
                shape = (T, *some.values.shape[1:])
                values = self.allocate(shape) if self.allocate else some.values.new_empty(shape)
                held = self.held[layer] = Units(values, some.scale.new_empty(T))
                self.held_as[layer] = some.values[:0]
            for whole, part in zip(held, some, strict=True):
                whole[step : step + len(X)] = part
            if step + len(X) < T:
                return
            some = self._released(layer, T)
        self.own[place] = own_terms(some)  # of one step, which stands for all, one number

    def _released(self, layer: str, S: int) -> Units:
        """What was held of the first S steps of a layer, in the dtype and on the device that it came in."""
        values, scale = self.held.pop(layer)
        return Units(values[:S].to(self.held_as.pop(layer)), scale[:S])

    def repeat(self, layer: str, S: int) -> None:
        """Copies the first step of a layer to its S - 1 others: it does not change."""
        first = self.first[layer]
        part = slice(first + 1, first + S)

        def copy() -> None:
            self.rows[part], self.diagonal[part] = self.rows[first], self.diagonal[first]

        if S > 1:
            self.waiting.after(copy)
        self.reasons[part] = [self.reasons[first]] * (S - 1)
        self.filled[part] = [True] * (S - 1)
        if layer in self.held:
            with torch.autocast(self.own.device.type, enabled=False):
                self.own[self.layers.index(layer)] = own_terms(self._released(layer, 1))

    def scale(self, layer: str, factor: float) -> None:
        """Multiplies the Gram of a layer of one step."""

        def multiply() -> None:
            self.rows[self.first[layer]] *= factor
            self.diagonal[self.first[layer]] *= factor

        self.waiting.after(multiply)

    def count(self, layer: str, step: int, counts: Tensor, S: int) -> None:
        """Notes the spikes `[.., D]` of each unit from `step` on, of S steps; over all steps where the book has one."""
        if self.index.shape[1] == 1:
            S, step, counts = 1, 0, counts.sum(0, keepdim=True) / S
        if layer not in self.counts and len(counts) == S:
            self.counts[layer] = counts
            return
        if layer not in self.counts:
            self.counts[layer] = counts.new_zeros(S, counts.shape[1])
        self.counts[layer][step : step + len(counts)] += counts

    def alike(self, most: int | None = None) -> Iterator[tuple[slice, slice, int]]:
        """Layers one after another that have as many steps, at most so many together: they, their rows, and the steps.

        The rows of a layer lie together.
        """
        layer = row = 0
        for S, same in groupby(self.steps.values()):
            left = len(list(same))
            while left:
                count = min(left, most or left)
                yield slice(layer, layer + count), slice(row, row + count * S), S
                layer, row, left = layer + count, row + count * S, left - count

    @cached_property
    def whole(self) -> Whole:
        """All steps concatenated: the Gram of concatenated features is the sum of the Grams of the steps."""
        T = self.index.shape[1]
        if T == 1:
            return Whole(self.layers, self.rows, self.diagonal, self.n, self.allocate)
        rows = (self.allocate or self.rows.new_empty)((len(self.layers), self.rows.shape[1]))
        diagonal = self.rows.new_empty((len(self.layers), self.n))
        for layers, own, S in self.alike():
            for steps, into in ((self.rows, rows), (self.diagonal, diagonal)):
                total = torch.sum(steps[own].unflatten(0, (-1, S)), 1, out=into[layers])
                if S == 1:  # one step stands for all
                    total *= T
        return Whole(self.layers, rows, diagonal, self.n, self.allocate)


def grams(features: Mapping[str, Any]) -> Grams:
    """Centred Grams of arrays or tensors `{layer: [T, N, ...]}`; a layer with T = 1 counts at every step of the others.

    Raises:
        ValueError: no layer, shapes that do not fit each other, or fewer than 4 samples.
    """
    if not features:
        raise ValueError("expected at least one layer of features, got none")
    features = {layer: as_tensor(X) for layer, X in features.items()}
    shapes = {layer: tuple(X.shape[:2]) for layer, X in features.items()}
    n = next(iter(shapes.values()))[1] if len(next(iter(shapes.values()))) == 2 else 0
    T = max(shape[0] if shape else 0 for shape in shapes.values())
    for layer, shape in shapes.items():
        if len(shape) < 2 or shape[1] != n or shape[0] not in (1, T):
            raise ValueError(
                f"layer {layer!r}: expected features [T, N, ...] with T = 1 or {T} and N = {n}, "
                f"got shape {tuple(features[layer].shape)}"
            )
    if n < MIN_SAMPLES:
        raise ValueError(f"expected at least {MIN_SAMPLES} samples in a minibatch, got N = {n}")
    device = next(iter(features.values())).device
    centred = Grams({layer: shape[0] for layer, shape in shapes.items()}, T, n, device)
    for layer, X in features.items():
        centred.put(layer, 0, flat(as_real(X)), units=units_in(X), again=True)
    return centred


def units_in(X: Tensor) -> int:
    """Number of units of features `[S, n, ...]`, see `own_terms`."""
    return X.shape[2] if X.ndim > 2 else 1


def flat(X: Tensor) -> Tensor:
    """Features `[S, n, D]` of `[S, n, ...]`."""
    return X.flatten(2) if X.ndim > 2 else X.unsqueeze(-1)
