"""Fisher information of the weights of networks against the number of time steps."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.accuracy import alike_note
from sj_cka.figures.drawing import (
    LEGEND_ABOVE,
    SYMBOLS,
    FigureBlock,
    Panel,
    Results,
    Section,
    colour_of,
    lay_out,
    require,
    small_multiples,
)
from sj_cka.fisher import ALL
from sj_cka.over_seeds import over_seeds

_COLUMNS = 5  # pictures in a row
_PICTURE, _GAP = 140, 46  # pixels
_FEW = 8  # steps that are all named


def fisher(information: pd.DataFrame, *, title: str = "") -> go.Figure:
    """Fisher information against the number of steps: geometric means over seeds with 95 % intervals, a line a network.

    Args:
        information: tidy, one row a network, seed, layer and step: `network`, `seed`, `layer`, `step` (from 1),
            `fisher`. A step at which a seed has 0, which has no logarithm, is left out.
        title: heading of the figure.

    Returns:
        A figure with a small plot a layer, in the order of the table, all with the same logarithmic axis.

    Raises:
        ValueError: a missing column, or no row.

    Example:
        >>> seeds = {"network": "a.snn", "seed": [0, 1], "layer": "fc", "step": 1, "fisher": [1.0, 100.0]}
        >>> fisher(pd.DataFrame(seeds)).data[0].y
        (10.0,)
    """
    require(information, ("network", "seed", "layer", "step", "fisher"), "Fisher information")
    if information.empty:
        raise ValueError("expected at least one row to draw, got none")
    layers, networks = list(information["layer"].unique()), list(information["network"].unique())
    columns, one = min(len(layers), _COLUMNS), len(layers) == 1
    headings = [_IN_WORDS.get(layer, layer) for layer in layers]
    size, gap = (320, 0) if one else (_PICTURE, _GAP)
    shared = {"shared_xaxes": "all", "shared_yaxes": "all", "horizontal_spacing": 0.06 / columns}
    figure, places, _, height = small_multiples(headings, columns, size, gap, 12, **shared)
    logarithms = information.assign(log=np.log10(information["fisher"].where(information["fisher"] > 0)))
    aside = 0.05 * (np.arange(len(networks)) - (len(networks) - 1) / 2)
    named = set[str]()
    for of, rows in logarithms.groupby(["layer", "network"], sort=False):
        layer, network = map(str, of)
        i = networks.index(network)
        line = _line(network, i, 10 ** over_seeds(rows, "step", "log"), float(aside[i]))
        figure.add_trace(line.update(showlegend=network not in named), **places[layers.index(layer)])
        named.add(network)
    steps = sorted(information["step"].unique().tolist())
    figure.update_xaxes({"tickvals": steps} if len(steps) <= _FEW else {"nticks": 5})
    figure.update_yaxes(type="log", tickformat="~g", dtick="D2" if one else 1)
    last_row = range(len(layers) - columns, len(layers))
    for i, at in enumerate(places):
        if i in last_row:
            figure.update_xaxes(title_text="number of steps", title_standoff=4, showticklabels=True, **at)
    for at in places[::columns]:
        figure.update_yaxes(title_text="Fisher information" if one else "F", **at)
    legend = {**LEGEND_ABOVE, "y": 1 + 24 / height}  # above the headings
    lay_out(figure, title, height + 130, above=70, margin_b=60, legend=legend)
    return figure


_IN_WORDS = {ALL: "all weights", "": "the network's own"}


def _line(network: str, i: int, table: pd.DataFrame, aside: float) -> go.Scatter:
    """The i-th network against the number of steps, with its intervals, a little to the side."""
    bars: dict[str, Any] = {"thickness": 1.2, "width": 3}
    if table[["low", "high"]].notna().all(axis=1).any():
        bars |= {"array": table["high"] - table["mean"], "arrayminus": table["mean"] - table["low"]}
    texts = ["" if np.isnan(low) else f" [{low:.3g}, {high:.3g}]" for low, high in table[["low", "high"]].to_numpy()]
    return go.Scatter(
        x=table.index.to_numpy(float) + aside,
        y=[float(f"{mean:.4g}") for mean in table["mean"]],
        name=network,
        mode="lines+markers",
        line={"color": colour_of(i), "width": 1.5},
        marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 6},
        error_y=bars,
        customdata=list(zip(table.index.tolist(), texts, strict=True)),
        hovertemplate=f"{network}, %{{customdata[0]}} steps<br>%{{y:.3g}}%{{customdata[1]}}<extra></extra>",
        legendgroup=network,
    )


def fisher_section(block: FigureBlock, results: Results) -> Section:
    """Fisher information of all weights, of every layer, and where over the steps it lies."""
    information, networks = results.for_all("fisher"), results.for_all("information")
    true = bool((networks["labels"] == "data").any())
    of_whom = "labels of the data (empirical)" if true else "labels drawn from the network's own probabilities"
    note = (
        "Trace of the Fisher information of the weights in the first 1..T steps, of single samples of the test split "
        f"and {of_whom}: geometric means with 95 % intervals over seeds. Centroid: the mean step, weighted by it (Kim "
        "et al. 2023)."
    )
    rows = []
    for network in networks["network"].unique():
        of_network = networks[networks["network"] == network]
        last = 10 ** over_seeds(of_network, "network", "log10_fisher").iloc[0]
        centroid = over_seeds(of_network, "network", "centroid").iloc[0]
        rows.append((network, _shown(last), _shown(centroid), len(of_network)))
    table = pd.DataFrame(rows, columns=["network", "Fisher information in all steps", "centroid in steps", "seeds"])
    of_all = information["layer"] == ALL
    panels = (Panel("all weights", fisher(information[of_all])), Panel("by layer", fisher(information[~of_all])))
    title = "Empirical Fisher information" if true else "Fisher information"
    return Section(block.title or f"{title} of the weights", note + alike_note(information), panels, table)


def _shown(of_seeds: pd.Series) -> str:
    """A mean with its interval, if it has one."""
    mean, low, high = of_seeds[["mean", "low", "high"]]
    return "undefined" if np.isnan(mean) else f"{mean:.3g}" + ("" if np.isnan(low) else f" [{low:.3g}, {high:.3g}]")
