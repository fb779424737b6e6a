"""One way to run a network on few samples, and what its outputs tell of samples and steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sj_cka.recording.drive import Drive
from sj_cka.recording.knobs import Knob
from sj_cka.recording.tap import Tap, scaling
from sj_cka.recording.trace import Trace

MARKED = 1  # the sample of a probe that is NaN, to see where it gets to


class Attempt(NamedTuple):
    """One way to run a network, on two samples and on three.

    Args:
        drive: how it is run.
        counters: what counts its steps and is set to 1 meanwhile.
        two, three: the runs, of which a sample may be marked.
        T: the steps of each.
    """

    drive: Drive
    counters: Sequence[Knob]
    two: Trace
    three: Trace
    T: tuple[int, int]

    def outputs(self) -> list[tuple[Any, Any, int | None]]:
        """The leaves of both outputs, and the first axis that grows with the samples, None where there is none."""
        pairs = zip(leaves_of(self.two), leaves_of(self.three), strict=True)
        return [(a, b, next(iter(_both_scale(a, b)), None)) for a, b in pairs]

    def mixes(self) -> bool:
        """Whether the output of a sample depends on another one, the marked."""
        return any(
            _places(x, axis) not in ([], [MARKED]) for *pair, axis in self.outputs() if axis is not None for x in pair
        )

    def agrees(self) -> bool:
        """Whether one step gives what several do, averaged or summed: an attribute may count layers, and no steps."""
        for several, once, axis in self.outputs():
            if axis is None or not several.is_floating_point():
                continue
            a, b = several.select(axis, 0), once.select(axis, 0)
            if steps := [i for i in range(a.ndim) if a.shape[i] != b.shape[i]]:
                a, b = a.mean(steps), b.mean(steps)
            scale = float(a.abs().max()) if a.numel() else 0.0
            if not any(torch.allclose(a, factor * b, rtol=1e-3, atol=1e-4 * scale) for factor in (1, self.T[0])):
                return False
        return True

    def taps(self, last: list[Any] | None) -> tuple[Tap | None, ...]:
        """Where the samples and the steps of each leaf of the output lie, None where it has no samples.

        Args:
            last: leaves in which what comes of the last step is NaN, which tell the steps where their number is not
                another in the second run.
        """
        taps: list[Tap | None] = []
        for place, (a, b, axis) in enumerate(self.outputs()):
            if axis is None:
                taps.append(None)
                continue
            others = [i for i in range(a.ndim) if i != axis]
            if self.T[0] != self.T[1]:
                steps = [i for i in others if a.shape[i] != b.shape[i]]
                steps = steps if [(a.shape[i], b.shape[i]) for i in steps] == [self.T] else []
            else:
                steps = [i for i in others if a.shape[i] == self.T[0]]
                if last and _places(last[place], axis):
                    steps = [i for i in steps if _places(last[place], i) == [self.T[0] - 1]]
                else:
                    steps = [0] if axis == 1 and 0 in steps else []
            taps.append(Tap("", "", 1, 0, "axis" if steps else "static", axis, time_axis=steps[0] if steps else None))
        return tuple(taps)


def leaves_of(run: Trace) -> list[Any]:
    """What the network put out, leaf by leaf."""
    return pytree.tree_leaves(run.outputs[""][0])


def _both_scale(two: Any, three: Any) -> list[int]:
    return scaling(two.shape, three.shape) if isinstance(two, Tensor) and isinstance(three, Tensor) else []


def _places(x: Any, axis: int) -> list[int]:
    """The entries of an axis in which there is a NaN."""
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        return []
    return sorted(set(x.isnan().nonzero()[:, axis].tolist()))
