"""Small accumulators: each adds up one quantity of a comparison over minibatches, for `CKA`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.gram import LARGE_CHUNK, places
from sj_cka.cka.layer_grams import ALIKE, MIN_SAMPLES, Grams, Whole
from sj_cka.cka.layer_steps import LayerSteps
from sj_cka.cka.measures import Measure, hsic, pair_products
from sj_cka.cka.products import launch_bound

SIZES = tuple(2**k for k in range(6, 20))  # samples at which the value is taken as well: is n enough?
Dims = Mapping[str, tuple[str, ...]]
Variables = Mapping[str, tuple[Any, ...]]  # name -> axes, values and, where it has any, attributes
DIMS: Dims = {
    "hsic_xy": ("layer_x", "step_x", "layer_y", "step_y"),
    "hsic_xx": ("layer_x", "step_x", "step_x_2"),
    "hsic_yy": ("layer_y", "step_y", "step_y_2"),
}
_CHUNK = 1 << 21  # numbers of an intermediate that are held at once
_PAIR = ("layer_x", "layer_y")
_PARTS: Dims = {"xy": _PAIR, "xx": ("layer_x",), "yy": ("layer_y",)}


class Centred(NamedTuple):
    """What one minibatch adds: centred Grams of both sides on the same n samples.

    Args:
        x, y: of the two networks; the same object where x is compared with itself.
        given: a third Gram of one layer and step, for `CKAResult.partial`.
        groups: name -> bool `[n]`.
        place: of the first sample among all.
        seed: made from the inputs, if it is known.
        number: of the minibatch.
        classes: int64 `[n]` of the samples, where permutations within them are asked for.
    """

    x: Grams
    y: Grams
    given: Grams | None
    groups: Mapping[str, Tensor]
    place: int
    seed: int | None
    number: int
    classes: Tensor | None = None

    @property
    def wholes(self) -> tuple[Whole, ...]:
        """All steps concatenated, of x and, if it is another, of y: [0] is that of x, [-1] that of y."""
        return (self.x.whole,) if self.x is self.y else (self.x.whole, self.y.whole)


class Accumulator(ABC):
    """Tensors over minibatches, by key.

    `dims` names the variables of a result that they become, and their axes. Where `joined`, the tensors of minibatches
    stand one after the other; else they add up.
    """

    dims: ClassVar[Dims] = {}
    joined: ClassVar[bool] = False

    def __init__(self) -> None:
        self.tensors: dict[Any, list[Tensor]] = {}  # one that adds up is alone in its list

    @abstractmethod
    def update(self, batch: Centred) -> None:
        """Adds a minibatch."""

    def merge(self, other: Accumulator, samples: int) -> None:
        """Adds what another one of the same kind has, whose samples lie behind so many."""
        for key, values in other.tensors.items():
            for value in values:
                self.add(key, value)

    def add(self, key: Any, value: Tensor) -> None:
        """Adds a tensor; a sum lies where its first value did."""
        held = self.tensors.setdefault(key, [])
        if held and not self.joined:
            before = held.pop()
            value = before + value.to(before.device)
        held.append(value)

    def array(self, key: Any) -> np.ndarray:
        """A sum, or all tensors joined."""
        held = self.tensors[key]
        return (torch.cat(held) if self.joined else held[0]).cpu().numpy()

    def variables(self, n: int, x: LayerSteps, y: LayerSteps) -> dict[str, tuple[Any, ...]]:
        """Variable -> (axes, values): means over n samples, or what is joined; with attributes where it has any."""
        values = {key: self.array(key) for key in self.tensors}
        return {key: (self.dims[key], value if self.joined else value / n) for key, value in values.items()}


class StepSums(Accumulator):
    """n_b HSIC_1 between all rows (a layer at a step), within the layers, and with a third Gram."""

    dims: ClassVar[Dims] = {**DIMS, "hsic_xz": ("layer_x", "step_x"), "hsic_yz": ("layer_y", "step_y"), "hsic_zz": ()}

    def update(self, batch: Centred) -> None:
        x, y, z, n = batch.x, batch.y, batch.given, batch.x.n
        within = [_within(side) for side in ((x,) if x is y else (x, y))]
        self.add("hsic_xy", n * hsic(x.rows, y.rows, n))
        self.add("hsic_xx", n * within[0])
        self.add("hsic_yy", n * within[-1])
        if z is not None:
            for name, side in (("hsic_xz", x), ("hsic_yz", y), ("hsic_zz", z)):
                self.add(name, n * hsic(side.rows, z.rows, n))

    def variables(self, n: int, x: LayerSteps, y: LayerSteps) -> dict[str, tuple[Any, ...]]:
        at_x, at_y = x.index.numpy(), y.index.numpy()  # rows -> layers and steps
        at: dict[str, Any] = {"hsic_xz": (at_x, 0), "hsic_yz": (at_y, 0), "hsic_zz": (0, 0)}
        variables = super().variables(n, x, y)
        variables |= {name: (dims, values[at[name]]) for name, (dims, values) in variables.items() if name in at}
        return variables | {"hsic_xy": (self.dims["hsic_xy"], variables["hsic_xy"][1][at_x][:, :, at_y])}


class OwnSums(Accumulator):
    """n_b times the own terms of the units of layers between their steps, of sides with more than one."""

    dims: ClassVar[Dims] = {"own_xx": DIMS["hsic_xx"], "own_yy": DIMS["hsic_yy"]}

    def update(self, batch: Centred) -> None:
        for name, side in (("own_xx", batch.x), ("own_yy", batch.y)):
            if side.units and side.own.shape[1] > 1:
                self.add(name, batch.x.n * side.own)

    def variables(self, n: int, x: LayerSteps, y: LayerSteps) -> dict[str, tuple[Any, ...]]:
        variables = super().variables(n, x, y)
        for name, side in (("x", x), ("y", y)):
            if f"own_{name}{name}" in variables:
                variables[f"units_{name}"] = ((f"layer_{name}",), side.units)
        return variables


class BatchSums(Accumulator):
    """Of each minibatch its samples, where they lie, and S = n (n-3) HSIC_1 of all steps concatenated."""

    dims: ClassVar[Dims] = {
        **{f"batch_{name}": ("batch",) for name in ("n", "place", "seed")},
        **{f"batch_{part}": ("batch", *axes) for part, axes in _PARTS.items()},
    }
    joined = True

    def update(self, batch: Centred) -> None:
        norms = [side.norms.square().unsqueeze(0) for side in batch.wholes]
        for name, value in (("n", batch.x.n), ("place", batch.place), ("seed", batch.seed)):
            if value is not None:
                self.add(f"batch_{name}", torch.tensor([value]))
        self.add("batch_xy", 2 * pair_products(batch.wholes[0].rows, batch.wholes[-1].rows).unsqueeze(0))
        self.add("batch_xx", norms[0])
        self.add("batch_yy", norms[-1])

    def merge(self, other: Accumulator, samples: int) -> None:
        before = len(self.tensors.get("batch_place", ()))
        super().merge(other, samples)
        places = self.tensors["batch_place"]
        places[before:] = [place + samples for place in places[before:]]


class SampleShares(Accumulator):
    """What each sample contributes to all pairs of layers: h_i = sum_j K~_ij L~_ij; sum_i h_i = S = n (n-3) HSIC_1.

    Of xy float32 shares `[n, Lx, Ly]` of sqrt(S_xx S_yy), which add up to the CKA of the minibatch; of xx and yy shares
    `[n, Lx]` and `[n, Ly]` of S, which add up to 1. A layer without structure in this minibatch contributes 0. It costs
    about as much as the product of all pairs.
    """

    dims: ClassVar[Dims] = {f"sample_{part}": ("sample", *axes) for part, axes in _PARTS.items()}
    joined = True

    def update(self, batch: Centred) -> None:
        sides, n, device = batch.wholes, batch.x.n, batch.x.rows.device
        # where space is bounded, a block at a time
        rows = [side.rows if side.allocate else _shares(side.rows, side) for side in sides]
        xy = torch.empty((n, len(rows[0]), len(rows[-1])), dtype=torch.float32, device=device)
        within = [torch.empty((n, len(packed)), dtype=torch.float32, device=device) for packed in rows]
        chunk = _CHUNK // 4 if any(side.allocate for side in sides) else _CHUNK
        step = max(1, chunk // (n * max(map(len, rows))))
        for first in range(0, n, step):
            block = slice(first, min(first + step, n))
            at = places(n, block, device).flatten()
            blocks = []
            for side, packed, own in zip(sides, rows, within, strict=True):
                K = packed.index_select(1, at.to(packed.device))
                K = (_shares(K, side) if side.allocate else K).to(device).view(len(packed), -1, n)
                K.diagonal(first, 1, 2).zero_()
                own[block] = torch.linalg.vector_norm(K, dim=-1).square_().T
                blocks.append(K.transpose(0, 1))
            torch.bmm(blocks[0], blocks[-1].mT, out=xy[block])
        for name, value in zip(self.dims, (xy, within[0], within[-1]), strict=True):
            self.add(name, value)


class Subsets(Accumulator):
    """HSIC_1 of some samples alone, by the name of the subset; keys are (name, part)."""

    axis: str

    def add_subset(self, name: Any, n: int, xy: Tensor, xx: Tensor, yy: Tensor) -> None:
        """Adds to a subset what so many samples of a minibatch give."""
        for part, value in (("n", torch.tensor(n, dtype=torch.float64)), ("xy", xy), ("xx", xx), ("yy", yy)):
            self.add((name, part), value)

    def variables(self, n: int, x: LayerSteps, y: LayerSteps) -> dict[str, tuple[Any, ...]]:
        names = list(dict.fromkeys(name for name, _ in self.tensors))
        if not names:
            return {}
        n_of, *means = (np.stack([self.array((name, p)) for name in names]) for p in ("n", *_PARTS))
        counts = np.maximum(n_of, 1)
        return {
            self.axis: ((self.axis,), names),
            f"{self.axis}_n": ((self.axis,), n_of.astype(int)),
            **{
                f"{self.axis}_{part}": ((self.axis, *axes), mean / counts.reshape(-1, *[1] * len(axes)))
                for (part, axes), mean in zip(_PARTS.items(), means, strict=True)
            },
        }


class GroupSums(Subsets):
    """HSIC_1 of the samples of each group."""

    axis = "group"

    def update(self, batch: Centred) -> None:
        for name, mask in batch.groups.items():
            samples = mask.nonzero().flatten().cpu()
            n = len(samples)
            if n < MIN_SAMPLES:
                x, y = batch.wholes[0], batch.wholes[-1]
                nothing = x.rows.new_zeros(len(x.layers), len(y.layers))  # it is there, with no samples
                self.add_subset(name, 0, nothing, nothing[:, 0], nothing[0])
                continue
            rows = [side.part(samples) for side in batch.wholes]
            within = [n * hsic(side.unsqueeze(1), side.unsqueeze(1), n)[:, 0, 0] for side in rows]
            self.add_subset(name, n, n * hsic(rows[0], rows[-1], n), within[0], within[-1])


class FirstSamples(Subsets):
    """HSIC_1 of the first 64, 128, ... samples of each minibatch, by the trace formula.

    It takes row sums in place of Grams centred anew.
    """

    axis = "size"

    def update(self, batch: Centred) -> None:
        for size in SIZES:
            if size < batch.x.n:
                self._first(size, batch.wholes)

    def _first(self, n: int, wholes: tuple[Whole, ...]) -> None:
        device = wholes[0].rows.device
        sides = [side.first(n) for side in wholes]
        within, alike = [], []
        for rows, sums in sides:
            raw = 2 * torch.linalg.vector_norm(rows, dim=1).square()
            centring = sums.sum(1).square() / ((n - 1) * (n - 2)) - 2 / (n - 2) * sums.square().sum(1)
            centred = (raw + centring).to(device)
            # what centring leaves of alike samples is rounding, see Whole.part
            alike.append(centred <= ALIKE**2 * raw.to(device))
            within.append(centred.masked_fill(alike[-1], 0.0) / (n - 3))
        (K, r), (L, s) = sides[0], sides[-1]
        s = s.to(r.device)
        both = (
            2 * pair_products(K, L) + r.sum(1, keepdim=True) * s.sum(1) / ((n - 1) * (n - 2)) - 2 / (n - 2) * r @ s.mT
        )
        both = both.masked_fill(alike[0].unsqueeze(1) | alike[-1], 0.0)
        self.add_subset(n, n, both / (n - 3), within[0], within[-1])


class MeasureMeans(Accumulator):
    """Other measures of all steps concatenated: means over minibatches, weighted by their samples.

    Args:
        table: name -> measure.
    """

    def __init__(self, table: Mapping[str, Measure]) -> None:
        super().__init__()
        self.table = table

    def update(self, batch: Centred) -> None:
        x, y = batch.wholes[0], batch.wholes[-1]
        broken = x.norms.isnan().unsqueeze(1) | y.norms.to(x.rows.device).isnan()
        for name, measure in self.table.items():
            value = torch.as_tensor(measure.of(x, y), device=broken.device)
            if value.shape != broken.shape:
                expected = f"[layers of x, layers of y], {tuple(broken.shape)}"
                raise ValueError(f"measure {name!r}: expected values {expected}, got {tuple(value.shape)}")
            known = value.isfinite()  # else a layer has no structure in this minibatch, or is broken
            self.add((name, "value"), batch.x.n * value.where(known, 0.0).masked_fill(broken, torch.nan))
            self.add((name, "weight"), batch.x.n * (known | broken).to(torch.float64))

    def variables(self, n: int, x: LayerSteps, y: LayerSteps) -> dict[str, tuple[Any, ...]]:
        variables = {}
        for name, measure in self.table.items():
            value, weight = (self.array((name, part)) for part in ("value", "weight"))
            mean = np.where(weight > 0, value / np.maximum(weight, 1), np.nan)
            variables[f"measure_{name}"] = (_PAIR, mean, {"title": measure.title})
        return variables


def _within(batch: Grams) -> Tensor:
    """HSIC `[layers, T, T]` between the steps of each layer."""
    T, M = batch.index.shape[1], batch.rows.shape[1]
    blocks = batch.rows.new_zeros(len(batch.index), T, T)
    together = max(1, LARGE_CHUNK // (T * M)) if launch_bound(batch.rows.device) else 1
    for layers, rows, S in batch.alike(together):
        own = batch.rows[rows].unflatten(0, (-1, S))
        blocks[layers] = hsic(own, own, batch.n)  # of one row, which stands for all steps, one number
    return blocks


def _shares(rows: Tensor, side: Whole) -> Tensor:
    """K~ / |K~|_F of every layer: products of these are shares already, and float32 is enough for them."""
    shares = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    return torch.div(rows, torch.where(side.norms > 0, side.norms, 1.0).unsqueeze(1), out=shares)
