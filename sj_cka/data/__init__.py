"""Data sets: labelled images as arrays, from one table."""

from __future__ import annotations

from collections.abc import Callable

from sj_cka.data.augment import AUGMENTATIONS
from sj_cka.data.images import DataError, Images, Shape, digits, imagine, npz
from sj_cka.data.torchvision_sets import SHAPES, TORCHVISION_SETS

__all__ = ["AUGMENTATIONS", "DATASETS", "SHAPES", "DataError", "Images", "Shape", "digits", "imagine", "npz"]

DATASETS: dict[str, Callable[..., Images]] = {"digits": digits, "npz": npz, **TORCHVISION_SETS}
