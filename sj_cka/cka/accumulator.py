"""CKA over minibatches: sums of HSIC between every layer and step of two networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sj_cka.cka.gram import centred_grams
from sj_cka.cka.hsic import hsic
from sj_cka.cka.result import CKAResult

MIN_SAMPLES = 4  # the unbiased HSIC divides by n - 3


@dataclass
class Grams:
    """Centred Grams of one network on one minibatch of n samples.

    Args:
        layers: names, in order.
        rows: float64 `[R, n(n-1)/2]`.
        index: int64 `[layers, T]`, the row of each layer and step (a layer that does not change with time has one row).
        reasons: one a row; None where it is defined.
        n: number of samples.
    """

    layers: tuple[str, ...]
    rows: Tensor
    index: Tensor
    reasons: tuple[str | None, ...]
    n: int


def grams(features: Mapping[str, Tensor]) -> Grams:
    """Centred Grams of features `{layer: [T, N, ...]}`; a layer with T = 1 counts at every step of the others."""
    if not features:
        raise ValueError("expected at least one layer of features, got none")
    shapes = {layer: tuple(X.shape[:2]) for layer, X in features.items()}
    n = next(iter(shapes.values()))[1] if len(next(iter(shapes.values()))) == 2 else 0
    T = max(shape[0] for shape in shapes.values())
    for layer, shape in shapes.items():
        if len(shape) < 2 or shape[1] != n or shape[0] not in (1, T):
            raise ValueError(
                f"layer {layer!r}: expected features [T, N, ...] with T = 1 or {T} and N = {n}, "
                f"got shape {tuple(features[layer].shape)}"
            )
    if n < MIN_SAMPLES:
        raise ValueError(f"expected at least {MIN_SAMPLES} samples in a minibatch, got N = {n}")
    rows: list[Tensor] = []
    index: list[list[int]] = []
    reasons: list[str | None] = []
    for X in features.values():
        centred = centred_grams(X.detach().flatten(2) if X.ndim > 2 else X.detach().unsqueeze(-1))
        first = len(reasons)
        index.append([first + (t if X.shape[0] == T else 0) for t in range(T)])
        rows.append(centred.rows)
        reasons.extend(centred.reasons)
    return Grams(tuple(features), torch.cat(rows), torch.tensor(index), tuple(reasons), n)


@dataclass
class _Side:
    """What is known of one network: the layers, rows and, over batches, where and why each row was undefined."""

    layers: tuple[str, ...]
    index: Tensor
    reasons: list[str | None]  # of the batches so far: None once a row was defined in any of them
    not_finite: dict[int, str]

    def add(self, batch: Grams, seen: int, first: bool) -> None:
        for row, reason in enumerate(batch.reasons):
            if reason is None:
                self.reasons[row] = None
            elif reason.startswith("NaN"):
                at = seen + int(reason.rsplit(" ", 1)[1])
                self.not_finite.setdefault(row, f"NaN or infinite at sample {at}")
            elif first:
                self.reasons[row] = reason


class CKA:
    """Accumulates CKA between all layers and steps of two networks over minibatches of the same samples.

    Every minibatch adds n_b HSIC_1 of each pair to float64 sums, and the ratio is taken last (after Nguyen et al. 2021,
    eq. 3; the weight n_b lets a short batch count as a short one):

        CKA = sum_b n_b HSIC(K_b, L_b) / sqrt( sum_b n_b HSIC(K_b, K_b) sum_b n_b HSIC(L_b, L_b) )

    Being sums, states merge: of processes, or of parts of a data set.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> cka = CKA()
        >>> for _ in range(2):  # [T, N, D]: four steps of a spiking layer, one of its twin
        ...     cka.update({"lif": torch.rand(4, 16, 8, generator=g)}, {"relu": torch.rand(1, 16, 8, generator=g)})
        >>> cka.compute().data.cka.dims
        ('layer_x', 'step_x', 'layer_y', 'step_y')
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all minibatches."""
        self.x: _Side | None = None
        self.y: _Side | None = None
        self.n = 0
        self.batches = 0
        self.xy = self.xx = self.yy = torch.empty(0)

    def update(self, features_x: Mapping[str, Tensor], features_y: Mapping[str, Tensor] | None = None) -> None:
        """Adds one minibatch.

        Args:
            features_x: `{layer: [T, N, ...]}` of the first network, N >= 4 samples.
            features_y: `{layer: [T', N, ...]}` of the second on the same samples; None compares x with itself.

        Raises:
            ValueError: shapes, layers or numbers of steps that do not fit each other or the batches before.
        """
        x = grams(features_x)
        self.update_grams(x, x if features_y is None else grams(features_y))

    def update_grams(self, x: Grams, y: Grams) -> None:
        """Adds one minibatch given as centred Grams."""
        if x.n != y.n:
            raise ValueError(f"expected the same samples on both sides, got N = {x.n} and {y.n}")
        if self.x is None or self.y is None:
            self.x, self.y = (_Side(s.layers, s.index, list(s.reasons), {}) for s in (x, y))
            self.xy = torch.zeros(len(x.rows), len(y.rows), dtype=torch.float64, device=x.rows.device)
            self.xx, self.yy = (
                torch.zeros(_within_shape(s.index), dtype=torch.float64, device=s.rows.device) for s in (x, y)
            )
        for name, side, batch in (("x", self.x, x), ("y", self.y, y)):
            _expect_same(name, side, batch.layers, batch.index)
            side.add(batch, self.n, first=self.batches == 0)
        self.xy += x.n * hsic(x.rows, y.rows.to(x.rows.device), x.n)
        self.xx += x.n * _within(x)
        self.yy += y.n * _within(y) if y is not x else x.n * _within(x)
        self.n += x.n
        self.batches += 1

    def merge(self, other: CKA) -> None:
        """Adds what another accumulator of the same layers has seen, on samples after this one's."""
        if other.x is None or other.y is None:
            return
        if self.x is None or self.y is None:
            self.load_state_dict(other.state_dict())
            return
        for name, mine, theirs in (("x", self.x, other.x), ("y", self.y, other.y)):
            _expect_same(name, mine, theirs.layers, theirs.index)
            for row, reason in enumerate(theirs.reasons):
                if reason is None:
                    mine.reasons[row] = None
            for row, reason in theirs.not_finite.items():
                at = self.n + int(reason.rsplit(" ", 1)[1])
                mine.not_finite.setdefault(row, f"NaN or infinite at sample {at}")
        self.xy = self.xy + other.xy.to(self.xy.device)
        self.xx = self.xx + other.xx.to(self.xx.device)
        self.yy = self.yy + other.yy.to(self.yy.device)
        self.n += other.n
        self.batches += other.batches

    def state_dict(self) -> dict[str, Any]:
        """The sums and names, as tensors, lists and numbers."""
        state: dict[str, Any] = {"n": self.n, "batches": self.batches}
        if self.x is not None and self.y is not None:
            state |= {"xy": self.xy.clone(), "xx": self.xx.clone(), "yy": self.yy.clone()}
            for name, side in (("x", self.x), ("y", self.y)):
                state[name] = {
                    "layers": list(side.layers),
                    "index": side.index.clone(),
                    "reasons": list(side.reasons),
                    "not_finite": dict(side.not_finite),
                }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state that `state_dict` gave."""
        self.reset()
        self.n, self.batches = state["n"], state["batches"]
        if "x" in state:
            self.xy, self.xx, self.yy = (state[key].clone() for key in ("xy", "xx", "yy"))
            self.x, self.y = (
                _Side(tuple(s["layers"]), s["index"].clone(), list(s["reasons"]), dict(s["not_finite"]))
                for s in (state["x"], state["y"])
            )

    def compute(self, attrs: Mapping[str, Any] | None = None) -> CKAResult:
        """The result over all minibatches so far.

        Args:
            attrs: names and numbers that the result carries along.

        Raises:
            ValueError: nothing was seen yet.
        """
        if self.x is None or self.y is None:
            raise ValueError("expected at least one minibatch before compute(), got none: call update() first")
        ix, iy = self.x.index, self.y.index
        xy = self.xy.cpu()[ix][:, :, iy] / self.n
        xx, yy = self.xx.cpu() / self.n, self.yy.cpu() / self.n
        undefined = [
            {"side": name, "layer": layer, "step": t + 1, "reason": reason}
            for name, side in (("x", self.x), ("y", self.y))
            for layer, rows in zip(side.layers, side.index.tolist(), strict=True)
            for t, row in enumerate(rows)
            if (reason := side.not_finite.get(row) or side.reasons[row]) is not None
        ]
        sums = {"hsic_xy": xy.numpy(), "hsic_xx": xx.numpy(), "hsic_yy": yy.numpy()}
        return CKAResult.from_hsic(
            self.x.layers, self.y.layers, **sums, n=self.n, undefined=undefined, attrs=attrs or {}
        )


def _expect_same(name: str, side: _Side, layers: Sequence[str], index: Tensor) -> None:
    if side.layers != tuple(layers) or not torch.equal(side.index, index):
        raise ValueError(
            f"{name}: expected the layers and steps of the batches before, {_summary(side.layers, side.index)}, "
            f"got {_summary(layers, index)}"
        )


def _summary(layers: Sequence[str], index: Tensor) -> str:
    return (
        f"{len(layers)} layers ({', '.join(layers[:3])}{', ...' if len(layers) > 3 else ''}) of {index.shape[1]} steps"
    )


def _within_shape(index: Tensor) -> tuple[int, int, int]:
    return (len(index), index.shape[1], index.shape[1])


def _within(batch: Grams) -> Tensor:
    """HSIC `[layers, T, T]` between the steps of each layer."""
    blocks = batch.rows.new_zeros(_within_shape(batch.index))
    for layer, rows in enumerate(batch.index.tolist()):
        span = batch.rows[rows[0] : rows[-1] + 1]  # the rows of a layer lie together; one row stands for all its steps
        blocks[layer] = hsic(span, span, batch.n)
    return blocks
