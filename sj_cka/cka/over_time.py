"""What a result says about time: change between steps, growing spans of steps, and the share of each step."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from sj_cka.cka.labelled import ratio

Side = Literal["x", "y"]


def within(data: xr.Dataset, side: Side) -> np.ndarray:
    """CKA between the steps of every layer of one side, `[L, T, T]`."""
    hsic = data[f"hsic_{side}{side}"].values
    own = np.einsum("ltt->lt", hsic)
    return ratio(hsic, own[:, :, None], own[:, None])


def dynamics(data: xr.Dataset, null: xr.Dataset | None, side: Side) -> pd.DataFrame:
    """Mean CKA between different steps of every layer beside that of the timing null, see `CKAResult.dynamics`."""
    if side not in ("x", "y"):
        raise ValueError(f'expected side "x" or "y", got {side!r}')
    values = within(data, side)
    # over NaN where there is no null: its column then stays empty
    nulls = np.full_like(values, np.nan) if null is None else within(null, side)
    upper = np.triu(np.ones(values.shape[1:], dtype=bool), 1)
    defined = upper & np.isfinite(values) & (np.isfinite(nulls) | (null is None))
    pairs = defined.sum((1, 2))
    mean = np.where(pairs > 0, 1.0 / np.maximum(pairs, 1), np.nan)
    table = pd.DataFrame(
        {
            "cka": np.where(defined, values, 0.0).sum((1, 2)) * mean,
            "null": np.nan if null is None else np.where(defined, nulls, 0.0).sum((1, 2)) * mean,
            "pairs": pairs,
            "undefined": int(upper.sum()) - pairs,
        }
    )
    table.index = pd.Index([str(layer) for layer in data[f"layer_{side}"].values], name="layer")
    return table


def up_to(data: xr.Dataset, step: int) -> np.ndarray:
    """CKA `[Lx, Ly]` of steps 1 to `step` together; a side with one step stands for all."""
    Tx, Ty = data.sizes["step_x"], data.sizes["step_y"]
    t, s = (step if T > 1 else 1 for T in (Tx, Ty))
    return ratio(
        data.hsic_xy.values[:, :t, :, :s].sum((1, 3)),
        data.hsic_xx.values[:, :t, :t].sum((1, 2))[:, None],
        data.hsic_yy.values[:, :s, :s].sum((1, 2))[None],
    )


def all_steps(data: xr.Dataset) -> np.ndarray:
    """CKA `[Lx, Ly]` of features concatenated over all steps."""
    return up_to(data, max(data.sizes["step_x"], data.sizes["step_y"]))


def attribution(data: xr.Dataset) -> np.ndarray:
    """Share of each step of x in the CKA of concatenated features, `[Lx, Tx, Ly]`; over the steps they add up to it."""
    own_x = data.hsic_xx.values.sum((1, 2))[:, None, None]
    own_y = data.hsic_yy.values.sum((1, 2))[None, None]
    return ratio(data.hsic_xy.values.sum(3), own_x, own_y)
