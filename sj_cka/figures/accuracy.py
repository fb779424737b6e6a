"""How accurate networks are, and how they trained."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from sj_cka import over_seeds
from sj_cka.cost import ASSUMPTION
from sj_cka.figures.section import FigureBlock, Panel, Results, Section
from sj_cka.figures.style import PALETTE, interval_texts, lay_out, legend_above, numbers, require, rule, whiskers


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
        legend=legend_above(),
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
    table = pd.DataFrame(
        {
            "network": summary["network"],
            "split": summary["split"],
            "accuracy": [f"{100 * mean:.1f} %" for mean in summary["mean"]],
            "interval": [_percent(low, high) for low, high in zip(summary["low"], summary["high"], strict=True)],
            "seeds": summary["seeds"],
        }
    )
    costs = results.for_all("cost").groupby("network", sort=False)[["synops", "macs", "energy_nj"]].mean()
    shown = costs.reindex(table["network"])
    table["synaptic operations"] = [_count(value) for value in shown["synops"]]
    table["MACs"] = [_count(value) for value in shown["macs"]]
    table["energy"] = [f"{value / 1e3:.3g} µJ" for value in shown["energy_nj"]]
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
