"""What attacks are given, checked at their edge: strength, bounds, samples and labels, random numbers."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

import numpy as np
import torch
from torch import Generator, Tensor

from sj_cka.plugins import OptionError
from sj_cka.ranges import Range, range_of

Bounds = Sequence[float] | None


def strength(eps: float, *, eps_max: float = math.inf) -> float:
    """The eps of an attack, a finite number from 0 to `eps_max`.

    Raises:
        ValueError: it is none.

    Example:
        >>> strength(0.25)
        0.25
    """
    if isinstance(eps, bool) or not isinstance(eps, Real) or not math.isfinite(eps) or not 0 <= eps <= eps_max:
        reach = "0 or more" if eps_max == math.inf else f"from 0 to {eps_max:g}"
        raise ValueError(f"expected eps, a finite number, {reach}, got {eps!r}{_percent(eps, eps_max)}")
    return float(eps)


def one_of(option: str, value: str, known: Iterable[str]) -> None:
    """Raises ValueError where an option is none of the known names."""
    known = list(known)
    if value not in known:
        raise OptionError(option, f"expected {option} {' or '.join(map(repr, known))}, got {value!r}")


def number(option: str, value: float, *, least: float = 0.0, most: float = math.inf) -> float:
    """An option that is a finite number from `least` to `most`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not least <= value <= most:
        reach = f"from {least:g}" + ("" if most == math.inf else f" to {most:g}")
        raise OptionError(option, f"expected {option}, a finite number {reach}, got {value!r}{_percent(value, most)}")
    return float(value)


def _percent(value: object, most: float) -> str:
    """What is meant where a share is given as so many percent."""
    return f"; {value:g} % are {value / 100:g}" if most == 1 and isinstance(value, int | float) and value > 1 else ""


def whole(option: str, value: int, *, least: int = 1) -> int:
    """An option that is a whole number from `least`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise OptionError(option, f"expected {option}, a whole number from {least}, got {value!r}")
    return int(value)


def limits(bounds: Bounds) -> Range | None:
    """The smallest and the largest value that an input may have; None for no limits.

    Raises:
        ValueError: not two finite numbers in order.
    """
    if bounds is None:
        return None
    ends = tuple(bounds)
    if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError(f"expected bounds (low, high) with low < high, or None for no bounds, got {bounds!r}")
    return Range(float(ends[0]), float(ends[1]))


def dense(x: object) -> None:
    """Raises ValueError unless x is a tensor that holds its values."""
    if not isinstance(x, Tensor):
        raise ValueError(f"expected x, a tensor, got {type(x).__name__}: torch.as_tensor(x)")
    if x.is_meta:
        raise ValueError("expected x with values, got it on the device meta, which has none")
    if x.layout != torch.strided:
        raise ValueError(f"expected x, a dense tensor, got {x.layout}: x.to_dense()")


def labels(x: Tensor, y: Tensor | np.ndarray | Sequence[int], axis: int) -> Tensor:
    """Labels as int64, one for each sample of x along the axis.

    Args:
        x: inputs.
        y: classes `[N]`, whole numbers from 0: a tensor of any integer type, an array or a list.
        axis: of the samples in x.

    Raises:
        ValueError: anything else.
    """
    dense(x)
    if x.ndim <= axis or x.shape[axis] == 0:
        raise ValueError(f"expected samples on axis {axis} of x, got x of shape {tuple(x.shape)}")
    if not isinstance(y, Tensor):
        try:
            array = np.asarray(y)
            y = torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array.copy())
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected y of whole numbers, the classes, got {y!r:.60}") from error
    N = x.shape[axis]
    if y.shape != (N,):
        hint = ""
        if y.ndim == 2 and len(y) == N:
            hint = "; one row a sample: y.argmax(1)" if y.shape[1] > 1 else "; y.squeeze(1)"
        elif axis == 0 and x.ndim > 1 and y.shape == x.shape[1:2]:
            hint = "; frames [T, N, ...] need a network with sample_axis=1: pixel_model(net, sample_axis=1)"
        raise ValueError(
            f"expected y of shape ({N},), a label for each sample on axis {axis} of x {tuple(x.shape)}, got shape "
            f"{tuple(y.shape)}{hint}"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"expected y of whole numbers, the classes, got {y.dtype}: y.long()")
    y = y.long()
    if int(y.min()) < 0:
        raise ValueError(f"expected labels from 0 in y, got {int(y.min())}")
    return y


def continuous(x: Tensor, bounds: Range | None) -> Tensor:
    """Inputs that hold finite floating-point numbers within the bounds; those a rounding outside lie at the bound then.

    A rounding is four units in the last place of the larger bound (`Range.rounding`), which is what images may gather
    that were normalised and brought back. Where there is none, x itself.

    Raises:
        ValueError: other numbers, or one that is farther out.
    """
    dense(x)
    if not x.is_floating_point():
        raise ValueError(
            f"expected x of floating point, since eps is a part of its unit, got {x.dtype}; bytes as pixels: "
            "sj_cka.attacks.pixels(x)"
        )
    found = range_of(x)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise ValueError("expected x of finite numbers, got NaN or infinity")
    if bounds is None or bounds.low <= found.low <= found.high <= bounds.high:
        return x
    if not bounds.holds(found, x.dtype):
        low, high = (
            f"{own:g}" if f"{own:g}" != f"{end:g}" else f"{own:.9g}" for own, end in zip(found, bounds, strict=True)
        )
        raise ValueError(
            f"expected x within bounds {bounds}, got {low} to {high}; give the bounds of your inputs, or bounds=None "
            "for none"
        )
    return x.clamp(*bounds)


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
