"""How the layers of a network repeat from block to block: the periodic curve and the checkerboard of a heatmap."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

_EQUAL = 1e-12  # a sum of squares at or below this is rounding


@cache
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
    return [layer for layers_of_block in blocks for layer in layers_of_block] if len(blocks) > 1 else []


def _blocks(layers: Sequence[str]) -> list[list[str]]:
    layers_of: dict[str, list[str]] = {}
    for layer in layers:
        layers_of.setdefault(place_in_block(layer)[0], []).append(layer)
    return [within for block, within in layers_of.items() if block and len(within) > 1]


def periodicity(paired: pd.DataFrame) -> pd.Series:
    """How far the curve of paired layers repeats from block to block, by row; see `beyond_chance`.

    Args:
        paired: CKA `[row, layer]`, a row a seed.

    Returns:
        From below 0 to below 1; NaN where there are not two blocks, or nothing varies.
    """
    layers = in_blocks(list(paired.columns))
    if not layers:
        return pd.Series(np.nan, index=paired.index)
    return pd.Series(beyond_chance(paired[layers].to_numpy(float), layers), index=paired.index)


def grid(matrix: pd.DataFrame) -> pd.Series:
    """How far the rows and columns of a heatmap repeat from block to block: what makes it look like a grid, by layer.

    Args:
        matrix: CKA `[layer_x, layer_y]`.

    Returns:
        For each layer of x the mean of the periodicity of its row and, where y has a layer of that name, of its column;
        those of the layers that are defined with it. NaN where there is none.
    """
    rows, columns = _of_rows(matrix), _of_rows(matrix.T)
    return rows.where(~rows.index.isin(columns.index), (rows + columns.reindex(rows.index)) / 2)


def _of_rows(values: pd.DataFrame) -> pd.Series:
    """The periodicity of each row over the columns that it has; rows that have the same ones at once."""
    known, names = values.notna().to_numpy(), np.array(values.columns, dtype=object)
    found = pd.Series(np.nan, index=values.index)
    for pattern in np.unique(known, axis=0):
        layers = in_blocks(list(names[pattern]))
        if layers:
            rows = (known == pattern).all(axis=1)
            found[rows] = beyond_chance(values.loc[rows, layers].to_numpy(float), layers)
    return found


def beyond_chance(values: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    """Share of the variance over the layers of blocks that the place within the block explains, less that of chance.

    The share is eta squared: the sum of squares between places over the total one. Chance is its mean over all orders
    in which each block's values may stand, exactly: a place that has one value, drawn from n equally likely ones, of
    each of several blocks has the sum of their means and of their variances. With few blocks any order explains much.

    Args:
        values: `[..., layer]`.
        layers: names of the layers, each in a block.

    Returns:
        `[...]`, NaN where nothing varies.
    """
    block, place = (pd.factorize(np.array([place_in_block(layer)[part] for layer in layers]))[0] for part in (0, 1))
    centred = values - values.mean(axis=-1, keepdims=True)
    of_place, of_block = (np.eye(codes.max() + 1)[codes] for codes in (place, block))  # [layer, place], [layer, block]
    count = of_place.sum(axis=0)
    total = (centred**2).sum(axis=-1)
    between = ((centred @ of_place) ** 2 / count).sum(axis=-1)
    mean, square = (powers @ of_block / of_block.sum(axis=0) for powers in (centred, centred**2))
    blocks_of_place = of_block.T @ of_place  # [block, place], 0 or 1
    by_chance = (((mean @ blocks_of_place) ** 2 + (square - mean**2) @ blocks_of_place) / count).sum(axis=-1)
    return np.divide(between - by_chance, total, out=np.full(total.shape, np.nan), where=total > _EQUAL)


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
