"""Accuracy of networks against the number of steps that they are run with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka import over_seeds
from sj_cka.figures.accuracy import alike_note
from sj_cka.figures.section import FigureBlock, Panel, Results, Section
from sj_cka.figures.style import (
    DASHES,
    GREY,
    SYMBOLS,
    beside_each_other,
    colour_of,
    interval_text,
    interval_texts,
    labels_of,
    lay_out,
    legend_above,
    numbers,
    require_means,
    whiskers,
)


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
    require_means(lines)
    ticks = sorted({int(T) for table in lines.values() for T in table.index})
    aside = beside_each_other(labels, 0.05)
    figure = go.Figure()
    for i, (label, table) in enumerate(lines.items()):
        figure.add_trace(_line(label, i, 100 * table.sort_index(), aside[label]))
    ends = [ticks[0] / 1.2, ticks[-1] * 1.2]
    figure.add_traces([_level(name, i, 100 * level, ends) for i, (name, level) in enumerate(reference.items())])
    if rings := sorted((T, label) for label, T in own.items() if label in lines):
        values = [100 * lines[label]["mean"][T] for T, label in rings]
        figure.add_trace(_rings([T * aside[label] for T, label in rings], values))
    lowest = min(100 * float(np.nanmin(table[["mean", "low"]])) for table in lines.values())
    lay_out(
        figure,
        title,
        430,
        above=50,
        legend=legend_above(),
        xaxis={"title": "time steps that the network is run with", "type": "log", "tickvals": ticks},
        yaxis={"title": "accuracy in %", "range": [max(0, lowest - 2), 101]},
    )
    return figure


def _line(network: str, i: int, percent: pd.DataFrame, aside: float) -> go.Scatter:
    """Accuracy of the i-th network against T, with its intervals, a little to the side."""
    return go.Scatter(
        x=[T * aside for T in percent.index],
        y=numbers(percent["mean"]),
        name=network,
        mode="lines+markers",
        line={"color": colour_of(i), "width": 1.5},
        marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
        error_y=whiskers(percent),
        showlegend=True,
        customdata=list(zip(map(int, percent.index), interval_texts(percent, 1), strict=True)),
        hovertemplate=f"{network} at T = %{{customdata[0]}}<br>%{{y:.1f}} %%{{customdata[1]}}<extra></extra>",
    )


def _rings(x: list[float], percent: list[float]) -> go.Scatter:
    """A ring around every network that is run as it was trained."""
    return go.Scatter(
        x=x,
        y=numbers(percent),
        name="run as trained",
        mode="markers",
        marker={"symbol": "circle-open", "size": 17, "color": "#222222", "line": {"width": 1.5}},
        hoverinfo="skip",
        showlegend=True,
    )


def _level(name: str, i: int, percent: pd.Series, ends: list[float]) -> go.Scatter:
    """The accuracy of a network without steps, from one end to the other."""
    return go.Scatter(
        x=ends,
        y=numbers(np.repeat(percent["mean"], 2)),
        name=name,
        mode="lines",
        line={"color": GREY, "width": 1.5, "dash": DASHES[i % len(DASHES)]},
        hovertemplate=f"{name}<br>%{{y:.1f}} %{interval_text(percent['low'], percent['high'], 1)}<extra></extra>",
        showlegend=True,
    )


def accuracy_by_steps_section(block: FigureBlock, results: Results) -> Section:
    """Accuracy of trained spiking networks that are run with other numbers of steps."""
    test = results.tables["evaluated"][results.tables["evaluated"]["split"] == "test"]
    trained_at = {network: results.study.steps_of(network) for network in test["network"].unique()}
    lines = {network: over_seeds.over_seeds(test[test["network"] == network], "T") for network in trained_at}
    accuracies = results.for_all("accuracy")
    level = over_seeds.over_seeds(
        accuracies[(accuracies["split"] == "test") & accuracies["network"].str.endswith(".ann")], "network"
    )
    means = pd.DataFrame({network: line["mean"] for network, line in lines.items()}).sort_index()
    table = means.T.rename(columns=lambda T: f"T = {T}").map(
        lambda mean: "" if pd.isna(mean) else f"{100 * mean:.1f} %"
    )
    table.insert(0, "trained at", [trained_at[network] for network in table.index])
    note = (
        "Accuracy on the test split of trained networks that are run with other numbers of steps than in their "
        "training: the same weights, the same image shown for longer or shorter. Rings: run as trained. Bars: 95 % "
        "intervals over seeds."
    )
    figure = accuracy_by_steps(lines, own=trained_at, reference={str(name): row for name, row in level.iterrows()})
    title = block.title or "Accuracy against the number of steps"
    return Section(title, note + alike_note(accuracies), (Panel("accuracy", figure),), table.rename_axis("network"))
