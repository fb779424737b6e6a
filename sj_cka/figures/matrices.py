"""CKA as coloured cells: layer by layer, and variant by variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.cells import cells_of, coloraxis, ink
from sj_cka.figures.style import TEMPLATE, labels_of, layer_axis, layer_names, layer_ticks, stroke, top_margin


def heatmap(
    frames: Mapping[str, pd.DataFrame],
    *,
    title: str = "",
    x_title: str = "",
    y_title: str = "",
    quantity: str = "CKA",
    spread: Mapping[str, pd.DataFrame] | None = None,
) -> go.Figure:
    """Layer x layer CKA as the paper plots it: network x along the horizontal axis, network y along the vertical one.

    The first layers meet in the lower left corner. The colours always span 0 to 1, and more only where another measure
    goes beyond; grey is undefined (NaN).

    Args:
        frames: label ("all steps", "step 1", ...) -> matrix [layer_x, layer_y] of CKA, at most 1, NaN where undefined;
            the index names the layers of network x, the columns those of y. Several frames share one slider.
        title: heading of the figure.
        x_title: name of network x (the index).
        y_title: name of network y (the columns).
        quantity: what the cells are: `CKAResult.title(measure)`.
        spread: label -> matrix alike with the half-width of the 95 % interval over seeds, shown under the pointer;
            NaN where there is none.

    Returns:
        A figure with the cells of every frame, of which the first frame is visible.

    Raises:
        ValueError: no frame, a repeated layer, or frames with different layers.

    Example:
        >>> matrix = pd.DataFrame([[0.9, 0.4]], index=["conv1"], columns=["conv1", "layer1.0"])
        >>> figure = heatmap({"all steps": matrix}, x_title="SNN", y_title="ANN")
        >>> figure.data[0].z.shape  # the rows of the picture are the layers of y
        (2, 1)
        >>> figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax
        (0, 1)
    """
    labels = labels_of(frames)
    layers_x, layers_y = layer_names(frames[labels[0]].index), layer_names(frames[labels[0]].columns)
    for kind, tables in (("frame", frames), ("spread", spread or {})):
        for label, table in tables.items():
            if list(table.index) != layers_x or list(table.columns) != layers_y:
                raise ValueError(
                    f"expected the layers of frame {labels[0]!r} in every table, {kind} {label!r} has others"
                )

    figure = go.Figure()
    hover = f"{x_title or 'x'}: %{{x}}<br>{y_title or 'y'}: %{{y}}<br>"
    for label, frame in frames.items():
        half_width = None if spread is None else spread.get(label)
        for trace in cells_of(frame, layers_x, layers_y, hover, half_width, quantity):
            figure.add_trace(trace.update(name=label, visible=label == labels[0]))

    shown = np.concatenate([frame.to_numpy(float).ravel() for frame in frames.values()])
    beyond = [] if quantity == "CKA" else shown[np.isfinite(shown)].tolist()
    ticks_x, ticks_y = layer_ticks(layers_x), layer_ticks(layers_y)
    height = 150 + min(580, max(150, 580 * len(layers_y) // len(layers_x)))  # the cells are square
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=740,
        height=height,
        margin_t=top_margin(title),
        coloraxis=coloraxis(quantity, min([0, *beyond]), max([1, *beyond])),
        xaxis={"title": x_title, "tickangle": -90, **layer_axis(layers_x, ticks_x)},
        yaxis={"title": y_title, "scaleanchor": "x", "constraintoward": "top", **layer_axis(layers_y, ticks_y)},
        shapes=[stroke("x", at) for at in ticks_x.edges] + [stroke("y", at) for at in ticks_y.edges],
    )
    figure.update_xaxes(showgrid=False, constrain="domain")
    figure.update_yaxes(showgrid=False, constrain="domain")
    if any(trace.coloraxis is None for trace in figure.data):
        beside_bar = {"xref": "paper", "x": 1.02, "xanchor": "left", "yref": "paper", "y": 0, "yanchor": "top"}
        figure.add_annotation(
            text="grey:<br>undefined", showarrow=False, align="left", font_size=11, yshift=-14, **beside_bar
        )
    if len(labels) > 1:
        slider = _slider(labels, [trace.name for trace in figure.data])
        figure.update_layout(sliders=[slider], height=height + 60, meta={"still": {"height": height}})
    return figure


def variants(
    matrix: pd.DataFrame, *, title: str = "", spread: pd.DataFrame | None = None, floor: pd.DataFrame | None = None
) -> go.Figure:
    """CKA of every variant with every other, a number a cell; on the diagonal a variant with itself.

    Args:
        matrix: [variant, variant], symmetric; NaN where undefined.
        title: heading of the figure.
        spread: half-widths of 95 % intervals alike, printed below the values; NaN where there is none.
        floor: the same of untrained networks, printed below them.

    Returns:
        A square figure in the colours of every other CKA figure, the first variant in the lower left corner.

    Raises:
        ValueError: the rows are not the columns.

    Example:
        >>> matrix = pd.DataFrame([[0.9, 0.8], [0.8, 0.9]], index=["T-1", "T-2"], columns=["T-1", "T-2"])
        >>> variants(matrix).data[0].z.shape
        (2, 2)
    """
    names = layer_names(matrix.index)
    if list(matrix.columns) != names:
        raise ValueError(f"expected the same variants as rows and columns, got {names} and {list(matrix.columns)}")
    figure = go.Figure(cells_of(matrix, names, names, "%{x} and %{y}<br>", spread))
    value, half_width, untrained = (
        np.full(matrix.shape, np.nan) if table is None else table.loc[names, names].to_numpy(float)
        for table in (matrix, spread, floor)
    )
    for i, j in zip(*np.nonzero(np.isfinite(value)), strict=True):
        text = f"<b>{value[i, j]:.2f}</b>"
        if np.isfinite(half_width[i, j]):
            text += f" ± {half_width[i, j]:.2f}"
        if np.isfinite(untrained[i, j]):
            text += f"<br>floor {untrained[i, j]:.2f}"
        font = {"size": 12, "color": str(ink(value[i, j]))}
        figure.add_annotation(x=int(i), y=int(j), text=text, showarrow=False, font=font)
    side = 130 + 100 * len(names)
    axis = {"type": "category", "showgrid": False, "constrain": "domain", "ticks": ""}
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=side + 90,
        height=side + top_margin(title) - 30,
        margin_t=top_margin(title),
        coloraxis=coloraxis(),
        xaxis=axis,
        yaxis={**axis, "scaleanchor": "x", "constraintoward": "top"},
    )
    return figure


def _slider(labels: Sequence[str], frame_of_trace: Sequence[str]) -> dict[str, Any]:
    steps = [
        {"method": "restyle", "label": label, "args": [{"visible": [name == label for name in frame_of_trace]}]}
        for label in labels
    ]
    return {"steps": steps, "currentvalue": {"prefix": "shown: "}, "pad": {"t": 30}, "x": 0, "len": 1}
