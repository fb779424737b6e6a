"""How accurate networks are, and how they trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sj_cka.figures.style import (
    DASHES,
    GREY,
    PALETTE,
    TEMPLATE,
    colour_of,
    interval_text,
    legend_above,
    numbers,
    plain,
    require,
    rule,
    top_margin,
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
        figure.add_trace(
            go.Scatter(
                x=numbers(100 * dots["accuracy"]),
                y=[row[network] + shift for network in dots["network"]],
                name=f"{split}, one seed",
                mode="markers",
                marker={"color": colour, "size": 8, "opacity": 0.55},
                customdata=dots[["network", "seed"]].to_numpy(),
                hovertemplate=f"%{{customdata[0]}}, seed %{{customdata[1]}}<br>{split} %{{x:.1f}} %<extra></extra>",
            )
        )
        if summary is None:
            continue
        means = summary[(summary["split"] == split) & summary["network"].isin(networks)]
        figure.add_trace(
            go.Scatter(
                x=numbers(100 * means["mean"]),
                y=[row[network] + shift for network in means["network"]],
                name=f"{split}, mean and 95 % interval",
                mode="markers",
                marker={"color": colour, "symbol": "line-ns", "size": 15, "line": {"color": colour, "width": 3}},
                error_x={
                    "array": numbers(100 * (means["high"] - means["mean"])),
                    "arrayminus": numbers(100 * (means["mean"] - means["low"])),
                    "color": colour,
                    "thickness": 1.5,
                    "width": 5,
                },
                customdata=[
                    [network, interval_text(100 * low, 100 * high, 1)]
                    for network, low, high in zip(means["network"], means["low"], means["high"], strict=True)
                ],
                hovertemplate=f"%{{customdata[0]}}<br>{split} mean %{{x:.1f}} %%{{customdata[1]}}<extra></extra>",
            )
        )
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=105 + top_margin(title) + 44 * len(networks),
        legend=legend_above(),
        margin_t=top_margin(title) + 45,
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


def training(history: pd.DataFrame, *, title: str = "") -> go.Figure:
    """How the networks trained: loss, training accuracy and rate of firing against the epoch, one line a seed.

    Args:
        history: tidy, one row a network, seed and epoch: `network` ("<variant>.<kind>"), `seed`, `epoch` (from 1),
            `loss`, `accuracy` (training split, 0..1), `firing_rate` (spikes per neuron and step; NaN for an ANN).
        title: heading of the figure.

    Returns:
        A figure with one small plot a quantity; a colour a variant, an unbroken line for the SNN, dashed for the ANN.
        The rate of firing is left out where no network spikes.

    Raises:
        ValueError: a missing column.

    Example:
        >>> history = pd.DataFrame({"network": ["none.snn"], "seed": [0], "epoch": [1], "loss": [2.3],
        ...                         "accuracy": [0.1], "firing_rate": [0.2]})
        >>> [note.text for note in training(history).layout.annotations]
        ['training loss', 'training accuracy', 'firing rate']
    """
    require(history, ("network", "seed", "epoch", "loss", "accuracy", "firing_rate"), "training history")
    headings = {"loss": "training loss", "accuracy": "training accuracy", "firing_rate": "firing rate"}
    if history["firing_rate"].isna().all():
        del headings["firing_rate"]
    variants = list(dict.fromkeys(_variant(network) for network in history["network"]))
    kinds = list(dict.fromkeys(_kind(network) for network in history["network"]))
    kinds.sort(key=lambda kind: kind != "snn")
    dash = {kind: ("solid", *DASHES)[i % 5] for i, kind in enumerate(kinds)}

    figure = make_subplots(1, len(headings), subplot_titles=list(headings.values()), horizontal_spacing=0.09)
    for network, own in history.groupby("network", sort=False):
        colour = colour_of(variants.index(_variant(network)))
        for column, quantity in enumerate(headings, start=1):
            if own[quantity].isna().all():
                continue
            x, y, seeds = _joined(own, quantity)
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    customdata=seeds,
                    name=str(network),
                    mode="lines+markers",
                    line={"color": colour, "width": 1.5, "dash": dash[_kind(network)]},
                    marker={"size": 4},
                    opacity=0.85,
                    legendgroup=_variant(network),
                    showlegend=False,
                    hovertemplate=f"{network}, seed %{{customdata}}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
                ),
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text="epoch")
    for i, variant in enumerate(variants):
        line = {"color": colour_of(i), "width": 3}
        figure.add_trace(go.Scatter(x=[None], y=[None], name=variant, legendgroup=variant, mode="lines", line=line))
    for kind in kinds:
        line = {"color": GREY, "width": 1.5, "dash": dash[kind]}
        figure.add_trace(go.Scatter(x=[None], y=[None], name=kind.upper(), mode="lines", line=line))
    for column, quantity in enumerate(headings, start=1):
        if quantity != "loss":
            figure.update_yaxes(rangemode="tozero", row=1, col=column)
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        height=380 + top_margin(title),
        margin={"t": top_margin(title) + 75, "l": 50},
        legend={**legend_above(), "y": 1.1},
    )
    figure.update_annotations(font_size=13)
    return figure


def _variant(network: Any) -> str:
    return str(network).rpartition(".")[0] or str(network)


def _kind(network: Any) -> str:
    return str(network).rpartition(".")[2]


def _joined(history: pd.DataFrame, quantity: str) -> tuple[list[Any], list[Any], list[Any]]:
    """The seeds of one network as one interrupted line: epochs, values, and the seed at every point."""
    x: list[Any] = []
    y: list[Any] = []
    seeds: list[Any] = []
    for seed, own in history.groupby("seed", sort=False):
        x += [*own["epoch"].tolist(), None]
        y += [*(None if np.isnan(value) else value for value in plain(own[quantity])), None]
        seeds += [seed] * (len(own) + 1)
    return x, y, seeds
