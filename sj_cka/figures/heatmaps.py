"""Heatmaps of several variants side by side."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.cells import cells_of, coloraxis
from sj_cka.figures.section import FigureBlock, Panel, Results, Section
from sj_cka.figures.style import labels_of, lay_out, layer_names, small_multiples

_COLUMNS = 3
_PICTURE, _GAP = 270, 70  # pixels


def heatmaps(
    frames: Mapping[str, pd.DataFrame], *, title: str = "", x_title: str = "", y_title: str = "", quantity: str = "CKA"
) -> go.Figure:
    """Layer x layer CKA of several variants as small multiples in one colour scale.

    Every picture has one size, whatever the depth of its networks, so that shapes can be compared; the first layers
    meet in the lower left corner. Grey is undefined.

    Args:
        frames: variant -> matrix [layer_x, layer_y] of CKA; the layers may differ from variant to variant.
        title: heading of the figure.
        x_title: network x of every picture (the index).
        y_title: network y (the columns).
        quantity: what the cells are: `CKAResult.title(measure)`.

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
    spacing = 0.2 / min(_COLUMNS, len(labels)) if len(labels) > 1 else 0
    figure, places, columns, height = small_multiples(
        labels, min(_COLUMNS, len(labels)), _PICTURE, _GAP, horizontal_spacing=spacing
    )
    for at, (label, frame) in zip(places, frames.items(), strict=True):
        layers_x, layers_y = layer_names(frame.index), layer_names(frame.columns)
        hover = f"{label}<br>{x_title or 'x'}: %{{x}}<br>{y_title or 'y'}: %{{y}}<br>"
        for trace in cells_of(frame, layers_x, layers_y, hover, quantity=quantity):
            figure.add_trace(trace, **at)
        figure.update_xaxes(**_stages(layers_x), tickangle=-90, title_text=x_title, title_standoff=6, **at)
        figure.update_yaxes(**_stages(layers_y), title_text=y_title if at["col"] == 1 else "", title_standoff=4, **at)
    lay_out(
        figure,
        title,
        height + 132,
        above=22,
        width=None if columns == _COLUMNS else 120 + columns * (_PICTURE + 75),  # None: as wide as the page
        margin_b=110,
        coloraxis=coloraxis(quantity),
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


def heatmaps_section(block: FigureBlock, results: Results) -> Section:
    """Every layer with every layer, a picture a variant, side by side."""
    comparison, quantity = results.comparison(block), results.similarity(block)
    frames, titles = dict[str, pd.DataFrame](), set[tuple[str, str]]()
    for variant, sides in results.sides(block).items():
        means, _ = results.frames(block, variant)
        frames[variant or comparison.name] = next(iter(means.values()))
        titles.add((sides.x.kind.upper(), sides.y.kind.upper()))
    x_title, y_title = titles.pop() if len(titles) == 1 else ("", "")
    note = (
        f"{quantity} of every layer with every layer, mean over {len(results.study.seeds)} seeds, all steps "
        "concatenated, in one colour scale; each picture spans its networks from the first layer to the last. Grey: "
        "undefined."
    )
    if block.state == "untrained":
        note += " Both networks are untrained: the floor, what wiring alone gives."
    title = block.title or f"Layer by layer, side by side: {comparison.name}, {block.state}"
    return Section(
        title, note, (Panel("heatmaps", heatmaps(frames, x_title=x_title, y_title=y_title, quantity=quantity)),)
    )
