"""What a claim can be about: a number for each seed, of a network or of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd


class Measure(NamedTuple):
    """A number for each seed. `of` says of what: a network's accuracy, or a comparison's paired CKA `[seed, layer]`.

    `parts` are what the number is a mean over, given the layers; `unit` is what they are called.
    """

    of: Literal["network", "comparison"]
    value: Callable[[pd.DataFrame], pd.Series]
    label: str
    unit: str = "layers"
    parts: Callable[[list[str]], list[str]] = list


def _mean_paired(paired: pd.DataFrame) -> pd.Series:
    """Mean over the paired layers."""
    return paired.mean(axis=1)


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
    "paired_cka": Measure("comparison", _mean_paired, "mean CKA of paired layers"),
    "restoration": Measure(
        "comparison", _restoration, "CKA at block outputs minus CKA at their last convolutions", "blocks", _blocks
    ),
}
