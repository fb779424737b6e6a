"""What a result says about time: change between steps, growing spans of steps, and the share of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from sj_cka.cka.measures import ratio
from sj_cka.plugins import closest

if TYPE_CHECKING:
    from sj_cka.cka.result import CKAResult

Side = Literal["x", "y"]


def within(data: xr.Dataset, side: Side) -> np.ndarray:
    """CKA between the steps of every layer of one side, `[L, T, T]`."""
    hsic = data[f"hsic_{side}{side}"].values
    diagonal = np.einsum("ltt->lt", hsic)
    return ratio(hsic, diagonal[:, :, None], diagonal[:, None])


def dynamics(result: CKAResult, side: Side = "x") -> pd.DataFrame:
    """How much every layer changes over time: mean CKA between its different steps, 1 for a static layer.

    Sparse firing and silent steps alone make a layer look dynamic, so the value stands beside that of
    permuted steps (`CKA(permutations={"steps": 1})`): their order permuted for every unit and sample, counts kept. A
    layer whose steps say different things lies below it.

    Returns:
        A row for each layer: `cka`; `null`, that of permuted steps, NaN without; `pairs` of steps that both are means
        over; `undefined` pairs, left out of both.

    Raises:
        ValueError: another side, or neither time steps nor permuted ones.
    """
    if side not in ("x", "y"):
        raise ValueError(f'expected side "x" or "y", got {side!r}')
    permuted = result.permuted_steps
    if permuted is None:
        _expect_steps(result.data, side)
    values = within(result.data, side)
    # over NaN where nothing was permuted: its column then stays empty
    of_permuted = np.full_like(values, np.nan) if permuted is None else within(permuted.data, side)
    upper = np.triu(np.ones(values.shape[1:], dtype=bool), 1)
    defined = upper & np.isfinite(values) & (np.isfinite(of_permuted) | (permuted is None))
    pairs = defined.sum((1, 2))
    mean = np.where(pairs > 0, 1.0 / np.maximum(pairs, 1), np.nan)
    table = pd.DataFrame(
        {
            "cka": np.where(defined, values, 0.0).sum((1, 2)) * mean,
            "null": np.nan if permuted is None else np.where(defined, of_permuted, 0.0).sum((1, 2)) * mean,
            "pairs": pairs,
            "undefined": int(upper.sum()) - pairs,
        }
    )
    table.index = pd.Index([str(layer) for layer in result.data[f"layer_{side}"].values], name="layer")
    return table


def steps(result: CKAResult, layer: str, layer_y: str | None = None) -> pd.DataFrame:
    """Time step by time step CKA inside one layer of x, or, with `layer_y`, between it and a layer of y.

    Returns:
        `[step_x, step_x]` (symmetric, 1 on the diagonal) or `[step_x, step_y]`.

    Raises:
        ValueError: an unknown layer, or networks without time steps.
    """
    _expect_steps(result.data, "x" if layer_y is None else "xy")
    i = place_of(layer, result.layers_x, "x")
    if layer_y is None:
        names, values = ("step_x", "step_x"), within(result.data, "x")[i]
    else:
        j = place_of(layer_y, result.layers_y, "y")
        names, values = ("step_x", "step_y"), result.data.cka.values[i, :, j]
    index, columns = (pd.Index(result.data[name].values, name=name) for name in names)
    return pd.DataFrame(values, index=index, columns=columns)


def cumulative(result: CKAResult) -> pd.DataFrame:
    """CKA of steps 1 to t together, for layers of the same name `[layer, t]`; the last column is `paired()`."""
    steps = range(1, last_step(result.data) + 1)
    return pd.DataFrame({t: result.paired(upto=t) for t in steps}).rename_axis(columns="step")


def attribution(result: CKAResult, layer: str | None = None, layer_y: str | None = None) -> pd.DataFrame | pd.Series:
    """Share of every step of x in the CKA of concatenated features.

    A[t] = sum_s H[(l,t),(m,s)] / sqrt(sum of block l times sum of block m). Over t the shares add up to the CKA;
    they may be negative and are not the CKA of step t.

    Args:
        layer: a layer of x; None for all that have a layer of the same name in y.
        layer_y: the layer of y; None for that of the same name.

    Returns:
        `[layer, step]`, or `[step]` for one layer.
    """
    own_x = result.data.hsic_xx.values.sum((1, 2))[:, None, None]
    own_y = result.data.hsic_yy.values.sum((1, 2))[None, None]
    shares = ratio(result.data.hsic_xy.values.sum(3), own_x, own_y)  # [Lx, Tx, Ly]
    steps = pd.Index(result.data.step_x.values, name="step")
    if layer is not None:
        i, j = place_of(layer, result.layers_x, "x"), place_of(layer_y or layer, result.layers_y, "y")
        return pd.Series(shares[i, :, j], index=steps, name="share")
    shared = result.shared_layers
    rows = [shares[result.layers_x.index(name), :, result.layers_y.index(name)] for name in shared]
    return pd.DataFrame(rows, index=pd.Index(shared, name="layer"), columns=steps)


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
    return up_to(data, last_step(data))


def last_step(data: xr.Dataset) -> int:
    """The larger number of steps of both sides."""
    return max(data.sizes["step_x"], data.sizes["step_y"])


def step_of_each(data: xr.Dataset, time: Any) -> tuple[int, int]:
    """A step of x and of y that stand for each other: a side with one step stands for all.

    Raises:
        ValueError: there is no such step, or the sides have different numbers of several steps.
    """
    Tx, Ty = data.sizes["step_x"], data.sizes["step_y"]
    if not isinstance(time, int | np.integer) or isinstance(time, bool):
        raise ValueError(f'expected time="concat" or a step from 1 to {max(Tx, Ty)}, got {time!r}')
    if Tx != Ty and 1 not in (Tx, Ty):
        raise ValueError(f"step against the same step needs equal numbers of steps, got {Tx} and {Ty}; use data.cka")
    if not 1 <= time <= max(Tx, Ty):
        raise ValueError(f"expected a step from 1 to {max(Tx, Ty)}, got {time}")
    return (int(time) if Tx > 1 else 1, int(time) if Ty > 1 else 1)


def place_of(layer: str, layers: Sequence[str], side: str) -> int:
    """Position of a layer.

    Raises:
        ValueError: it is not there.
    """
    if layer not in layers:
        raise ValueError(f"expected a layer of {side}, got {layer!r}{closest(layer, layers)}")
    return list(layers).index(layer)


def _expect_steps(data: xr.Dataset, sides: str) -> None:
    if set(sides) <= set(str(data.attrs.get("without_steps", "")).split()):
        which = " and ".join(f"{side} ({data.attrs[side]})" for side in sides)
        raise ValueError(
            f"expected networks with time steps, got {which}, which showed none when they were compared: pass T= "
            "or layout= to compare() where they have some"
        )
