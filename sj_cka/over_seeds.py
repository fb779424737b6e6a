"""Values over seeds: means with their 95 % intervals, as figures and readers of results take them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Interval(NamedTuple):
    """Mean and two-sided 95 % Student t interval over n seeds; low and high are NaN under 2."""

    mean: float
    low: float
    high: float
    n: int


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
    return np.asarray(stats.t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n))


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
