"""CKA of paired layers along depth."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka import over_seeds
from sj_cka.figures.drawing import (
    DASHES,
    GREY,
    LEGEND_ABOVE,
    SYMBOLS,
    FigureBlock,
    Panel,
    Results,
    Section,
    colour_of,
    interval_text,
    labels_of,
    lay_out,
    layer_axis,
    layer_names,
    layer_ticks,
    numbers,
    plain,
    reach,
    require_means,
    rule,
    top_margin,
)


def curve(
    lines: Mapping[str, pd.DataFrame],
    *,
    title: str = "",
    y_title: str = "CKA",
    reference: Mapping[str, pd.DataFrame] | None = None,
    from_zero: bool = True,
    relative: bool = False,
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
        from_zero: the vertical axis starts at 0 or below; False: just below the lowest value.
        relative: along relative depth, 0 for a variant's first layer and 1 for its last, whatever number lies between.

    Returns:
        A figure with one line a variant, its interval and its references in one legend group.

    Raises:
        ValueError: no line, a missing column or a repeated layer.

    Example:
        >>> table = pd.DataFrame({"mean": [0.9, 0.8], "low": [0.8, 0.7], "high": [1.0, 0.9]}, index=["conv1", "bn1"])
        >>> figure = curve({"all shortcuts": table}, reference={"all shortcuts: floor": table - 0.3})
        >>> [trace.name for trace in figure.data if trace.showlegend]
        ['all shortcuts', 'floor']
    """
    labels, reference = labels_of(lines), reference or {}
    require_means(lines, reference)
    tables = [*lines.values(), *reference.values()]
    figure = go.Figure()
    for i, (label, table) in enumerate(lines.items()):
        figure.add_trace(band(table, _places(table, relative), colour=colour_of(i), group=label))
    styles = _styles(list(reference))
    for key, table in reference.items():
        owner, _, name = _parted(key)
        colour = colour_of(labels.index(owner)) if owner in lines else GREY
        figure.add_trace(_reference(table, _places(table, relative), styles[name] | {"color": colour}, owner))
    for i, (label, table) in enumerate(lines.items()):
        beside = {_parted(key)[2]: table["mean"] for key, table in reference.items() if _parted(key)[0] == label}
        figure.add_trace(_means(label, i, table, _places(table, relative), beside, y_title if relative else None))
    for name, style in styles.items():  # what a broken line means, once for all variants
        figure.add_trace(go.Scatter(x=[None], y=[None], name=name, mode="lines", line=style, showlegend=True))
    depth = _union(layer_names(table.index) for table in tables)
    look = _RELATIVE if relative else _by_layer(depth)
    low, high = reach((table[["mean", "low", "high"]] for table in tables), 0.0 if from_zero else 1.0, 1.0)
    look = look | {"yaxis": {"title": y_title, "range": [low - 0.02, high + 0.02]}, "legend": LEGEND_ABOVE}
    lay_out(figure, title, None, above=105 if reference else 50, height=560, **look)
    if reference:
        _add_switch(figure, " and ".join(styles), top_margin(title) + 50)
    return figure


def _parted(key: str) -> tuple[str, str, str]:
    """The variant of a reference, a colon, and its own name."""
    return key.rpartition(": ")


def _styles(references: list[str]) -> dict[str, dict[str, Any]]:
    """Own name of a reference -> how it is drawn, in grey."""
    names = dict.fromkeys(_parted(key)[2] for key in references)
    return {name: {"color": GREY, "width": 1.2, "dash": DASHES[i % len(DASHES)]} for i, name in enumerate(names)}


_RELATIVE: dict[str, Any] = {
    "hovermode": "closest",
    "xaxis": {
        "title": "relative depth: 0 the first layer, 1 the last",
        "range": [-0.02, 1.02],
        "showgrid": True,
    },
    "shapes": [],
}


def _by_layer(depth: list[str]) -> dict[str, Any]:
    """The layout of an axis of layers."""
    ticks = layer_ticks(depth)
    axis = {"title": "layer, in order of depth", "tickangle": -90, **layer_axis(depth, ticks)}
    shapes = [rule("x", at) for at in ticks.edges]
    return {"hovermode": "x unified", "xaxis": {**axis, "showgrid": not ticks.edges}, "shapes": shapes}


def _reference(table: pd.DataFrame, places: list[Any], style: dict[str, Any], group: str) -> go.Scatter:
    """A broken line without marks."""
    return go.Scatter(
        x=places,
        y=numbers(table["mean"]),
        mode="lines",
        line=style,
        opacity=0.75,
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
        meta="reference",
    )


def _means(
    label: str,
    i: int,
    table: pd.DataFrame,
    places: list[Any],
    references: Mapping[str, pd.Series],
    quantity: str | None,
) -> go.Scatter:
    """The line of the i-th variant; its interval and references under the pointer, named if a quantity is given."""
    intervals = zip(table.index, table["low"], table["high"], strict=True)
    return go.Scatter(
        x=places,
        y=numbers(table["mean"]),
        name=label,
        mode="lines+markers",
        line={"color": colour_of(i), "width": 2},
        marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 6},
        legendgroup=label,
        showlegend=True,
        customdata=[_beside(layer, low, high, references) for layer, low, high in intervals],
        text=list(table.index),
        hovertemplate=f"{label}, %{{text}}<br>{quantity} %{{y:.3f}}%{{customdata}}<extra></extra>"
        if quantity
        else "%{y:.3f}%{customdata}",
    )


def _add_switch(figure: go.Figure, names: str, top: int) -> None:
    """Two buttons that show and hide broken lines; by opacity, so that a variant hidden in the legend stays hidden.

    Args:
        figure: with the lines.
        names: what the lines are.
        top: pixels above the plot in a picture, which has no buttons.
    """
    traces = [i for i, trace in enumerate(figure.data) if trace.meta == "reference"]
    buttons = [
        {"label": f"with {names}", "method": "restyle", "args": [{"opacity": 0.75}, traces]},
        {"label": "without", "method": "restyle", "args": [{"opacity": 0}, traces]},
    ]
    place = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 66}}  # above two rows of legend
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, **place}
    figure.update_layout(updatemenus=[menu], height=615, meta={"still": {"height": 560, "margin": {"t": top}}})


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


def _places(table: pd.DataFrame, relative: bool) -> list[Any]:
    """Where the layers of a table stand: at their names, or at their relative depth."""
    return [round(float(place), 5) for place in np.linspace(0, 1, len(table))] if relative else list(table.index)


def band(table: pd.DataFrame, places: list[Any], *, colour: str, group: str) -> go.Scatter:
    """The interval as one closed shape for each run of layers that have one."""
    x: list[Any] = []
    y: list[float | None] = []
    known = table[["low", "high"]].notna().all(axis=1).to_numpy()
    for has_interval, run in groupby(range(len(table)), key=lambda i: bool(known[i])):
        if has_interval:
            chosen = list(run)
            part, at = table.iloc[chosen], [places[i] for i in chosen]
            x += [*at, *at[::-1], None]
            y += [*plain(part["low"]), *plain(part["high"].iloc[::-1]), None]
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


def _beside(layer: str, low: float, high: float, references: Mapping[str, pd.Series]) -> str:
    """What stands behind a value under the pointer: its interval and its references."""
    text = interval_text(low, high, 3)
    for name, values in references.items():
        if layer in values.index and not np.isnan(values[layer]):
            text += f", {name} {values[layer]:.3f}"
    return text


def relative_curve_section(block: FigureBlock, results: Results) -> Section:
    """Layers of the same name along relative depth, a line a variant."""
    return _curves(block, results, relative=True)


def curve_section(block: FigureBlock, results: Results) -> Section:
    """Layers of the same name along depth, a line a variant."""
    return _curves(block, results, relative=False)


def _identified(rows: pd.DataFrame, correlation: bool) -> str:
    """How often the layer of the same name is the best match, in a sentence; "" of distances."""
    known = rows.dropna(subset="best")
    if known.empty or not correlation:
        return ""
    of_variants = known.groupby("variant", sort=False)["best"].mean()
    shares = [f"{100 * share:.0f} %{f' ({name})' if name else ''}" for name, share in of_variants.items()]
    return f"The layer of y that is most like a layer of x is the one of the same name in {', '.join(shares)} of cases."


def _curves(block: FigureBlock, results: Results, *, relative: bool) -> Section:
    lines, reference, quantity = {}, {}, results.similarity(block)
    correlation = not results.by_distance(block)
    paired, comparison = results.tables["paired"], str(block.comparison)
    for variant in results.sides(block):
        name = variant or str(block.comparison)
        lines[name] = over_seeds.of_layers(paired, comparison, variant, "trained", correlation=correlation)
        for state, label in (("untrained", "floor"), ("ceiling", "noise ceiling")):
            table = over_seeds.of_layers(paired, comparison, variant, state, correlation=correlation)
            if len(table):
                reference[f"{name}: {label}"] = table
    lines = {name: table for name, table in lines.items() if len(table)}
    note = f"{quantity} of layers of the same name, in order of depth, with 95 % intervals over seeds. "
    if any(name.endswith(": floor") for name in reference):
        note += "Floor: the same networks untrained (batch normalisation calibrated). "
    if any(name.endswith(": noise ceiling") for name in reference):
        note += "Noise ceiling: a network against itself trained from another seed, geometric mean of the two. "
    if best := _identified(paired[(paired.comparison == comparison) & (paired.state == "trained")], correlation):
        note += f"{best} "
    note += "Click a name to hide it."
    panels = (Panel("curve", curve(lines, reference=reference, relative=relative, y_title=quantity)),) if lines else ()
    if not lines:
        note = "No layer has the same name in both networks, so there is no curve of paired layers."
    return Section(block.title or f"Paired layers: {block.comparison}", note, panels)
