"""Data sets: labelled images as arrays, from one table."""

from __future__ import annotations

from collections.abc import Callable

from sj_cka.data.images import DataError, Images, digits, npz

__all__ = ["DATASETS", "DataError", "Images", "digits", "npz"]

DATASETS: dict[str, Callable[..., Images]] = {"digits": digits, "npz": npz}
