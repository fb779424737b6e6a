"""Values over seeds: means with their 95 % intervals, as figures and readers of results take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from sj_cka.cka import CKAResult
from sj_cka.claims import half_width, interval

if TYPE_CHECKING:
    from sj_cka.comparisons import Compared
    from sj_cka.recipe import Sides


def accuracy_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Columns network, split, mean, low, high, seeds: means with 95 % intervals over seeds, in the study's order."""
    rows = []
    for (network, split), group in table.groupby(["network", "split"], sort=False):
        over = interval(group["accuracy"].to_numpy())
        rows.append((network, split, over.mean, over.low, over.high, over.n))
    return pd.DataFrame(rows, columns=["network", "split", "mean", "low", "high", "seeds"])


def of_layers(table: pd.DataFrame, comparison: str, variant: str, state: str, column: str = "cka") -> pd.DataFrame:
    """Mean, low, high of a value of each layer over seeds, by default of paired CKA; a ceiling has no interval."""
    rows = table[(table.comparison == comparison) & (table.variant == variant) & (table.state == state)]
    return over_seeds(rows, "layer", column)


def over_seeds(rows: pd.DataFrame, index: str, column: str = "accuracy") -> pd.DataFrame:
    """Mean, low, high over the rows, one a seed, of each value of `index`, in order."""
    values = rows[index].drop_duplicates()
    over = [interval(rows[rows[index] == value][column].to_numpy())[:3] for value in values]
    return pd.DataFrame(over, index=pd.Index(values, name=index), columns=["mean", "low", "high"])


def by_value(table: pd.DataFrame, values: Mapping[str, float]) -> pd.DataFrame:
    """Columns value, seed, measured of a table `[seed, variant]`, in order of the swept values."""
    rows = [(value, seed, measured) for name, value in values.items() for seed, measured in table[name].items()]
    return pd.DataFrame(rows, columns=["value", "seed", "measured"]).sort_values("value", kind="stable")


class Between(NamedTuple):
    """Every variant with every other: mean, half-width of its interval and floor `[variant, variant]`."""

    mean: pd.DataFrame
    spread: pd.DataFrame
    floor: pd.DataFrame
    layers: int


def between(results: Iterable[Compared], comparison: str, sides: Mapping[str, Sides]) -> Between:
    """Mean paired CKA of a comparison of pairs of variants, over the layers that are defined in all of it.

    On the diagonal, without interval and floor, is each network against itself from another seed.
    """
    shared = [(c, c.result.paired(measure=c.measure)) for c in results if c.comparison == comparison]
    layers = [layer for layer in shared[0][1].index if all(pd.notna(values.get(layer)) for _, values in shared)]
    names = list(dict.fromkeys(name for pair in sides.values() for name in pair[:2]))
    empty = pd.DataFrame(np.nan, index=names, columns=names)
    mean, spread, floor = empty.copy(), empty.copy(), empty.copy()

    def values(variant: str, state: str, kind: str = "") -> np.ndarray:
        rows = [(c.seed, s[layers].mean()) for c, s in shared if (c.variant, c.state, c.kind) == (variant, state, kind)]
        return pd.DataFrame(rows, columns=["seed", "cka"]).groupby("seed")["cka"].mean().to_numpy()

    for variant, (x, y, *_) in sides.items():
        for row, column in ((x, y), (y, x)):
            mean.loc[row, column] = values(variant, "trained").mean()
            spread.loc[row, column] = half_width(values(variant, "trained"))
            floor.loc[row, column] = values(variant, "untrained").mean()
        for name in (x, y):
            pairs = [s[layers].mean() for c, s in shared if (c.variant, c.state, c.kind) == (variant, "ceiling", name)]
            mean.loc[name, name] = np.mean(pairs) if pairs else np.nan
    return Between(mean, spread, floor, len(layers))


def mean_frames(
    by_seed: Sequence[Sequence[CKAResult]], measure: str = "cka"
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """A heatmap's matrices, mean over seeds, and half-widths of their 95 % intervals; NaN where any is undefined.

    Args:
        by_seed: the results of each seed: one, or one for each other seed that it is compared with.
        measure: of similarity.
    """
    frames = [[result.frames(measure) for result in results] for results in by_seed]
    means, spread = {}, {}
    for label, first in frames[0][0].items():
        values = np.stack([np.mean([frame[label].to_numpy() for frame in own], axis=0) for own in frames])
        means[label] = pd.DataFrame(values.mean(0), index=first.index, columns=first.columns)
        spread[label] = pd.DataFrame(half_width(values), index=first.index, columns=first.columns)
    return means, spread


def diagonal(matrix: pd.DataFrame) -> pd.Series:
    """Values of layers of the same name; empty where there are none."""
    layers = [layer for layer in matrix.index if layer in matrix.columns]
    return pd.Series([matrix.loc[layer, layer] for layer in layers], index=layers, dtype=float)
