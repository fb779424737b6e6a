"""Samples of a data set's shape, without the set: enough to plan a study and to try its networks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from sj_cka.data.frames import Frames
from sj_cka.data.images import Images
from sj_cka.data.samples import Samples

IMAGINED = "imagined"  # in place of a fingerprint


class Shape(NamedTuple):
    """What a data set holds, so that a study can be planned without it.

    Args:
        sample: shape of a sample as it is stored, `(C, H, W)` of an image, `(T, 2, H, W)` or `(T, D)` of a recording.
        classes: number of classes.
        train, test: number of samples of each split, as published.
    """

    sample: tuple[int, ...]
    classes: int
    train: int
    test: int


def imagine(shape: Shape, *, train: int | None = None) -> Samples:
    """Random samples of a data set's shape, for plans and tests of what the set is not needed for.

    Args:
        shape: of the set.
        train: so many samples in each split; None for as many as in the set, those of the training split one and the
            same, so that they take no memory.
    """
    generator = torch.Generator().manual_seed(0)
    images = len(shape.sample) == 3
    values = 256 if images else 2
    size = (train or 1, *shape.sample), (train or shape.test, *shape.sample)
    x_train, x_test = (torch.randint(values, own, generator=generator, dtype=torch.uint8) for own in size)
    x_train = x_train.expand(train or shape.train, *shape.sample)
    y_train, y_test = (torch.arange(len(x)) % shape.classes for x in (x_train, x_test))
    common: dict[str, Any] = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    common |= {"classes": shape.classes, "fingerprint": IMAGINED}
    if not images:
        return Frames(**common)
    C = shape.sample[0]
    return Images(**common, mean=(0.5,) * C, std=(0.25,) * C)
