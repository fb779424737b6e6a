"""The clocks of cameras, which begin anew when their bits are full."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Clock(NamedTuple):
    """How a format counts microseconds.

    Args:
        bits: of a time; after the largest comes 0 again.
        mark: row y of events that are none, each of which says that `mark_us` have passed; None where there are none.
        mark_us: what such an event adds to all times from it on, as in the reader that was published with the sets
            (Orchard et al. 2015).
    """

    bits: int
    mark: int | None = None
    mark_us: int = 1 << 13

    def running(self, t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times `[K]` that run on where the clock began anew, and which events `[N]` these K are: marks are none.

        A time that falls by more than half of what the clock can count is that of a clock that began anew; one that
        falls by less runs backwards, and stays as it is.

        Example:
            >>> Clock(bits=23).running(np.array([2**23 - 2, 1]), np.array([0, 0]))[0] - 2**23
            array([-2,  1])
        """
        marks = np.zeros(len(t), bool) if self.mark is None else y == self.mark
        real = ~marks
        t = t[real]
        passed = np.diff(np.cumsum(marks)[real], prepend=0)  # marks since the event before
        wrapped = np.zeros(len(t), bool)
        wrapped[1:] = t[:-1] - t[1:] > 1 << self.bits - 1
        # a mark where the clock begins anew stands for that
        added = self.mark_us * np.maximum(passed - wrapped, 0) + (1 << self.bits) * wrapped
        return t + np.cumsum(added), real
