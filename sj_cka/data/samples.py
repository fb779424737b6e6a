"""What a study learns from: labelled samples in two splits, and how a network is given them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from sj_cka.ranges import brightest


class DataError(ValueError):
    """A data file that is missing or does not hold what is needed."""


class AbsentData(DataError):
    """A set of which nothing is there, not even a part: a plan can do without it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """A training and a test split, as they are stored: see `Images` and `Frames`.

    Args:
        x_train, x_test: `[N, ...]`.
        y_train, y_test: int64 `[N]`, from 0 to classes - 1.
        classes: number of classes.
        fingerprint: hash of the arrays.
        remarks: what a reader of results must know about how the samples were come by; whole sentences.
        held_out: what the test split holds, file by file, where it is no published split; else empty.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    fingerprint: str
    remarks: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    called: ClassVar[str]  # what people call them

    @property
    def channels(self) -> int:
        """Number of channels C that a network is given; of vectors, their length."""
        raise NotImplementedError

    @property
    def T(self) -> int | None:  # noqa: N802
        """Number of time steps that a sample has of its own; None for what does not change in time."""
        return None

    @functools.cached_property
    def brightest(self) -> float:
        """The value of a backdoor's trigger by default, in the unit that samples are stored in."""
        return brightest(self.x_train, counts=self.T is not None)

    @property
    def layout(self) -> Literal["TNCHW"] | None:
        """Layout of what `as_input` gives, for `sj_cka.compare`; None for samples first."""
        return None if self.T is None else "TNCHW"

    def as_input(self, x: Tensor) -> Tensor:
        """Samples as a network is given them, float32, on the device of x.

        Args:
            x: samples `[N, ...]` as they are stored.
        """
        raise NotImplementedError


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """Hash of arrays, of their types, shapes and content."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
