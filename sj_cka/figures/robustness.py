"""Accuracy under attack against its strength, a picture an attack."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

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

_COLUMNS = 3
_PICTURE, _GAP = 230, 92  # pixels


def robustness(lines: Mapping[str, Mapping[str, pd.DataFrame]], *, title: str = "") -> go.Figure:
    """Accuracy of several networks under several attacks, small multiples with one scale of accuracy.

    Args:
        lines: attack -> network -> table indexed by eps, 0 for the clean samples, with the columns `mean`, `low`,
            `high` in 0..1; `low` and `high` are NaN where there is no interval.
        title: heading of the figure.

    Returns:
        A figure with one picture an attack; a network has one colour in all of them.

    Raises:
        ValueError: no attack, or a missing column.

    Example:
        >>> table = pd.DataFrame({"mean": [0.9, 0.2], "low": [0.8, 0.1], "high": [1.0, 0.3]}, index=[0, 0.1])
        >>> figure = robustness({"pgd": {"base.snn": table}, "square": {"base.snn": table}})
        >>> [note.text for note in figure.layout.annotations]
        ['pgd', 'square']
    """
    labels = labels_of({attack: pd.DataFrame() for attack in lines})
    networks = list(dict.fromkeys(network for own in lines.values() for network in own))
    columns = min(_COLUMNS, len(labels))
    rows = -(-len(labels) // columns)
    inside = rows * _PICTURE + (rows - 1) * _GAP
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=labels,
        shared_yaxes=True,
        horizontal_spacing=0.1 / columns,
        vertical_spacing=_GAP / inside if rows > 1 else 0,
    )
    seen = set[str]()
    for i, own in enumerate(lines.values()):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        for network, table in own.items():
            require(table, ("mean", "low", "high"), f"line {network!r}")
            percent = 100 * table.sort_index()
            between = [interval_text(low, high, 1) for low, high in zip(percent["low"], percent["high"], strict=True)]
            n = networks.index(network)
            figure.add_trace(
                go.Scatter(
                    x=numbers(pd.Series(percent.index)),
                    y=numbers(percent["mean"]),
                    name=network,
                    legendgroup=network,
                    showlegend=network not in seen,
                    mode="lines+markers",
                    line={"color": colour_of(n), "width": 1.5},
                    marker={"symbol": SYMBOLS[n % len(SYMBOLS)], "size": 7},
                    error_y=whiskers(percent),
                    customdata=between,
                    hovertemplate=f"{network}, eps %{{x}}<br>%{{y:.1f}} %%{{customdata}}<extra></extra>",
                ),
                **at,
            )
            seen.add(network)
        figure.update_xaxes(title_text="eps", title_standoff=4, rangemode="tozero", nticks=5, **at)
        if at["col"] == 1:
            figure.update_yaxes(title_text="accuracy in %", title_standoff=6, **at)
    top = top_margin(title) + 62
    figure.update_yaxes(range=[-4, 104])
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=None if columns == _COLUMNS else 120 + 300 * columns,
        height=inside + top + 60,
        margin={"t": top, "b": 60},
        legend=legend_above(),
    )
    figure.update_annotations(font_size=13)
    return figure
