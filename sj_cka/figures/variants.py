"""CKA of every variant with every other."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sj_cka.figures.drawing import FigureBlock, Panel, Results, Section, lay_out, layer_names
from sj_cka.figures.heatmap import cells_of, coloraxis, ink


def variants(
    matrix: pd.DataFrame,
    *,
    title: str = "",
    quantity: str = "CKA",
    spread: pd.DataFrame | None = None,
    floor: pd.DataFrame | None = None,
) -> go.Figure:
    """CKA of every variant with every other, a number a cell; on the diagonal a variant with itself.

    Args:
        matrix: [variant, variant], symmetric; NaN where undefined.
        title: heading of the figure.
        quantity: what the cells are: `CKAResult.title(measure)`.
        spread: half-widths of 95 % intervals alike, printed below the values; NaN where there is none.
        floor: the same of untrained networks, printed below them.

    Returns:
        A square figure in the colours of every other CKA figure, the first variant in the lower left corner.

    Raises:
        ValueError: the rows are not the columns.

    Example:
        >>> matrix = pd.DataFrame([[0.9, 0.8], [0.8, 0.9]], index=["T-1", "T-2"], columns=["T-1", "T-2"])
        >>> variants(matrix).data[0].z.shape
        (2, 2)
    """
    names = layer_names(matrix.index)
    if list(matrix.columns) != names:
        raise ValueError(f"expected the same variants as rows and columns, got {names} and {list(matrix.columns)}")
    figure = go.Figure(cells_of(matrix, names, names, "%{x} and %{y}<br>", spread, quantity))
    value, half_width, untrained = (
        np.full(matrix.shape, np.nan) if table is None else table.loc[names, names].to_numpy(float)
        for table in (matrix, spread, floor)
    )
    for i, j in zip(*np.nonzero(np.isfinite(value)), strict=True):
        text = f"<b>{value[i, j]:.2f}</b>"
        if np.isfinite(half_width[i, j]):
            text += f" ± {half_width[i, j]:.2f}"
        if np.isfinite(untrained[i, j]):
            text += f"<br>floor {untrained[i, j]:.2f}"
        font = {"size": 12, "color": str(ink(value[i, j]))}
        figure.add_annotation(x=int(i), y=int(j), text=text, showarrow=False, font=font)
    side = 130 + 100 * len(names)
    axis = {"type": "category", "showgrid": False, "constrain": "domain", "ticks": ""}
    lay_out(
        figure,
        title,
        side - 30,
        width=side + 90,
        coloraxis=coloraxis(quantity),
        xaxis=axis,
        yaxis={**axis, "scaleanchor": "x", "constraintoward": "top"},
    )
    return figure


def variants_section(block: FigureBlock, results: Results) -> Section:
    """Every variant with every other, a number a pair."""
    comparison = results.comparison(block)
    pairs = results.between(block)
    note = (
        f"Mean {results.similarity(block)} of layers of the same name, over the {pairs.layers} layers that are defined "
        "in every network; ±: half of the 95 % interval over seeds. On the diagonal a network against itself trained "
        "from another seed: no more than that can be expected. Floor: the same networks untrained."
    )
    if not pairs.layers:
        return Section(block.title or f"Variant by variant: {comparison.name}", "No layer is defined in every network.")
    figure = variants(pairs.mean, quantity=results.similarity(block), spread=pairs.spread, floor=pairs.floor)
    return Section(block.title or f"Variant by variant: {comparison.name}", note, (Panel("variants", figure),))
