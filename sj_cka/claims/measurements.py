"""What a claim can be about: a number for each seed of a network or of a comparison."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from sj_cka.claims.block_patterns import in_blocks, periodicity

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
        chosen_by: of a network: keys of an arm, besides the network, that choose among its rows.
        elsewhere: key of an arm -> the table in place of `table`, where the arm gives that key.
        margin: differences within it are of no matter, unless a claim says otherwise.
        reason: why.
        spread: standard deviation over seeds that is expected, unless a claim says otherwise.
        over_ceiling: the value of each layer is taken over the noise ceiling of that layer.
        where: column of the table -> what it holds in the rows that are meant, of a comparison.
        unknown: of a network: why a seed may have no number, in words.
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
    chosen_by: tuple[str, ...] = ()
    elsewhere: Mapping[str, str] = MappingProxyType({})
    margin: float = 0.02
    reason: str = "a fiftieth of the way from unrelated to equal"
    spread: float = 0.02
    over_ceiling: bool = False
    where: Mapping[str, str] = MappingProxyType({})
    unknown: str = ""
    scale: str | None = None

    @property
    def of_similarity(self) -> bool:
        """Whether it is made of the similarity of layers of one name."""
        return self.table == "paired" and self.column == "cka"

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


def _log2_strength(rows: pd.DataFrame) -> pd.Series:
    """log2 of the strength at which an attack has the success rate that it was to have; NaN where it never has."""
    return rows["eps"].astype(float).where(rows["reached"].astype(bool)).map(np.log2)


def beyond_wrong(rows: pd.DataFrame) -> pd.Series:
    """How much more alike layers of one name are than a layer and those of other names."""
    return rows["cka"] - rows["wrong"]


def _kept(column: str) -> Callable[[pd.DataFrame], pd.Series]:
    """What makes the share of a network's own accuracy that is left, of an accuracy."""
    return lambda rows: rows[column] / rows["whole"]


def _exchange(label: str, column: str, into: str) -> Measurement:
    """What an exchange of layers leaves of the accuracy of the network that gets them, mean over layers."""
    return Measurement(
        "comparison",
        "exchange",
        f"share of {into}'s accuracy that is left {label}",
        _KEPT[column],
        where={"into": into},
        scale="share of accuracy",
        reason="one sample in fifty",
    )


_KEPT = {column: _kept(column) for column in ("accuracy", "random", "permuted")}
_SHARE = "share of samples"
_POINT, _ONE = 0.01, "one sample in a hundred"
MEASUREMENTS: dict[str, Measurement] = {
    "accuracy": Measurement(
        "network",
        "accuracy",
        "accuracy",
        "accuracy",
        chosen_by=("split", "T", "attack", "eps"),
        elsewhere={"T": "evaluated", "attack": "attacks"},
        scale=_SHARE,
        margin=_POINT,
        reason=_ONE,
        spread=_POINT,
    ),
    "attack_strength": Measurement(
        "network",
        "attacks",
        "log2 of the smallest strength with the success rate asked for (of one half: the median over images)",
        _log2_strength,
        chosen_by=("attack",),
        unknown="no strength up to eps_max has the success rate asked for",
        scale="log2 of eps",
        margin=0.25,
        reason="a factor of 1.19",
        spread=0.2,
    ),
    "backdoor_success": Measurement(
        "network",
        "backdoors",
        "success rate of the backdoor",
        "success_rate",
        scale=_SHARE,
        margin=_POINT,
        reason=_ONE,
        spread=_POINT,
    ),
    "fisher_information": Measurement(
        "network",
        "information",
        "log10 of the Fisher information of all weights",
        "log10_fisher",
        margin=0.1,
        reason="a factor of 1.26",
        spread=0.1,
    ),
    "information_centroid": Measurement(
        "network",
        "information",
        "time step at the centre of the Fisher information",
        "centroid",
        margin=0.1,
        reason="a tenth of a time step",
        spread=0.05,
    ),
    "gradient_alignment": Measurement(
        "network",
        "alignment_at_end",
        "mean cosine of the updates of hidden layers with BPTT's, at the end of the training",
        "cosine",
        margin=0.05,
        reason="an angle of 3 degrees at a right angle",
        spread=0.05,
    ),
    "across_blocks": Measurement(
        "network",
        "locality",
        "share of updates that move when a block above is disturbed",
        "across_blocks",
        margin=0.05,
        reason="rules are local or not: shares lie at 0, at 1, or well between",
        spread=0.02,
        scale="share of updates",
    ),
    "across_steps": Measurement(
        "network",
        "locality",
        "share of updates of a step that move when a later step is disturbed",
        "across_steps",
        margin=0.05,
        reason="rules are local or not: shares lie at 0, at 1, or well between",
        spread=0.02,
        scale="share of updates",
    ),
    "paired_cka": Measurement("comparison", "paired", "mean {similarity} of paired layers"),
    "cka_over_ceiling": Measurement(
        "comparison",
        "paired",
        "mean {similarity} of paired layers over that of two trainings of one network",
        over_ceiling=True,
        scale="share of the noise ceiling",
    ),
    "partial_cka": Measurement(
        "comparison", "paired", "mean {similarity} of paired layers given the input", "partial", scale="partial"
    ),
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
    "exchange_into_y": _exchange("with a layer of x in place of its own", "accuracy", "y"),
    "exchange_into_x": _exchange("with a layer of y in place of its own", "accuracy", "x"),
    "random_into_y": _exchange("with a layer of x untrained in place of its own", "random", "y"),
    "random_into_x": _exchange("with a layer of y untrained in place of its own", "random", "x"),
    "permuted_y": _exchange("with the time steps of a layer in another order", "permuted", "y"),
    "permuted_x": _exchange("with the time steps of a layer in another order", "permuted", "x"),
    "dynamics": Measurement(
        "comparison", "dynamics", "change between steps, over split halves of the units", "split", spread=0.05
    ),
}

OF_A_NETWORK = ("network", "split", "T", "attack", "eps")  # keys of an arm that choose rows
