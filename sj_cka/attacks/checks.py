"""What attacks are given, checked at their edge: strength, bounds, samples and labels, random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

import torch
from torch import Generator, Tensor

Bounds = Sequence[float] | None


def strength(eps: float, *, most: float = math.inf) -> float:
    """The eps of an attack, a finite number from 0 to `most`.

    Raises:
        ValueError: it is none.

    Example:
        >>> strength(0.25)
        0.25
    """
    if isinstance(eps, bool) or not isinstance(eps, Real) or not math.isfinite(eps) or not 0 <= eps <= most:
        reach = "0 or more" if most == math.inf else f"from 0 to {most:g}"
        raise ValueError(f"expected eps, a finite number, {reach}, got {eps!r}")
    return float(eps)


def one_of(option: str, value: str, known: Iterable[str]) -> None:
    """Raises ValueError where an option is none of the known names."""
    known = list(known)
    if value not in known:
        raise ValueError(f"expected {option} {' or '.join(map(repr, known))}, got {value!r}")


def number(option: str, value: float, *, least: float = 0.0, most: float = math.inf) -> float:
    """An option that is a finite number from `least` to `most`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not least <= value <= most:
        reach = f"from {least:g}" + ("" if most == math.inf else f" to {most:g}")
        raise ValueError(f"expected {option}, a finite number {reach}, got {value!r}")
    return float(value)


def whole(option: str, value: int, *, least: int = 1) -> int:
    """An option that is a whole number from `least`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"expected {option}, a whole number from {least}, got {value!r}")
    return int(value)


def limits(bounds: Bounds) -> tuple[float, float] | None:
    """The smallest and the largest value that an input may have; None for no limits.

    Raises:
        ValueError: not two numbers in order.
    """
    if bounds is None:
        return None
    ends = tuple(bounds)
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise ValueError(f"expected bounds (low, high) with low < high, or None for no bounds, got {bounds!r}")
    return float(ends[0]), float(ends[1])


def labelled(x: Tensor, y: Tensor, axis: int) -> None:
    """Raises ValueError unless y [N] holds whole numbers from 0, one for each sample of x along the axis."""
    if x.ndim <= axis or x.shape[axis] == 0:
        raise ValueError(f"expected samples on axis {axis} of x, got x of shape {tuple(x.shape)}")
    N = x.shape[axis]
    if y.shape != (N,):
        hint = "; frames [T, N, ...] need a network with sample_axis=1: pixel_model(net, sample_axis=1)"
        raise ValueError(
            f"expected y of shape ({N},), a label for each sample on axis {axis} of x {tuple(x.shape)}, got shape "
            f"{tuple(y.shape)}" + (hint if axis == 0 and x.ndim > 1 and y.shape == x.shape[1:2] else "")
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"expected y of whole numbers, the classes, got {y.dtype}: y.long()")
    if int(y.min()) < 0:
        raise ValueError(f"expected labels from 0 in y, got {int(y.min())}")


def continuous(x: Tensor, bounds: tuple[float, float] | None) -> None:
    """Raises ValueError unless x holds finite floating-point numbers within the bounds."""
    if not x.is_floating_point():
        raise ValueError(
            f"expected x of floating point, since eps is a part of its unit, got {x.dtype}; bytes as pixels: "
            "sj_cka.attacks.pixels(x)"
        )
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("expected x of finite numbers, got NaN or infinity")
    if bounds is not None and not bounds[0] <= low <= high <= bounds[1]:
        raise ValueError(
            f"expected x within bounds {bounds[0]:g} to {bounds[1]:g}, got {low:g} to {high:g}; give the bounds of "
            "your inputs, or bounds=None for none"
        )


def own(generator: Generator | None) -> Generator:
    """The generator that is given; None: a new one, seeded 0.

    Raises:
        ValueError: a generator of another device than the CPU, whose numbers differ from device to device.
    """
    if generator is None:
        return Generator().manual_seed(0)
    if generator.device.type != "cpu":
        raise ValueError(
            f"expected a generator of the CPU, whose numbers are the same for every device, got one of "
            f"{generator.device}: torch.Generator().manual_seed(...)"
        )
    return generator
