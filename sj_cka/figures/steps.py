"""What happens over time: step by step inside layers, and accuracy against the number of steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sj_cka.figures.cells import cells_of, coloraxis, print_values
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

_FEW = 6  # pictures that are drawn large; more are small multiples, five in a row


def steps_map(frames: Mapping[str, pd.DataFrame], *, title: str = "") -> go.Figure:
    """Time step x time step CKA, one small picture for each layer, in the colours of every other CKA figure.

    Args:
        frames: label (a layer, a network) -> matrix [step of x, step of y] of CKA, index and columns the steps 1..T;
            the index runs along the horizontal axis. Values are printed into the cells where they have room.
        title: heading of the figure.

    Returns:
        A figure with one square picture a frame, the first step in the lower left corner.

    Raises:
        ValueError: no frame.

    Example:
        >>> matrix = pd.DataFrame([[1.0, 0.9], [0.9, 1.0]], index=[1, 2], columns=[1, 2])
        >>> figure = steps_map({"layer1.0.lif1": matrix, "layer3.0.lif1": matrix})
        >>> [note.text for note in figure.layout.annotations]
        ['layer1.0.lif1', 'layer3.0.lif1']
    """
    labels = labels_of(frames)
    most_steps = max(max(frame.shape) for frame in frames.values())
    small = len(labels) > _FEW
    columns = 5 if small else min(4 if most_steps <= 5 else 3, len(labels))
    rows = -(-len(labels) // columns)
    headings = [label.replace(", ", ",<br>") for label in labels]
    lines_of_heading = max(heading.count("<br>") for heading in headings) + 1
    picture, gap = 840 // columns if columns > 2 else 300, (28 if small else 55) + 16 * lines_of_heading  # pixels
    inside = rows * picture + (rows - 1) * gap
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=headings,
        horizontal_spacing=0.03 if small else 0.06,
        vertical_spacing=gap / inside if rows > 1 else 0,
    )
    for i, frame in enumerate(frames.values()):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        steps_x, steps_y = list(frame.index), list(frame.columns)
        for trace in cells_of(frame, steps_x, steps_y, "step %{x} and step %{y}<br>"):
            if most_steps <= (4 if small else 8) and trace.coloraxis:
                print_values(trace, size=11 if most_steps < 5 else 9)
            figure.add_trace(trace, **at)
        every = -(-most_steps // (4 if small else 8))
        lowest = i + columns >= len(labels)
        axis = {"dtick": every, "tick0": 1, "constrain": "domain"}
        figure.update_xaxes(**axis, title_text="" if small and not lowest else "time step", title_standoff=4, **at)
        figure.update_yaxes(**axis, constraintoward="top", **at)
        figure.update_yaxes(scaleanchor=figure.get_subplot(**at).xaxis.plotly_name.replace("axis", ""), **at)
    for row in range(1, rows + 1):
        figure.update_yaxes(title_text="time step", title_standoff=6, row=row, col=1)
    top = top_margin(title) + 17 * lines_of_heading
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=90 + 330 * columns if columns < 3 else None,
        height=inside + top + 60,
        margin={"t": top, "b": 60},
        coloraxis=coloraxis(),
        coloraxis_colorbar={"lenmode": "pixels", "len": 260, "y": 1, "yanchor": "top"},
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_annotations(font_size=11 if small else 12)
    return figure


def accuracy_by_steps(
    lines: Mapping[str, pd.DataFrame],
    *,
    title: str = "",
    own: Mapping[str, int] | None = None,
    reference: Mapping[str, pd.Series] | None = None,
) -> go.Figure:
    """Accuracy of trained networks against the number of steps that they are run with.

    Args:
        lines: network -> table indexed by the steps T, with the columns `mean`, `low`, `high` in 0..1; `low` and `high`
            are NaN where there is no interval.
        title: heading of the figure.
        own: network -> the T that it was trained with: a ring around that value.
        reference: name -> `mean`, `low`, `high` of a network without steps, a level broken line.

    Returns:
        A figure with T along the horizontal axis, every doubling equally far.

    Raises:
        ValueError: no line, or a missing column.

    Example:
        >>> table = pd.DataFrame({"mean": [0.8, 0.9], "low": [0.7, 0.8], "high": [0.9, 1.0]}, index=[1, 2])
        >>> [trace.name for trace in accuracy_by_steps({"T-2.snn": table}, own={"T-2.snn": 2}).data if trace.showlegend]
        ['T-2.snn', 'run as trained']
    """
    labels = labels_of(lines)
    own, reference = own or {}, reference or {}
    for label, table in lines.items():
        require(table, ("mean", "low", "high"), f"line {label!r}")
    ticks = sorted({int(T) for table in lines.values() for T in table.index})
    # side by side: intervals of networks that are about as accurate would hide each other
    aside = {label: 2 ** (0.05 * (i - (len(labels) - 1) / 2)) for i, label in enumerate(labels)}
    figure = go.Figure()
    for i, (label, table) in enumerate(lines.items()):
        percent = 100 * table.sort_index()
        intervals = [interval_text(low, high, 1) for low, high in zip(percent["low"], percent["high"], strict=True)]
        figure.add_trace(
            go.Scatter(
                x=[T * aside[label] for T in percent.index],
                y=numbers(percent["mean"]),
                name=label,
                mode="lines+markers",
                line={"color": colour_of(i), "width": 1.5},
                marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
                error_y=whiskers(percent),
                showlegend=True,
                customdata=list(zip(map(int, percent.index), intervals, strict=True)),
                hovertemplate=f"{label} at T = %{{customdata[0]}}<br>%{{y:.1f}} %%{{customdata[1]}}<extra></extra>",
            )
        )
    for i, (name, level) in enumerate(reference.items()):
        beside = interval_text(100 * level["low"], 100 * level["high"], 1)
        figure.add_trace(
            go.Scatter(
                x=[ticks[0] / 1.2, ticks[-1] * 1.2],
                y=numbers(100 * np.repeat(level["mean"], 2)),
                name=name,
                mode="lines",
                line={"color": GREY, "width": 1.5, "dash": DASHES[i % len(DASHES)]},
                hovertemplate=f"{name}<br>%{{y:.1f}} %{beside}<extra></extra>",
                showlegend=True,
            )
        )
    rings = sorted((T, label) for label, T in own.items() if label in lines)
    if rings:
        figure.add_trace(
            go.Scatter(
                x=[T * aside[label] for T, label in rings],
                y=numbers([100 * lines[label]["mean"][T] for T, label in rings]),
                name="run as trained",
                mode="markers",
                marker={"symbol": "circle-open", "size": 17, "color": "#222222", "line": {"width": 1.5}},
                hoverinfo="skip",
                showlegend=True,
            )
        )
    lowest = min(100 * float(np.nanmin(table[["mean", "low"]])) for table in lines.values())
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=430 + top_margin(title),
        legend=legend_above(),
        margin_t=top_margin(title) + 50,
        xaxis={"title": "time steps that the network is run with", "type": "log", "tickvals": ticks},
        yaxis={"title": "accuracy in %", "range": [max(0, lowest - 2), 101]},
    )
    return figure
