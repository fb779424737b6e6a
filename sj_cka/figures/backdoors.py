"""How well backdoors work, network by network."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.style import (
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
    figure = go.Figure()
    for i, label in enumerate(labels):
        require(lines[label], ("mean", "low", "high"), f"line {label!r}")
        percent = 100 * lines[label]
        between = [interval_text(low, high, 1) for low, high in zip(percent["low"], percent["high"], strict=True)]
        figure.add_trace(
            go.Scatter(
                x=numbers(percent["mean"]),
                y=list(percent.index),
                name=label,
                mode="markers",
                marker={"color": colour_of(i), "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 10},
                error_x=whiskers(percent, width=5),
                customdata=between,
                hovertemplate=f"%{{y}}: {label}<br>%{{x:.1f}} %%{{customdata}}<extra></extra>",
            )
        )
    networks = list(next(iter(lines.values())).index)
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=150 + 42 * len(networks) + top_margin(title),
        legend=legend_above(),
        margin_t=top_margin(title) + 50,
        xaxis={"title": "share of test samples in %", "range": [-3, 103]},
        yaxis={"categoryorder": "array", "categoryarray": networks[::-1]},
    )
    return figure
