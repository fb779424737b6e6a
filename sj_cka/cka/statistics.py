"""How far a result can be trusted: intervals, differences, seeds, other sizes, chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import stdtrit  # quantiles of Student's t

from sj_cka.cka.arguments import expect_one_of
from sj_cka.cka.jackknife import (
    OF_SAMPLES,
    Over,
    expect_held,
    fisher_z,
    half_width,
    left_out,
    on_z,
    warn_of_few,
    without_each_sample,
)
from sj_cka.cka.measures import ratio
from sj_cka.cka.over_time import all_steps, place_of

if TYPE_CHECKING:
    from sj_cka.cka.result import CKAResult


def interval(result: CKAResult, level: float = 0.95, *, over: Over | None = None) -> pd.DataFrame:
    """Two-sided intervals of the CKA of concatenated features, by the jackknife.

    Each sample is left out to first order, from what it contributes to HSIC_1: h_i = sum_j K~_ij L~_ij, HSIC
    without i = (S - 2 h_i) / ((n-1)(n-4)). The interval says how the value would move with other samples of the
    same kind, not with other networks: for that `pool` seeds. For independent features the estimator is degenerate
    and the interval too wide; ask `baseline` whether a value is beyond chance. The jackknife's half width h of a CKA c
    is h / (1 - c^2) on Fisher's z = artanh c (the delta method), and the ends are those of z, so that none is beyond 1;
    a CKA of 1 has no width. At a level of .95 it covers .94 to .98 of 400 draws of 256 Gaussian samples each, for CKAs
    of .2, .65, .98 and .996, as the interval c - h to c + h does.

    Where a few samples carry the variance, as with features of long tails, the interval can cover less than its level,
    and a `UserWarning` says so: with v_i what the CKA moves without sample i, where (sum v^2)^2 / sum v^4, the number
    of samples that as equals would carry it, is under .03 of all. At n = 512, over four populations of 100 draws each,
    it comes for none of Gaussian latents; for 75 to 95 % where samples are as large as Student's t of three degrees of
    freedom, 40 to 78 % where each latent is (which the interval covers in .80 to .98); and for 30 to 78 % of latents
    that are 0 in nine of ten samples, which it covers.

    Args:
        level: of the interval.
        over: "samples" (the default where they were kept) or "batches", at least 8 of them.

    Returns:
        Rows (layer_x, layer_y), columns `cka`, `low`, `high`.

    Raises:
        ValueError: a level outside (0, 1); samples that were not kept and fewer than 8 minibatches.
    """
    _check_level(level)
    values, left = all_steps(result.data), left_out(result.data, over)
    warn_of_few(result.data, left, values)
    low, high = on_z(values, half_width(left, level))
    return _table(result.data, {"cka": values, "low": low, "high": high})


def difference(result: CKAResult, other: CKAResult, level: float = 0.95, *, over: Over | None = None) -> pd.DataFrame:
    """This CKA minus that of another comparison over the same samples in the same order, with paired intervals.

    Samples are paired by their place. Where both results know their inputs (`batch_seed`, as those of `compare`
    do) and these differ, a `UserWarning` names the first minibatch in which they do: the samples may be the same
    in another form, such as attacked images beside clean ones, or be others, which cannot be paired. Where a
    result does not know them, the caller answers for the samples. Another warns where a few samples carry the variance,
    as in `interval`. Limits are on the scale of the difference itself.

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
    left = [left_out(data, over) for data in shared]
    warn_of_few(shared[0], left[0] - left[1])
    half = half_width(left[0] - left[1], level)
    apart = all_steps(shared[0]) - all_steps(shared[1])
    return _table(shared[0], {"difference": apart, "low": apart - half, "high": apart + half})


def pool(results: Sequence[CKAResult], level: float = 0.95) -> pd.DataFrame:
    """Mean CKA over networks trained from other seeds, with Student t intervals over the seeds.

    The intervals are those of the mean of Fisher's z = artanh c, turned back to c: none goes beyond 1, and a value that
    is the same for all seeds has no width. (Where seeds differ a lot near 1, the mean of z stands above that of c.)

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
    low = high = np.full_like(mean, np.nan)
    if n > 1:
        z = fisher_z(values)
        half = stdtrit(n - 1, 0.5 + level / 2) * z.std(0, ddof=1) / np.sqrt(n)
        same = (values == values[0]).all(0)
        low, high = (np.where(same, mean, np.tanh(z.mean(0) + sign * half)) for sign in (-1, 1))
    return _table(results[0].data, {"cka": mean, "low": low, "high": high}).assign(seeds=n)


def against_n(result: CKAResult, layer_x: str | None = None, layer_y: str | None = None) -> pd.DataFrame:
    """Is n enough? CKA of the first 64, 128, 256, ... samples of every minibatch, and of all.

    Args:
        layer_x, layer_y: one cell; None for all layers of the same name.

    Returns:
        `[n, layer]` (or one column), n the samples of a minibatch.
    """
    data = result.data
    expect_held(data, "sample_xy", OF_SAMPLES)
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
    expect_held(data, "group_xy", "groups=")
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
    expect_held(cell, "sample_xy", OF_SAMPLES)
    left = without_each_sample(cell)[:, 0, 0]
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


def baseline(result: CKAResult, within: Literal["classes"] | None = None) -> pd.DataFrame:
    """What chance gives: CKA with the samples of y in another order (`CKA(permutations=200)`).

    Args:
        within: "classes" for orders in which samples change places within their class alone
            (`CKA(permutations={"classes": 200})`): what classes that both sides tell apart give by themselves, beyond
            which the sides agree on single samples. Of a minibatch with one sample of each class there is one order.

    Returns:
        Rows (layer_x, layer_y), columns `cka`, `chance` (mean over permutations), `high` (their 95 % quantile), `p`
        ((1 + those at least as large) / (1 + all)), `permutations`.

    Raises:
        ValueError: such permutations were not asked for, or `within` is something else.
    """
    data = result.data
    expect_one_of("within", within, None, "classes")
    name, asked = ("permuted_within_xy", '{"classes": 200}') if within else ("permuted_xy", "200")
    expect_held(data, name, f"permutations, e.g. into=CKA(permutations={asked})")
    own_x, own_y = data.hsic_xx.values.sum((1, 2))[:, None], data.hsic_yy.values.sum((1, 2))[None]
    value = all_steps(data)
    permuted = ratio(data[name].values, own_x[None], own_y[None])
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


def with_given(data: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """CKA of concatenated features with the third Gram, `[Lx]` and `[Ly]`."""
    expect_held(data, "hsic_zz", 'given="input" or given="labels"')
    own = data.hsic_zz.values
    x, y = (ratio(data[f"hsic_{s}z"].values.sum(1), data[f"hsic_{s}{s}"].values.sum((1, 2)), own) for s in "xy")
    return x, y


def partial(result: CKAResult) -> pd.DataFrame:
    """CKA of concatenated features given a third Gram (`compare(..., given="input")`), layers of x by layers of y.

    What the input (or the labels) explains in both is taken out of each centred Gram by projection, as in the
    partial distance correlation of Szekely & Rizzo 2014, eq. 4.6: with R the CKA,
    (R_xy - R_xz R_yz) / sqrt((1 - R_xz^2)(1 - R_yz^2)). NaN where a layer is the given one.
    """
    xy, (xz, yz) = result.matrix().to_numpy(), with_given(result.data)
    left_x, left_y = (np.where(1 - r**2 > 1e-12, 1 - r**2, np.nan) for r in (xz, yz))
    return result.framed((xy - xz[:, None] * yz[None]) / np.sqrt(left_x)[:, None] / np.sqrt(left_y)[None])


_LAYERS = ("layer_x", "layer_y")


def _cell(result: CKAResult, layer_x: str, layer_y: str | None) -> tuple[str, str]:
    """A layer of x and one of y, by default that of the same name."""
    cell = layer_x, layer_y or layer_x
    for side, layers, layer in zip("xy", (result.layers_x, result.layers_y), cell, strict=True):
        place_of(layer, layers, side)
    return cell


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, e.g. 0.95, got {level!r}")


def _table(data: xr.Dataset, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([[str(name) for name in data[side].values] for side in _LAYERS], names=_LAYERS)
    return pd.DataFrame({name: value.ravel() for name, value in columns.items()}, index=index)
