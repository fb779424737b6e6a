"""The numbers of a study that its claims are judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sj_cka.claims.measurements import MEASUREMENTS, Column, selected
from sj_cka.claims.statements import Arm

_OF_A_NETWORK = ("network", "split", "T", "attack", "eps")  # keys of an arm that choose rows


@dataclass(frozen=True)
class Evidence:
    """The numbers of a study that claims are judged on.

    Args:
        tables: name -> table, as the entries of MEASUREMENTS name them. Those of networks have the columns network and
            seed; those of comparisons comparison, variant, state, seed and layer, where state is "trained",
            "untrained" (the floor) or "ceiling" (seed against the other seeds; no interval: pairs of seeds are not
            independent).
        networks: (comparison, variant) -> names of the two networks.
        trained_at: training accuracy below which a network counts as not trained.
        swept: variant -> swept value.
        unequal: (comparison, variant) that are not at the success rate that they were to have -> why, in words; claims
            on them stay undecided.
        titles: comparison -> title of its measure of similarity, where that is not CKA.
    """

    tables: Mapping[str, pd.DataFrame]
    networks: Mapping[tuple[str, str], tuple[str, str]]
    trained_at: float
    swept: Mapping[str, float] = field(default_factory=dict)
    unequal: Mapping[tuple[str, str], str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)

    def label(self, arm: Arm) -> str:
        """What an arm measures, in words."""
        return self.named(MEASUREMENTS[arm.measure].label, arm)

    def named(self, text: str, arm: Arm) -> str:
        """A text with the title of the measure of similarity of an arm's comparison."""
        return text.replace("{similarity}", self.titles.get(str(arm.comparison), "CKA"))

    def of_network(self, arm: Arm) -> pd.Series:
        """What an arm measures of a network, by seed."""
        measurement = MEASUREMENTS[arm.measure]
        elsewhere = [name for key, name in measurement.elsewhere.items() if getattr(arm, key) is not None]
        rows = self.tables[elsewhere[0] if elsewhere else measurement.table]
        for key in _OF_A_NETWORK:
            if (wanted := getattr(arm, key)) is not None and key in rows:
                rows = rows[np.isclose(rows[key], wanted) if isinstance(wanted, float) else rows[key] == wanted]
        return _column(rows, measurement.column).set_axis(rows["seed"]).sort_index()

    def layers(self, arm: Arm, state: str, variant: str | None = None) -> pd.DataFrame:
        """What an arm of a comparison is made of, `[seed, layer]`, at the layers that it names.

        Less the same of the comparison `minus`, at the layers that both have.
        """
        column = MEASUREMENTS[arm.measure].column
        values = self._layers(arm, state, variant, column)
        if arm.minus is None:
            return values
        other = self._layers(arm.model_copy(update={"comparison": arm.minus}), state, variant, column)
        return (values - other)[[layer for layer in values if layer in other]]

    def beside(self, arm: Arm, column: Column, layers: list[str]) -> pd.DataFrame:
        """What is shown with a measurement, `[seed, layer]`."""
        return self._layers(arm, "trained", None, column)[layers]

    def _layers(self, arm: Arm, state: str, variant: str | None, column: Column) -> pd.DataFrame:
        rows = self.tables[MEASUREMENTS[arm.measure].table]
        variant = arm.variant or "" if variant is None else variant
        rows = rows[(rows.comparison == arm.comparison) & (rows.variant == variant) & (rows.state == state)]
        rows = rows.assign(value=_column(rows, column))
        order = selected(rows["layer"].drop_duplicates(), arm.layers)
        return rows.pivot_table(index="seed", columns="layer", values="value", aggfunc="mean", dropna=False)[order]

    def not_trained(self, networks: tuple[str, ...]) -> list[str]:
        """The networks, of those named, that miss `trained_at` with any seed."""
        accuracy = self.tables["accuracy"]
        lowest = accuracy[accuracy["split"] == "train"].groupby("network")["accuracy"].min()
        return [n for n in networks if "@" not in n and not lowest.get(n, np.nan) >= self.trained_at]


def _column(rows: pd.DataFrame, column: Column) -> pd.Series:
    return rows[column] if isinstance(column, str) else column(rows)
