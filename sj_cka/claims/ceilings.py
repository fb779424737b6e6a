"""Noise ceilings: a network against itself trained from another seed, and what is set over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit  # quantiles of Student's t

from sj_cka.claims.evidence import Evidence
from sj_cka.claims.inference import ALL, LEVEL, Cells, spread
from sj_cka.claims.statements import Arm

LEAST_CEILING = 0.3  # below it a share of the ceiling is mostly noise
_NAMED = 5  # layers in a note


class Ceilings(NamedTuple):
    """Seed against seed of the two networks of a comparison.

    Args:
        layers: names, in order.
        sides: of each network its similarity to itself `[cell, layer]`, and where that comes from.
    """

    layers: Sequence[str]
    sides: Sequence[tuple[np.ndarray, Cells]]

    @classmethod
    def of(cls, arm: Arm, evidence: Evidence, layers: Sequence[str], variant: str | None = None) -> Ceilings | None:
        """Those of an arm's comparison; None where it has not two."""
        found = evidence.ceilings(arm, variant)
        tables = [(values.reindex(columns=list(layers)).to_numpy(float), cells) for values, cells in found]
        return cls(layers, tables) if len(tables) == 2 else None

    def mean(self, gone: frozenset[str] = ALL) -> np.ndarray:
        """Geometric mean of the two networks' similarity to themselves `[layer]`; NaN where one is not positive."""
        means = []
        for values, cells in self.sides:
            kept = values[without(cells, gone)]
            means.append(kept.mean(0) if len(kept) else np.full(len(self.layers), np.nan))
        both = np.array(means)
        return np.sqrt(np.where((both > 0).all(axis=0), both.prod(axis=0), np.nan))

    def high(self) -> list[str]:
        """Layers whose ceiling is surely at least LEAST_CEILING: the lower bound of its interval is."""
        if not self.layers:
            return []
        value, variance, df = spread(self.mean, [cells for _, cells in self.sides])
        with np.errstate(invalid="ignore"):
            low = value - stdtrit(np.maximum(df, 1e-9), 1 - LEVEL / 2) * np.sqrt(variance)
        return [layer for layer, bound in zip(self.layers, low, strict=True) if bound >= LEAST_CEILING]

    def independent(self, cells: Cells) -> bool:
        """Whether no value is of two networks that start from equal weights, or one of which is made of the other."""
        of_x, of_y = ({seed: self._origins(i, seed) for seed in _seeds(own)} for i, (_, own) in enumerate(self.sides))
        return not any(of_x.get(i, ALL) & of_y.get(j, ALL) for i, j in cells.seeds)

    def _origins(self, side: int, seed: int) -> frozenset[str]:
        """What a network hangs on: what all cells that it stands in have in common."""
        cells = self.sides[side][1]
        return frozenset.intersection(*(o for pair, o in zip(cells.seeds, cells.origins, strict=True) if seed in pair))


def low_layers(layers: Sequence[str], kept: Sequence[str]) -> str:
    """Which layers are left out, in words; "" where none is."""
    low = [layer for layer in layers if layer not in kept]
    some = ", ".join(low[:_NAMED]) + (f" and {len(low) - _NAMED} more" if len(low) > _NAMED else "")
    what = "1 layer is" if len(low) == 1 else f"{len(low)} layers are"
    return f"{what} left out, their ceiling not surely at least {LEAST_CEILING:g}: {some}" if low else ""


def without(cells: Cells, gone: frozenset[str]) -> np.ndarray:
    """Which cells hang on nothing that is gone, bool `[cell]`."""
    return np.array([not (origins & gone) for origins in cells.origins], dtype=bool)


def _seeds(cells: Cells) -> set[int]:
    return {seed for pair in cells.seeds for seed in pair}
