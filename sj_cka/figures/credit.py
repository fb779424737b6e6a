"""What learning rules compute: their updates beside BPTT's, and what these hang on."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.drawing import FigureBlock, Panel, Results, Section, lay_out, require, small_multiples
from sj_cka.figures.learning import against_epochs
from sj_cka.over_seeds import over_seeds
from sj_cka.training.credit.locality import MOVED

_COLUMNS = 5
_NOT_ASKED = "#e4e4e4"
_MOVES = [[0.0, "#ffffff"], [1.0, "#0072B2"]]


def alignment_section(block: FigureBlock, results: Results) -> Section:
    """Cosine of a rule's updates with BPTT's against the epoch, and, at the end, against the step."""
    aligned, by_step = results.tables["alignment"], results.tables["alignment_by_step"]
    last = by_step.groupby("network")["epoch"].transform("max")
    at_end = by_step[by_step["epoch"] == last]
    panels = tuple(
        Panel(label, against_epochs(_lines(table, at), y_title="cosine", x_title=at))
        for label, table, at in (("against the epoch", aligned, "epoch"), ("against the step", at_end, "step"))
    )
    note = (
        "Cosine of the updates of a learning rule with BPTT's, at the same weights and on the same training samples, "
        "in float64 and with a loss of every step; means with 95 % intervals over seeds. Against the step: both "
        "updates of the loss of that step alone, at the end of the training. A layer before silent neurons has none."
    )
    ends = aligned[(aligned["epoch"] == aligned.groupby("network")["epoch"].transform("max")) & aligned["hidden"]]
    rows = [
        (network, _shown(of.groupby("seed")["cosine"].mean()), _shown(of.groupby("seed")["norm_ratio"].mean()))
        for network, of in ends.groupby("network", sort=False)
    ]
    table = pd.DataFrame(rows, columns=["network", "cosine, mean over hidden layers at the end", "norm over BPTT's"])
    return Section(block.title or "Updates of the learning rules beside BPTT's", note, panels, table)


def _lines(table: pd.DataFrame, at: str) -> dict[str, dict[str, pd.DataFrame]]:
    return {
        str(network): {
            str(layer): over_seeds(of_layer.dropna(subset="cosine"), at, "cosine")
            for layer, of_layer in of_network.groupby("layer", sort=False)
            if of_layer["cosine"].notna().any()
        }
        for network, of_network in table.groupby("network", sort=False)
    }


def _shown(of_seeds: pd.Series) -> str:
    mean, spread = of_seeds.mean(), of_seeds.std()
    return "undefined" if np.isnan(mean) else f"{mean:.3f}" + ("" if np.isnan(spread) else f" (sd {spread:.3f})")


def locality(moves: pd.DataFrame, *, rows: str, columns: str, title: str = "") -> go.Figure:
    """Which updates move: a picture a network, a row what is disturbed, a column what may move.

    Args:
        moves: tidy, one row a network, disturbed place and place: `network`, the columns named by `rows` and `columns`,
            `moves` in 0..1; NaN where there is no update.
        rows: column of the disturbed place.
        columns: column of the place whose update may move.
        title: heading of the figure.

    Returns:
        A figure of small pictures, white where nothing moves, blue where all does, and grey where nothing is asked.

    Raises:
        ValueError: a missing column.

    Example:
        >>> moves = pd.DataFrame({"network": "le.snn", "disturbed": ["b"], "layer": ["a"], "moves": [0.0]})
        >>> locality(moves, rows="disturbed", columns="layer").data[0].z[0][0]
        np.float64(0.0)
    """
    require(moves, ("network", rows, columns, "moves"), "moves")
    networks = list(moves["network"].unique())
    shared: dict[str, Any] = {"shared_xaxes": "all", "shared_yaxes": "all", "horizontal_spacing": 0.02}
    figure, places, count, height = small_multiples(networks, min(_COLUMNS, len(networks)), 170, 60, **shared)
    for at, network in zip(places, networks, strict=True):
        of_network = moves[moves["network"] == network]
        matrix = of_network.pivot_table(index=rows, columns=columns, values="moves", sort=False, dropna=False)
        names = [list(map(str, labels)) for labels in (matrix.columns, matrix.index)]
        cells = go.Heatmap(
            x=names[0],
            y=names[1],
            z=matrix.to_numpy(),
            coloraxis="coloraxis",
            xgap=2,
            ygap=2,
            hovertemplate=f"{network}<br>%{{y}} disturbed: %{{z:.0%}} of the updates of %{{x}} move<extra></extra>",
        )
        figure.add_trace(cells, **at)
    figure.update_xaxes(type="category", tickangle=-90, showgrid=False)
    figure.update_yaxes(type="category", showgrid=False)
    for at in places[::count]:
        figure.update_yaxes(title_text="disturbed", **at)
    bar = {"title": "updates that move", "tickformat": ".0%", "thickness": 12, "outlinewidth": 1}
    axis = {"cmin": 0, "cmax": 1, "colorscale": _MOVES, "colorbar": bar}
    below = 45 + 7 * max(len(str(label)) for label in moves[columns])
    for i, at in enumerate(places):
        if i >= len(networks) - count:
            figure.update_xaxes(title_text=columns, showticklabels=True, **at)
    lay_out(figure, title, height + 40 + below, above=40, margin_b=below, coloraxis=axis, plot_bgcolor=_NOT_ASKED)
    return figure


def locality_section(block: FigureBlock, results: Results) -> Section:
    """Which updates move when a block, or a step, is disturbed."""
    space, time = (results.tables[f"locality_in_{what}"] for what in ("space", "time"))
    below = space[space["below"]]
    later = time[(time["disturbed"] > time["step"]) & time["remembers"]]
    panels = (
        Panel("blocks", locality(_moves(below, "layer", "change"), rows="disturbed", columns="layer")),
        Panel(
            "blocks, error held",
            locality(_moves(below, "layer", "change_error_held"), rows="disturbed", columns="layer"),
        ),
        Panel("steps", locality(_moves(later, "step", "change"), rows="disturbed", columns="step")),
    )
    note = (
        "The weights of a block (neurons with the layers that feed them; the last one classifies) are disturbed, and "
        "the share of seeds is drawn in which the update of a layer below moves; with the error held, the error of the "
        "logits stays what it was. Then the input of a step: the share of updates of an earlier step, of all layers "
        "that feed neurons, that move. White: the rule cannot know of it; grey: that is not asked."
    )
    shares = results.tables["locality"].groupby("network", sort=False)
    columns = ["across_blocks", "across_blocks_error_held", "across_steps"]
    table = shares[columns].mean().map("{:.0%}".format).reset_index()
    table.columns = pd.Index(["network", "updates that move: block above", "the same, error held", "later step"])
    return Section(block.title or "What updates hang on", note, panels, table)


def _moves(table: pd.DataFrame, place: str, change: str) -> pd.DataFrame:
    """Columns network, disturbed, place and moves, the share of rows that moved; in the order of the table."""
    known = table.assign(moves=(table[change] > MOVED).astype(float).where(table[change].notna()))
    return known.groupby(["network", "disturbed", place], sort=False)["moves"].mean().reset_index()
