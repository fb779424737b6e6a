"""How well backdoors work, network by network."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from sj_cka import over_seeds
from sj_cka.figures.section import FigureBlock, Panel, Results, Section
from sj_cka.figures.style import (
    SYMBOLS,
    colour_of,
    interval_texts,
    labels_of,
    lay_out,
    legend_above,
    numbers,
    require_means,
    whiskers,
)


def backdoors(lines: Mapping[str, pd.DataFrame], *, title: str = "") -> go.Figure:
    """Shares of several kinds for each network, with intervals.

    Args:
        lines: what is shown (accuracy on clean samples, success of the trigger, ...) -> table indexed by network with
            the columns `mean`, `low`, `high` in 0..1; `low` and `high` are NaN where there is no interval.
        title: heading of the figure.

    Returns:
        A figure with a row a network.

    Raises:
        ValueError: no line, or a missing column.

    Example:
        >>> table = pd.DataFrame({"mean": [0.9], "low": [0.8], "high": [1.0]}, index=["poisoned.snn"])
        >>> [trace.name for trace in backdoors({"success": table}).data]
        ['success']
    """
    labels = labels_of(lines)
    require_means(lines)
    figure = go.Figure()
    for i, label in enumerate(labels):
        percent = 100 * lines[label]
        figure.add_trace(
            go.Scatter(
                x=numbers(percent["mean"]),
                y=list(percent.index),
                name=label,
                mode="markers",
                marker={"color": colour_of(i), "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 10},
                error_x=whiskers(percent, width=5),
                customdata=interval_texts(percent, 1),
                hovertemplate=f"%{{y}}: {label}<br>%{{x:.1f}} %%{{customdata}}<extra></extra>",
            )
        )
    networks = list(next(iter(lines.values())).index)
    lay_out(
        figure,
        title,
        150 + 42 * len(networks),
        above=50,
        legend=legend_above(),
        xaxis={"title": "share of test samples in %", "range": [-3, 103]},
        yaxis={"categoryorder": "array", "categoryarray": networks[::-1]},
    )
    return figure


def backdoors_section(block: FigureBlock, results: Results) -> Section:
    """How well the backdoors work."""
    title, measured = block.title or "Backdoors", results.tables["backdoors"]
    if measured.empty:
        return Section(title, "Nothing to show: nothing compares or judges a network that was trained with a backdoor.")
    columns = {"accuracy": "accuracy", "success": "success_rate", "without trigger": "unprompted"}
    lines = {
        name: over_seeds.over_seeds(results.tables["backdoors"], "network", column) for name, column in columns.items()
    }
    table = pd.DataFrame({name: [_percent(*row) for row in line.to_numpy()] for name, line in lines.items()})
    table.insert(0, "network", list(lines["accuracy"].index))
    note = (
        "Networks that were trained on samples a share of which bore a trigger and the label of one class "
        "(train.poison). Accuracy: on clean test samples. Success: share of the test samples of other classes that are "
        "taken for that class once they bear the trigger; and without it. Means and 95 % intervals over seeds."
    )
    return Section(title, note, (Panel("backdoors", backdoors(lines)),), table)


def _percent(mean: float, low: float, high: float) -> str:
    between = "" if pd.isna(low) else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * mean:.1f} %{between}"
