"""Checks of the options of a network, each an error with what was expected and what came."""

import math
from collections.abc import Container, Iterable
from numbers import Integral, Real
from typing import Any

from sj_cka.plugins import check_option


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
    fits = _is_whole(value, least) and (among is None or value in among)
    check_option(fits, option, expected, repr(value))
    return int(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def wholes(option: str, values: Any, expected: str, *, count: int = 0) -> list[int]:
    """An option that is a list of whole numbers from 1.

    Args:
        option, values, expected: see `whole`.
        count: how many there are to be at least.

    Raises:
        OptionError: it is none, has too few members, or one of them is another.

    Example:
        >>> wholes("channels", (16, 32), "channels of each layer")
        [16, 32]
    """
    members: list[Any] = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [None]
    fits = len(members) >= count and all(_is_whole(member, 1) for member in members)
    check_option(fits, option, expected, members if isinstance(values, tuple | range) else repr(values))
    return list(map(int, members))


def factor(option: str, value: Any, expected: str) -> float:
    """An option that is a finite number above 0.

    Raises:
        OptionError: it is none.

    Example:
        >>> factor("width", 0.25, "a factor on the channels")
        0.25
    """
    fits = isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf
    check_option(fits, option, expected, repr(value))
    return float(value)


def scaled(channels: int, width: float) -> int:
    """Channels times a factor.

    Args:
        channels: the smallest number of channels of a layout, of which all others are multiples.
        width: the factor, > 0.

    Raises:
        OptionError: the factor leaves no whole number of channels.

    Example:
        >>> scaled(64, 0.25)
        16
    """
    expected = f"a factor that leaves whole channels (k / {channels}, from k = 1)"
    product = channels * factor("width", width, expected)
    check_option(product >= 1 and product == round(product), "width", expected, repr(width))
    return round(product)
