"""Where the samples and the steps lie in what a module puts out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from sj_cka.recording.trace import Trace

_RANDOM = 0.05  # relative difference beyond which the same samples did not come back
N_PROBE = (2, 3)  # samples of the first and the second probe; the third has 2 samples and one step more
Factor = tuple[Literal["T", "N", "F"], int]


class NoSampleAxis(ValueError):
    """A layer's output has no axis, or no single axis, that counts samples."""


@dataclass(frozen=True)
class Tap:
    """How the outputs of one module become `[S, n, ...]`, S steps of n samples.

    Args:
        layer: the layer's name: the module's, with `#use` where the module is used several times in a step.
        module: dotted name of the module.
        uses: calls of the module in one step (or in one pass, where the calls do not make the steps).
        use: which of them this layer is.
        step_first: whether the calls of several uses run step by step (else use by use, as in a container over time).
        time: "axis": steps lie in an axis of the output, "calls": one call is one step, "static": no change with time.
        axis: axis that counts samples.
        factors: what that axis folds, slowest first: T steps, N samples, F windows or tokens (they are features).
        time_axis: axis of the steps where it is one of its own.
        time_factors: what that axis folds, slowest first: T steps and F features of each.
    """

    layer: str
    module: str
    uses: int
    use: int
    time: Literal["axis", "calls", "static"]
    axis: int
    factors: tuple[Factor, ...] = (("N", 1),)
    time_axis: int | None = None
    time_factors: tuple[Factor, ...] = (("T", 1),)
    step_first: bool = True

    def step_of(self, call: int, T: int) -> int | None:
        """Step (from 0) that a call of the module gives of this layer; None if the call is another use of it."""
        if self.time != "calls":
            return 0 if call == self.use else None
        step, use = divmod(call, self.uses) if self.step_first else divmod(call, T)[::-1]
        return step if use == self.use else None

    def rows(self, output: Any, n: int, T: int) -> Tensor:
        """`[S, n, ...]` of one output: S = T where the steps lie in it, else 1."""
        if not isinstance(output, Tensor):
            raise TypeError(_not_a_tensor(self.module, output))
        folds = {self.axis: self.factors}
        if self.time_axis is not None:
            folds[self.time_axis] = self.time_factors
        kinds: list[str] = []
        sizes: list[int] = []
        for axis, size in enumerate(output.shape):
            factors = folds.get(axis, (("F", size),))
            kinds += [kind for kind, _ in factors]
            sizes += [n if kind == "N" else T if kind == "T" else count for kind, count in factors]
        try:
            x = output.reshape(sizes)
        except RuntimeError as error:
            raise ValueError(
                f"layer {self.layer!r}: expected an output that splits into {sizes} for {n} samples and {T} steps, got "
                f"shape {tuple(output.shape)}; was the network given other steps than in the probes?"
            ) from error
        if self.time != "axis":
            return x.movedim(kinds.index("N"), 0).unsqueeze(0)
        return x.movedim((kinds.index("T"), kinds.index("N")), (0, 1))


def find_taps(names: Sequence[str], two: Trace, three: Trace, longer: Trace | None, T: int) -> list[Tap]:
    """Taps of modules from three probes: 2 samples, 3 samples, and 2 samples on T + 1 steps.

    Args:
        names: dotted names of the modules, in order.
        two, three, longer: the probes; `longer` is None where the number of steps cannot be varied, then what has the
            size of T where SpikingJelly keeps its steps (first axis, slowest in a fold, calls) is taken for time.
        T: number of steps; 1 for a network without time.

    Raises:
        NoSampleAxis: an output without exactly one axis of samples.
        ValueError: calls or outputs that follow neither samples nor steps.
    """
    taps: list[Tap] = []
    open_folds: dict[int, list[tuple[Factor, ...]]] = {}
    for name in names:
        calls, uses = _calls(name, two, three, longer, T)
        label = "{}" if uses == 1 else "{}#{}"
        step_first = not (calls and uses > 1 and _use_by_use(name, two, longer, uses, T))
        for use in range(uses):
            tap = Tap(
                label.format(name, use), name, uses, use, "calls" if calls else "static", 0, step_first=step_first
            )
            first = use if step_first else use * T
            probes = [two.outputs[name][first], three.outputs[name][first]]
            if longer is not None:
                probes.append(longer.outputs[name][use if step_first else use * (T + 1)])
            tap, folds = _axes(tap, probes, T)
            if len(folds) > 1:
                open_folds[len(taps)] = folds
            taps.append(tap)
    return _settle(taps, open_folds)


def _calls(name: str, two: Trace, three: Trace, longer: Trace | None, T: int) -> tuple[bool, int]:
    """Whether the calls of a module make the steps, and the number of its uses in a step."""
    a, b = len(two.outputs[name]), len(three.outputs.get(name, []))
    if a != b:
        raise NoSampleAxis(
            f"module {name!r} was called {a} times on 2 samples and {b} times on 3: its outputs have no axis of "
            "samples; choose layers= that see a whole batch at once"
        )
    c = len(longer.outputs.get(name, [])) if longer is not None else None
    if c is None:
        return (True, a // T) if T > 1 and a % T == 0 else (False, a)
    if a == c:
        return False, a
    if a * (T + 1) == c * T:
        return True, a // T
    raise ValueError(
        f"module {name!r} was called {a} times for {T} steps and {c} times for {T + 1}: "
        "expected the same number of calls in every step; choose layers= without it"
    )


def _use_by_use(name: str, two: Trace, longer: Trace | None, uses: int, T: int) -> bool:
    """Whether all steps of one use come before those of the next (a container over time), not all uses of a step.

    On one step more, the first T steps come back: at the same calls if step by step, else a step later for each use.
    Where that tells nothing (equal outputs), it is use by use if a module that holds this one is called once a use.
    """
    if longer is not None:
        a, c = two.outputs[name], longer.outputs[name]
        errors = [0.0, 0.0]
        for call in range(uses * T):
            use, step = divmod(call, T)
            errors[0] += _distance(a[call], c[call])
            errors[1] += _distance(a[call], c[use * (T + 1) + step])
        if max(errors) > 3 * min(errors) + 1e-9:
            return errors[1] < errors[0]
    holders = [name[:i] for i, letter in enumerate(name) if letter == "."] + [""]
    return any(
        _calls_within(name, holder, two) == [T] * uses
        and (longer is None or _calls_within(name, holder, longer) == [T + 1] * uses)
        for holder in holders
    )


def _calls_within(name: str, holder: str, seen: Trace) -> list[int]:
    """Number of calls of a module within each call of one that holds it."""
    counts, inside = [], 0
    for called, _ in seen.order:
        if called == name:
            inside += 1
        elif called == holder:
            counts.append(inside)
            inside = 0
    return counts


def _axes(tap: Tap, probes: Sequence[Any], T: int) -> tuple[Tap, list[tuple[Factor, ...]]]:
    for output in probes:
        if not isinstance(output, Tensor):
            raise TypeError(_not_a_tensor(tap.module, output))
    a, b = probes[0].shape, probes[1].shape
    longer = probes[2].shape if len(probes) == 3 else None
    grows = [i for i in range(len(a)) if len(a) == len(b) and a[i] and a[i] * N_PROBE[1] == b[i] * N_PROBE[0]]
    if len(grows) != 1:
        raise NoSampleAxis(
            f"module {tap.module!r} puts out {tuple(a)} for 2 samples and {tuple(b)} for 3: expected one axis that "
            f"scales with the samples, got {len(grows)}; choose layers= without it"
        )
    axis = grows[0]
    if longer is not None and len(longer) == len(a):
        lengthens = [i for i in range(len(a)) if a[i] != longer[i]]
        if any(a[i] * (T + 1) != longer[i] * T for i in lengthens):
            raise ValueError(
                f"module {tap.module!r} puts out {tuple(a)} for {T} steps and {tuple(longer)} for {T + 1}: expected an "
                "axis in proportion to the steps; choose layers= without it"
            )
    elif longer is None and T > 1 and tap.time != "calls":
        first = axis > 0 and a[0] == T
        lengthens = [0] if first else [axis] if axis == 0 and a[0] % (N_PROBE[0] * T) == 0 else []
    else:
        lengthens = []
    if not lengthens:
        folds = _folds(tap.module, probes, axis, a[axis] // N_PROBE[0], None)
        return replace(tap, axis=axis, factors=folds[0]), folds
    if len(lengthens) > 1 or tap.time == "calls":
        raise ValueError(
            f"module {tap.module!r} puts out {tuple(a)} for {T} steps: expected the steps in one place, got them in "
            + (f"axes {lengthens}" if len(lengthens) > 1 else "its calls and in an axis")
            + "; choose layers= without it"
        )
    tap = replace(tap, time="axis", axis=axis)
    if lengthens[0] == axis:
        folds = _folds(tap.module, probes, axis, a[axis] // (N_PROBE[0] * T), T)
    else:
        folds = _folds(tap.module, probes, axis, a[axis] // N_PROBE[0], None)
        tap = replace(tap, time_axis=lengthens[0], factors=folds[0])
        tap = replace(tap, time_factors=_time_factors(tap, probes, a[lengthens[0]] // T, T))
    return replace(tap, factors=folds[0]), folds


def _time_factors(tap: Tap, probes: Sequence[Tensor], extra: int, T: int) -> tuple[Factor, ...]:
    """Whether steps or features run slowest in the axis of the steps: the first steps come back in a longer probe."""
    if extra == 1:
        return (("T", 1),)
    orders: list[tuple[Factor, ...]] = [(("T", 1), ("F", extra)), (("F", extra), ("T", 1))]
    if len(probes) < 3:
        return orders[0]
    errors = []
    for order in orders:
        tried = replace(tap, time_factors=order)
        errors.append(_distance(tried.rows(probes[0], 2, T), tried.rows(probes[2], 2, T + 1)[:T]))
    return orders[errors[1] < errors[0]]


def _folds(module: str, probes: Sequence[Tensor], axis: int, extra: int, T: int | None) -> list[tuple[Factor, ...]]:
    """The orders of T, N and `extra` features in one axis that fit best, SpikingJelly's order first.

    A right order brings the rows of the same samples back in a probe on more of them; of those that do, the right one
    brings back the first steps in a probe on more steps.
    """
    orders: list[tuple[Factor, ...]] = []
    for inner in sorted((d for d in range(1, extra + 1) if extra % d == 0), reverse=True):
        core: list[Factor] = [("F", extra // inner), ("N", 1), ("F", inner)]
        for place in [None] if T is None else range(4):
            order = list(core) if place is None else [*core[:place], ("T", 1), *core[place:]]
            kept = tuple(f for f in order if f[0] != "F" or f[1] != 1)
            if kept not in orders:
                orders.append(kept)
    if len(orders) == 1:
        return orders

    def rows(order: tuple[Factor, ...], probe: int, n: int, steps: int) -> Tensor:
        return Tap("", "", 1, 0, "static" if T is None else "axis", axis, order).rows(probes[probe], n, steps)

    errors = [_distance(rows(o, 0, 2, T or 1), rows(o, 1, 3, T or 1)[:, :2]) for o in orders]
    if min(errors) > _RANDOM:
        raise ValueError(
            f"module {module!r} folds samples into another axis, and puts out other values for the same samples each "
            "time (is it random?), so that the order of the fold cannot be found; choose layers= without it"
        )
    orders = _best(orders, errors)
    if T is not None and len(probes) == 3 and len(orders) > 1:
        orders = _best(orders, [_distance(rows(o, 0, 2, T), rows(o, 2, 2, T + 1)[:T]) for o in orders])
    return orders


def _best(orders: list[tuple[Factor, ...]], errors: list[float]) -> list[tuple[Factor, ...]]:
    return [order for order, error in zip(orders, errors, strict=True) if error <= 3 * min(errors) + 1e-6]


def _distance(a: Tensor, b: Tensor) -> float:
    """|a - b| / (|a| + |b|), of what is finite; 1 for other shapes."""
    if a.shape != b.shape:
        return 1.0
    a, b = (torch.nan_to_num(x.to(torch.float64), posinf=0.0, neginf=0.0) for x in (a, b))
    scale = float(a.norm() + b.norm())
    return float((a - b).norm()) / scale if scale else 0.0


def _settle(taps: list[Tap], open_folds: dict[int, list[tuple[Factor, ...]]]) -> list[Tap]:
    """Takes the other layers' order of a fold where the probes could not tell it (silent layers, equal rows)."""
    votes = Counter(
        _time_first(tap.factors) for i, tap in enumerate(taps) if i not in open_folds and _folded(tap.factors)
    )
    time_first = votes[True] >= votes[False]
    for i, folds in open_folds.items():
        fitting = [fold for fold in folds if not _folded(fold) or _time_first(fold) == time_first]
        taps[i] = replace(taps[i], factors=(fitting or folds)[0])
    return taps


def _folded(factors: tuple[Factor, ...]) -> bool:
    return {"T", "N"} <= {kind for kind, _ in factors}


def _time_first(factors: tuple[Factor, ...]) -> bool:
    return next(kind for kind, _ in factors if kind != "F") == "T"


def _not_a_tensor(module: str, output: Any) -> str:
    return (
        f"module {module!r} puts out a {type(output).__name__}, expected a tensor: choose layers= inside or behind it, "
        "or a module that picks one tensor of it"
    )
