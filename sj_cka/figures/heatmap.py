"""CKA as coloured cells, alike in every figure: one scale from 0 to 1, grey where it is undefined; layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.drawing import (
    CKA_SCALE,
    UNDEFINED,
    FigureBlock,
    Panel,
    Results,
    Section,
    labels_of,
    lay_out,
    layer_axis,
    layer_names,
    layer_ticks,
    numbers,
    reach,
    small_multiples,
    stage_ticks,
    stroke,
)


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
    labels, spread = labels_of(frames), spread or {}
    layers_x, layers_y = layer_names(frames[labels[0]].index), layer_names(frames[labels[0]].columns)
    _check_alike(labels[0], frame=frames, spread=spread)
    figure = go.Figure()
    hover = f"{x_title or 'x'}: %{{x}}<br>{y_title or 'y'}: %{{y}}<br>"
    for label, frame in frames.items():
        for trace in cells_of(frame, layers_x, layers_y, hover, spread.get(label), quantity):
            figure.add_trace(trace.update(name=label, visible=label == labels[0]))

    height = 150 + min(580, max(150, 580 * len(layers_y) // len(layers_x)))  # the cells are square
    span = (0, 1) if quantity == "CKA" else reach(frames.values(), 0, 1)
    axes = _axes(layers_x, layers_y, x_title, y_title)
    lay_out(figure, title, None, width=740, height=height, coloraxis=coloraxis(quantity, *span), **axes)
    if any(trace.coloraxis is None for trace in figure.data):
        figure.add_annotation(_GREY)
    if len(labels) > 1:
        slider = _slider(labels, [trace.name for trace in figure.data])
        figure.update_layout(sliders=[slider], height=height + 60, meta={"still": {"height": height}})
    return figure


def _axes(layers_x: list[str], layers_y: list[str], x_title: str, y_title: str) -> dict[str, Any]:
    """Two axes of layers in one unit, with strokes where one group of layers ends."""
    x, y = layer_ticks(layers_x), layer_ticks(layers_y)
    common = {"showgrid": False, "constrain": "domain"}
    return {
        "xaxis": {"title": x_title, "tickangle": -90, **common, **layer_axis(layers_x, x)},
        "yaxis": {
            "title": y_title,
            "scaleanchor": "x",
            "constraintoward": "top",
            **common,
            **layer_axis(layers_y, y),
        },
        "shapes": [stroke("x", at) for at in x.edges] + [stroke("y", at) for at in y.edges],
    }


def _check_alike(first: str, **tables: Mapping[str, pd.DataFrame]) -> None:
    """Raises ValueError unless all tables of every kind have the layers of the first frame."""
    for kind, of_kind in tables.items():
        for label, table in of_kind.items():
            if [*map(list, table.axes)] != [*map(list, tables["frame"][first].axes)]:
                raise ValueError(f"expected the layers of frame {first!r} in every table, {kind} {label!r} has others")


_GREY = {
    "text": "grey:<br>undefined",
    "showarrow": False,
    "align": "left",
    "font": {"size": 11},
    "yshift": -14,
    # beside the bar of colours
    **{"xref": "paper", "x": 1.02, "xanchor": "left", "yref": "paper", "y": 0, "yanchor": "top"},
}


def _slider(labels: Sequence[str], frame_of_trace: Sequence[str]) -> dict[str, Any]:
    steps = [
        {"method": "restyle", "label": label, "args": [{"visible": [name == label for name in frame_of_trace]}]}
        for label in labels
    ]
    return {"steps": steps, "currentvalue": {"prefix": "shown: "}, "pad": {"t": 30}, "x": 0, "len": 1}


def heatmap_section(block: FigureBlock, results: Results) -> Section:
    """Every layer with every layer, a tab a variant."""
    comparison, quantity, panels = results.comparison(block), results.similarity(block), dict[str, Panel]()
    for variant, sides in results.sides(block).items():
        if block.state != "ceiling":
            means, spread = results.frames(block, variant)
            suffix = "" if block.state == "trained" else ", untrained"
            x_title, y_title = (f"{title}{suffix}" for title in sides.titles)
            figure = heatmap(means, x_title=x_title, y_title=y_title, quantity=quantity, spread=spread)
            panels[variant] = Panel(variant or comparison.name, figure)
            continue
        for name, title in zip(sides[:2], sides.titles, strict=True):
            means, _ = results.frames(block, variant, comparison.ceiling_of(name))
            if means:
                x_title, y_title = f"{title}, a seed", f"{title}, another seed"
                figure = heatmap(means, x_title=x_title, y_title=y_title, quantity=quantity)
                panels[title] = Panel(title, figure)
    of_what = {
        "trained": "the other",
        "untrained": "the other, both untrained (the floor: what wiring alone gives)",
        "ceiling": "the same network trained from another seed (the noise ceiling)",
    }[block.state]
    note = (
        f"{quantity} of every layer of one network with every layer of {of_what}, mean over "
        f"{len(results.study.seeds)} seeds, all steps concatenated; the slider picks a single time step. Grey: "
        "undefined; ±, under the pointer: half of the 95 % interval over seeds. Names are those of the modules: in an "
        "artificial network, ReLU stands where the spiking one has its neuron (lif)."
    )
    if not panels:
        note = "Nothing to show: seed against seed takes two seeds."
    title = block.title or f"Layer by layer: {comparison.name}, {block.state}"
    return Section(title, note, tuple(panels.values()))


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
        axis_x, axis_y = (layer_axis(layers, stage_ticks(layers)) | {"ticks": ""} for layers in (layers_x, layers_y))
        figure.update_xaxes(**axis_x, tickangle=-90, title_text=x_title, title_standoff=6, **at)
        figure.update_yaxes(**axis_y, title_text=y_title if at["col"] == 1 else "", title_standoff=4, **at)
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
    return figure


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
