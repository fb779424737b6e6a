"""How far a result can be trusted: intervals, differences, seeds, other sizes, chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from sj_cka.cka.measures import ratio
from sj_cka.cka.over_time import all_steps, place_of

if TYPE_CHECKING:
    from sj_cka.cka.result import CKAResult

Over = Literal["samples", "batches"]
MIN_BATCHES = 8  # of a jackknife over batches: fewer say too little about their spread


def interval(result: CKAResult, level: float = 0.95, *, over: Over | None = None) -> pd.DataFrame:
    """Two-sided intervals of the CKA of concatenated features, by the jackknife.

    Each sample is left out to first order, from what it contributes to HSIC_1: h_i = sum_j K~_ij L~_ij, HSIC
    without i = (S - 2 h_i) / ((n-1)(n-4)). The interval says how the value would move with other samples of the
    same kind, not with other networks: for that `pool` seeds. For independent features the estimator is degenerate
    and the interval too wide; ask `baseline` whether a value is beyond chance.

    Args:
        level: of the interval.
        over: "samples" (the default where they were kept) or "batches", at least 8 of them.

    Returns:
        Rows (layer_x, layer_y), columns `cka`, `low`, `high`.

    Raises:
        ValueError: a level outside (0, 1); samples that were not kept and fewer than 8 minibatches.
    """
    _check_level(level)
    values = all_steps(result.data)
    half = _half_width(_left_out(result.data, over), level)
    return _table(result.data, {"cka": values, "low": values - half, "high": values + half})


def difference(result: CKAResult, other: CKAResult, level: float = 0.95, *, over: Over | None = None) -> pd.DataFrame:
    """This CKA minus that of another comparison over the same samples in the same order, with paired intervals.

    Samples are paired by their place. Where both results know their inputs (`batch_seed`, as those of `compare`
    do) and these differ, a `UserWarning` names the first minibatch in which they do: the samples may be the same
    in another form, such as attacked images beside clean ones, or be others, which cannot be paired. Where a
    result does not know them, the caller answers for the samples.

    Returns:
        Rows (layer_x, layer_y) that both have, columns `difference`, `low`, `high`.

    Raises:
        ValueError: other numbers of samples in the minibatches, or no layers in common.
    """
    _check_level(level)
    a, b = result.data, other.data
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
    shared = [data.sel(layers) for data in (a, b)]
    if over is None:
        over = "samples" if all("sample_xy" in data for data in shared) else "batches"
    left = [_left_out(data, over) for data in shared]
    half = _half_width(left[0] - left[1], level)
    apart = all_steps(shared[0]) - all_steps(shared[1])
    return _table(shared[0], {"difference": apart, "low": apart - half, "high": apart + half})


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
    for number, result in enumerate(results):
        if (result.layers_x, result.layers_y) != (results[0].layers_x, results[0].layers_y):
            raise ValueError(f"expected the layers of the first result in every one, result {number} has others")
    values = np.stack([all_steps(result.data) for result in results])
    n, mean = len(values), values.mean(0)
    half = np.full_like(mean, np.nan)
    if n > 1:
        half = stats.t.ppf(0.5 + level / 2, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    return _table(results[0].data, {"cka": mean, "low": mean - half, "high": mean + half}).assign(seeds=n)


def against_n(result: CKAResult, layer_x: str | None = None, layer_y: str | None = None) -> pd.DataFrame:
    """Is n enough? CKA of the first 64, 128, 256, ... samples of every minibatch, and of all.

    Args:
        layer_x, layer_y: one cell; None for all layers of the same name.

    Returns:
        `[n, layer]` (or one column), n the samples of a minibatch.
    """
    data = result.data
    _expect_held(data, "sample_xy", _OF_SAMPLES)
    table = {}
    if "size_xy" in data:
        values = ratio(data.size_xy.values, data.size_xx.values[:, :, None], data.size_yy.values[:, None])
        table = {int(n): result.framed(value) for n, value in zip(data["size"].values, values, strict=True)}
    table[int(data.batch_n.values.max())] = result.matrix()
    cells = [(name, name) for name in result.shared_layers] if layer_x is None else [_cell(result, layer_x, layer_y)]
    rows = {n: [matrix.loc[x, y] for x, y in cells] for n, matrix in table.items()}
    names = [x if x == y else f"{x} | {y}" for x, y in cells]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis(index="n", columns="layer")


def of_group(data: xr.Dataset, group: str) -> np.ndarray:
    """CKA `[Lx, Ly]` of the samples of one group alone."""
    _expect_held(data, "group_xy", "groups=")
    group, known = str(group), [str(name) for name in data.group.values]
    if group not in known:
        raise ValueError(f"expected a group of {', '.join(known[:20])}, got {group!r}")
    members = data.sel(group=group)
    return ratio(members.group_xy.values, members.group_xx.values[:, None], members.group_yy.values[None])


def influence(result: CKAResult, layer_x: str, layer_y: str | None = None, k: int = 5) -> pd.DataFrame:
    """The samples that move a cell most.

    Args:
        layer_x, layer_y: the cell; None for the layer of the same name in y.
        k: how many.

    Returns:
        Columns `sample` (from 0, in the order of the loader), `influence` (the CKA minus that without the sample,
        to first order) and `cka_without`, largest first.
    """
    layer_x, layer_y = _cell(result, layer_x, layer_y)
    cell = result.data.sel(layer_x=[layer_x], layer_y=[layer_y])
    _expect_held(cell, "sample_xy", _OF_SAMPLES)
    left = _without_each_sample(cell)[:, 0, 0]
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


def baseline(result: CKAResult) -> pd.DataFrame:
    """What chance gives: CKA with the samples of y in another order (`CKA(permutations=200)`).

    Returns:
        Rows (layer_x, layer_y), columns `cka`, `chance` (mean over permutations), `high` (their 95 % quantile), `p`
        ((1 + those at least as large) / (1 + all)), `permutations`.
    """
    data = result.data
    _expect_held(data, "permuted_xy", "permutations, e.g. into=CKA(permutations=200)")
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
            stacklevel=3,
        )


def partial(result: CKAResult) -> pd.DataFrame:
    """CKA of concatenated features given a third Gram (`compare(..., given="input")`), layers of x by layers of y.

    What the input (or the labels) explains in both is taken out of each centred Gram by projection, as in the
    partial distance correlation of Szekely & Rizzo 2014, eq. 4.6: with R the CKA,
    (R_xy - R_xz R_yz) / sqrt((1 - R_xz^2)(1 - R_yz^2)). NaN where a layer is the given one.
    """
    data, xy = result.data, result.matrix().to_numpy()
    _expect_held(data, "hsic_zz", 'given="input" or given="labels"')
    own_z = data.hsic_zz.values
    xz, yz = (ratio(data[f"hsic_{s}z"].values.sum(1), data[f"hsic_{s}{s}"].values.sum((1, 2)), own_z) for s in "xy")
    left_x, left_y = (np.where(1 - r**2 > 1e-12, 1 - r**2, np.nan) for r in (xz, yz))
    return result.framed((xy - xz[:, None] * yz[None]) / np.sqrt(left_x)[:, None] / np.sqrt(left_y)[None])


_LAYERS = ("layer_x", "layer_y")
_PARTS = ("xy", "xx", "yy")
_OF_SAMPLES = "what every sample contributes, into=CKA(samples=True)"


def _cell(result: CKAResult, layer_x: str, layer_y: str | None) -> tuple[str, str]:
    """A layer of x and one of y, by default that of the same name."""
    cell = layer_x, layer_y or layer_x
    for side, layers, layer in zip("xy", (result.layers_x, result.layers_y), cell, strict=True):
        place_of(layer, layers, side)
    return cell


def _left_out(data: xr.Dataset, over: Over | None) -> np.ndarray:
    """CKA without each sample, or each minibatch."""
    if over not in (None, "samples", "batches"):
        raise ValueError(f'expected over="samples" or over="batches", got {over!r}')
    if over == "samples" or (over is None and "sample_xy" in data):
        _expect_held(data, "sample_xy", _OF_SAMPLES)
        return _without_each_sample(data)
    _expect_held(data, "batch_xy", "its minibatches, as compare() and CKA() keep them")
    return _without_each_batch(data)


def _without_each_sample(data: xr.Dataset) -> np.ndarray:
    """CKA without each sample, `[N, Lx, Ly]`, to first order, of a result with what every sample contributes.

    HSIC_1 of a minibatch of n without sample i is (S - 2 h_i) / ((n-1)(n-4)); with the weight n - 1 of what is left, a
    minibatch then adds (S - 2 h_i) / (n - 4) in place of S / (n - 3).
    """
    share_xy, share_xx, share_yy = (data[f"sample_{part}"].values.astype(np.float64) for part in _PARTS)
    batch = np.repeat(np.arange(data.sizes["batch"]), data.batch_n.values)
    root_x, root_y = (np.sqrt(np.where(S > 0, S, 1.0)) for S in (data.batch_xx.values, data.batch_yy.values))
    h = share_xy * root_x[batch][:, :, None] * root_y[batch][:, None]
    return _without(data, batch, (h, share_xx * root_x[batch] ** 2, share_yy * root_y[batch] ** 2))


def _without_each_batch(data: xr.Dataset) -> np.ndarray:
    """CKA without each minibatch, `[B, Lx, Ly]`."""
    count = data.sizes["batch"]
    if count < MIN_BATCHES:
        raise ValueError(
            f"expected at least {MIN_BATCHES} minibatches for an interval over minibatches, got {count}; compare with "
            "CKA(samples=True) for an interval over samples"
        )
    return _without(data, np.arange(count))


def _without(data: xr.Dataset, batch: np.ndarray, contributions: Sequence[np.ndarray] = ()) -> np.ndarray:
    """CKA without each of some minibatches, or, where its contributions are given, without a sample of each."""
    left = []
    for part, h in zip_longest(_PARTS, contributions):
        total = data[f"batch_{part}"].values
        n = data.batch_n.values.astype(float).reshape(-1, *[1] * (total.ndim - 1))
        weighted = total / (n - 3)
        rest = weighted.sum(0) - weighted[batch]
        if h is not None:
            # of a minibatch of 4 nothing is left that HSIC_1 is defined for
            rest = rest + np.where(n > 4, 1 / np.maximum(n - 4, 1), 0.0)[batch] * (total[batch] - 2 * h)
        left.append(rest)
    xy, xx, yy = left
    root_x, root_y = (np.sqrt(np.where(hsic > 0, hsic, np.nan)) for hsic in (xx, yy))
    return np.asarray(xy / root_x[..., :, None] / root_y[..., None, :])


def _half_width(left_out: np.ndarray, level: float) -> np.ndarray:
    """Half of the interval that delete-one values `[n, ...]` give: t_{n-1} sqrt((n-1)/n sum (theta_-i - mean)^2)."""
    n = len(left_out)
    spread = ((left_out - left_out.mean(0)) ** 2).sum(0)
    return np.asarray(stats.t.ppf(0.5 + level / 2, n - 1) * np.sqrt((n - 1) / n * spread))


def _expect_held(data: xr.Dataset, variable: str, what: str) -> None:
    if variable not in data:
        raise ValueError(f"expected a result of a comparison with {what}, got one without")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, e.g. 0.95, got {level!r}")


def _table(data: xr.Dataset, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([[str(name) for name in data[side].values] for side in _LAYERS], names=_LAYERS)
    return pd.DataFrame({name: value.ravel() for name, value in columns.items()}, index=index)
