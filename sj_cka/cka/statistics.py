"""How far a result can be trusted: intervals, differences, seeds, other sizes, chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from sj_cka.cka.jackknife import Kept, half_width, without_each_batch, without_each_sample
from sj_cka.cka.labelled import ratio
from sj_cka.cka.over_time import all_steps

Over = Literal["samples", "batches"]


def interval(data: xr.Dataset, level: float, over: Over | None) -> pd.DataFrame:
    """Rows (layer_x, layer_y), columns cka, low, high; see `CKAResult.interval`."""
    _check_level(level)
    values = all_steps(data)
    half = half_width(_left_out(data, over), level)
    return _table(data, {"cka": values, "low": values - half, "high": values + half})


def difference(a: xr.Dataset, b: xr.Dataset, level: float, over: Over | None) -> pd.DataFrame:
    """Rows (layer_x, layer_y) that both have, columns difference, low, high; see `CKAResult.difference`."""
    _check_level(level)
    sizes = [data.batch_n.values.tolist() if "batch_n" in data else [] for data in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"expected two results over the same samples in the same minibatches, got minibatches of {sizes[0][:8]} "
            f"and {sizes[1][:8]} samples"
        )
    _compare_inputs(a, b)
    layers = {side: [name for name in a[side].values if name in b[side].values] for side in _LAYERS}
    if not all(layers.values()):
        names = [f"{list(data.layer_x.values[:3])} x {list(data.layer_y.values[:3])} ..." for data in (a, b)]
        raise ValueError(f"expected results that share layers, got {names[0]} and {names[1]}")
    own = [data.sel(layers) for data in (a, b)]
    if over is None:
        over = "samples" if all("sample_xy" in data for data in own) else "batches"
    left = [_left_out(data, over) for data in own]
    half = half_width(left[0] - left[1], level)
    apart = all_steps(own[0]) - all_steps(own[1])
    return _table(own[0], {"difference": apart, "low": apart - half, "high": apart + half})


def pool(results: Sequence[xr.Dataset], level: float) -> pd.DataFrame:
    """Rows (layer_x, layer_y), columns cka, low, high, seeds; see `sj_cka.pool`."""
    _check_level(level)
    if not results:
        raise ValueError("expected at least one result to pool, got none")
    for number, data in enumerate(results):
        if any(list(data[side].values) != list(results[0][side].values) for side in _LAYERS):
            raise ValueError(f"expected the layers of the first result in every one, result {number} has others")
    values = np.stack([all_steps(data) for data in results])
    n, mean = len(values), values.mean(0)
    half = np.full_like(mean, np.nan)
    if n > 1:
        half = stats.t.ppf(0.5 + level / 2, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    return _table(results[0], {"cka": mean, "low": mean - half, "high": mean + half}).assign(seeds=n)


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
    group, known = str(group), [str(name) for name in data.group.values]
    if group not in known:
        raise ValueError(f"expected a group of {', '.join(known[:20])}, got {group!r}")
    own = data.sel(group=group)
    return ratio(own.group_xy.values, own.group_xx.values[:, None], own.group_yy.values[None])


def influence(data: xr.Dataset, layer_x: str, layer_y: str, k: int) -> pd.DataFrame:
    """The k samples that move a cell most, see `CKAResult.influence`."""
    cell = data.sel(layer_x=[layer_x], layer_y=[layer_y])
    left = without_each_sample(_kept(cell))[:, 0, 0]
    value = all_steps(cell)[0, 0]
    if k < 1:
        raise ValueError(f"expected k, how many samples, from 1, got {k}")
    if not np.isfinite(value):
        raise ValueError(f"{layer_x!r} with {layer_y!r} has no CKA; see result.undefined")
    order = np.argsort(-np.abs(value - left), kind="stable")[:k]
    places = cell.batch_place.values, cell.batch_n.values
    place = np.concatenate([first + np.arange(n) for first, n in zip(*places, strict=True)])
    return pd.DataFrame(
        {"sample": place[order], "influence": value - left[order], "cka_without": left[order]},
        index=range(1, len(order) + 1),
    )


def baseline(data: xr.Dataset) -> pd.DataFrame:
    """Rows (layer_x, layer_y), columns cka, chance, high, p; see `CKAResult.baseline`."""
    if "permuted_xy" not in data:
        raise ValueError("expected a result of a comparison with permutations=, e.g. permutations=200; got none")
    own_x, own_y = data.hsic_xx.values.sum((1, 2))[:, None], data.hsic_yy.values.sum((1, 2))[None]
    value = all_steps(data)
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


def _compare_inputs(a: xr.Dataset, b: xr.Dataset) -> None:
    """Warns where the inputs of two results are known and are not the same."""
    if not all("batch_seed" in data for data in (a, b)):
        return
    differing = np.flatnonzero(a.batch_seed.values != b.batch_seed.values)
    if len(differing):
        first, n = (int(a[f"batch_{name}"].values[differing[0]]) for name in ("place", "n"))
        warnings.warn(
            f"the inputs of the two results differ in {len(differing)} of {a.sizes['batch']} minibatches, first in "
            f"minibatch {differing[0]} (samples {first} to {first + n - 1}): the intervals hold only if they are the "
            "same samples in another form, e.g. attacked images beside clean ones",
            stacklevel=4,
        )


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
