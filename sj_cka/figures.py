"""Results drawn as Plotly figures: layout only, no computing and no reading of files.

A figure with a slider or buttons holds in `layout.meta["still"]` the layout of a picture without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# One scale for every CKA figure, so that two pictures can be compared by eye. Viridis is perceptually uniform.
CKA_SCALE = "Viridis"
UNDEFINED = "#bdbdbd"

# Okabe and Ito (2008), colour-blind safe; without its yellow, too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#444444")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star")
DASHES = ("dash", "dot", "dashdot", "longdash")
GREY = "#666666"

MOST_TICKS = 24  # more layer names than this cannot be read side by side

_AXIS = {
    "automargin": True,
    "showline": True,
    "linecolor": "#888888",
    "gridcolor": "#e6e6e6",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#888888",
    "title": {"font": {"size": 13}},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", "size": 13, "color": "#222222"},
        "title": {"font": {"size": 16}, "x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"l": 12, "t": 14}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": PALETTE,
        "margin": {"l": 70, "r": 30, "t": 50, "b": 60},
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#888888", "font": {"color": "#222222"}, "align": "left"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


class _Ticks(NamedTuple):
    """What stands along an axis of layers: positions count layers from 0, `edges` lie between two named groups."""

    positions: list[float]
    names: list[str]
    edges: list[float]


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
    labels = _labels(frames)
    layers_x, layers_y = _layers(frames[labels[0]].index), _layers(frames[labels[0]].columns)
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

    ticks_x, ticks_y = _ticks(layers_x), _ticks(layers_y)
    height = 150 + min(580, max(150, 580 * len(layers_y) // len(layers_x)))  # the cells are square
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=740,
        height=height,
        margin_t=_top(title),
        coloraxis=_coloraxis(),
        xaxis={"title": x_title, "tickangle": -90, **_layer_axis(layers_x, ticks_x)},
        yaxis={"title": y_title, "scaleanchor": "x", "constraintoward": "top", **_layer_axis(layers_y, ticks_y)},
        shapes=[_stroke("x", at) for at in ticks_x.edges] + [_stroke("y", at) for at in ticks_y.edges],
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


def curve(
    lines: Mapping[str, pd.DataFrame],
    *,
    title: str = "",
    y_title: str = "CKA",
    reference: Mapping[str, pd.DataFrame] | None = None,
) -> go.Figure:
    """CKA of paired layers against depth, all variants in one plot, with shaded 95 % intervals.

    Variants may have different layers (a block without a shortcut has none in it): the axis holds the union, and a line
    runs straight past the layers that its variant does not have. An undefined layer (NaN) interrupts its line.

    Args:
        lines: variant -> table indexed by layer in order of depth, with the columns `mean`, `low`, `high`;
            `low` and `high` are NaN where there is no interval.
        title: heading of the figure.
        y_title: the quantity, with its unit if it has one.
        reference: "<variant>: <name>" ("none: floor") -> table alike, drawn broken in the variant's colour and hidden
            with it; a key that starts with no variant is drawn in grey.

    Returns:
        A figure with one line a variant, its interval and its references in one legend group.

    Raises:
        ValueError: no line, a missing column or a repeated layer.

    Example:
        >>> table = pd.DataFrame({"mean": [0.9, 0.8], "low": [0.8, 0.7], "high": [1.0, 0.9]}, index=["conv1", "bn1"])
        >>> figure = curve({"all shortcuts": table}, reference={"all shortcuts: floor": table - 0.3})
        >>> [trace.name for trace in figure.data if trace.showlegend]
        ['all shortcuts', 'floor']
        >>> figure.layout.xaxis.categoryarray
        ('conv1', 'bn1')
    """
    labels = _labels(lines)
    reference = reference or {}
    for label, table in [*lines.items(), *reference.items()]:
        _require(table, ("mean", "low", "high"), f"line {label!r}")
    owner = {key: key.rpartition(": ")[0] for key in reference}
    names = list(dict.fromkeys(key.rpartition(": ")[2] for key in reference))
    dash = {name: DASHES[i % len(DASHES)] for i, name in enumerate(names)}
    depth = _union(_layers(table.index) for table in [*lines.values(), *reference.values()])

    figure = go.Figure()
    for i, (label, table) in enumerate(lines.items()):
        figure.add_trace(_band(table, colour=_colour(i), group=label))
    for key, table in reference.items():
        colour = _colour(labels.index(owner[key])) if owner[key] in lines else GREY
        style = {"color": colour, "width": 1.2, "dash": dash[key.rpartition(": ")[2]]}
        figure.add_trace(
            go.Scatter(
                x=list(table.index),
                y=_numbers(table["mean"]),
                mode="lines",
                line=style,
                opacity=0.75,
                hoverinfo="skip",
                legendgroup=owner[key],
                showlegend=False,
                meta="reference",
            )
        )
    for i, (label, table) in enumerate(lines.items()):
        own = {key.rpartition(": ")[2]: reference[key]["mean"] for key in reference if owner[key] == label}
        figure.add_trace(
            go.Scatter(
                x=list(table.index),
                y=_numbers(table["mean"]),
                name=label,
                mode="lines+markers",
                line={"color": _colour(i), "width": 2},
                marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 6},
                legendgroup=label,
                showlegend=True,
                customdata=[
                    _beside(layer, low, high, own)
                    for layer, low, high in zip(table.index, table["low"], table["high"], strict=True)
                ],
                hovertemplate="%{y:.3f}%{customdata}",
            )
        )
    for name in names:  # what a broken line means, once for all variants
        broken = {"color": GREY, "width": 1.2, "dash": dash[name]}
        figure.add_trace(go.Scatter(x=[None], y=[None], name=name, mode="lines", line=broken, showlegend=True))

    ticks = _ticks(depth)
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=560,
        hovermode="x unified",
        legend=_legend_above(),
        margin_t=_top(title) + (105 if reference else 50),
        xaxis={"title": "layer, in order of depth", "tickangle": -90, **_layer_axis(depth, ticks)},
        yaxis={"title": y_title, "range": _range([*lines.values(), *reference.values()])},
        shapes=[_rule("x", at) for at in ticks.edges],
    )
    figure.update_xaxes(showgrid=not ticks.edges)
    if reference:
        dashed = [i for i, trace in enumerate(figure.data) if trace.meta == "reference"]
        figure.update_layout(updatemenus=[_switch(" and ".join(names), dashed)])
        figure.update_layout(height=615, meta={"still": {"height": 560, "margin": {"t": _top(title) + 50}}})
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
    labels = _labels(frames)
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
    top = _top(title) + 17 * lines_of_heading
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=90 + 360 * columns if columns < 3 else None,
        height=inside + top + 60,
        margin={"t": top, "b": 60},
        coloraxis=_coloraxis(),
        coloraxis_colorbar={"lenmode": "pixels", "len": 260, "y": 1, "yanchor": "top"},
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_annotations(font_size=12)
    return figure


def accuracy(table: pd.DataFrame, summary: pd.DataFrame | None = None, *, title: str = "") -> go.Figure:
    """Accuracy of every network: a row a network, a dot a seed, the mean with its 95 % interval over it.

    Args:
        table: tidy, one row a network, split and seed: `network`, `split` ("train" or "test"), `seed`, `accuracy`
            in 0..1.
        summary: tidy, one row a network and split: `network`, `split`, `mean`, `low`, `high`; `low` and `high` are NaN
            where there is no interval.
        title: heading of the figure.

    Returns:
        A figure with accuracy in per cent along the horizontal axis, networks from top to bottom as first met.

    Raises:
        ValueError: a missing column or an unknown split.

    Example:
        >>> table = pd.DataFrame({"network": ["none.snn"], "split": ["test"], "seed": [0], "accuracy": [0.93]})
        >>> accuracy(table).layout.yaxis.ticktext
        ('none.snn',)
    """
    _require(table, ("network", "split", "seed", "accuracy"), "accuracy table")
    if summary is not None:
        _require(summary, ("network", "split", "mean", "low", "high"), "accuracy summary")
    unknown = sorted(set(table["split"]) - {"train", "test"})
    if unknown:
        raise ValueError(f"expected the splits 'train' and 'test', got {unknown}")
    networks = list(dict.fromkeys(table["network"]))
    row = {network: i for i, network in enumerate(networks)}

    figure = go.Figure()
    for split, shift, colour in (("test", -0.16, PALETTE[0]), ("train", 0.16, PALETTE[4])):
        dots = table[table["split"] == split]
        figure.add_trace(
            go.Scatter(
                x=_numbers(100 * dots["accuracy"]),
                y=[row[network] + shift for network in dots["network"]],
                name=f"{split}, one seed",
                mode="markers",
                marker={"color": colour, "size": 8, "opacity": 0.55},
                customdata=dots[["network", "seed"]].to_numpy(),
                hovertemplate=f"%{{customdata[0]}}, seed %{{customdata[1]}}<br>{split} %{{x:.1f}} %<extra></extra>",
            )
        )
        if summary is None:
            continue
        means = summary[(summary["split"] == split) & summary["network"].isin(networks)]
        figure.add_trace(
            go.Scatter(
                x=_numbers(100 * means["mean"]),
                y=[row[network] + shift for network in means["network"]],
                name=f"{split}, mean and 95 % interval",
                mode="markers",
                marker={"color": colour, "symbol": "line-ns", "size": 15, "line": {"color": colour, "width": 3}},
                error_x={
                    "array": _numbers(100 * (means["high"] - means["mean"])),
                    "arrayminus": _numbers(100 * (means["mean"] - means["low"])),
                    "color": colour,
                    "thickness": 1.5,
                    "width": 5,
                },
                customdata=[
                    [network, _interval(100 * low, 100 * high, 1)]
                    for network, low, high in zip(means["network"], means["low"], means["high"], strict=True)
                ],
                hovertemplate=f"%{{customdata[0]}}<br>{split} mean %{{x:.1f}} %%{{customdata[1]}}<extra></extra>",
            )
        )
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=105 + _top(title) + 44 * len(networks),
        legend=_legend_above(),
        margin_t=_top(title) + 45,
        xaxis={"title": "accuracy in %"},
        yaxis={
            "tickvals": list(range(len(networks))),
            "ticktext": networks,
            "range": [len(networks) - 0.5, -0.5],
            "showgrid": False,
            "ticks": "",
        },
        shapes=[_rule("y", i + 0.5) for i in range(len(networks) - 1)],
    )
    return figure


def training(history: pd.DataFrame, *, title: str = "") -> go.Figure:
    """How the networks trained: loss, training accuracy and rate of firing against the epoch, one line a seed.

    Args:
        history: tidy, one row a network, seed and epoch: `network` ("<variant>.<kind>"), `seed`, `epoch` (from 1),
            `loss`, `accuracy` (training split, 0..1), `firing_rate` (spikes per neuron and step; NaN for an ANN).
        title: heading of the figure.

    Returns:
        A figure with one small plot a quantity; a colour a variant, an unbroken line for the SNN, dashed for the ANN.
        The rate of firing is left out where no network spikes.

    Raises:
        ValueError: a missing column.

    Example:
        >>> history = pd.DataFrame({"network": ["none.snn"], "seed": [0], "epoch": [1], "loss": [2.3],
        ...                         "accuracy": [0.1], "firing_rate": [0.2]})
        >>> [note.text for note in training(history).layout.annotations]
        ['training loss', 'training accuracy', 'firing rate']
    """
    _require(history, ("network", "seed", "epoch", "loss", "accuracy", "firing_rate"), "training history")
    headings = {"loss": "training loss", "accuracy": "training accuracy", "firing_rate": "firing rate"}
    if history["firing_rate"].isna().all():
        del headings["firing_rate"]
    variants = list(dict.fromkeys(_variant(network) for network in history["network"]))
    kinds = list(dict.fromkeys(_kind(network) for network in history["network"]))
    kinds.sort(key=lambda kind: kind != "snn")
    dash = {kind: ("solid", *DASHES)[i % 5] for i, kind in enumerate(kinds)}

    figure = make_subplots(1, len(headings), subplot_titles=list(headings.values()), horizontal_spacing=0.09)
    for network, own in history.groupby("network", sort=False):
        colour = _colour(variants.index(_variant(network)))
        for column, quantity in enumerate(headings, start=1):
            if own[quantity].isna().all():
                continue
            x, y, seeds = _joined(own, quantity)
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    customdata=seeds,
                    name=str(network),
                    mode="lines+markers",
                    line={"color": colour, "width": 1.5, "dash": dash[_kind(network)]},
                    marker={"size": 4},
                    opacity=0.85,
                    legendgroup=_variant(network),
                    showlegend=False,
                    hovertemplate=f"{network}, seed %{{customdata}}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
                ),
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text="epoch")
    for i, variant in enumerate(variants):
        line = {"color": _colour(i), "width": 3}
        figure.add_trace(go.Scatter(x=[None], y=[None], name=variant, legendgroup=variant, mode="lines", line=line))
    for kind in kinds:
        line = {"color": GREY, "width": 1.5, "dash": dash[kind]}
        figure.add_trace(go.Scatter(x=[None], y=[None], name=kind.upper(), mode="lines", line=line))
    for column, quantity in enumerate(headings, start=1):
        if quantity != "loss":
            figure.update_yaxes(rangemode="tozero", row=1, col=column)
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=380 + _top(title),
        margin={"t": _top(title) + 75, "l": 50},
        legend={**_legend_above(), "y": 1.1},
    )
    figure.update_annotations(font_size=13)
    return figure


FIGURES: dict[str, Callable[..., go.Figure]] = {
    "heatmap": heatmap,
    "curve": curve,
    "steps": steps_map,
    "accuracy": accuracy,
    "training": training,
}


def _labels(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    if not frames:
        raise ValueError("expected at least one table to draw, got none")
    return list(frames)


def _layers(index: pd.Index) -> list[str]:
    """Names along an axis; two layers of one name would be drawn over each other."""
    twice = list(dict.fromkeys(index[index.duplicated()]))
    if twice:
        raise ValueError(f"expected every layer once, got {twice} more than once")
    return list(index)


def _require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{what}: expected the columns {list(columns)}, {missing} missing from {list(table.columns)}")


def _numbers(values: Any) -> np.ndarray:
    """Four decimals in float32: what a picture can show, at a third of the size of the full numbers as text."""
    return np.asarray(values, dtype=np.float64).round(4).astype(np.float32)


def _cells(
    frame: pd.DataFrame,
    x: Sequence[Any],
    y: Sequence[Any],
    hover: str,
    half_width: pd.DataFrame | None = None,
) -> list[go.Heatmap]:
    """The coloured cells of one matrix, and grey ones over them where it is NaN."""
    z = _numbers(frame).T
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


def _ticks(layers: Sequence[str]) -> _Ticks:
    """Every name while they fit; else the dotted prefixes (stages, blocks), each in the middle of its layers."""
    count = len(layers)
    if count <= MOST_TICKS:
        return _Ticks(list(range(count)), list(layers), [])
    runs: list[tuple[str, int, int]] = []
    for depth in range(max(name.count(".") for name in layers) + 1, 0, -1):
        runs = _runs(layers, depth)
        if len(runs) <= MOST_TICKS:
            break
    if not 3 < len(runs) <= MOST_TICKS:  # no stages to name: every k-th layer by its full name
        kept = range(0, count, -(-count // MOST_TICKS))
        return _Ticks(list(kept), [layers[i] for i in kept], [])
    positions: list[float] = []
    names: list[str] = []
    for name, first, last in runs:
        middle = (first + last) / 2
        if not positions or middle - positions[-1] >= count / 45:  # closer labels would touch
            # A whole number would put the group's name in place of the layer's own under the pointer.
            positions.append(middle + 0.03)
            names.append(name)
    return _Ticks(positions, names, [first - 0.5 for _, first, _ in runs[1:]])


def _runs(layers: Sequence[str], depth: int) -> list[tuple[str, int, int]]:
    """Neighbouring layers with the same first `depth` parts of their names: (prefix, first, last)."""
    runs = []
    for prefix, run in groupby(enumerate(layers), key=lambda item: ".".join(item[1].split(".")[:depth])):
        places = [i for i, _ in run]
        runs.append((prefix, places[0], places[-1]))
    return runs


def _layer_axis(layers: Sequence[str], ticks: _Ticks) -> dict[str, Any]:
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(layers),
        "range": [-0.5, len(layers) - 0.5],
        "tickvals": ticks.positions,
        "ticktext": ticks.names,
        "tickfont": {"size": 11},
        "ticks": "" if ticks.edges else "outside",
    }


def _stroke(axis: Literal["x", "y"], at: float) -> dict[str, Any]:
    """A short line outside the plot where one group of layers ends and the next begins."""
    return _line_across(axis, at, 0, -0.02)


def _rule(axis: Literal["x", "y"], at: float) -> dict[str, Any]:
    """A pale line through the plot, behind the data."""
    return {**_line_across(axis, at, 0, 1), "line": {"color": "#dddddd", "width": 1}, "layer": "below"}


def _line_across(axis: Literal["x", "y"], at: float, start: float, end: float) -> dict[str, Any]:
    """`at` counts places along the axis, `start` and `end` are parts of the plot's extent across it."""
    other = "y" if axis == "x" else "x"
    return {
        "type": "line",
        f"{axis}ref": axis,
        f"{axis}0": at,
        f"{axis}1": at,
        f"{other}ref": f"{other} domain",
        f"{other}0": start,
        f"{other}1": end,
        "line": {"color": "#888888", "width": 1},
    }


def _slider(labels: Sequence[str], frame_of_trace: Sequence[str]) -> dict[str, Any]:
    steps = [
        {"method": "restyle", "label": label, "args": [{"visible": [name == label for name in frame_of_trace]}]}
        for label in labels
    ]
    return {"steps": steps, "currentvalue": {"prefix": "shown: "}, "pad": {"t": 30}, "x": 0, "len": 1}


def _switch(names: str, traces: list[int]) -> dict[str, Any]:
    """Two buttons that show and hide broken lines; by opacity, so that a variant hidden in the legend stays hidden."""
    buttons = [
        {"label": f"with {names}", "method": "restyle", "args": [{"opacity": 0.75}, traces]},
        {"label": "without", "method": "restyle", "args": [{"opacity": 0}, traces]},
    ]
    place = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 66}}  # above two rows of legend
    return {"type": "buttons", "direction": "right", "buttons": buttons, **place}


def _top(title: str) -> int:
    """Pixels above a plot: for the buttons that Plotly shows under the pointer, and for a heading if there is one."""
    return 50 if title else 30


def _legend_above() -> dict[str, Any]:
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}


def _colour(i: int) -> str:
    return PALETTE[i % len(PALETTE)]


def _range(tables: Iterable[pd.DataFrame]) -> list[float]:
    """0 to 1, and further where a value lies outside (a difference of two CKAs can be negative)."""
    values = np.concatenate([table[["mean", "low", "high"]].to_numpy(float).ravel() for table in tables])
    values = values[np.isfinite(values)]
    return [min([0.0, *values]) - 0.02, max([1.0, *values]) + 0.02]


def _union(layer_lists: Iterable[list[str]]) -> list[str]:
    """All layers in order of depth: a layer that only one list has goes behind the one it follows there."""
    union: list[str] = []
    for layers in layer_lists:
        place = 0
        for layer in layers:
            if layer not in union:
                union.insert(place, layer)
            place = union.index(layer) + 1
    return union


def _band(table: pd.DataFrame, *, colour: str, group: str) -> go.Scatter:
    """The interval as one closed shape for each run of layers that have one."""
    x: list[str | None] = []
    y: list[float | None] = []
    known = table[["low", "high"]].notna().all(axis=1).to_numpy()
    for has_interval, run in groupby(range(len(table)), key=lambda i: bool(known[i])):
        if has_interval:
            part = table.iloc[list(run)]
            x += [*part.index, *part.index[::-1], None]
            y += [*_plain(part["low"]), *_plain(part["high"].iloc[::-1]), None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=f"rgba({int(colour[1:3], 16)}, {int(colour[3:5], 16)}, {int(colour[5:], 16)}, 0.18)",
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
        meta="interval",
    )


def _plain(values: pd.Series) -> list[float]:
    return [round(float(value), 4) for value in values]


def _beside(layer: str, low: float, high: float, references: Mapping[str, pd.Series]) -> str:
    """What stands behind a value under the pointer: its interval and its references."""
    text = _interval(low, high, 3)
    for name, values in references.items():
        if layer in values.index and not np.isnan(values[layer]):
            text += f", {name} {values[layer]:.3f}"
    return text


def _interval(low: float, high: float, decimals: int) -> str:
    return "" if np.isnan(low) or np.isnan(high) else f" [{low:.{decimals}f}, {high:.{decimals}f}]"


def _variant(network: Any) -> str:
    return str(network).rpartition(".")[0] or str(network)


def _kind(network: Any) -> str:
    return str(network).rpartition(".")[2]


def _joined(history: pd.DataFrame, quantity: str) -> tuple[list[Any], list[Any], list[Any]]:
    """The seeds of one network as one interrupted line: epochs, values, and the seed at every point."""
    x: list[Any] = []
    y: list[Any] = []
    seeds: list[Any] = []
    for seed, own in history.groupby("seed", sort=False):
        x += [*own["epoch"].tolist(), None]
        y += [*(None if np.isnan(value) else value for value in _plain(own[quantity])), None]
        seeds += [seed] * (len(own) + 1)
    return x, y, seeds
