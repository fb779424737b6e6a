"""Values over seeds: means with their 95 % intervals, as figures and readers of results take them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # quantiles of Student's t


class Interval(NamedTuple):
    """Mean and two-sided 95 % Student t interval over n seeds; low and high are NaN under 2."""

    mean: float
    low: float
    high: float
    n: int


def fisher_interval(values: pd.Series) -> Interval:
    """Mean of correlations, such as CKA, with a 95 % interval on Fisher's z, so that it stays within -1 and 1.

    Args:
        values: by (seed of x, seed of y).
    """
    mean, z = float(values.mean()), np.arctanh(values.clip(-_NEAR_ONE, _NEAR_ONE).to_numpy(float))
    half = float(crossed_half_width(z, list(values.index)))
    centre = np.arctanh(np.clip(mean, -_NEAR_ONE, _NEAR_ONE))
    low, high = (float(np.tanh(centre + by)) for by in (-half, half))
    return Interval(mean, low, high, len({seed for seed, _ in values.index}))


_NEAR_ONE = 1 - 1e-12


def crossed_half_width(values: np.ndarray, seeds: Sequence[tuple[int, int]]) -> np.ndarray:
    """Half of the 95 % interval of values `[cell, ...]` of pairs of seeds; NaN under 2 seeds of x.

    Where a seed of x meets several of y the values are two crossed samples: the squares of the half-widths over the
    means of both add up. Where none meets its own, x and y have networks or weights in common (`seeds: across`), and
    the half-widths themselves add up.
    """
    of_x, of_y = (np.array([pair[side] for pair in seeds]) for side in (0, 1))
    if len(set(of_x)) == len(seeds):
        return half_width(values)
    x, y = (half_width(np.stack([values[of == s].mean(axis=0) for s in np.unique(of)])) for of in (of_x, of_y))
    return np.asarray(np.hypot(x, y) if (of_x == of_y).any() else x + y)


def interval(values: pd.Series | np.ndarray) -> Interval:
    """Mean and 95 % Student t interval over seeds.

    Example:
        >>> [round(v, 3) for v in interval(np.array([1.0, 2.0, 3.0]))]
        [2.0, -0.484, 4.484, 3]
    """
    values = np.asarray(values, dtype=float)
    mean, half = (float(values.mean()) if len(values) else float("nan")), float(half_width(values))
    return Interval(mean, mean - half, mean + half, len(values))


def half_width(values: np.ndarray) -> np.ndarray:
    """Half of the 95 % Student t interval of values `[n, ...]` over n seeds; NaN under 2."""
    n = len(values)
    if n < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(stdtrit(n - 1, 0.975) * values.std(axis=0, ddof=1) / np.sqrt(n))


def accuracy_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Columns network, split, mean, low, high, seeds: means with 95 % intervals over seeds, in the study's order.

    Bounds beyond 0 and 1, which no accuracy reaches, are cut there.
    """
    rows = []
    for (network, split), group in table.groupby(["network", "split"], sort=False):
        over = interval(group["accuracy"].to_numpy())
        rows.append((network, split, over.mean, *np.clip([over.low, over.high], 0, 1).tolist(), over.n))
    return pd.DataFrame(rows, columns=["network", "split", "mean", "low", "high", "seeds"])


def of_layers(
    table: pd.DataFrame, comparison: str, variant: str, state: str, column: str = "cka", *, correlation: bool = False
) -> pd.DataFrame:
    """Mean, low, high of a value of each layer over seeds, by default of paired CKA.

    A noise ceiling is the geometric mean of the two networks' means, NaN where one of them is negative, and has no
    interval: pairs of seeds are not independent.

    Args:
        table: columns comparison, variant, state, kind, seed, seed_y, layer and that of the value.
        comparison, variant, state: which rows.
        column: of the value.
        correlation: take the interval on Fisher's z.
    """
    rows = table[(table.comparison == comparison) & (table.variant == variant) & (table.state == state)]
    layers = rows["layer"].drop_duplicates()
    if state == "ceiling":
        means = rows.groupby(["layer", "kind"], sort=False)[column].mean().groupby(level="layer", sort=False)
        top = (means.prod(min_count=2).where(means.min() >= 0) ** 0.5).reindex(layers)
        return pd.DataFrame({"mean": top, "low": np.nan, "high": np.nan}).rename_axis("layer")
    cells = rows.set_index(["seed", "seed_y"])
    of = fisher_interval if correlation else _interval
    over = [of(cells.loc[cells["layer"] == layer, column])[:3] for layer in layers]
    return pd.DataFrame(over, index=pd.Index(layers, name="layer"), columns=["mean", "low", "high"])


def _interval(values: pd.Series) -> Interval:
    mean, half = float(values.mean()), float(crossed_half_width(values.to_numpy(float), list(values.index)))
    return Interval(mean, mean - half, mean + half, len(values))


def over_seeds(rows: pd.DataFrame, index: str, column: str = "accuracy") -> pd.DataFrame:
    """Mean, low, high over the rows, one a seed, of each value of `index`, in order."""
    values = rows[index].drop_duplicates()
    over = [interval(rows[rows[index] == value][column].to_numpy())[:3] for value in values]
    return pd.DataFrame(over, index=pd.Index(values, name=index), columns=["mean", "low", "high"])


def by_value(table: pd.DataFrame, values: Mapping[str, float]) -> pd.DataFrame:
    """Columns value, seed, measured of a table `[seed, variant]`, in order of the swept values."""
    rows = [(value, seed, measured) for name, value in values.items() for seed, measured in table[name].items()]
    return pd.DataFrame(rows, columns=["value", "seed", "measured"]).sort_values("value", kind="stable")
