"""A measured value against the swept one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.style import (
    DASHES,
    GREY,
    SYMBOLS,
    TEMPLATE,
    colour_of,
    interval_text,
    labels_of,
    legend_above,
    numbers,
    require,
    top_margin,
    whiskers,
)


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
    for name, table in [*lines.items(), *reference.items()]:
        require(table, ("mean", "low", "high"), f"line {name!r}")
        if not (table.index > 0).all():
            raise ValueError(f"line {name!r}: expected swept values above 0, got {min(table.index):g}")
    # side by side: intervals at one value would hide each other
    aside = {label: 2 ** (0.02 * (i - (len(labels) - 1) / 2)) for i, label in enumerate(labels)}
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
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=430 + top_margin(title),
        legend=legend_above(),
        margin_t=top_margin(title) + 50,
        xaxis={"title": x_title, "type": "log", "tickvals": ticks, "ticktext": [f"{value:g}" for value in ticks]},
        yaxis={"title": y_title},
    )
    return figure


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
    bars = whiskers(table)
    intervals = [interval_text(low, high, 3) for low, high in zip(table["low"], table["high"], strict=True)]
    return go.Scatter(
        x=table.index.to_numpy() * aside,
        y=numbers(table["mean"]),
        name=name,
        mode="lines",
        line=style,
        error_y=bars if known else None,
        customdata=list(zip(table.index, intervals, strict=True)),
        hovertemplate=f"{name} at %{{customdata[0]}}<br>%{{y:.3f}}%{{customdata[1]}}<extra></extra>",
    )
