"""Where the samples and the steps lie in what a module puts out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sj_cka.recording.calls import Loops, Noise, calls_of, use_by_use
from sj_cka.recording.tap import (
    N_PROBE,
    Order,
    Probed,
    Reading,
    Tap,
    leads,
    narrow,
    orders,
    orders_of_time,
    scaling,
    settle,
    time_order,
    undo,
)
from sj_cka.recording.trace import Trace, Unpicked, not_a_tensor


def find_taps(
    wanted: Mapping[str, Sequence[int] | None],
    probed: Probed,
    T: int,
    noise: Noise,
    *,
    loops: Loops,
    swapped: Callable[[], Trace | None],
    not_back: Callable[[str], Exception],
    refused: dict[str, Exception] | None,
) -> list[Tap]:
    """Taps of modules from three probes: 2 samples, 3 samples, and 2 samples on T + 1 steps.

    Args:
        wanted: dotted names of the modules, in order, and the uses of each that are wanted, ascending; None for all.
        probed: the probes; where the number of steps cannot be varied (`longer` is None), what has the size of T where
            SpikingJelly keeps its steps (first axis, slowest in a fold, calls) is taken for time.
        T: number of steps; 1 for a network without time.
        noise: makes the same probes on noise; asked where the probes tell nothing of an order (black images, silence).
        loops: what is known to run once a step.
        swapped: makes a probe on the same 2 samples in the other order; asked where samples of a fold see each other.
        not_back: what to raise of a module that folds samples in no order in which the same ones come back.
        refused: takes the error of each module that is no layer, in place of raising it; not where `select` failed.

    Raises:
        ValueError: an output without exactly one axis of samples; calls or outputs that follow neither samples nor
            steps; or a use that is not there.
        TypeError: an output that is no tensor.
    """
    uses: list[tuple[Tap, Reading, list[Order]]] = []
    for name, some in wanted.items():
        try:
            uses += _of_module(name, probed, T, noise, some, loops, swapped, not_back)
        except (ValueError, TypeError) as error:
            if refused is None or any(isinstance(output, Unpicked) for output in probed.two.outputs[name]):
                raise
            refused[name] = error
    settled = settle([(tap, candidates) for tap, _, candidates in uses])
    readings = [reading for _, reading, _ in uses]
    rows = [tap.split(own.two, N_PROBE[0], own.T) for tap, own in zip(settled, readings, strict=True)]
    return _with_steady([_described(tap, x) for tap, x in zip(settled, rows, strict=True)], readings, rows)


def _of_module(
    name: str,
    probed: Probed,
    T: int,
    noise: Noise,
    wanted: Sequence[int] | None,
    loops: Loops,
    swapped: Callable[[], Trace | None],
    not_back: Callable[[str], Exception],
) -> list[tuple[Tap, Reading, list[Order]]]:
    """Taps of the uses of one module, with what each puts out and the orders that it may fold."""
    calls, uses, by_number = calls_of(name, probed, T, loops)
    wanted = range(uses) if wanted is None else wanted
    if wanted[-1] >= uses:
        raise ValueError(
            f"layers: expected one of the {uses} uses of module {name!r} in a step, '{name}#0' to "
            f"'{name}#{uses - 1}', got '{name}#{wanted[-1]}'"
        )
    step_first = not (calls and uses > 1 and use_by_use(name, probed, uses, T, noise))
    taps = []
    for use in wanted:
        label = name if uses == 1 else f"{name}#{use}"
        tap = Tap(label, name, uses, use, "calls" if calls else "static", 0, step_first=step_first)
        reading = _reading(tap, probed, T)
        tap = replace(tap, real=not reading.two.is_complex(), by_number=by_number)
        tap, candidates = _axes(tap, reading, noise, swapped, not_back)
        taps.append((tap, reading, candidates))
    return taps


def _reading(tap: Tap, probed: Probed, T: int) -> Reading:
    """What the first call of a tap puts out in each probe."""
    runs = (probed.two, T), (probed.three, T), (probed.longer, T + 1)
    outputs = [run.outputs[tap.module][_first_call(tap, steps)] for run, steps in runs if run is not None]
    for output in outputs:
        if isinstance(output, Unpicked):
            raise output.error
        if not isinstance(output, Tensor):
            raise TypeError(not_a_tensor(tap.module, output))
    return Reading(outputs[0], outputs[1], outputs[2] if probed.longer is not None else None, T)


def _first_call(tap: Tap, T: int) -> int:
    return tap.use if tap.step_first else tap.use * T


def _swapped(tap: Tap, reading: Reading, swapped: Callable[[], Trace | None]) -> Reading | None:
    """The same reading with that of 2 samples in the other order."""
    trace = swapped()
    output = None if trace is None else trace.outputs[tap.module][_first_call(tap, reading.T)]
    return reading._replace(swapped=output) if isinstance(output, Tensor) else None


def _of_noise(tap: Tap, reading: Reading, noise: Noise) -> Reading | None:
    """The same reading of noise; None where there is none, it tells nothing or the network takes another way on it."""
    for longer in dict.fromkeys((False, reading.longer is not None)):  # silence on more steps tells no more
        probed = noise(longer)
        if probed is None or (longer and probed.longer is None):
            return None
        try:
            other = _reading(tap, probed, reading.T)
        except (LookupError, TypeError, ValueError):
            return None
        if not other.two.any():
            return None
    shapes, others = ([getattr(x, "shape", None) for x in outputs[:3]] for outputs in (reading, other))
    return other if shapes == others else None


def _axes(
    tap: Tap,
    reading: Reading,
    noise: Noise,
    swapped: Callable[[], Trace | None],
    not_back: Callable[[str], Exception],
) -> tuple[Tap, list[Order]]:
    """The tap with its axes, and the orders that its axis of samples may fold; the first is in the tap."""
    T = reading.T
    a, b = reading.two.shape, reading.three.shape
    grows = scaling(a, b)
    if len(grows) != 1:
        raise ValueError(
            f"module {tap.module!r} puts out {tuple(a)} for 2 samples and {tuple(b)} for 3: expected one axis that "
            f"scales with the samples, got {len(grows)}; choose layers= without it"
        )
    tap = replace(tap, axis=grows[0])
    lengthens = _lengthens(tap, reading)
    if lengthens and (len(lengthens) > 1 or tap.time == "calls"):
        raise ValueError(
            f"module {tap.module!r} puts out {tuple(a)} for {T} steps: expected the steps in one place, got them in "
            + (f"axes {lengthens}" if len(lengthens) > 1 else "its calls and in an axis")
            + "; choose layers= without it"
        )
    folds_time = lengthens == [tap.axis]
    folding = replace(tap, time="axis") if folds_time else tap
    every = orders(folds_time, a[tap.axis] // (N_PROBE[0] * (T if folds_time else 1)))
    candidates = undo(folding, every, reading, lambda: _swapped(tap, reading, swapped), not_back)
    if len(candidates) > 1 and (other := _of_noise(tap, reading, noise)) is not None:
        candidates = narrow(folding, candidates, other)
    tap = replace(folding, factors=candidates[0])
    if tap.time == "calls" and tap.axis == 1 and a[0] == b[0] == 1:  # multi-step modules called with [1, N, ...]
        tap = replace(tap, time_axis=0, time_factors=())
    if lengthens and not folds_time:
        tap = replace(tap, time="axis", time_axis=lengthens[0])
        extra = a[lengthens[0]] // T
        order = time_order(tap, extra, reading)
        if order is None and (other := _of_noise(tap, reading, noise)) is not None:
            order = time_order(tap, extra, other)
        tap = replace(tap, time_factors=order or orders_of_time(extra)[0])
    return tap, candidates


def _lengthens(tap: Tap, reading: Reading) -> list[int]:
    """The axes that follow the number of steps; by their size where that could not be varied."""
    T, a = reading.T, reading.two.shape
    if reading.longer is None:
        if tap.time == "calls":
            return []
        if T == 1:  # maps [1, N, C, H, W] of multi-step layers in a network without time, as an artificial twin
            return [0] if tap.axis == 1 and a[0] == 1 and len(a) >= 5 else []
        return [0] if leads(a, tap.axis, T) else []
    longer = reading.longer.shape
    changed = [i for i in range(len(a)) if len(longer) == len(a) and a[i] != longer[i]]
    if any(a[i] * (T + 1) != longer[i] * T for i in changed):
        raise ValueError(
            f"module {tap.module!r} puts out {tuple(a)} for {T} steps and {tuple(longer)} for {T + 1}: expected an "
            "axis in proportion to the steps; choose layers= without it"
        )
    return changed


def _with_steady(taps: list[Tap], readings: Sequence[Reading], rows: Sequence[Tensor]) -> list[Tap]:
    """The taps, told which are steady; the first two steps tell of most that they are not, at one look."""
    several = [i for i, tap in enumerate(taps) if tap.time == "axis" and readings[i].T > 1]
    alike = [(rows[i][0] == rows[i][1]).all().to(rows[several[0]].device) for i in several]
    for i, same in zip(several, torch.stack(alike).tolist() if alike else [], strict=True):
        if same and all(map(_steady, (rows[i], taps[i].split(readings[i].three, N_PROBE[1], readings[i].T)))):
            taps[i] = replace(taps[i], steady=True)
    return taps


def _steady(x: Tensor) -> bool:
    """Whether all steps are the same."""
    return bool((x == x[:1]).all() and x.isfinite().all())


def _described(tap: Tap, rows: Tensor) -> Tap:
    """The tap with what its outputs are like in the probes: those of the first, as steps of samples."""
    folded = any(kind == "F" for kind, _ in (*tap.factors, *tap.time_factors))
    before = [axis for axis in range(tap.axis) if axis != tap.time_axis]
    return replace(
        tap,
        maps=rows.ndim >= 5 and not folded and not before,
        width=rows[0, 0].numel(),
        units=rows.shape[2] if rows.ndim > 2 else 1,
    )
