"""Checks of the options of a network, each an error with what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from numbers import Integral, Real
from typing import Any

from sj_cka.plugins import OptionError


def whole(option: str, value: Any, expected: str, *, least: int = 1, among: Container[int] | None = None) -> int:
    """An option that is a whole number.

    Args:
        option: its name.
        value: what was given.
        expected: what it is, for the message ("expected ...").
        least: the smallest that will do.
        among: all that will do.

    Raises:
        OptionError: it is none, or smaller, or not among those.

    Example:
        >>> whole("depth", 20, "a number of layers")
        20
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least or value not in (among or (value,)):
        raise OptionError(option, f"expected {expected}, got {value!r}")
    return int(value)


def wholes(option: str, values: Any, expected: str, *, count: int = 0) -> list[int]:
    """An option that is a list of whole numbers from 1.

    Raises:
        OptionError: it is none, or one of its members is not, or it has fewer than `count` of them.

    Example:
        >>> wholes("channels", (16, 32), "channels of each layer")
        [16, 32]
    """
    wrong = f"expected {expected}, got {list(values) if isinstance(values, tuple | range) else values!r}"
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise OptionError(option, wrong)
    found = list(values)
    if len(found) < count or any(
        isinstance(value, bool) or not isinstance(value, Integral) or value < 1 for value in found
    ):
        raise OptionError(option, wrong)
    return [int(value) for value in found]


def factor(option: str, value: Any, expected: str) -> float:
    """An option that is a finite number above 0.

    Raises:
        OptionError: it is none.

    Example:
        >>> factor("width", 0.25, "a factor on the channels")
        0.25
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        raise OptionError(option, f"expected {expected}, got {value!r}")
    return float(value)
