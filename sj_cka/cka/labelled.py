"""The labelled data of a result, from what was added up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

Variables = Mapping[str, tuple[Any, ...]]  # name -> axes, values and, where it has any, attributes
DIMS: Mapping[str, tuple[str, ...]] = {
    "hsic_xy": ("layer_x", "step_x", "layer_y", "step_y"),
    "hsic_xx": ("layer_x", "step_x", "step_x_2"),
    "hsic_yy": ("layer_y", "step_y", "step_y_2"),
}


def dataset(
    layers_x: Sequence[str],
    layers_y: Sequence[str],
    variables: Variables,
    *,
    n: int,
    undefined: Sequence[Mapping[str, Any]],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """All that a result holds; see `CKAResult`.

    Args:
        variables: hsic_xy `[Lx, Tx, Ly, Ty]`, hsic_xx `[Lx, Tx, Tx]`, hsic_yy, and what else a `CKA` has added up.
    """
    xy, xx, yy = (variables[name][1] for name in DIMS)
    of_x, of_y = (np.einsum("ltt->lt", within) for within in (xx, yy))
    values = ratio(xy, of_x[:, :, None, None], of_y[None, None])
    Tx, Ty = (np.arange(1, within.shape[1] + 1) for within in (xx, yy))
    coords: dict[str, Any] = {
        "layer_x": list(layers_x),
        "layer_y": list(layers_y),
        "step_x": Tx,
        "step_x_2": ("step_x_2", Tx),
        "step_y": Ty,
        "step_y_2": ("step_y_2", Ty),
    }
    kept = dict(attrs) | {"undefined": json.dumps([dict(row) for row in undefined])}
    return xr.Dataset({"cka": (DIMS["hsic_xy"], values), "n": ((), n), **variables}, coords=coords, attrs=kept)


def ratio(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), NaN where a side has no structure."""
    # two roots: the product of two tiny or huge HSICs leaves the range of float64
    scale = np.sqrt(np.where(xx > 0, xx, np.nan)) * np.sqrt(np.where(yy > 0, yy, np.nan))
    return np.asarray(xy / scale)
