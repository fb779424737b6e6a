"""How accurate networks are, also with other numbers of steps than they were trained with."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka import over_seeds
from sj_cka.energy import ASSUMPTION
from sj_cka.figures.drawing import (
    DASHES,
    GREY,
    LEGEND_ABOVE,
    PALETTE,
    SYMBOLS,
    FigureBlock,
    Panel,
    Results,
    Section,
    beside_each_other,
    colour_of,
    interval_text,
    interval_texts,
    labels_of,
    lay_out,
    numbers,
    require,
    require_means,
    rule,
    whiskers,
)


def accuracy(table: pd.DataFrame, summary: pd.DataFrame | None = None, *, title: str = "") -> go.Figure:
    """Accuracy of every network: a row a network, a dot a seed, the mean with its 95 % interval over it.

    Args:
        table: tidy, one row a network, split and seed: `network`, `split` ("train" or "test"), `seed`, `accuracy`
            in 0..1.
        summary: tidy, one row a network and split: `network`, `split`, `mean`, `low`, `high`; `low` and `high` are NaN
            where there is no interval.
        title: heading of the figure.

    Returns:
        A figure with accuracy in per cent along the horizontal axis, networks from top to bottom as first met.

    Raises:
        ValueError: a missing column or an unknown split.

    Example:
        >>> table = pd.DataFrame({"network": ["none.snn"], "split": ["test"], "seed": [0], "accuracy": [0.93]})
        >>> accuracy(table).layout.yaxis.ticktext
        ('none.snn',)
    """
    require(table, ("network", "split", "seed", "accuracy"), "accuracy table")
    if summary is not None:
        require(summary, ("network", "split", "mean", "low", "high"), "accuracy summary")
    unknown = sorted(set(table["split"]) - {"train", "test"})
    if unknown:
        raise ValueError(f"expected the splits 'train' and 'test', got {unknown}")
    networks = list(dict.fromkeys(table["network"]))
    row = {network: i for i, network in enumerate(networks)}

    figure = go.Figure()
    for split, shift, colour in (("test", -0.16, PALETTE[0]), ("train", 0.16, PALETTE[4])):
        dots = table[table["split"] == split]
        figure.add_trace(_seeds(split, dots, [row[network] + shift for network in dots["network"]], colour))
        if summary is not None:
            means = summary[(summary["split"] == split) & summary["network"].isin(networks)]
            figure.add_trace(_means(split, means, [row[network] + shift for network in means["network"]], colour))
    lay_out(
        figure,
        title,
        105 + 44 * len(networks),
        above=45,
        legend=LEGEND_ABOVE,
        xaxis={"title": "accuracy in %"},
        yaxis={
            "tickvals": list(range(len(networks))),
            "ticktext": networks,
            "range": [len(networks) - 0.5, -0.5],
            "showgrid": False,
            "ticks": "",
        },
        shapes=[rule("y", i + 0.5) for i in range(len(networks) - 1)],
    )
    return figure


def _seeds(split: str, table: pd.DataFrame, heights: list[float], colour: str) -> go.Scatter:
    """A dot a seed."""
    return go.Scatter(
        x=numbers(100 * table["accuracy"]),
        y=heights,
        name=f"{split}, one seed",
        mode="markers",
        marker={"color": colour, "size": 8, "opacity": 0.55},
        customdata=table[["network", "seed"]].to_numpy(),
        hovertemplate=f"%{{customdata[0]}}, seed %{{customdata[1]}}<br>{split} %{{x:.1f}} %<extra></extra>",
    )


def _means(split: str, table: pd.DataFrame, heights: list[float], colour: str) -> go.Scatter:
    """Means with their intervals."""
    percent = 100 * table[["mean", "low", "high"]]
    return go.Scatter(
        x=numbers(percent["mean"]),
        y=heights,
        name=f"{split}, mean and 95 % interval",
        mode="markers",
        marker={"color": colour, "symbol": "line-ns", "size": 15, "line": {"color": colour, "width": 3}},
        error_x=whiskers(percent, width=5, thickness=1.5, color=colour),
        customdata=list(zip(table["network"], interval_texts(percent, 1), strict=True)),
        hovertemplate=f"%{{customdata[0]}}<br>{split} mean %{{x:.1f}} %%{{customdata[1]}}<extra></extra>",
    )


def accuracy_section(block: FigureBlock, results: Results) -> Section:
    """Accuracy of every network, as a figure and as a table."""
    accuracies = results.for_all("accuracy")
    summary = over_seeds.accuracy_summary(accuracies)
    costs = results.for_all("cost").groupby("network", sort=False)[["synops", "macs", "energy_nj"]].mean()
    costs = costs.reindex(summary["network"])
    table = pd.DataFrame(
        {
            "network": summary["network"],
            "split": summary["split"],
            "accuracy": [f"{100 * mean:.1f} %" for mean in summary["mean"]],
            "interval": [_percent(low, high) for low, high in zip(summary["low"], summary["high"], strict=True)],
            "seeds": summary["seeds"],
            "synaptic operations": [_count(value) for value in costs["synops"]],
            "MACs": [_count(value) for value in costs["macs"]],
            "energy": [f"{value / 1e3:.3g} µJ" for value in costs["energy_nj"]],
        }
    )
    note = (
        "Accuracy after the last epoch, never that of the best; intervals are 95 % over seeds. Operations and energy "
        f"are those of one test sample, {ASSUMPTION}."
    )
    panel = Panel("accuracy", accuracy(accuracies, summary))
    return Section(block.title or "Accuracy", note + alike_note(accuracies), (panel,), table)


def alike_note(table: pd.DataFrame) -> str:
    """Says so where one network stands for all variants."""
    names = [name for name in dict.fromkeys(table["network"]) if name.startswith("*")]
    return "".join(
        f" {name} is one network, the same for every variant: what varies does not concern its kind." for name in names
    )


def _count(value: float) -> str:
    """Operations in millions."""
    return f"{value / 1e6:.3g} M" if value else "0"


def _percent(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{100 * low:.1f} to {100 * high:.1f}"


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
        legend=LEGEND_ABOVE,
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
