"""What a claim can be about, a number for each seed of a network or of a comparison, and the evidence that gives it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from sj_cka.claims.block_patterns import in_blocks, periodicity
from sj_cka.claims.statements import Arm

Column = str | Callable[[pd.DataFrame], pd.Series]


class Measurement(NamedTuple):
    """A number for each seed, and the table that it stands in.

    Args:
        of: "network": a row a seed, chosen by the keys of an arm that the table has as columns. "comparison": rows of
            layers of one name, `[seed, layer]`.
        table: name of the table.
        label: what it is, in words; {similarity} stands for the title of the comparison's measure of similarity.
        column: of the table; or what makes it of the columns.
        value: of a comparison's `[seed, layer]`: the number.
        unit: what `parts` are called.
        parts: what the number is a mean over, given the layers.
        elsewhere: key of an arm -> the table in place of `table`, where the arm gives that key.
        beside: name and column of what is always shown with it.
        scale: what its values are, where they may be set against those of other measurements that say the same; None:
            of a network its own column, of a comparison all of its table.
    """

    of: Literal["network", "comparison"]
    table: str
    label: str
    column: Column = "cka"
    value: Callable[[pd.DataFrame], pd.Series] = lambda layers: layers.mean(axis=1)
    unit: str = "layers"
    parts: Callable[[list[str]], list[str]] = list
    elsewhere: Mapping[str, str] = MappingProxyType({})
    beside: tuple[str, Column] | None = None
    scale: str | None = None

    @property
    def on(self) -> str:
        """The scale that it is on: the two arms of a claim are on one."""
        return self.scale or (self.table if self.of == "comparison" else f"{self.table}.{self.column}")


def selected(layers: Iterable[str], patterns: Sequence[str] | None) -> list[str]:
    """The layers that dotted names or globs pick, in order; all where there are none.

    Example:
        >>> selected(["conv1", "layer1.0.lif1", "layer1.0"], ["*lif*", "conv1"])
        ['conv1', 'layer1.0.lif1']
    """
    if patterns is None:
        return list(layers)
    return [layer for layer in layers if any(layer == pattern or fnmatchcase(layer, pattern) for pattern in patterns)]


def _restoration(paired: pd.DataFrame) -> pd.Series:
    """Mean over residual blocks of CKA at the block's output minus CKA at its last convolution."""
    blocks = _blocks(list(paired.columns))
    if not blocks:
        return pd.Series(np.nan, index=paired.index)
    return pd.concat([paired[block] - paired[f"{block}.conv2"] for block in blocks], axis=1).mean(axis=1)


def _blocks(layers: list[str]) -> list[str]:
    return [layer for layer in layers if f"{layer}.conv2" in layers]


def _change(steps: pd.DataFrame) -> pd.Series:
    return 1 - steps["cka"]


def _change_by_timing(steps: pd.DataFrame) -> pd.Series:
    return 1 - steps["null"]


def _beyond_timing(steps: pd.DataFrame) -> pd.Series:
    return steps["null"] - steps["cka"]


_SHARE = "share of samples"
MEASUREMENTS: dict[str, Measurement] = {
    "accuracy": Measurement(
        "network", "accuracy", "accuracy", "accuracy", elsewhere={"T": "evaluated", "attack": "attacks"}, scale=_SHARE
    ),
    "backdoor_success": Measurement(
        "network", "backdoors", "success rate of the backdoor", "success_rate", scale=_SHARE
    ),
    "paired_cka": Measurement("comparison", "paired", "mean {similarity} of paired layers"),
    "restoration": Measurement(
        "comparison",
        "paired",
        "{similarity} at block outputs minus {similarity} at their last convolutions",
        value=_restoration,
        unit="blocks",
        parts=_blocks,
    ),
    "periodicity": Measurement(
        "comparison",
        "paired",
        "variance of paired {similarity} explained by the place within a block, less that of shuffled places",
        value=periodicity,
        unit="layers in blocks",
        parts=in_blocks,
    ),
    "checkerboard": Measurement(
        "comparison",
        "paired",
        "{similarity} of layers at one place of different blocks minus that at different places",
        "contrast",
        unit="layers in blocks",
    ),
    "grid": Measurement(
        "comparison",
        "paired",
        "variance of heatmap rows and columns explained by the place within a block, less that of shuffled places",
        "grid",
        unit="layers in blocks",
    ),
    "dynamics": Measurement(
        "comparison",
        "dynamics",
        "1 - mean CKA between different steps",
        _change,
        beside=("timing null", _change_by_timing),
    ),
    "dynamics_beyond_timing": Measurement(
        "comparison",
        "dynamics",
        "1 - mean CKA between different steps, beyond that of the timing null",
        _beyond_timing,
    ),
}

OF_A_NETWORK = ("network", "split", "T", "attack", "eps")  # keys of an arm that choose rows


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
        for key in OF_A_NETWORK:
            if (wanted := getattr(arm, key)) is not None and key in rows:
                rows = rows[np.isclose(rows[key], wanted) if isinstance(wanted, float) else rows[key] == wanted]
        if rows["seed"].duplicated().any():
            got = f"got {len(rows)} of {rows['seed'].nunique()}"
            raise ValueError(f"expected a row a seed for {arm.measure} of {arm.network}, {got} seeds")
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
