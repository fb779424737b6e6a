"""The numbers of a study that its claims are judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sj_cka.claims.measures import MEASUREMENTS, selected
from sj_cka.claims.statements import Measurement


@dataclass(frozen=True)
class Evidence:
    """The numbers of a study that claims are judged on.

    Args:
        accuracy: columns network, seed, split, accuracy.
        paired: columns comparison, variant, state, seed, layer, cka; state is "trained", "untrained" (the floor) or
            "ceiling" (seed against the other seeds; no interval: pairs of seeds are not independent).
        networks: (comparison, variant) -> names of the two networks.
        trained_at: training accuracy below which a network counts as not trained.
        swept: variant -> swept value.
        steps: columns comparison, variant, state, seed, layer, cka, null: mean CKA between different steps inside the
            layers of x, and the same of the timing null.
        evaluated: columns network, T, seed, split, accuracy: at other numbers of steps than those of training.
        unequal: (comparison, variant) that are not at the success rate that they were to have -> why, in words; claims
            on them stay undecided.
        backdoored: columns network, seed, success_rate: of networks that were trained on poisoned samples.
        attacked: columns network, attack, eps, seed, accuracy: of test samples under attack.
    """

    accuracy: pd.DataFrame
    paired: pd.DataFrame
    networks: Mapping[tuple[str, str], tuple[str, str]]
    trained_at: float
    swept: Mapping[str, float] = field(default_factory=dict)
    steps: pd.DataFrame | None = None
    evaluated: pd.DataFrame | None = None
    attacked: pd.DataFrame | None = None
    backdoored: pd.DataFrame | None = None
    unequal: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def accuracies(self, network: str, split: str, T: int | None = None) -> pd.Series:
        """Accuracy of a network by seed, with the steps of its training or with T of them."""
        t = self.accuracy
        if T is not None:
            assert self.evaluated is not None  # a claim names only what the recipe evaluates
            t = self.evaluated[self.evaluated["T"] == T]
        return t[(t.network == network) & (t.split == split)].set_index("seed")["accuracy"].sort_index()

    def of_network(self, m: Measurement) -> pd.Series:
        """A measurement of a network, by seed: its accuracy, under an attack if one is named; success of a backdoor."""
        if m.measure == "backdoor_success":
            assert self.backdoored is not None  # a claim names only poisoned networks
            rows = self.backdoored[self.backdoored["network"] == m.network]
            return rows.set_index("seed")["success_rate"].sort_index()
        if m.attack is None:
            return self.accuracies(str(m.network), m.split, m.T)
        assert self.attacked is not None  # a claim names only what the recipe attacks
        t = self.attacked
        rows = t[(t.network == m.network) & (t.attack == m.attack)]
        if m.eps is not None:
            rows = rows[np.isclose(rows["eps"], m.eps)]
        return rows.set_index("seed")["accuracy"].sort_index()

    def layers(self, m: Measurement, state: str, variant: str | None = None) -> pd.DataFrame:
        """What a measurement of a comparison is made of, `[seed, layer]`, at the layers that it names.

        Less the same of the comparison `minus`, at the layers that both have.
        """
        column = MEASUREMENTS[m.measure].column
        own = self._layers(m, state, variant, column)
        if m.minus is None:
            return own
        other = self._layers(m.model_copy(update={"comparison": m.minus}), state, variant, column)
        return (own - other)[[layer for layer in own if layer in other]]

    def beside(self, m: Measurement, layers: list[str]) -> pd.DataFrame:
        """What is shown with a measurement, `[seed, layer]`."""
        return self._layers(m, "trained", None, str(MEASUREMENTS[m.measure].beside))[layers]

    def _layers(self, m: Measurement, state: str, variant: str | None, column: str) -> pd.DataFrame:
        t = self.paired if MEASUREMENTS[m.measure].of == "comparison" else self._time()
        variant = m.variant or "" if variant is None else variant
        rows = t[(t.comparison == m.comparison) & (t.variant == variant) & (t.state == state)]
        order = selected(rows["layer"].drop_duplicates(), m.layers)
        return rows.pivot_table(index="seed", columns="layer", values=column, aggfunc="mean", dropna=False)[order]

    def _time(self) -> pd.DataFrame:
        """The table of steps with what the measures are made of."""
        assert self.steps is not None
        cka, null = self.steps["cka"], self.steps["null"]
        return self.steps.assign(**{"dynamics": 1 - cka, "timing null": 1 - null, "beyond timing": null - cka})

    def not_trained(self, networks: tuple[str, ...]) -> list[str]:
        """The networks, of those named, that miss `trained_at` with any seed."""
        return [n for n in networks if "@" not in n and not self.accuracies(n, "train").min() >= self.trained_at]
