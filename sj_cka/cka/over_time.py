"""What a result says about time: change between steps, growing spans of steps, and the share of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from sj_cka.cka.measures import ratio
from sj_cka.cka.own_terms import MIN_UNITS
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
    """How much every layer changes over time, `split`, and the mean CKA between its different steps, `cka`.

    The CKA of a static layer is 1, but sparse firing and noise of single units also bring it below. `split` does not
    count what single units do by themselves: it is the mean of 1 - C_ts / sqrt(C_tt C_ss) over pairs of steps, where
    C_ts is HSIC_1 of step t of one half of the layer's units with step s of the other, the mean over all splits into
    halves: HSIC_1 of the whole less the own terms of the units (`own_terms`: of neurons, of channels of maps with all
    their pixels, of the first axis behind the samples in any other features). 0 is a layer that says the same at all
    steps, also where a time course is common to all samples; 1 one whose steps have nothing in common; beyond are codes
    that turn. Of many samples the own terms are taken over some, in the mean right: under a reliability of
    about .1 the value says little.

    `null` is the CKA of permuted steps (`CKA(permutations={"steps": 1})`): their order permuted for every unit and
    sample, counts kept. It shows what sparse firing at random times gives. It does not show whether a layer is dynamic:
    permuting turns change between steps into variance between samples, so that a complete change of the code, or a
    latency code, can lie above it, and synchrony without order below.

    Returns:
        A row for each layer: `cka`; `null`, that of permuted steps, NaN without; `pairs` of steps that both are means
        over; `undefined` pairs, left out of both; `split`, of the pairs of steps whose C_tt is above 0, NaN without
        any; `reliability`, the smallest C_tt / HSIC_tt of a step, by which one knows how much `split` says;
        `split_undefined`, what of it is undefined, and why: under 8 units; steps of a reliability at or below 0; one
        step alone; own terms that were not kept, as in files of older versions.

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
    table["split"], table["reliability"], table["split_undefined"] = _split(result.data, side)
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


def _split(data: xr.Dataset, side: Side) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Dynamics by split halves of every layer, its reliability, and what of it is undefined; see `dynamics`."""
    hsic = data[f"hsic_{side}{side}"].values
    L, T, _ = hsic.shape
    if T == 1 or f"own_{side}{side}" not in data:
        why = "one step" if T == 1 else "own terms of units were not kept"
        return np.full(L, np.nan), np.full(L, np.nan), [why] * L
    with np.errstate(invalid="ignore"):
        across = hsic - data[f"own_{side}{side}"].values
    same, whole = (np.einsum("ltt->lt", values) for values in (across, hsic))
    reliability = (same / np.where(whole > 0, whole, np.nan)).min(1)
    # one step that stands for all has no noise that could be taken for change
    static = (across == across[:, :1, :1]).all((1, 2)) & (whole[:, 0] > 0)
    apart = np.where(static[:, None, None], 0.0, 1 - ratio(across, same[:, :, None], same[:, None]))
    pairs = apart[:, *np.triu_indices(T, 1)]
    known = np.isfinite(pairs)
    count = known.sum(1)
    split = np.where(count > 0, np.where(known, pairs, 0.0).sum(1) / np.maximum(count, 1), np.nan)
    reasons = []
    for units, of_steps, unchanging in zip(data[f"units_{side}"].values, same, static, strict=True):
        steps = ", ".join(map(str, 1 + np.flatnonzero(~(of_steps > 0))))
        why = f"same-step reliability at or below 0 at step {steps}" if steps and not unchanging else ""
        reasons.append(f"{units} units, under {MIN_UNITS}" if units < MIN_UNITS else why)
    return split, reliability, reasons


def _expect_steps(data: xr.Dataset, sides: str) -> None:
    if set(sides) <= set(str(data.attrs.get("without_steps", "")).split()):
        which = " and ".join(f"{side} ({data.attrs[side]})" for side in sides)
        raise ValueError(
            f"expected networks with time steps, got {which}, which showed none when they were compared: pass T= "
            "or layout= to compare() where they have some"
        )
