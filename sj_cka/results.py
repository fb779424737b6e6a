"""The numbers of a finished study, and how a figure block asks for them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from sj_cka import tables
from sj_cka.cka import CKAResult
from sj_cka.claims import Evidence
from sj_cka.figures import Figure, Section
from sj_cka.plan import Plan
from sj_cka.recipe import Comparison, FigureBlock, NetworkName, Sides, Study
from sj_cka.recipe.choices import FIGURE, options_of
from sj_cka.tables import Compared


@dataclass(frozen=True)
class Results:
    """All numbers of a finished study."""

    plan: Plan
    compared: list[Compared]
    accuracy: pd.DataFrame
    evaluated: pd.DataFrame
    history: pd.DataFrame
    cost: pd.DataFrame
    pairs: pd.DataFrame
    dynamics: pd.DataFrame
    attacks: pd.DataFrame
    backdoors: pd.DataFrame

    @property
    def study(self) -> Study:
        """The study that they are of."""
        return self.plan.study

    @property
    def evidence(self) -> Evidence:
        """What the claims are judged on."""
        return tables.evidence(
            self.plan, self.accuracy, self.pairs, self.dynamics, self.evaluated, self.attacks, self.backdoors
        )

    def of(self, comparison: str, variant: str, state: str = "trained", kind: str = "") -> list[list[CKAResult]]:
        """The results of a comparison by seed: one, or one for each other seed; of a ceiling, those of one kind."""
        found: dict[int, list[CKAResult]] = {}
        for p, result in self.compared:
            if (p.comparison, p.variant, p.state, p.kind) == (comparison, variant, state, kind):
                found.setdefault(p.seed, []).append(result)
        return list(found.values())

    def comparison(self, block: FigureBlock) -> Comparison:
        """The comparison that a figure shows."""
        return next(c for c in self.plan.study.recipe.compare if c.name == block.comparison)

    def sides(self, block: FigureBlock) -> dict[str, Sides]:
        """The networks that a figure shows, by variant."""
        return self.plan.study.sides(self.comparison(block))

    def section(self, block: FigureBlock) -> Section:
        """The section of the page that a figure block of the recipe asks for."""
        figure: Figure = FIGURE.entry(block.name)
        return figure.function(block, self, **options_of(FIGURE.typed(block.options())))

    def for_all(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of networks in which one that is the same for every variant stands once, as `*.<kind>`."""
        networks = map(NetworkName, set(table["network"]))
        alike = {network: f"*.{network.kind}" for network in networks if self.plan.for_all(network)}
        first = {f"{next(iter(self.plan.study.conditions))}.{name[2:]}" for name in alike.values()}
        once = table[table["network"].isin(first)]
        return pd.concat([table[~table["network"].isin(alike)], once.assign(network=once["network"].map(alike))])
