"""Coloured cells of CKA, alike in every figure: one scale from 0 to 1, grey where it is undefined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.style import CKA_SCALE, UNDEFINED, numbers


def cells_of(
    frame: pd.DataFrame,
    x: Sequence[Any],
    y: Sequence[Any],
    hover: str,
    half_width: pd.DataFrame | None = None,
    quantity: str = "CKA",
) -> list[go.Heatmap]:
    """The coloured cells of one matrix, and grey ones over them where it is NaN."""
    z = numbers(frame).T
    hover_value = f"{hover}{quantity} %{{z:.3f}}"
    cells = go.Heatmap(
        x=x, y=y, z=z, coloraxis="coloraxis", hoverongaps=False, hovertemplate=hover_value + "<extra></extra>"
    )
    if half_width is not None:
        beside = [["unknown" if np.isnan(w) else f"{w:.3f}" for w in row] for row in half_width.to_numpy(float).T]
        cells.update(customdata=beside, hovertemplate=hover_value + " ± %{customdata}<extra></extra>")
    if not np.isnan(z).any():
        return [cells]
    grey = go.Heatmap(
        x=x,
        y=y,
        z=np.where(np.isnan(z), np.float32(0), np.float32(np.nan)),
        colorscale=[[0, UNDEFINED], [1, UNDEFINED]],
        showscale=False,
        hoverongaps=False,
        hovertemplate=hover + "undefined<extra></extra>",
    )
    return [cells, grey]


def ink(values: Any) -> np.ndarray:
    """Black or white to write on cells with: Plotly's own choice is a dark grey that mid-green swallows."""
    return np.where(np.asarray(values, dtype=float) < 0.5, "white", "black")


def print_values(cells: go.Heatmap, size: int) -> None:
    """Print each value into its cell."""
    text = ink(cells.z).tolist()
    cells.update(text=text, texttemplate="<span style='color:%{text}'>%{z:.2f}</span>", textfont_size=size)


def coloraxis(quantity: str = "CKA", low: float = 0, high: float = 1) -> dict[str, Any]:
    bar = {"title": {"text": quantity, "font": {"size": 13}}, "thickness": 14, "tickformat": ".1f", "dtick": 0.2}
    return {"colorscale": CKA_SCALE, "cmin": low, "cmax": high, "colorbar": {**bar, "outlinewidth": 0}}
