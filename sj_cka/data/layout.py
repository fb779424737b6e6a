"""Which axis of an array of images is that of the channels: told by its shape, or asked for."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sj_cka.data.samples import DataError

Layout = Literal["NCHW", "NHWC"]
_WRITTEN: dict[Layout, str] = {"NCHW": "[N, C, H, W]", "NHWC": "[N, H, W, C]"}
_COLOURS = 4  # as many channels as pictures have, with transparency


def channels_first(x: np.ndarray, layout: Layout | None) -> np.ndarray:
    """Images as contiguous `[N, C, H, W]`.

    Args:
        x: four axes, of any type.
        layout: of x; None: uint8 is `[N, H, W, C]` and anything else `[N, C, H, W]`, where the shape agrees. It does
            for one to four channels, for square images, and where the axis of the channels is the shortest.

    Raises:
        DataError: no layout, and a shape that speaks for the other order or for none.
    """
    if layout is None:
        layout = "NHWC" if x.dtype == np.uint8 else "NCHW"
        _check(x, layout)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if layout == "NHWC" else x)


def _check(x: np.ndarray, layout: Layout) -> None:
    """Raises DataError where a shape does not speak for the layout that images of its type have."""
    other: Layout = "NCHW" if layout == "NHWC" else "NHWC"
    first, middle, last = x.shape[1:]
    here, there = (last, first) if layout == "NHWC" else (first, last)
    if here > _COLOURS >= there:
        raise DataError(
            f"expected {x.dtype} images as {_WRITTEN[layout]}, got {list(x.shape)}: {here} channels; swap the axes, or "
            f"say layout: {layout} where that is right"
        )
    square = middle == there != here  # as they lie
    square_otherwise = 1 < middle == here != there
    if square or (not square_otherwise and (here <= _COLOURS or here < min(middle, there))):
        return
    raise DataError(
        f"expected {x.dtype} images whose shape tells {_WRITTEN[layout]} from {_WRITTEN[other]}, got {list(x.shape)}: "
        f"say layout: {layout} for {here} channels or layout: {other} for {there}"
    )
