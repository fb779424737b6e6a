"""How networks trained: loss, accuracy and rate of firing against the epoch."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.accuracy import alike_note
from sj_cka.figures.drawing import (
    DASHES,
    GREY,
    LEGEND_ABOVE,
    FigureBlock,
    Panel,
    Results,
    Section,
    colour_of,
    lay_out,
    plain,
    require,
    small_multiples,
)


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

    figure, places, _, height = small_multiples(list(headings.values()), len(headings), 380, 0, horizontal_spacing=0.09)
    for network, of_network in history.groupby("network", sort=False):
        colour = colour_of(variants.index(_variant(network)))
        for at, quantity in zip(places, headings, strict=True):
            if not of_network[quantity].isna().all():
                line = {"color": colour, "width": 1.5, "dash": dash[_kind(network)]}
                figure.add_trace(_seeds(str(network), of_network, quantity, line), **at)
        figure.update_xaxes(title_text="epoch")
    for i, variant in enumerate(variants):
        line = {"color": colour_of(i), "width": 3}
        figure.add_trace(go.Scatter(x=[None], y=[None], name=variant, legendgroup=variant, mode="lines", line=line))
    for kind in kinds:
        line = {"color": GREY, "width": 1.5, "dash": dash[kind]}
        figure.add_trace(go.Scatter(x=[None], y=[None], name=kind.upper(), mode="lines", line=line))
    for at in places[1:]:  # all but the loss
        figure.update_yaxes(rangemode="tozero", **at)
    lay_out(figure, title, height, above=75, margin_l=50, legend={**LEGEND_ABOVE, "y": 1.1})
    return figure


def training_section(block: FigureBlock, results: Results) -> Section:
    """How every network trained."""
    history = results.for_all("history")
    note = "Loss and accuracy on the training split, in training mode, and spikes per neuron and step; one line a seed."
    return Section(block.title or "Training", note + alike_note(history), (Panel("training", training(history)),))


def _variant(network: Any) -> str:
    return str(network).rpartition(".")[0] or str(network)


def _kind(network: Any) -> str:
    return str(network).rpartition(".")[2]


def _seeds(network: str, history: pd.DataFrame, quantity: str, line: dict[str, Any]) -> go.Scatter:
    """The seeds of one network as one interrupted line."""
    seeds = [of_seed for _, of_seed in history.groupby("seed", sort=False)]
    values = [[None if np.isnan(value) else value for value in plain(of_seed[quantity])] for of_seed in seeds]
    return go.Scatter(
        x=[epoch for of_seed in seeds for epoch in (*of_seed["epoch"].tolist(), None)],
        y=[value for of_seed in values for value in (*of_seed, None)],
        customdata=[seed for of_seed in seeds for seed in (*of_seed["seed"], of_seed["seed"].iloc[0])],
        name=network,
        mode="lines+markers",
        line=line,
        marker={"size": 4},
        opacity=0.85,
        legendgroup=_variant(network),
        showlegend=False,
        hovertemplate=f"{network}, seed %{{customdata}}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
    )
