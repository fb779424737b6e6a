"""What a claim can be about: a number for each seed, of a network or of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from sj_cka.claims.blocks import in_blocks, periodicity


class Measure(NamedTuple):
    """A number for each seed, of a table. `of` says which one.

    "network": a network's accuracy. "comparison": its paired CKA `[seed, layer]`. "time": one `column` of what the
    steps inside the layers of x share, `[seed, layer]`; `beside` is the column that is always shown with it.
    `parts` are what the number is a mean over, given the layers; `unit` is what they are called.
    """

    of: Literal["network", "comparison", "time"]
    value: Callable[[pd.DataFrame], pd.Series]
    label: str
    unit: str = "layers"
    parts: Callable[[list[str]], list[str]] = list
    column: str = "cka"
    beside: str | None = None


def selected(layers: Iterable[str], patterns: Sequence[str] | None) -> list[str]:
    """The layers that dotted names or globs pick, in order; all where there are none.

    Example:
        >>> selected(["conv1", "layer1.0.lif1", "layer1.0"], ["*lif*", "conv1"])
        ['conv1', 'layer1.0.lif1']
    """
    if patterns is None:
        return list(layers)
    return [layer for layer in layers if any(layer == own or fnmatchcase(layer, own) for own in patterns)]


def _mean(layers: pd.DataFrame) -> pd.Series:
    """Mean over the layers."""
    return layers.mean(axis=1)


def _restoration(paired: pd.DataFrame) -> pd.Series:
    """Mean over residual blocks of CKA at the block's output minus CKA at its last convolution."""
    blocks = _blocks(list(paired.columns))
    if not blocks:
        return pd.Series(np.nan, index=paired.index)
    return pd.concat([paired[block] - paired[f"{block}.conv2"] for block in blocks], axis=1).mean(axis=1)


def _blocks(layers: list[str]) -> list[str]:
    return [layer for layer in layers if f"{layer}.conv2" in layers]


MEASUREMENTS: dict[str, Measure] = {
    "accuracy": Measure("network", lambda table: table["accuracy"], "accuracy"),
    "backdoor_success": Measure("network", lambda table: table["success_rate"], "success rate of the backdoor"),
    "paired_cka": Measure("comparison", _mean, "mean CKA of paired layers"),
    "restoration": Measure(
        "comparison", _restoration, "CKA at block outputs minus CKA at their last convolutions", "blocks", _blocks
    ),
    "periodicity": Measure(
        "comparison",
        periodicity,
        "variance of paired CKA explained by the place within a block, less that of shuffled places",
        "layers in blocks",
        in_blocks,
    ),
    "checkerboard": Measure(
        "comparison",
        _mean,
        "CKA of layers at one place of different blocks minus that at different places",
        "layers in blocks",
        column="contrast",
    ),
    "grid": Measure(
        "comparison",
        _mean,
        "variance of heatmap rows and columns explained by the place within a block, less that of shuffled places",
        "layers in blocks",
        column="grid",
    ),
    "dynamics": Measure("time", _mean, "1 - mean CKA between different steps", column="dynamics", beside="timing null"),
    "dynamics_beyond_timing": Measure(
        "time", _mean, "1 - mean CKA between different steps, beyond that of the timing null", column="beyond timing"
    ),
}
