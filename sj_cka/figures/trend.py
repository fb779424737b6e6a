"""A measured value against the swept one."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pydantic import AfterValidator, Field

from sj_cka import over_seeds
from sj_cka.claims import MEASUREMENTS, Arm, swept
from sj_cka.figures.drawing import (
    DASHES,
    GREY,
    LEGEND_ABOVE,
    SYMBOLS,
    FigureBlock,
    Panel,
    Results,
    Section,
    beside_each_other,
    colour_of,
    interval_texts,
    labels_of,
    lay_out,
    numbers,
    require,
    require_means,
    whiskers,
)
from sj_cka.plugins import closest


def trend(
    lines: Mapping[str, pd.DataFrame],
    *,
    title: str = "",
    x_title: str = "",
    y_title: str = "mean CKA of paired layers",
    dots: Mapping[str, pd.DataFrame] | None = None,
    reference: Mapping[str, pd.DataFrame] | None = None,
) -> go.Figure:
    """A value against a swept number, every doubling equally far: means with 95 % intervals, and a dot a seed.

    Args:
        lines: name -> table indexed by the swept value, above 0, with the columns `mean`, `low`, `high`; `low` and
            `high` are NaN where there is no interval.
        title: heading of the figure.
        x_title: what is swept ("model.depth").
        y_title: the quantity, with its unit if it has one.
        dots: name of a line -> tidy table, one row a swept value and seed: `value`, `seed`, `measured`.
        reference: name -> table like those of `lines`, drawn broken in grey.

    Returns:
        A figure with one line a name.

    Raises:
        ValueError: no line, a missing column, or a swept value that is not above 0.

    Example:
        >>> table = pd.DataFrame({"mean": [0.8, 0.9], "low": [0.7, 0.8], "high": [0.9, 1.0]}, index=[8, 14])
        >>> figure = trend({"trained": table}, reference={"floor": table - 0.3}, x_title="model.depth")
        >>> [trace.name for trace in figure.data]
        ['floor', 'trained']
        >>> figure.layout.xaxis.ticktext
        ('8', '14')
    """
    labels, dots, reference = labels_of(lines), dots or {}, reference or {}
    _check_swept(lines, reference)
    aside = beside_each_other(labels, 0.02)
    figure = go.Figure()
    for i, (name, table) in enumerate(reference.items()):
        figure.add_trace(_line(name, table, 1.0, {"color": GREY, "width": 1.3, "dash": DASHES[i % len(DASHES)]}))
    for i, (label, table) in enumerate(lines.items()):
        if label in dots:
            require(dots[label], ("value", "seed", "measured"), f"dots {label!r}")
            figure.add_trace(_dots(label, dots[label], aside[label], colour_of(i)))
        line = _line(label, table, aside[label], {"color": colour_of(i), "width": 2})
        marker = {"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8}
        figure.add_trace(line.update(mode="lines+markers", marker=marker, legendgroup=label, showlegend=True))
    ticks = sorted({value for table in lines.values() for value in table.index})
    lay_out(
        figure,
        title,
        430,
        above=50,
        legend=LEGEND_ABOVE,
        xaxis={"title": x_title, "type": "log", "tickvals": ticks, "ticktext": [f"{value:g}" for value in ticks]},
        yaxis={"title": y_title},
    )
    return figure


def _check_swept(*lines: Mapping[str, pd.DataFrame]) -> None:
    """Raises ValueError unless all lines have means and intervals at values above 0."""
    require_means(*lines)
    for name, table in (line for named in lines for line in named.items()):
        if not (table.index > 0).all():
            raise ValueError(f"line {name!r}: expected swept values above 0, got {min(table.index):g}")


def _dots(label: str, table: pd.DataFrame, aside: float, colour: str) -> go.Scatter:
    """One dot a swept value and seed."""
    return go.Scatter(
        x=table["value"] * aside,
        y=numbers(table["measured"]),
        mode="markers",
        marker={"color": colour, "size": 6, "opacity": 0.4},
        customdata=table[["value", "seed"]].to_numpy(),
        hovertemplate=f"{label} at %{{customdata[0]}}, seed %{{customdata[1]}}<br>%{{y:.3f}}<extra></extra>",
        legendgroup=label,
        showlegend=False,
    )


def _line(name: str, table: pd.DataFrame, aside: float, style: dict[str, Any]) -> go.Scatter:
    """Means with their intervals as bars, a little to the side."""
    known = table[["low", "high"]].notna().all(axis=1).any()
    return go.Scatter(
        x=table.index.to_numpy() * aside,
        y=numbers(table["mean"]),
        name=name,
        mode="lines",
        line=style,
        error_y=whiskers(table) if known else None,
        customdata=list(zip(table.index, interval_texts(table, 3), strict=True)),
        hovertemplate=f"{name} at %{{customdata[0]}}<br>%{{y:.3f}}%{{customdata[1]}}<extra></extra>",
    )


def _of_comparison(measure: str) -> str:
    known = [name for name, entry in MEASUREMENTS.items() if entry.table == "paired" and not entry.over_ceiling]
    if measure not in known:
        raise ValueError(f"expected a measure of a comparison{closest(measure, known)}")
    return measure


MeasureOfComparison = Annotated[
    str, AfterValidator(_of_comparison), Field(description="what is drawn against the swept value")
]


def trend_section(block: FigureBlock, results: Results, *, measure: MeasureOfComparison = "paired_cka") -> Section:
    """A measure of a comparison against the swept value."""
    evidence, path = results.evidence, next(iter(results.study.recipe.sweep or {}))
    measurement = Arm(measure=measure, comparison=block.comparison)
    over_values = swept(measurement, evidence)
    states = {"trained": over_values.trained, "untrained (the floor)": over_values.untrained}
    states = {name: table for name, table in states.items() if not table.empty}
    dots = {name: over_seeds.by_value(table, evidence.swept) for name, table in states.items()}
    lines = {name: over_seeds.over_seeds(table, "value", "measured") for name, table in dots.items()}
    ceiling = pd.DataFrame({"mean": over_values.ceiling, "low": np.nan, "high": np.nan})
    reference = {} if ceiling.empty else {"seed against seed (the noise ceiling)": ceiling}
    label = evidence.label(measurement)
    note = f"{label[0].upper()}{label[1:]}, against {path}: means with 95 % intervals over seeds, a dot a seed. "
    if len(states) > 1:
        note += "Floor: the same networks untrained. "
    if reference:
        note += "Noise ceiling: a network against itself trained from another seed, geometric mean of the two. "
    counts = ", ".join(str(len(layers)) for layers in over_values.layers.values())
    note += f"Over {counts} layers, those that are defined at every value that has them."
    figure = trend(lines, x_title=path, y_title=label, dots=dots, reference=reference)
    return Section(block.title or f"{path}: {block.comparison}", note, (Panel("trend", figure),))
