"""How the layers of a network repeat from block to block: the periodic curve and the checkerboard of a heatmap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

_ORDERS = 1000  # shuffled orders that give chance
_EQUAL = 1e-12  # a sum of squares at or below this is rounding


def place_in_block(layer: str) -> tuple[str, str]:
    """The block that a layer belongs to, its dotted name up to the first number, and its place there.

    Example:
        >>> place_in_block("layer2.0.downsample.conv"), place_in_block("layer2.0"), place_in_block("conv1")
        (('layer2.0', 'downsample.conv'), ('layer2.0', ''), ('', 'conv1'))
    """
    parts = layer.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    cut = numbers[0] + 1 if numbers else 0
    return ".".join(parts[:cut]), ".".join(parts[cut:])


def in_blocks(layers: Sequence[str]) -> list[str]:
    """The layers of blocks with more than one, in order; none where there are not two blocks to repeat each other."""
    blocks = _blocks(layers)
    return [layer for own in blocks for layer in own] if len(blocks) > 1 else []


def _blocks(layers: Sequence[str]) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for layer in layers:
        found.setdefault(place_in_block(layer)[0], []).append(layer)
    return [own for block, own in found.items() if block and len(own) > 1]


def periodicity(paired: pd.DataFrame) -> pd.Series:
    """Share of the variance of CKA over the layers of blocks that the place within the block explains, beyond chance.

    The share is the between-place sum of squares over the total one (eta squared). Chance is its mean over orders in
    which each block's values are drawn anew: with few blocks any order explains something.
    """
    layers = in_blocks(list(paired.columns))
    if not layers:
        return pd.Series(np.nan, index=paired.index)
    blocks = _blocks(layers)
    names = [place_in_block(layer)[1] for layer in layers]
    places = np.array([[name == place for name in names] for place in dict.fromkeys(names)], dtype=float)
    generator = np.random.default_rng(0)
    ends = np.cumsum([len(own) for own in blocks])
    orders = [
        np.concatenate(
            [end - len(own) + generator.permutation(len(own)) for own, end in zip(blocks, ends, strict=True)]
        )
        for _ in range(_ORDERS)
    ]
    values = paired[layers].to_numpy(float)
    chance = np.mean([_explained(values[:, order], places) for order in orders], axis=0)
    return pd.Series(_explained(values, places) - chance, index=paired.index)


def _explained(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Eta squared of values `[seed, layer]` by places, rows of 0 and 1 `[place, layer]`; NaN where nothing varies."""
    centred = values - values.mean(axis=1, keepdims=True)
    means = centred @ places.T / places.sum(axis=1)
    total = (centred**2).sum(axis=1)
    between = (means**2) @ places.sum(axis=1)
    return np.divide(between, total, out=np.full(len(values), np.nan), where=total > _EQUAL)


def contrast(matrix: pd.DataFrame) -> pd.Series:
    """How much more a layer of x is like the same places of other blocks of y than like their other places, by layer.

    A heatmap in which this is positive looks like a checkerboard. Blocks of the same name are left out, so that the
    diagonal does not count; undefined entries do not either.

    Args:
        matrix: CKA `[layer_x, layer_y]`.

    Returns:
        Mean CKA at equal places minus mean CKA at different ones, NaN for a layer in no block or without either.
    """
    x, y = list(matrix.index), list(matrix.columns)
    inside = {place_in_block(layer)[0] for names in (x, y) for layer in in_blocks(names)}
    block_x, block_y = (np.array([place_in_block(layer)[0] for layer in names]) for names in (x, y))
    place_x, place_y = (np.array([place_in_block(layer)[1] for layer in names]) for names in (x, y))
    same = place_x[:, None] == place_y
    elsewhere = (block_x[:, None] != block_y) & np.isin(block_x, list(inside))[:, None] & np.isin(block_y, list(inside))
    return matrix.where(elsewhere & same).mean(axis=1) - matrix.where(elsewhere & ~same).mean(axis=1)
