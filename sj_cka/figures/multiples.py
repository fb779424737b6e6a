"""Heatmaps of several variants side by side."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sj_cka.figures.cells import cells_of, coloraxis
from sj_cka.figures.style import TEMPLATE, labels_of, layer_names, top_margin

_COLUMNS = 3
_PICTURE, _GAP = 270, 70  # pixels


def heatmaps(frames: Mapping[str, pd.DataFrame], *, title: str = "", x_title: str = "", y_title: str = "") -> go.Figure:
    """Layer x layer CKA of several variants as small multiples in one colour scale.

    Every picture has one size, whatever the depth of its networks, so that shapes can be compared; the first layers
    meet in the lower left corner. Grey is undefined.

    Args:
        frames: variant -> matrix [layer_x, layer_y] of CKA; the layers may differ from variant to variant.
        title: heading of the figure.
        x_title: network x of every picture (the index).
        y_title: network y (the columns).

    Returns:
        A figure with one picture a variant.

    Raises:
        ValueError: no frame, or a repeated layer.

    Example:
        >>> matrix = pd.DataFrame([[0.9, 0.4]], index=["conv1"], columns=["conv1", "layer1.0"])
        >>> figure = heatmaps({"depth-8": matrix, "depth-14": matrix})
        >>> [note.text for note in figure.layout.annotations]
        ['depth-8', 'depth-14']
    """
    labels = labels_of(frames)
    columns = min(_COLUMNS, len(labels))
    rows = -(-len(labels) // columns)
    inside = rows * _PICTURE + (rows - 1) * _GAP
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=labels,
        horizontal_spacing=0.2 / columns if columns > 1 else 0,
        vertical_spacing=_GAP / inside if rows > 1 else 0,
    )
    for i, (label, frame) in enumerate(frames.items()):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        layers_x, layers_y = layer_names(frame.index), layer_names(frame.columns)
        hover = f"{label}<br>{x_title or 'x'}: %{{x}}<br>{y_title or 'y'}: %{{y}}<br>"
        for trace in cells_of(frame, layers_x, layers_y, hover):
            figure.add_trace(trace, **at)
        figure.update_xaxes(**_stages(layers_x), tickangle=-90, title_text=x_title, title_standoff=6, **at)
        figure.update_yaxes(**_stages(layers_y), title_text=y_title if at["col"] == 1 else "", title_standoff=4, **at)
    top = top_margin(title) + 22
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=None if columns == _COLUMNS else 120 + columns * (_PICTURE + 75),  # None: as wide as the page
        height=inside + top + 110,
        margin={"t": top, "b": 110},
        coloraxis=coloraxis(),
        coloraxis_colorbar={"lenmode": "pixels", "len": 240, "y": 1, "yanchor": "top"},
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_annotations(font_size=13)
    return figure


def _stages(layers: list[str]) -> dict[str, object]:
    """An axis of layers that names stages alone, each in the middle of its layers."""
    positions: list[float] = []
    names: list[str] = []
    place = 0
    for stage, run in groupby(layers, key=lambda layer: layer.partition(".")[0]):
        count = len(list(run))
        if count > 1 or not positions:
            positions.append(place + (count - 1) / 2 + 0.03)  # a whole number would replace a layer's own name
            names.append(stage)
        place += count
    axis = {"type": "category", "categoryorder": "array", "categoryarray": layers, "range": [-0.5, len(layers) - 0.5]}
    return axis | {"tickvals": positions, "ticktext": names, "tickfont": {"size": 11}, "ticks": ""}
