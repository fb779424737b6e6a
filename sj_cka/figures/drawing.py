"""What every figure shares: its entry in a table, its part of a page, colours, the template, axes, checks of tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

if TYPE_CHECKING:  # both stand on figures: here they are known to type checkers alone
    from sj_cka.recipe import FigureBlock as FigureBlock
    from sj_cka.results import Results as Results
else:
    FigureBlock = Results = object

Of = Literal[
    "networks",
    "evaluations",
    "attacks",
    "backdoors",
    "fisher",
    "alignment",
    "locality",
    "exchange",
    "comparison",
    "epochs",
    "pairs of variants",
    "network with itself",
    "sweep",
]
State = Literal["trained", "untrained", "ceiling"]


@dataclass(frozen=True)
class Panel:
    """One figure; `label` stands on its tab where a section has several."""

    label: str
    figure: go.Figure


@dataclass(frozen=True)
class Section:
    """A heading, a note on how to read what follows, figures (tabs if several), a table (its index only if named)."""

    title: str
    note: str
    panels: tuple[Panel, ...] = ()
    table: pd.DataFrame | None = None


@dataclass(frozen=True)
class Figure:
    """An entry of FIGURES.

    Args:
        function: `section(block, results, **options) -> Section`: what the page shows, made of tables. `block` is what
            the recipe says of the figure: name, comparison, state, title; `results` is a `sj_cka.results.Results`; the
            other arguments are options of the recipe, checked against this signature.
        of: what it shows, and so what the study must have: its "networks"; networks that are run with other numbers
            of steps, "evaluations"; "attacks"; "backdoors"; what `jobs` of a name measure, "fisher", "alignment",
            "locality"; or a comparison that the block names: any "comparison", one whose layers `jobs.exchange` puts
            in each other's place, "exchange", one over "epochs", of "pairs of variants", of a "network with itself",
            one over all variants of a "sweep".
        states: of the networks of the comparison, those that it can show.
    """

    function: Callable[..., Section]
    of: Of = "networks"
    states: tuple[State, ...] = ("trained",)

    @property
    def compares(self) -> bool:
        """Whether it shows a comparison."""
        return self.of in ("comparison", "exchange", "epochs", "pairs of variants", "network with itself", "sweep")


# One scale for every CKA figure, so that two pictures can be compared by eye. Viridis is perceptually uniform.
CKA_SCALE = "Viridis"
UNDEFINED = "#bdbdbd"
# Okabe and Ito (2008), colour-blind safe; without its yellow, too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#444444")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star")
DASHES = ("dash", "dot", "dashdot", "longdash")
GREY = "#666666"
LEGEND_ABOVE = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
_ASIDE = 0.03  # a whole number would put the name of a group in place of the layer's own under the pointer
MOST_TICKS = 24  # more layer names than this cannot be read side by side
_AXIS = {
    "automargin": True,
    "showline": True,
    "linecolor": "#888888",
    "gridcolor": "#e6e6e6",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#888888",
    "title": {"font": {"size": 13}},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", "size": 13, "color": "#222222"},
        "title": {"font": {"size": 16}, "x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"l": 12, "t": 14}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": PALETTE,
        "margin": {"l": 70, "r": 30, "t": 50, "b": 60},
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#888888", "font": {"color": "#222222"}, "align": "left"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


class Ticks(NamedTuple):
    """What stands along an axis of layers: positions count layers from 0, `edges` lie between two named groups."""

    positions: list[float]
    names: list[str]
    edges: list[float]


def labels_of(frames: Mapping[str, object]) -> list[str]:
    if not frames:
        raise ValueError("expected at least one table to draw, got none")
    return list(frames)


def require_means(*lines: Mapping[str, pd.DataFrame]) -> None:
    """Raises ValueError unless every line is a table with means and intervals."""
    for label, table in (line for named in lines for line in named.items()):
        require(table, ("mean", "low", "high"), f"line {label!r}")


def layer_names(index: pd.Index) -> list[str]:
    """Names along an axis; two layers of one name would be drawn over each other."""
    twice = list(dict.fromkeys(index[index.duplicated()]))
    if twice:
        raise ValueError(f"expected every layer once, got {twice} more than once")
    return list(index)


def require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{what}: expected the columns {list(columns)}, {missing} missing from {list(table.columns)}")


def whiskers(table: pd.DataFrame, *, width: int = 4, **look: Any) -> dict[str, Any]:
    """Error bars of a table with the columns `mean`, `low`, `high`, in the unit of its values."""
    return {
        "array": numbers(table["high"] - table["mean"]),
        "arrayminus": numbers(table["mean"] - table["low"]),
        "thickness": 1.2,
        "width": width,
        **look,
    }


def numbers(values: Any) -> np.ndarray:
    """Four decimals in float32: what a picture can show, at a third of the size of the full numbers as text."""
    return np.asarray(values, dtype=np.float64).round(4).astype(np.float32)


def reach(tables: Iterable[pd.DataFrame], low: float, high: float) -> tuple[float, float]:
    """From low to high, and further where a value lies outside (a difference of two CKAs can be negative)."""
    values = np.concatenate([table.to_numpy(float).ravel() for table in tables])
    finite = values[np.isfinite(values)].tolist()
    return min([low, *finite]), max([high, *finite])


def plain(values: pd.Series) -> list[float]:
    return [round(float(value), 4) for value in values]


def interval_text(low: float, high: float, decimals: int) -> str:
    return "" if np.isnan(low) or np.isnan(high) else f" [{low:.{decimals}f}, {high:.{decimals}f}]"


def interval_texts(table: pd.DataFrame, decimals: int) -> list[str]:
    """The intervals of a table as they stand behind its values under the pointer."""
    return [interval_text(low, high, decimals) for low, high in zip(table["low"], table["high"], strict=True)]


def beside_each_other(labels: Sequence[str], step: float) -> dict[str, float]:
    """Factors by which labels stand aside on an axis of doublings: intervals at one place would hide each other."""
    return {label: 2 ** (step * (i - (len(labels) - 1) / 2)) for i, label in enumerate(labels)}


class Multiples(NamedTuple):
    """Small multiples: the figure, row and column of every picture, their number of columns, and pixels of height."""

    figure: go.Figure
    places: list[dict[str, int]]
    columns: int
    height: int


def small_multiples(
    headings: Sequence[str], columns: int, picture: int, gap: int, font_size: int = 13, **spacing: Any
) -> Multiples:
    """Pictures side by side, at most so many in a row.

    Args:
        headings: of the pictures.
        columns: of pictures.
        picture, gap: height of one, and of what is between two rows, in pixels.
        font_size: of the headings.
        spacing: further arguments of Plotly's `make_subplots`.
    """
    rows = -(-len(headings) // columns)
    height = rows * picture + (rows - 1) * gap
    vertical = gap / height if rows > 1 else 0
    figure = make_subplots(rows, columns, subplot_titles=headings, vertical_spacing=vertical, **spacing)
    figure.update_annotations(font_size=font_size)
    places = [{"row": i // columns + 1, "col": i % columns + 1} for i in range(len(headings))]
    return Multiples(figure, places, columns, height)


def layer_ticks(layers: Sequence[str]) -> Ticks:
    """Every name while they fit; else the dotted prefixes (stages, blocks), each in the middle of its layers."""
    count = len(layers)
    if count <= MOST_TICKS:
        return Ticks(list(range(count)), list(layers), [])
    runs: list[tuple[str, int, int]] = []
    for depth in range(max(name.count(".") for name in layers) + 1, 0, -1):
        runs = _runs(layers, depth)
        if len(runs) <= MOST_TICKS:
            break
    if not 3 < len(runs) <= MOST_TICKS:  # no stages to name: every k-th layer by its full name
        kept = range(0, count, -(-count // MOST_TICKS))
        return Ticks(list(kept), [layers[i] for i in kept], [])
    positions: list[float] = []
    names: list[str] = []
    for name, first, last in runs:
        middle = (first + last) / 2
        if not positions or middle - positions[-1] >= count / 45:  # closer labels would touch
            positions.append(middle + _ASIDE)
            names.append(name)
    return Ticks(positions, names, [first - 0.5 for _, first, _ in runs[1:]])


def _runs(layers: Sequence[str], depth: int) -> list[tuple[str, int, int]]:
    """Neighbouring layers with the same first `depth` parts of their names: (prefix, first, last)."""
    runs = []
    for prefix, run in groupby(enumerate(layers), key=lambda item: ".".join(item[1].split(".")[:depth])):
        places = [i for i, _ in run]
        runs.append((prefix, places[0], places[-1]))
    return runs


def stage_ticks(layers: Sequence[str]) -> Ticks:
    """Stages alone, each in the middle of its layers; of single layers the first."""
    runs = [(stage, first, last) for stage, first, last in _runs(layers, 1) if last > first or first == 0]
    return Ticks([(first + last) / 2 + _ASIDE for _, first, last in runs], [stage for stage, _, _ in runs], [])


def layer_axis(layers: Sequence[str], ticks: Ticks) -> dict[str, Any]:
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(layers),
        "range": [-0.5, len(layers) - 0.5],
        "tickvals": ticks.positions,
        "ticktext": ticks.names,
        "tickfont": {"size": 11},
        "ticks": "" if ticks.edges else "outside",
    }


def stroke(axis: Literal["x", "y"], at: float) -> dict[str, Any]:
    """A short line outside the plot where one group of layers ends and the next begins."""
    return _line_across(axis, at, 0, -0.02)


def rule(axis: Literal["x", "y"], at: float) -> dict[str, Any]:
    """A pale line through the plot, behind the data."""
    return {**_line_across(axis, at, 0, 1), "line": {"color": "#dddddd", "width": 1}, "layer": "below"}


def _line_across(axis: Literal["x", "y"], at: float, start: float, end: float) -> dict[str, Any]:
    """`at` counts places along the axis, `start` and `end` are parts of the plot's extent across it."""
    other = "y" if axis == "x" else "x"
    return {
        "type": "line",
        f"{axis}ref": axis,
        f"{axis}0": at,
        f"{axis}1": at,
        f"{other}ref": f"{other} domain",
        f"{other}0": start,
        f"{other}1": end,
        "line": {"color": "#888888", "width": 1},
    }


def top_margin(title: str) -> int:
    """Pixels above a plot: for the buttons that Plotly shows under the pointer, and for a heading if there is one."""
    return 50 if title else 30


def lay_out(figure: go.Figure, title: str, inner: int | None, *, above: int = 0, **layout: Any) -> None:
    """The look that all figures share.

    Args:
        figure: to lay out.
        title: heading.
        inner: height of the figure in pixels without room for the heading; None where `height` is given.
        above: pixels between heading and plot, for a legend.
        layout: further arguments of Plotly's `update_layout`.
    """
    top = top_margin(title)
    sizes = {} if inner is None else {"height": inner + top}
    figure.update_layout(template=TEMPLATE, title_text=title, **{"margin_t": top + above, **sizes, **layout})


def colour_of(i: int) -> str:
    return PALETTE[i % len(PALETTE)]
