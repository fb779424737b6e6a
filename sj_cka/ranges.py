"""What is known of the values of samples: from where to where they go, and what an eps or a trigger is beside that.

Reading, attacks and backdoors ask here, so that one number means the same to all of them.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")

# x = (p - mean) / std * std + mean, the longest way that pixels go, rounds four times, each time by half a unit in the
# last place or less: two units. Twice that, for a resize between
_UNITS = 4
_APART = 8  # of two splits of one set no deviation is so many times the other
_BYTES = 127  # whole sets of bytes reach beyond it, what counts events or has five bits does not


class Range(NamedTuple):
    """A smallest and a largest value: those that samples have, or those that they may have."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    @property
    def width(self) -> float:
        """From the smallest to the largest value."""
        return self.high - self.low

    def rounding(self, dtype: torch.dtype) -> float:
        """How far a value that is at a bound may lie outside: four units in the last place of the larger bound.

        That is 4.8e-7 of float32 at 1; 1.01 is no rounding. Whole numbers have none.
        """
        if not dtype.is_floating_point:
            return 0.0
        # images in double precision were floats before, as a rule
        unit = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
        return _UNITS * unit * max(abs(self.low), abs(self.high))

    def holds(self, other: Range, dtype: torch.dtype) -> bool:
        """Whether values lie inside, but for rounding."""
        slack = self.rounding(dtype)
        return self.low - slack <= other.low and other.high <= self.high + slack


UNIT = Range(0.0, 1.0)
BYTES = Range(0.0, 255.0)


def clipped(x: Tensor, limits: Range | None) -> Tensor:
    """Values clipped to limits, if there are any."""
    return x if limits is None else x.clamp(*limits)


def range_of(values: Tensor | np.ndarray) -> Range:
    """Smallest and largest value; NaN where one of them is NaN."""
    if isinstance(values, np.ndarray):
        return Range(float(values.min()), float(values.max()))
    low, high = torch.aminmax(values.detach())
    return Range(float(low), float(high))


def scale_of(values: Tensor | np.ndarray) -> Range | None:
    """The scale that samples are of, told from their values.

    0 to 1 where all lie in it, 0 to 255 where they reach beyond 127 in it, else what they span; None where all are one
    value, which tells nothing.

    Example:
        >>> scale_of(torch.tensor([0.0, 0.7])), scale_of(torch.tensor([3, 250])), scale_of(torch.tensor([-2.0, 3.0]))
        (Range(low=0.0, high=1.0), Range(low=0.0, high=255.0), Range(low=-2.0, high=3.0))
    """
    found = range_of(values)
    if found.width == 0:
        return None
    if UNIT.holds(found, torch.float32):
        return UNIT
    if found.high > _BYTES and BYTES.holds(found, torch.float32):
        return BYTES
    return found


def check_splits(train: np.ndarray, test: np.ndarray) -> None:
    """Raises ValueError, with both ranges, where the values of two splits are not of one scale.

    They are not where the deviation of one is eight times that of the other or more (0 to 255 beside 0 to 1), or where
    one goes below 0 by a tenth of its width or more, and no value of the other does (normalised images beside pixels).
    """
    ranges, stds = [range_of(x) for x in (train, test)], [_deviation(x) for x in (train, test)]
    if min(stds) == 0 and train.dtype.kind == test.dtype.kind:
        return  # one value alone tells no scale
    below = [own.low < -own.width / 10 for own in ranges]
    never = [own.low >= 0 for own in ranges]
    signs = (below[0] and never[1]) or (below[1] and never[0])
    if train.dtype.kind != test.dtype.kind or signs or max(stds) >= _APART * min(stds):
        raise ValueError(
            f"expected both splits on one scale, got {train.dtype} from {ranges[0]} for training and {test.dtype} from "
            f"{ranges[1]} for testing: divide, or normalise, both alike"
        )


def _deviation(x: np.ndarray) -> float:
    """Standard deviation of all values, without a copy of them."""
    mean = x.mean(dtype=np.float64)
    squares = sum(float(np.square(x[i : i + 256] - mean).sum()) for i in range(0, len(x), 256))
    return math.sqrt(squares / x.size)


def check_eps(eps: float, bounds: Range, norm: Norm = "linf", size: int | None = None, what: str = "eps") -> None:
    """Raises ValueError where an eps leads beyond everything that lies within the bounds.

    Args:
        eps: radius, in units of the samples.
        bounds: smallest and largest value of an input.
        norm: of the radius.
        size: number of values of a sample; None where nobody knows it yet, and with it no diameter in L2.
        what: is measured.
    """
    if norm == "l2" and size is None:
        return
    most = bounds.width * (1.0 if norm == "linf" else math.sqrt(size or 1))
    if eps <= most * (1 + torch.finfo(torch.float32).eps):
        return
    reach = "the whole width" if norm == "linf" else f"the diameter in the L2 norm of {size} values"
    eight_bits = norm == "linf" and bounds in (UNIT, Range(-1.0, 1.0)) and eps <= 255
    hint = f"; {eps * bounds.width:g}/255?" if eight_bits else ""
    raise ValueError(f"expected {what} up to {most:g}, {reach} of the bounds {bounds}, got {eps:g}{hint}")


def check_fills(found: Range, bounds: Range) -> None:
    """Raises ValueError where samples are on another scale than their bounds: they fill a sixteenth of them or less."""
    if found.width <= bounds.width / 16:
        raise ValueError(
            f"expected samples on the scale of the bounds {bounds}, those here go from {found} alone, so that an eps "
            f"would mean another part of them: give bounds: [{found.low:g}, {found.high:g}]"
        )


def brightest(samples: Tensor, *, counts: bool) -> float:
    """The value of a trigger by default: 255 of bytes and of images from 0 to 255, 1 of others and of events."""
    if counts:
        return 1.0
    if samples.dtype == torch.uint8:
        return 255.0
    return 255.0 if samples.is_floating_point() and samples.numel() and scale_of(samples) == BYTES else 1.0


def check_scale(samples: Tensor, bounds: Range) -> None:
    """Raises ValueError for fractions between 0 and 1 within bounds that are sixteen times as wide, or more.

    Of samples that are few it says less than `check_fills`: whole numbers may be dark pixels, or few events.
    """
    if bounds.width < 16 or not samples.is_floating_point():
        return
    if UNIT.holds(range_of(samples), samples.dtype) and bool((samples != samples.round()).any()):
        raise ValueError(f"expected samples on the scale of the bounds {bounds}, got fractions between 0 and 1")


def check_trigger(value: float, samples: Tensor, *, counts: bool, part: bool = False) -> None:
    """Raises ValueError, with the range of the samples, where a trigger has a value that they do not have.

    Args:
        value: of the trigger.
        samples: as they are stored.
        counts: whether they are counts of events, of which 1 is one whatever the others are.
        part: they are some of a set, whose others may go further; only another scale is told then.
    """
    if counts:
        for some in (samples[:1024], samples):  # the others, as a rule on a disk, are read only where it takes them
            found = range_of(some)
            scale = Range(min(found.low, 0.0), max(found.high, 1.0))
            if scale.low <= value <= scale.high:
                return
        if found.width == 0:
            return
    else:
        if (told := scale_of(samples)) is None:
            return
        scale = told
    free = 16 * scale.width if part and (counts or scale not in (UNIT, BYTES)) else 0.0
    if not scale.low - free <= value <= scale.high + free:
        raise ValueError(f"expected a value of the trigger that the samples have, {scale}, got {value:g}")
    if not counts and 0 < value <= 1 and scale.high >= 16:
        hint = f"{value * scale.high:g}?"
        raise ValueError(f"expected a value of the trigger on the scale of the samples, {scale}, got {value:g}: {hint}")
