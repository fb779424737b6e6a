"""Which layers and steps one side of a comparison has, and which of them have no CKA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sj_cka.cka.gram import BEYOND
from sj_cka.cka.layer_grams import Grams


@dataclass
class LayerSteps:
    """The layers and steps of one side and, over minibatches, where and why each row was undefined.

    Args:
        layers, index: as of `Grams`.
        reasons: one a row; None once it was defined in any minibatch.
        broken: row -> first sample that is not finite, None where float64 does not hold the HSIC.
        units: number of units of each layer, the smallest of any minibatch; 0 where it is not known.
    """

    layers: tuple[str, ...]
    index: Tensor
    reasons: list[str | None]
    broken: dict[int, int | None] = field(default_factory=dict)
    units: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, batch: Grams, place: int) -> LayerSteps:
        """Those of a minibatch whose first sample is at `place`."""
        broken = {
            row: None if reason == BEYOND else place + int(reason.rsplit(" ", 1)[1])
            for row, reason in enumerate(batch.reasons)
            if reason is not None and (reason == BEYOND or reason.startswith("NaN"))
        }
        units = [batch.units.get(layer, 0) for layer in batch.layers]
        return cls(batch.layers, batch.index, list(batch.reasons), broken, units)

    def merge(self, other: LayerSteps, place: int = 0) -> None:
        """Notes those of other minibatches, which begin at `place`."""
        pairs = zip(self.reasons, other.reasons, strict=True)
        self.reasons = [None if theirs is None else mine for mine, theirs in pairs]
        self.units = [min(both) for both in zip(self.units, other.units, strict=True)]
        for row, sample in other.broken.items():
            self.broken.setdefault(row, None if sample is None else place + sample)

    def expect(self, name: str, other: Grams | LayerSteps) -> None:
        """Raises ValueError where the layers or steps of another minibatch are others."""
        if self.layers != other.layers or not torch.equal(self.index, other.index):
            raise ValueError(
                f"{name}: expected the layers and steps of the batches before, {summary(self)}, got {summary(other)}"
            )

    def undefined(self, side: str) -> Iterator[dict[str, Any]]:
        """A row (side, layer, step, reason) for each step that has no CKA."""
        for layer, rows in zip(self.layers, self.index.tolist(), strict=True):
            for step, row in enumerate(rows, 1):
                reason, sample = self.reasons[row], self.broken.get(row)
                if row in self.broken:
                    reason = BEYOND if sample is None else f"NaN or infinite at sample {sample}"
                if reason is not None:
                    yield {"side": side, "layer": layer, "step": step, "reason": reason}


def summary(rows: Grams | LayerSteps) -> str:
    """The number of layers and steps, and the first names, for messages."""
    names = ", ".join(rows.layers[:3]) + (", ..." if len(rows.layers) > 3 else "")
    return f"{len(rows.layers)} layers ({names}) of {rows.index.shape[1]} steps"
