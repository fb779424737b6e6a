"""Which layers are alike, and which can stand in for each other: similarity beside the accuracy that is left."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.curve import band
from sj_cka.figures.drawing import (
    GREY,
    LEGEND_ABOVE,
    PALETTE,
    FigureBlock,
    Panel,
    Results,
    Section,
    interval_texts,
    labels_of,
    lay_out,
    layer_axis,
    layer_names,
    layer_ticks,
    numbers,
    reach,
    require_means,
    small_multiples,
)
from sj_cka.over_seeds import of_layers

_PICTURE = 250  # pixels
_LEFT: dict[str, tuple[str, dict[str, Any]]] = {  # column of the table -> what its line is called, and its look
    "accuracy": ("accuracy left, with the other's layer", {"color": PALETTE[1], "width": 2.4}),
    "random": ("with the other's untrained layer", {"color": PALETTE[4], "width": 1.6, "dash": "dash"}),
    "permuted": ("with its steps in another order", {"color": PALETTE[2], "width": 1.4, "dash": "longdash"}),
    "self": ("with its own layer, mapped", {"color": PALETTE[7], "width": 1.2, "dash": "dot"}),
    "constant": ("with its mean alone", {"color": GREY, "width": 1.2, "dash": "dashdot"}),
}
_SIMILARITY: dict[str, Any] = {"color": PALETTE[0], "width": 2.4}
_BANDS = ("similarity", "accuracy")  # the others have their intervals under the pointer


def exchanges(
    pictures: Mapping[str, Mapping[str, pd.DataFrame]], *, title: str = "", similarity: str = "CKA"
) -> go.Figure:
    """Similarity of layers and the accuracy that their exchange leaves, layer by layer: a picture a network.

    Args:
        pictures: heading -> "similarity", or a column of `sj_cka.exchange.exchange` ("accuracy", "random", "permuted",
            "self", "constant") -> table indexed by layer in order of depth with the columns `mean`, `low`, `high`, in
            0..1; `low` and `high` are NaN where there is no interval. All tables of a picture have its layers, one that
            is NaN everywhere is not drawn.
        title: heading of the figure.
        similarity: what the measure of similarity is called.

    Returns:
        A figure with two pictures in a row, one line for each table, and 95 % intervals of the first two as bands.

    Raises:
        ValueError: no picture, an unknown line, a missing column or a repeated layer.

    Example:
        >>> table = pd.DataFrame({"mean": [0.9, 0.2], "low": [0.8, 0.1], "high": [1.0, 0.3]}, index=["lif1", "lif2"])
        >>> figure = exchanges({"a.snn in a.ann": {"similarity": table, "accuracy": table}})
        >>> [trace.name for trace in figure.data if trace.showlegend]
        ['CKA', "accuracy left, with the other's layer"]
    """
    headings = labels_of(pictures)
    require_means(*pictures.values())
    looks = {"similarity": (similarity, _SIMILARITY), **_LEFT}
    if unknown := {line for lines in pictures.values() for line in lines} - looks.keys():
        raise ValueError(f"expected lines out of {', '.join(looks)}, got {', '.join(sorted(unknown))}")
    layers = {heading: layer_names(next(iter(lines.values())).index) for heading, lines in pictures.items()}
    columns = min(2, len(headings))
    # pixels of names that stand upright, below each picture
    tall = [20 + 7 * max(map(len, layer_ticks(layers[heading]).names)) for heading in headings]
    gap = max(tall[:-columns], default=0) + 50
    figure, places, _, height = small_multiples(
        headings, columns, _PICTURE, gap, shared_yaxes="all", horizontal_spacing=0.05
    )
    named = set[str]()
    for at, (heading, lines) in zip(places, pictures.items(), strict=True):
        for line, table in lines.items():
            name, look = looks[line]
            if table["mean"].isna().all():
                continue
            if line in _BANDS:
                figure.add_trace(band(table, list(table.index), colour=look["color"], group=line), **at)
            figure.add_trace(_line(name, table, look, line, line not in named), **at)
            named.add(line)
        ticks = layer_ticks(layers[heading])
        figure.update_xaxes(**layer_axis(layers[heading], ticks), tickangle=-90, showgrid=not ticks.edges, **at)
        for edge in ticks.edges:
            figure.add_vline(x=edge, line={"color": "#dddddd", "width": 1}, layer="below", **at)
    low, high = reach((table[["mean"]] for lines in pictures.values() for table in lines.values()), 0.0, 1.0)
    figure.update_yaxes(range=[low - 0.03, high + 0.03])
    for at in places[::columns]:
        figure.update_yaxes(title_text=f"{similarity}, accuracy", **at)
    legend = {**LEGEND_ABOVE, "y": 1 + 34 / height}
    below = max(tall[-columns:]) + 20
    lay_out(figure, title, height + 100 + below, above=100, margin_b=below, legend=legend, hovermode="x unified")
    return figure


def _line(name: str, table: pd.DataFrame, look: Mapping[str, Any], group: str, legend: bool) -> go.Scatter:
    broken = "dash" in look
    return go.Scatter(
        x=list(table.index),
        y=numbers(table["mean"]),
        name=name,
        mode="lines" if broken else "lines+markers",
        line=dict(look),
        marker={"size": 5},
        legendgroup=group,
        showlegend=legend,
        customdata=interval_texts(table, 3),
        hovertemplate="%{y:.3f}%{customdata}",
    )


def exchanges_section(block: FigureBlock, results: Results) -> Section:
    """Similarity and accuracy left of a comparison whose layers were exchanged, a picture for each variant and way."""
    name, similarity = str(block.comparison), results.similarity(block)
    exchanged, paired = results.tables["exchange"], results.tables["paired"]
    exchanged = exchanged[exchanged["comparison"] == name]
    pictures, rows = {}, []
    for (variant, source, target), own in exchanged.groupby(["variant", "source", "target"], sort=False):
        lines = {column: of_layers(own, name, str(variant), "trained", column) for column in _LEFT}
        alike = of_layers(paired, name, str(variant), "trained", correlation=not results.by_distance(block))
        lines = {"similarity": alike.reindex(lines["accuracy"].index), **lines}
        whole = own["whole"].mean()
        pictures[f"layers of {source} in {target} ({100 * whole:.1f} % as it is)"] = lines
        rows.append({"layers of": source, "in": target, **_summary(lines, whole, similarity)})
    note = (
        f"{similarity} of layers of the same name, and the accuracy on test samples that is left of a network where "
        "one layer of the other stands in place of its own, through an affine map that is fitted by least squares on "
        "training samples; means with 95 % intervals over seeds. A layer is alike but not exchangeable where the first "
        "line is high and the second low. Controls: the same with the other network untrained, which shows what a "
        "linear map makes of random features; with the network's own layer, which should lose nothing; and with the "
        "layer's mean, which tells what gets around the layer, as through a shortcut. Table: means over layers."
    )
    left_out = results.tables["not_exchanged"]
    if len(left_out):
        of_one = left_out[left_out["comparison"] == name].groupby(["source", "target", "why"], sort=False)
        for (source, target, why), own in of_one:
            note += f" Not exchanged, of {source} in {target}: {', '.join(own['layer'].unique())} ({why})."
    panel = Panel("exchange", exchanges(pictures, similarity=similarity))
    return Section(block.title or f"Alike, and exchangeable? {name}", note, (panel,), pd.DataFrame(rows))


def _summary(lines: Mapping[str, pd.DataFrame], whole: float, similarity: str) -> dict[str, str]:
    """Means over layers in words, and the layer of which least is left."""
    means = pd.DataFrame({line: table["mean"] for line, table in lines.items()})
    row = {similarity: f"{means['similarity'].mean():.3f}", "as it is": _percent(whole)}
    row |= {what: _percent(means[line].mean()) for line, what in _IN_TABLE.items()}
    at = means.iloc[int(means["accuracy"].argmin())]
    row["least exchangeable"] = f"{at.name}: {similarity} {at['similarity']:.2f}, {_percent(at['accuracy'])} left"
    return row


_IN_TABLE = {"accuracy": "exchanged", "random": "untrained", "permuted": "permuted"}


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{100 * share:.1f} %"
