"""What a figure of a study is: a part of its page, and what a recipe has to say for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd
import plotly.graph_objects as go

if TYPE_CHECKING:  # both stand on figures: here they are known to type checkers alone
    from sj_cka.recipe import FigureBlock as FigureBlock
    from sj_cka.results import Results as Results
else:
    FigureBlock = Results = object

Of = Literal[
    "networks", "evaluations", "attacks", "backdoors", "comparison", "pairs of variants", "permutation test", "sweep"
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
            of steps, "evaluations"; "attacks"; "backdoors"; or a comparison that the block names: any "comparison", one
            of "pairs of variants", one with a "permutation test", one over all variants of a "sweep".
        states: of the networks of the comparison, those that it can show.
    """

    function: Callable[..., Section]
    of: Of = "networks"
    states: tuple[State, ...] = ("trained",)

    @property
    def compares(self) -> bool:
        """Whether it shows a comparison."""
        return self.of in ("comparison", "pairs of variants", "permutation test", "sweep")
