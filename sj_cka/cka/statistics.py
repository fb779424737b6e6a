"""How far a result can be trusted: intervals, differences, seeds, other sizes, chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from sj_cka.cka.jackknife import Kept, half_width, without_each_batch, without_each_sample
from sj_cka.cka.labelled import ratio

if TYPE_CHECKING:
    from sj_cka.cka.result import CKAResult

Over = Literal["samples", "batches"]


def interval(result: CKAResult, level: float, over: Over | None) -> pd.DataFrame:
    """Rows (layer_x, layer_y), columns cka, low, high; see `CKAResult.interval`."""
    _check_level(level)
    values = result.matrix().to_numpy()
    half = half_width(_left_out(result.data, over), level)
    return _table(result.data, {"cka": values, "low": values - half, "high": values + half})


def difference(a: CKAResult, b: CKAResult, level: float, over: Over | None) -> pd.DataFrame:
    """Rows (layer_x, layer_y) that both have, columns difference, low, high; see `CKAResult.difference`."""
    _check_level(level)
    sizes = [r.data.batch_n.values.tolist() if "batch_n" in r.data else [] for r in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"expected two results over the same samples in the same minibatches, got minibatches of {sizes[0][:8]} "
            f"and {sizes[1][:8]} samples"
        )
    layers = {side: [name for name in a.data[side].values if name in b.data[side].values] for side in _LAYERS}
    if not all(layers.values()):
        raise ValueError(
            f"expected results that share layers, got {a.layers_x[:3]} x {a.layers_y[:3]} ... and {b.layers_x[:3]} x "
            f"{b.layers_y[:3]} ..."
        )
    own = [r.data.sel(layers) for r in (a, b)]
    values = [r.matrix().loc[layers["layer_x"], layers["layer_y"]].to_numpy() for r in (a, b)]
    left = [_left_out(data, over) for data in own]
    half = half_width(left[0] - left[1], level)
    apart = values[0] - values[1]
    return _table(own[0], {"difference": apart, "low": apart - half, "high": apart + half})


def pool(results: Sequence[CKAResult], level: float = 0.95) -> pd.DataFrame:
    """Mean CKA over networks trained from other seeds, with Student t intervals over the seeds.

    Args:
        results: one for each seed, of the same layers; all steps concatenated.
        level: of the two-sided interval.

    Returns:
        Rows (layer_x, layer_y); columns cka (mean), low, high (NaN for one seed), seeds. A pair that is undefined for
        any seed is NaN.

    Raises:
        ValueError: no result, or other layers in one of them.
    """
    _check_level(level)
    if not results:
        raise ValueError("expected at least one result to pool, got none")
    matrices = [result.matrix() for result in results]
    for number, matrix in enumerate(matrices):
        if not (matrix.index.equals(matrices[0].index) and matrix.columns.equals(matrices[0].columns)):
            raise ValueError(f"expected the layers of the first result in every one, result {number} has others")
    values = np.stack([matrix.to_numpy() for matrix in matrices])
    n, mean = len(values), values.mean(0)
    half = np.full_like(mean, np.nan)
    if n > 1:
        half = stats.t.ppf(0.5 + level / 2, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    return _table(results[0].data, {"cka": mean, "low": mean - half, "high": mean + half}).assign(seeds=n)


def against_n(data: xr.Dataset) -> dict[int, np.ndarray]:
    """Number of samples -> CKA `[Lx, Ly]` of the first so many of every minibatch; empty where all have fewer."""
    _require(data, "sample_xy")
    if "size_xy" not in data:
        return {}
    values = ratio(data.size_xy.values, data.size_xx.values[:, :, None], data.size_yy.values[:, None])
    return {int(size): value for size, value in zip(data["size"].values, values, strict=True)}


def of_group(data: xr.Dataset, group: str) -> np.ndarray:
    """CKA `[Lx, Ly]` of the samples of one group alone."""
    if "group_xy" not in data:
        raise ValueError(f"expected a result of a comparison with groups=, got none when asked for group {group!r}")
    known = [str(name) for name in data.group.values]
    if group not in known:
        raise ValueError(f"expected a group of {', '.join(known[:20])}, got {group!r}")
    own = data.sel(group=group)
    return ratio(own.group_xy.values, own.group_xx.values[:, None], own.group_yy.values[None])


def heaviest(data: xr.Dataset, layer_x: str, layer_y: str, k: int) -> pd.DataFrame:
    """The k samples that move a cell most, see `CKAResult.heaviest`."""
    cell = data.sel(layer_x=[layer_x], layer_y=[layer_y])
    left = without_each_sample(_kept(cell))[:, 0, 0]
    own = (cell.hsic_xy.values.sum(), cell.hsic_xx.values.sum(), cell.hsic_yy.values.sum())
    value = ratio(*map(np.asarray, own))
    order = np.argsort(-np.abs(value - left), kind="stable")[:k]
    return pd.DataFrame(
        {"sample": order, "weight": value - left[order], "cka_without": left[order]}, index=range(1, len(order) + 1)
    )


def baseline(data: xr.Dataset) -> pd.DataFrame:
    """Rows (layer_x, layer_y), columns cka, chance, high, p; see `CKAResult.baseline`."""
    if "permuted_xy" not in data:
        raise ValueError("expected a result of a comparison with permutations=, e.g. permutations=200; got none")
    own_x = data.hsic_xx.values.sum((1, 2))[:, None]
    own_y = data.hsic_yy.values.sum((1, 2))[None]
    value = ratio(data.hsic_xy.values.sum((1, 3)), own_x, own_y)
    permuted = ratio(data.permuted_xy.values, own_x[None], own_y[None])
    count = len(permuted)
    p = (1 + (permuted >= value).sum(0)) / (1 + count)
    columns = {
        "cka": value,
        "chance": permuted.mean(0),
        "high": np.quantile(permuted, 0.95, axis=0),
        "p": np.where(np.isfinite(value), p, np.nan),
    }
    return _table(data, columns).assign(permutations=count)


_LAYERS = ("layer_x", "layer_y")


def _left_out(data: xr.Dataset, over: Over | None) -> np.ndarray:
    """CKA without each sample, or each minibatch."""
    if over not in (None, "samples", "batches"):
        raise ValueError(f'expected over="samples" or over="batches", got {over!r}')
    if over == "samples" or (over is None and "sample_xy" in data):
        return without_each_sample(_kept(data))
    if "batch_xy" not in data:
        raise ValueError("expected a result of compare() or CKA(), got one without its minibatches")
    return without_each_batch(*(data[f"batch_{own}"].values for own in ("xy", "xx", "yy", "n")))


def _kept(data: xr.Dataset) -> Kept:
    _require(data, "sample_xy")
    shares = (data[f"sample_{own}"].values.astype(np.float64) for own in ("xy", "xx", "yy"))
    return Kept(*shares, *(data[f"batch_{own}"].values for own in ("xy", "xx", "yy", "n")))


def _require(data: xr.Dataset, name: str) -> None:
    if name not in data:
        raise ValueError("expected a result with what every sample contributes, got one without: pass samples=True")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, e.g. 0.95, got {level!r}")


def _table(data: xr.Dataset, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([[str(name) for name in data[side].values] for side in _LAYERS], names=_LAYERS)
    return pd.DataFrame({name: value.ravel() for name, value in columns.items()}, index=index)
