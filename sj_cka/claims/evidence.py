"""The numbers of a study that claims are judged on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from sj_cka.claims.inference import Cells
from sj_cka.claims.measurements import MEASUREMENTS, OF_A_NETWORK, Column, selected
from sj_cka.claims.statements import Arm

ORIGINS = "origins"
_CELL = ["seed", "seed_y"]
_ANY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Evidence:
    """The numbers of a study that claims are judged on.

    Args:
        tables: name -> table, as the entries of MEASUREMENTS name them. Those of networks have the columns network and
            seed; those of comparisons comparison, variant, state, kind, seed, seed_y and layer, where state is
            "trained", "untrained" (the floor) or "ceiling" (seed against seed of one network; kind tells the two
            networks apart). A column `origins` tells what random numbers a row hangs on: the trainings and first
            weights of its networks; without it the networks of a row are those of its names and seeds.
        networks: (comparison, variant) -> names of the two networks.
        trained_at: training accuracy below which a network counts as not trained.
        swept: variant -> swept value.
        unequal: (comparison, variant) that are not at the success rate that they were to have -> why, in words; claims
            on them stay undecided.
        titles: comparison -> title of its measure of similarity, where that is not CKA.
        times: how steps are taken together -> the table `paired` of that; the first is the one that is judged on.
        neurons: names of all layers of neurons.
    """

    tables: Mapping[str, pd.DataFrame]
    networks: Mapping[tuple[str, str], tuple[str, str]]
    trained_at: float
    swept: Mapping[str, float] = field(default_factory=dict)
    unequal: Mapping[tuple[str, str], str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    neurons: frozenset[str] = frozenset()
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)  # what was looked up

    @property
    def titles_of_others(self) -> set[str]:
        """Comparisons by another measure than CKA."""
        return {name for name, title in self.titles.items() if title != "CKA"}

    def label(self, arm: Arm) -> str:
        """What an arm measures, in words."""
        return self.named(MEASUREMENTS[arm.measure].label, arm)

    def named(self, text: str, arm: Arm) -> str:
        """A text with the title of the measure of similarity of an arm's comparison."""
        return text.replace("{similarity}", self.titles.get(str(arm.comparison), "CKA"))

    def of_network(self, arm: Arm) -> tuple[pd.Series, Cells]:
        """What an arm measures of a network, by seed, and where that comes from; less the same of `minus`."""
        values, cells = self._of_network(arm)
        if arm.minus is None:
            return values, cells
        others, theirs = self._of_network(arm.model_copy(update={"network": arm.minus, "minus": None}))
        if cells.seeds != theirs.seeds:
            raise ValueError(f"expected {arm.network} and {arm.minus} with the same seeds, to take one off the other")
        origins = [one | other for one, other in zip(cells.origins, theirs.origins, strict=True)]
        return values - others, Cells(cells.seeds, origins)

    def _of_network(self, arm: Arm) -> tuple[pd.Series, Cells]:
        measurement = MEASUREMENTS[arm.measure]
        elsewhere = [name for key, name in measurement.elsewhere.items() if getattr(arm, key) is not None]
        rows = self.tables[elsewhere[0] if elsewhere else measurement.table]
        for key in OF_A_NETWORK:
            if (wanted := getattr(arm, key)) is not None and key in rows:
                rows = rows[np.isclose(rows[key], wanted) if isinstance(wanted, float) else rows[key] == wanted]
        if rows["seed"].duplicated().any():
            got = f"got {len(rows)} of {rows['seed'].nunique()}"
            raise ValueError(f"expected a row a seed for {arm.measure} of {arm.network}, {got} seeds")
        rows = rows.sort_values("seed")
        seeds = [(int(seed), int(seed)) for seed in rows["seed"]]
        names = [frozenset({f"{arm.network}, seed {seed}"}) for seed, _ in seeds]
        values = _column(rows, measurement.column).set_axis(rows["seed"])
        return values, Cells(seeds, list(rows[ORIGINS]) if ORIGINS in rows else names)

    def layers(self, arm: Arm, state: str, variant: str | None = None, column: Column | None = None) -> pd.DataFrame:
        """What an arm of a comparison is made of, `[(seed, seed_y), layer]`, at the layers that it names.

        Less the same of the comparison `minus`, at the layers that both have.

        Args:
            arm: of a claim.
            state: of the networks.
            variant: None for that of the arm.
            column: in place of that of the measurement.
        """
        values = self._layers(arm, str(arm.comparison), state, variant, column)
        if arm.minus is None:
            return values
        other = self._layers(arm, arm.minus, state, variant, column)
        return (values - other)[[layer for layer in values if layer in other]]

    def _layers(
        self, arm: Arm, comparison: str, state: str, variant: str | None, column: Column | None
    ) -> pd.DataFrame:
        measurement = MEASUREMENTS[arm.measure]
        column = measurement.column if column is None else column
        variant, where = arm.variant if variant is None else variant, measurement.where
        rows = self._rows(measurement.table, comparison, variant, state, where)
        key = (measurement.table, comparison, variant, state, *where.items(), column)
        if key not in self._known:
            by_cell = _by_cell(rows, _column(rows, column))
            self._known[key] = by_cell[list(rows["layer"].drop_duplicates())]
        table: pd.DataFrame = self._known[key]
        return table if arm.layers is None else table[selected(table.columns, arm.layers)]

    def cells(self, arm: Arm, variant: str | None = None) -> Cells:
        """Where the values of an arm of a comparison come from, in the order of `layers`."""
        found: dict[tuple[int, int], frozenset[str]] = {}
        for comparison in filter(None, (arm.comparison, arm.minus)):
            for seeds, origins in self._origins(arm, comparison, variant, "trained").items():
                found[seeds] = found.get(seeds, frozenset()) | origins
        return Cells(list(found), list(found.values()))

    def ceilings(self, arm: Arm, variant: str | None = None) -> list[tuple[pd.DataFrame, Cells]]:
        """Of each of the two networks of an arm's comparison: seed against seed `[(seed, seed_y), layer]`."""
        comparison, variant = str(arm.comparison), arm.variant if variant is None else variant
        if (known := ("ceilings", MEASUREMENTS[arm.measure].table, comparison, variant)) in self._known:
            return list(self._known[known])
        found, rows = [], self._rows("paired", comparison, variant, "ceiling")
        for kind in rows["kind"].unique():
            own = rows[rows.kind == kind]
            values = _by_cell(own, own["cka"])
            origins = self._origins(arm, comparison, variant, "ceiling", str(kind))
            found.append((values, Cells(list(origins), list(origins.values()))))
        self._known[known] = found
        return list(found)

    def _origins(
        self, arm: Arm, comparison: str, variant: str | None, state: str, kind: str | None = None
    ) -> dict[tuple[int, int], frozenset[str]]:
        """(seed, seed_y) -> what random numbers the row hangs on, sorted by seeds."""
        variant = (arm.variant if variant is None else variant) or ""
        measurement = MEASUREMENTS[arm.measure]
        rows = self._rows(measurement.table, comparison, variant, state, measurement.where)
        once = (rows if kind is None else rows[rows.kind == kind]).drop_duplicates(_CELL).sort_values(_CELL)
        seeds = [(int(i), int(j)) for i, j in zip(once["seed"], once["seed_y"], strict=True)]
        if ORIGINS in once:
            return dict(zip(seeds, once[ORIGINS], strict=True))
        names = self.networks[comparison, variant]
        if kind is not None:
            names = (next(name for name in names if name == kind or name.endswith(f".{kind}")),) * 2
        return {
            pair: frozenset(f"{name}, seed {seed}" for name, seed in zip(names, pair, strict=True)) for pair in seeds
        }

    def _rows(
        self, table: str, comparison: str, variant: str | None, state: str, where: Mapping[str, str] = _ANY
    ) -> pd.DataFrame:
        if (key := (table, comparison, variant or "", state, *where.items())) not in self._known:
            rows = self.tables[table]
            of = (rows.comparison == comparison) & (rows.variant == (variant or "")) & (rows.state == state)
            for column, wanted in where.items():
                of &= rows[column] == wanted
            self._known[key] = rows[of]
        found: pd.DataFrame = self._known[key]
        return found

    def not_trained(self, networks: tuple[str, ...]) -> list[str]:
        """The networks, of those named, that miss `trained_at` with any seed."""
        accuracy = self.tables["accuracy"]
        lowest = accuracy[accuracy["split"] == "train"].groupby("network")["accuracy"].min()
        return [n for n in networks if "@" not in n and not lowest.get(n, np.nan) >= self.trained_at]


def _by_cell(rows: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """Values of rows as `[(seed, seed_y), layer]`, sorted by seeds."""
    return values.set_axis(pd.MultiIndex.from_frame(rows[[*_CELL, "layer"]])).unstack("layer")


def hanging_on(table: pd.DataFrame, origins: frozenset[str]) -> pd.DataFrame:
    """A table with the column `origins`, the same in every row."""
    return table.assign(**{ORIGINS: pd.Series([origins] * len(table), index=table.index, dtype=object)})


def _column(rows: pd.DataFrame, column: Any) -> pd.Series:
    return rows[column] if isinstance(column, str) else column(rows)
