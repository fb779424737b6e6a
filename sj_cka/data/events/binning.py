"""Events counted in time steps: one number for each step, polarity and pixel."""

import itertools
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sj_cka.plugins import check_option

SplitBy = Literal["number", "time"]
_CLOCK_BITS = 13  # of the shortest clock of a camera


def bin_events(
    t_us: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    p: ArrayLike,
    *,
    T: int,
    H: int,
    W: int,
    split_by: SplitBy = "number",
) -> Tensor:
    """Frames of a recording of an event camera: each event is counted once, at its pixel, in one of T frames.

    Where a frame ends is SpikingJelly's rule (`spikingjelly.datasets.utils`). By number, a frame has the next N // T
    events, and the last one the rest too; with fewer events than frames all are in the last. By time, a frame lasts
    (t_last - t_first) // T microseconds, and the last one takes the rest too. A frame without events is zero, where
    SpikingJelly raises.

    Args:
        t_us: integer times in microseconds `[N]`, not falling; events of one time may stand in any order.
        x: integer column of each event, 0 to W - 1.
        y: integer row of each event, 0 to H - 1.
        p: polarity of each event: 0 or False for OFF, 1 or True for ON.
        T: number of frames, from 1.
        H, W: rows and columns of the sensor.
        split_by: "number" or "time".

    Returns:
        float32 counts `[T, 2, H, W]`, channel 0 OFF, channel 1 ON; exact up to 2^24 events a pixel and frame.

    Raises:
        ValueError: arrays of different lengths or no whole numbers, an event outside the sensor, a polarity that is
            neither 0 nor 1, time that runs backwards, T below 1, or another word for split_by.

    Example:
        >>> bin_events([0, 10, 90], [1, 1, 0], [0, 0, 2], [1, 1, 0], T=2, H=3, W=2, split_by="time").nonzero().tolist()
        [[0, 1, 0, 1], [1, 0, 2, 0]]
    """
    t, column, row, polarity = _fields(t_us=t_us, x=x, y=y, p=p)
    check_within("x", column, W, "a column of the sensor")
    check_within("y", row, H, "a row of the sensor")
    check_within("p", polarity, 2, "OFF or ON")
    return _counted(t, (polarity * H + row) * W + column, (2, H, W), T, split_by)


def bin_spikes(t_us: ArrayLike, unit: ArrayLike, *, T: int, D: int, split_by: SplitBy = "number") -> Tensor:
    """The same of spikes without a place and polarity: float32 counts `[T, D]` of D units.

    Args:
        t_us: integer times in microseconds `[N]`, not falling.
        unit: integer number of the unit of each spike, 0 to D - 1.
        T: number of steps, from 1.
        D: number of units.
        split_by: "number" or "time", see `bin_events`.

    Raises:
        ValueError: as of `bin_events`.

    Example:
        >>> bin_spikes([0, 5, 9], [2, 0, 0], T=2, D=3, split_by="time").tolist()
        [[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]]
    """
    t, units = _fields(t_us=t_us, unit=unit)
    check_within("unit", units, D, "a unit")
    return _counted(t, units, (D,), T, split_by)


def _counted(t: np.ndarray, cell: np.ndarray, shape: tuple[int, ...], T: int, split_by: SplitBy) -> Tensor:
    """Counts `[T, *shape]` of events in the cells of the flattened shape."""
    check_option(T >= 1, "T", "T, a number of frames from 1", T)
    check_option(split_by in get_args(SplitBy), "split_by", 'split_by "number" or "time"', repr(split_by))
    cells = int(np.prod(shape))
    if len(t) == 0:
        return torch.zeros(T, *shape)
    if (t[1:] < t[:-1]).any():
        i = int(np.argmax(t[1:] < t[:-1]))
        raise ValueError(_falls(int(t[i]), int(t[i + 1]), i + 1))
    counts = np.zeros((T, cells), np.float32)
    for i, (begin, end) in enumerate(itertools.pairwise(_edges(t, T, split_by))):
        counts[i] = np.bincount(cell[begin:end], minlength=cells)
    return torch.from_numpy(counts).view(T, *shape)


def _falls(before: int, after: int, event: int) -> str:
    """What is wrong with times that fall, and what to do."""
    bits = before.bit_length()
    fell = f"expected times that do not fall, got {after} us after {before} us at event {event}"
    if bits >= _CLOCK_BITS and before - after > 1 << bits - 1:
        return (
            f"{fell}: if a clock of {bits} bits began anew there, add {1 << bits} us to the times from there on; their "
            "order is right"
        )
    return f"{fell}; sort the events by time, if their order has no meaning"


def _edges(t: np.ndarray, T: int, split_by: SplitBy) -> list[int]:
    """Where frames begin among the events, and where the last one ends."""
    each = len(t) // T if split_by == "number" else int(t[-1] - t[0]) // T  # events or microseconds
    if each == 0:
        return [0] * T + [len(t)]  # too few for a frame of their own: all are in the last
    starts = np.arange(T) * each
    return [*(starts if split_by == "number" else np.searchsorted(t, t[0] + starts)).tolist(), len(t)]


def whole_numbers(name: str, values: ArrayLike) -> np.ndarray:
    """Values `[N]` as int64; raises ValueError for others."""
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    whole = array.dtype == bool or np.issubdtype(array.dtype, np.integer)
    if array.ndim != 1 or not whole:
        raise ValueError(f"expected {name} as whole numbers [N], got {array.dtype} {list(array.shape)}")
    if array.size and array.dtype == np.uint64 and array.max() >= 1 << 63:
        raise ValueError(f"expected {name} below 2^63, got {array.max()}")
    return array.astype(np.int64, copy=False)  # unsigned differences would wrap


def _fields(**values: ArrayLike) -> list[np.ndarray]:
    """Whole numbers, of each field one for every event."""
    arrays = {name: whole_numbers(name, field) for name, field in values.items()}
    if len(set(map(len, arrays.values()))) > 1:
        got = ", ".join(f"{len(array)} of {name}" for name, array in arrays.items())
        raise ValueError(f"expected one value of each for every event, got {got}: the recording is cut off or damaged")
    return list(arrays.values())


def check_within(name: str, values: np.ndarray, end: int, what: str) -> None:
    """Raises ValueError for the first value outside 0 to end - 1."""
    if len(values) and (values.min() < 0 or values.max() >= end):
        i = int(np.argmax((values < 0) | (values >= end)))
        raise ValueError(f"expected {name} from 0 to {end - 1}, {what}, got {values[i]} at event {i}")
