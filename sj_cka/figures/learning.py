"""What becomes of a network while it trains: similarity against the epoch, beside the alignment of its updates."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.drawing import (
    LEGEND_ABOVE,
    SYMBOLS,
    FigureBlock,
    Panel,
    Results,
    Section,
    colour_of,
    interval_texts,
    labels_of,
    lay_out,
    numbers,
    reach,
    require_means,
    small_multiples,
    whiskers,
)
from sj_cka.over_seeds import over_seeds

_COLUMNS = 4  # pictures in a row
_PICTURE, _GAP = 210, 78  # pixels


def against_epochs(
    pictures: Mapping[str, Mapping[str, pd.DataFrame]],
    *,
    title: str = "",
    y_title: str = "CKA",
    x_title: str = "epoch",
) -> go.Figure:
    """Values against the epoch, small multiples with one scale.

    Args:
        pictures: heading -> line -> table indexed by epoch, with the columns `mean`, `low`, `high`; `low` and `high`
            are NaN where there is no interval.
        title: heading of the figure.
        y_title: the quantity.
        x_title: what the tables are indexed by, where it is not the epoch.

    Returns:
        A figure with one picture a heading; a line has one colour in all of them.

    Raises:
        ValueError: no picture, or a missing column.

    Example:
        >>> table = pd.DataFrame({"mean": [0.3, 0.8], "low": [0.2, 0.7], "high": [0.4, 0.9]}, index=[0, 5])
        >>> figure = against_epochs({"base.snn": {"lif1": table}})
        >>> [trace.name for trace in figure.data]
        ['lif1']
    """
    headings = labels_of(pictures)
    require_means(*pictures.values())
    lines = list(dict.fromkeys(line for of_picture in pictures.values() for line in of_picture))
    shared: dict[str, Any] = {"shared_xaxes": "all", "shared_yaxes": "all", "horizontal_spacing": 0.03}
    figure, places, columns, height = small_multiples(headings, min(_COLUMNS, len(headings)), _PICTURE, _GAP, **shared)
    named = set[str]()
    for at, of_picture in zip(places, pictures.values(), strict=True):
        for line, table in of_picture.items():
            trace = _line(line, lines.index(line), table)
            figure.add_trace(trace.update(showlegend=line not in named), **at)
            named.add(line)
    low, _ = reach((table[["mean", "low"]] for of in pictures.values() for table in of.values()), 0.0, 1.0)
    figure.update_yaxes(range=[max(low, -1) - 0.05, 1.05])  # intervals may reach beyond what CKA and cosines can be
    last_row = len(headings) - columns
    for i, at in enumerate(places):
        if i >= last_row:
            figure.update_xaxes(title_text=x_title, title_standoff=4, showticklabels=True, **at)
    for at in places[::columns]:
        figure.update_yaxes(title_text=y_title, **at)
    rows = 26 * (1 + sum(len(line) + 6 for line in lines) // 130)  # of the legend
    legend = {**LEGEND_ABOVE, "y": 1 + 30 / height}
    lay_out(figure, title, height + 110 + rows, above=35 + rows, margin_b=55, legend=legend)
    return figure


def _line(name: str, i: int, table: pd.DataFrame) -> go.Scatter:
    known = table[["low", "high"]].notna().all(axis=1).any()
    return go.Scatter(
        x=table.index.tolist(),
        y=numbers(table["mean"]),
        name=name,
        mode="lines+markers",
        line={"color": colour_of(i), "width": 1.6},
        marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 6},
        error_y=whiskers(table, width=2) if known else None,
        customdata=interval_texts(table, 3),
        hovertemplate=f"{name} at %{{x}}<br>%{{y:.3f}}%{{customdata}}<extra></extra>",
        legendgroup=name,
    )


def _compared(block: FigureBlock, results: Results) -> pd.DataFrame:
    """Paired values of a comparison over epochs: columns network, epoch, seed, layer, value."""
    rows = results.tables["paired"]
    rows = rows[(rows["comparison"] == block.comparison) & (rows["state"] == "trained")]
    sides = results.sides(block)
    over = "x" if str(results.comparison(block).x).endswith("@*") else "y"
    places = {}
    for variant, both in sides.items():
        name = getattr(both, over)
        epoch = int(name.moment) if name.moment else results.study.epochs(name)[-1]
        places[variant] = (str(name.trained), epoch)
    found = [places[variant] for variant in rows["variant"]]
    placed = rows.assign(network=[network for network, _ in found], epoch=[epoch for _, epoch in found])
    return placed.rename(columns={"cka": "value"})


def learning_section(block: FigureBlock, results: Results) -> Section:
    """A comparison over epochs, a line a layer."""
    rows, comparison = _compared(block, results), results.comparison(block)
    pictures = {
        str(network): {
            str(layer): over_seeds(of_layer, "epoch", "value")
            for layer, of_layer in of_network.groupby("layer", sort=False)
        }
        for network, of_network in rows.groupby("network", sort=False)
    }
    note = (
        f"{results.similarity(block)} of layers of the same name of {_of(comparison.x)} with {_of(comparison.y)}, "
        "against the epoch; means with 95 % intervals over seeds."
    )
    figure = against_epochs(pictures, y_title=results.similarity(block))
    return Section(block.title or f"Learning: {comparison.name}", note, (Panel("learning", figure),))


def parting_section(block: FigureBlock, results: Results) -> Section:
    """Similarity of representations beside the alignment of updates: which of them parts first."""
    rows, comparison = _compared(block, results), results.comparison(block)
    aligned = results.tables["alignment"]
    similarity = f"{results.similarity(block)} with {_of(comparison.y)}, mean over layers"
    pictures = {}
    for network, of_network in rows.groupby("network", sort=False):
        by_seed = of_network.groupby(["epoch", "seed"])["value"].mean().reset_index()
        lines = {similarity: over_seeds(by_seed, "epoch", "value")}
        if len(aligned) and (own := aligned[(aligned["network"] == network) & aligned["hidden"]]).size:
            updates = own.groupby(["epoch", "seed"])["cosine"].mean().reset_index()
            lines["cosine of updates with BPTT's, mean over hidden layers"] = over_seeds(updates, "epoch", "cosine")
        pictures[str(network)] = lines
    note = (
        f"{similarity}, and the cosine of the rule's updates with BPTT's at the same weights, against the epoch; means "
        "with 95 % intervals over seeds."
    )
    figure = against_epochs(pictures, y_title="CKA, cosine")
    return Section(block.title or f"What parts first: {comparison.name}", note, (Panel("parting", figure),))


def _of(name: str) -> str:
    """A network of a comparison over epochs in words."""
    if name.endswith("@*"):
        return f"{name.removesuffix('@*')} at the same epoch"
    return f"{name} at the end of its training"
