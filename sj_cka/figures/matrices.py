"""CKA as coloured cells: layer by layer, and time step by time step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sj_cka.figures.style import (
    CKA_SCALE,
    TEMPLATE,
    UNDEFINED,
    labels_of,
    layer_axis,
    layer_names,
    layer_ticks,
    numbers,
    stroke,
    top_margin,
)


def heatmap(
    frames: Mapping[str, pd.DataFrame],
    *,
    title: str = "",
    x_title: str = "",
    y_title: str = "",
    spread: Mapping[str, pd.DataFrame] | None = None,
) -> go.Figure:
    """Layer x layer CKA as the paper plots it: network x along the horizontal axis, network y along the vertical one.

    The first layers meet in the lower left corner. The colours always span 0 to 1; grey is undefined (NaN).

    Args:
        frames: label ("all steps", "step 1", ...) -> matrix [layer_x, layer_y] of CKA, at most 1, NaN where undefined;
            the index names the layers of network x, the columns those of y. Several frames share one slider.
        title: heading of the figure.
        x_title: name of network x (the index).
        y_title: name of network y (the columns).
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
        for trace in _cells(frame, layers_x, layers_y, hover, half_width):
            figure.add_trace(trace.update(name=label, visible=label == labels[0]))

    ticks_x, ticks_y = layer_ticks(layers_x), layer_ticks(layers_y)
    height = 150 + min(580, max(150, 580 * len(layers_y) // len(layers_x)))  # the cells are square
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=740,
        height=height,
        margin_t=top_margin(title),
        coloraxis=_coloraxis(),
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


def steps_map(frames: Mapping[str, pd.DataFrame], *, title: str = "") -> go.Figure:
    """Time step x time step CKA, one small picture for each layer, in the colours of every other CKA figure.

    Args:
        frames: label (a layer, a network) -> matrix [step of x, step of y] of CKA, index and columns the steps 1..T;
            the index runs along the horizontal axis. Values are printed into the cells up to T = 8.
        title: heading of the figure.

    Returns:
        A figure with one square picture a frame, the first step in the lower left corner, four in a row.

    Raises:
        ValueError: no frame.

    Example:
        >>> matrix = pd.DataFrame([[1.0, 0.9], [0.9, 1.0]], index=[1, 2], columns=[1, 2])
        >>> figure = steps_map({"layer1.0.lif1": matrix, "layer3.0.lif1": matrix})
        >>> [note.text for note in figure.layout.annotations]
        ['layer1.0.lif1', 'layer3.0.lif1']
    """
    labels = labels_of(frames)
    most_steps = max(max(frame.shape) for frame in frames.values())
    columns = min(4 if most_steps <= 5 else 3, len(labels))
    rows = -(-len(labels) // columns)
    headings = [label.replace(", ", ",<br>") for label in labels]
    lines_of_heading = max(heading.count("<br>") for heading in headings) + 1
    picture, gap = 840 // columns if columns > 2 else 300, 55 + 16 * lines_of_heading  # pixels
    inside = rows * picture + (rows - 1) * gap
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=headings,
        horizontal_spacing=0.06,
        vertical_spacing=gap / inside if rows > 1 else 0,
    )
    for i, frame in enumerate(frames.values()):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        steps_x, steps_y = list(frame.index), list(frame.columns)
        for trace in _cells(frame, steps_x, steps_y, "step %{x} and step %{y}<br>"):
            if most_steps <= 8 and trace.coloraxis:
                _print_values(trace, size=11 if most_steps < 5 else 9)
            figure.add_trace(trace, **at)
        every = -(-most_steps // 8)
        figure.update_xaxes(dtick=every, tick0=1, title_text="time step", title_standoff=4, constrain="domain", **at)
        figure.update_yaxes(dtick=every, tick0=1, constrain="domain", constraintoward="top", **at)
        figure.update_yaxes(scaleanchor=figure.get_subplot(**at).xaxis.plotly_name.replace("axis", ""), **at)
    for row in range(1, rows + 1):
        figure.update_yaxes(title_text="time step", title_standoff=6, row=row, col=1)
    top = top_margin(title) + 17 * lines_of_heading
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=90 + 330 * columns if columns < 3 else None,
        height=inside + top + 60,
        margin={"t": top, "b": 60},
        coloraxis=_coloraxis(),
        coloraxis_colorbar={"lenmode": "pixels", "len": 260, "y": 1, "yanchor": "top"},
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_annotations(font_size=12)
    return figure


def _cells(
    frame: pd.DataFrame,
    x: Sequence[Any],
    y: Sequence[Any],
    hover: str,
    half_width: pd.DataFrame | None = None,
) -> list[go.Heatmap]:
    """The coloured cells of one matrix, and grey ones over them where it is NaN."""
    z = numbers(frame).T
    cells = go.Heatmap(
        x=x, y=y, z=z, coloraxis="coloraxis", hoverongaps=False, hovertemplate=hover + "CKA %{z:.3f}<extra></extra>"
    )
    if half_width is not None:
        beside = [["unknown" if np.isnan(w) else f"{w:.3f}" for w in row] for row in half_width.to_numpy(float).T]
        cells.update(customdata=beside, hovertemplate=hover + "CKA %{z:.3f} ± %{customdata}<extra></extra>")
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


def _print_values(cells: go.Heatmap, size: int) -> None:
    """Print each value into its cell, black or white: Plotly's own choice is a dark grey that mid-green swallows."""
    ink = np.where(np.asarray(cells.z) < 0.5, "white", "black").tolist()
    cells.update(text=ink, texttemplate="<span style='color:%{text}'>%{z:.2f}</span>", textfont_size=size)


def _coloraxis() -> dict[str, Any]:
    bar = {"title": {"text": "CKA", "font": {"size": 13}}, "thickness": 14, "tickformat": ".1f", "dtick": 0.2}
    return {"colorscale": CKA_SCALE, "cmin": 0, "cmax": 1, "colorbar": {**bar, "outlinewidth": 0}}


def _slider(labels: Sequence[str], frame_of_trace: Sequence[str]) -> dict[str, Any]:
    steps = [
        {"method": "restyle", "label": label, "args": [{"visible": [name == label for name in frame_of_trace]}]}
        for label in labels
    ]
    return {"steps": steps, "currentvalue": {"prefix": "shown: "}, "pad": {"t": 30}, "x": 0, "len": 1}
