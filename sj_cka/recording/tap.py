"""How what a module puts out becomes steps of samples, and in which order its axes fold them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sj_cka.recording.trace import Pick, Trace, not_a_tensor, readable

SAME = 0.05  # relative difference up to which the same samples came back
N_PROBE = (2, 3)  # samples of the first and the second probe; the third has 2 samples and one step more
# the first two samples change places, so that what goes from sample to sample, as over time, does not come back
TWO, THREE, SWAPPED = (0, 1), (1, 0, 2), (1, 0)
Factor = tuple[Literal["T", "N", "F"], int]
Order = tuple[Factor, ...]


@dataclass(frozen=True)
class Tap:
    """How the outputs of one module become `[S, n, ...]`, S steps of n samples.

    Args:
        layer: the layer's name: the module's, with `#use` where the module is used several times in a step.
        module: dotted name of the module.
        uses: calls of the module in one step (or in one pass, where the calls do not make the steps).
        use: which of them this layer is.
        time: "axis": steps lie in an axis of the output, "calls": one call is one step, "static": no change with time.
        axis: axis that counts samples.
        factors: what that axis folds, slowest first: T steps, N samples, F windows or tokens (they are features).
        time_axis: axis of the steps where it is one of its own.
        time_factors: what that axis folds, slowest first: T steps and F features of each; nothing where every call
            gives one step, of length 1.
        step_first: whether the calls of several uses run step by step (else use by use, as in a container over time).
        by_number: whether the calls are taken for steps by their number alone.
        select: takes the layer's tensor out of an output that holds several; None where it is a tensor.
        neuron: whether the module is a neuron.
        real: whether its output holds real numbers.
        steady: whether all of several steps were the very same, and finite, in the probes: the layer probably lies
            before the first neuron.
        maps: whether `[S, n, ...]` are `[S, n, C, H, W, ...]`, so that an average over space makes sense.
        width: number of features of one sample at one step.
        units: number of units that they are of: neurons, channels of maps, or the first axis of anything else.
    """

    layer: str
    module: str
    uses: int
    use: int
    time: Literal["axis", "calls", "static"]
    axis: int
    factors: Order = (("N", 1),)
    time_axis: int | None = None
    time_factors: Order = (("T", 1),)
    step_first: bool = True
    by_number: bool = False
    select: Pick | None = None
    neuron: bool = False
    real: bool = True
    steady: bool = False
    maps: bool = False
    width: int = 0
    units: int = 1

    def step_of(self, call: int, T: int) -> int | None:
        """Step (from 0) that a call of the module gives of this layer; None if the call is another use of it."""
        if self.time != "calls":
            return 0 if call == self.use else None
        step, use = divmod(call, self.uses) if self.step_first else divmod(call, T)[::-1]
        return step if use == self.use else None

    def picked(self, output: Any) -> Tensor:
        """The layer's tensor in an output of the module."""
        if self.select is not None:
            output = self.select(output)
        if not isinstance(output, Tensor) or output.is_nested:
            raise TypeError(not_a_tensor(self.module, output))
        return readable(output)

    def rows(self, output: Any, n: int, T: int) -> Tensor:
        """`[S, n, ...]` of one output: S = T where the steps lie in it, else 1."""
        return self.split(self.picked(output), n, T)

    def split(self, x: Tensor, n: int, T: int) -> Tensor:
        """`[S, n, ...]` of a tensor that is laid out as the layer's."""
        folds = {self.axis: self.factors}
        if self.time_axis is not None:
            folds[self.time_axis] = self.time_factors
        kinds: list[str] = []
        sizes: list[int] = []
        for axis, size in enumerate(x.shape):
            factors = folds.get(axis, (("F", size),))
            kinds += [kind for kind, _ in factors]
            sizes += [n if kind == "N" else T if kind == "T" else count for kind, count in factors]
        try:
            y = x.reshape(sizes)
        except RuntimeError as error:
            raise ValueError(
                f"layer {self.layer!r}: expected an output that splits into {sizes} for {n} samples and {T} steps, got "
                f"shape {tuple(x.shape)}; was the network given other steps than in the probes?"
            ) from error
        if self.time != "axis":
            return y.movedim(kinds.index("N"), 0).unsqueeze(0)
        return y.movedim((kinds.index("T"), kinds.index("N")), (0, 1))

    def averaged(self, x: Tensor) -> Tensor:
        """A tensor that is laid out as the layer's without its axis of steps, if that is one of its own."""
        if self.time_axis is None:
            return x
        return x.squeeze(self.time_axis) if x.shape[self.time_axis] == 1 else x.mean(self.time_axis)


class Probed(NamedTuple):
    """The probes: 2 samples, 3 samples (the first two in the other order), and 2 samples on one step more (None where
    the steps cannot be varied)."""

    two: Trace
    three: Trace
    longer: Trace | None


class Reading(NamedTuple):
    """What one tap puts out in the probes, and on how many steps; `swapped`: on 2 samples in the other order."""

    two: Tensor
    three: Tensor
    longer: Tensor | None
    T: int
    swapped: Tensor | None = None


def orders(axis_folds_time: bool, extra: int) -> list[Order]:
    """All orders of T (or none), N and `extra` features in one axis, SpikingJelly's first: T, N, features."""
    every = dict[Order, None]()
    for inner in sorted((d for d in range(1, extra + 1) if extra % d == 0), reverse=True):
        core: list[Factor] = [("F", extra // inner), ("N", 1), ("F", inner)]
        for place in range(4) if axis_folds_time else [None]:
            order = list(core) if place is None else [*core[:place], ("T", 1), *core[place:]]
            every[tuple(factor for factor in order if factor[0] != "F" or factor[1] != 1)] = None
    return list(every)


def fitting(tap: Tap, candidates: list[Order], reading: Reading) -> tuple[list[Order], float]:
    """The orders that fit best, and how far the samples are from coming back in them (0 to 1).

    A right order brings the rows of the same samples back in a probe on more of them; of those that do, the right one
    brings back the first steps in a probe on more steps.
    """
    two, three, longer, T, swapped = reading
    other, n = (three, 3) if swapped is None else (swapped, 2)
    tried = [replace(tap, factors=order) for order in candidates]
    rows = [t.split(two, 2, T) for t in tried]
    errors = [distance(x, t.split(other, n, T)[:, list(SWAPPED)]) for x, t in zip(rows, tried, strict=True)]
    best = _best(errors)
    if longer is not None and len(best) > 1 and any(kind == "T" for kind, _ in candidates[0]):
        again = [_first_steps_apart(tried[i], reading) for i in best]
        best = [best[i] for i in _best(again)]
    return [candidates[i] for i in best], min(errors)


def undo(
    tap: Tap,
    candidates: list[Order],
    reading: Reading,
    swapped: Callable[[], Reading | None],
    not_back: Callable[[str], Exception],
) -> list[Order]:
    """The orders that fit what the probes show: one, or several where they tell nothing (silence, equal rows).

    `swapped` gives the reading of a probe on the same 2 samples in the other order: samples that see each other (batch
    statistics) come back among the same samples alone. `not_back` gives what is raised where the same samples come back
    in no order.
    """
    if len(candidates) == 1:
        return candidates
    fits, error = fitting(tap, candidates, reading)
    if error > SAME and (again := swapped()) is not None:
        fits, error = fitting(tap, candidates, again)
    if error > SAME:
        raise not_back(tap.module)
    return fits


def narrow(tap: Tap, candidates: list[Order], reading: Reading) -> list[Order]:
    """Those of several orders that fit other probes as well; all of them where these show none."""
    fits, error = fitting(tap, candidates, reading)
    return fits if error <= SAME else candidates


def orders_of_time(extra: int) -> list[Order]:
    """Both orders of T and `extra` features in an axis of steps, T slowest first."""
    return [(("T", 1),)] if extra == 1 else [(("T", 1), ("F", extra)), (("F", extra), ("T", 1))]


def time_order(tap: Tap, extra: int, reading: Reading) -> Order | None:
    """The order of T and `extra` features in the axis of the steps; None where the probes tell nothing.

    The right order brings the first steps back in a longer probe.
    """
    candidates = orders_of_time(extra)
    if len(candidates) == 1 or reading.longer is None:
        return candidates[0]
    errors = [_first_steps_apart(replace(tap, time_factors=order), reading) for order in candidates]
    best = _best(errors)
    return candidates[best[0]] if len(best) == 1 else None


def _first_steps_apart(tap: Tap, reading: Reading) -> float:
    """How far the steps of a probe are from coming back as the first ones of a longer probe."""
    assert reading.longer is not None
    return distance(tap.split(reading.two, 2, reading.T), tap.split(reading.longer, 2, reading.T + 1)[: reading.T])


def settle(folds: Sequence[tuple[Tap, list[Order]]]) -> list[Tap]:
    """Taps, of several orders of a fold with that of the other layers: the probes could not tell (silence, equal rows).

    Args:
        folds: each tap with the orders that it may fold.
    """
    told = [some[0] for _, some in folds if len(some) == 1 and _folded(some[0])]
    votes = Counter(map(_time_first, told))
    time_first = votes[True] >= votes[False]

    def agrees(order: Order) -> bool:
        return not _folded(order) or _time_first(order) == time_first

    return [replace(tap, factors=next(filter(agrees, some), some[0])) for tap, some in folds]


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| / (|a| + |b|), of what is finite; 1 for other shapes."""
    if a.shape != b.shape:
        return 1.0
    a, b = (torch.view_as_real(x) if x.is_complex() else x for x in (a, b))
    a, b = (torch.nan_to_num(x.to(torch.float64), posinf=0.0, neginf=0.0) for x in (a, b))
    scale = float(a.norm() + b.norm())
    return float((a - b).norm()) / scale if scale else 0.0


def distances(pairs: Sequence[Sequence[Tensor]]) -> list[float]:
    """`distance` of each pair; of floating-point numbers in their own precision, and waiting for a device once."""
    norms: dict[int, Tensor] = {}
    for i, (a, b) in enumerate(pairs):
        if a.is_floating_point() and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device):
            norms[i] = torch.stack([torch.linalg.vector_norm(x, dtype=torch.float64) for x in (a - b, a, b)])
    known = torch.stack([x.to(next(iter(norms.values())).device) for x in norms.values()]).tolist() if norms else []
    apart = {i: d / (a + b) if a + b else 0.0 for i, (d, a, b) in zip(norms, known, strict=True) if isfinite(d + a + b)}
    return [apart[i] if i in apart else distance(*pair) for i, pair in enumerate(pairs)]


def scaling(a: Sequence[int], b: Sequence[int], counts: tuple[int, int] = N_PROBE) -> list[int]:
    """The axes of two shapes that are in proportion to what they were made of, by default the samples of the probes."""
    return [i for i in range(len(a)) if len(a) == len(b) and a[i] and a[i] * counts[1] == b[i] * counts[0]]


def leads(shape: Sequence[int], axis: int, T: int) -> bool:
    """Whether 2 samples at an axis have T steps where SpikingJelly keeps them: first, or slowest in the samples'."""
    return shape[0] == T if axis else shape[0] % (N_PROBE[0] * T) == 0


def _best(errors: Sequence[float]) -> list[int]:
    return [i for i, error in enumerate(errors) if error <= 3 * min(errors) + 1e-6]


def _folded(order: Order) -> bool:
    return {"T", "N"} <= {kind for kind, _ in order}


def _time_first(order: Order) -> bool:
    return next(kind for kind, _ in order if kind != "F") == "T"
