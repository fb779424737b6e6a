"""The labelled data of a result, from the sums of an accumulator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from sj_cka.cka.measures import MEASURES

_PAIRS = ("layer_x", "step_x", "layer_y", "step_y")


def dataset(
    layers_x: Sequence[str],
    layers_y: Sequence[str],
    sums: Mapping[str, np.ndarray],
    lists: Mapping[str, np.ndarray],
    *,
    n: int,
    undefined: Sequence[Mapping[str, Any]],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """All that a result holds; see `CKAResult`.

    Args:
        sums: of n_b HSIC_1 over minibatches: xy `[Lx, Tx, Ly, Ty]`, xx `[Lx, Tx, Tx]`, yy, and what else `CKA` adds up.
        lists: of minibatches or samples, joined.
    """
    xy, xx, yy = (sums[name] / n for name in ("xy", "xx", "yy"))
    own_x, own_y = (np.einsum("ltt->lt", own) for own in (xx, yy))
    variables: dict[str, tuple[Any, ...]] = {
        "cka": (_PAIRS, ratio(xy, own_x[:, :, None, None], own_y[None, None])),
        "hsic_xy": (_PAIRS, xy),
        "hsic_xx": (("layer_x", "step_x", "step_x_2"), xx),
        "hsic_yy": (("layer_y", "step_y", "step_y_2"), yy),
        "n": ((), n),
    }
    Tx, Ty = (np.arange(1, own.shape[1] + 1) for own in (xx, yy))
    coords: dict[str, Any] = {
        "layer_x": list(layers_x),
        "layer_y": list(layers_y),
        "step_x": Tx,
        "step_x_2": ("step_x_2", Tx),
        "step_y": Ty,
        "step_y_2": ("step_y_2", Ty),
    }
    if "zz" in sums:
        variables["hsic_xz"] = ("layer_x", "step_x"), sums["xz"] / n
        variables["hsic_yz"] = ("layer_y", "step_y"), sums["yz"] / n
        variables["hsic_zz"] = (), float(sums["zz"][0, 0]) / n
    for name, value in sums.items():
        if name.startswith("measure "):
            own = name.removeprefix("measure ")
            weight = sums[f"weight {own}"]
            variables[f"measure_{own}"] = (
                ("layer_x", "layer_y"),
                np.where(weight > 0, value / np.maximum(weight, 1), np.nan),
                {"title": MEASURES[own].title},
            )
    if "permuted" in sums:
        variables["permuted_xy"] = ("permutation", "layer_x", "layer_y"), sums["permuted"] / n
    for kind in ("size", "group"):
        variables |= _subsets(kind, sums, coords)
    parts = {"n": (), "place": (), "seed": (), "xy": ("layer_x", "layer_y"), "xx": ("layer_x",), "yy": ("layer_y",)}
    for name, value in lists.items():
        kind, _, own = name.partition(" ")
        variables[f"{kind}_{own}"] = (kind, *parts[own]), value
    for side, layers, T in (("x", layers_x, Tx), ("y", layers_y, Ty)):
        if any(f"counts {side} {layer}" in sums for layer in layers):
            variables |= _activity(side, layers, len(T), sums, n)
    kept = dict(attrs) | {"undefined": json.dumps([dict(row) for row in undefined])}
    return xr.Dataset(variables, coords=coords, attrs=kept)


def ratio(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), NaN where a side has no structure."""
    # two roots: the product of two tiny or huge HSICs leaves the range of float64
    scale = np.sqrt(np.where(xx > 0, xx, np.nan)) * np.sqrt(np.where(yy > 0, yy, np.nan))
    return np.asarray(xy / scale)


def _subsets(
    kind: str, sums: Mapping[str, np.ndarray], coords: dict[str, Any]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """HSIC of the samples of each group, or of the first so many of each minibatch."""
    names = [name[len(kind) + 1 : -2] for name in sums if name.startswith(f"{kind} ") and name.endswith(" n")]
    if not names:
        return {}
    coords[kind] = [int(name) for name in names] if kind == "size" else names
    joined = {own: np.stack([sums[f"{kind} {name} {own}"] for name in names]) for own in ("n", "xy", "xx", "yy")}
    n = np.maximum(joined["n"], 1)
    return {
        f"{kind}_n": ((kind,), joined["n"].astype(int)),
        f"{kind}_xy": ((kind, "layer_x", "layer_y"), joined["xy"] / n[:, None, None]),
        f"{kind}_xx": ((kind, "layer_x"), joined["xx"] / n[:, None]),
        f"{kind}_yy": ((kind, "layer_y"), joined["yy"] / n[:, None]),
    }


def _activity(
    side: str, layers: Sequence[str], T: int, sums: Mapping[str, np.ndarray], n: int
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Firing rate, share of units that never fire and of those that fire for every sample; NaN where no neuron is."""
    found = np.full((3, len(layers), T), np.nan)
    for i, layer in enumerate(layers):
        counts = sums.get(f"counts {side} {layer}")
        if counts is not None:
            always = counts > n * (1 - 1e-6)  # counts over all steps are divided by their number
            found[:, i] = [counts.mean(1) / n, (counts == 0).mean(1), always.mean(1)]
    dims = (f"layer_{side}", f"step_{side}")
    return {f"{name}_{side}": (dims, found[k]) for k, name in enumerate(("rate", "silent", "saturated"))}
