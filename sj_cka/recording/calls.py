"""In which calls of a module its steps lie."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from sj_cka.recording.tap import Probed, distance, leads
from sj_cka.recording.trace import Trace
from sj_cka.recording.wrappers import named

Noise = Callable[[bool], Probed | None]  # probes on noise, with that on a step more or without


class Loops(NamedTuple):
    """Modules that are known to run once a step, and those that call what they hold once a step."""

    each_step: Sequence[str] = ()
    containers: Sequence[str] = ()


class Calls(NamedTuple):
    """Whether the calls of a module make the steps, its uses in a step, and whether only their number tells so."""

    are_steps: bool
    uses: int
    by_number: bool = False


def calls_of(name: str, probed: Probed, T: int, loops: Loops) -> Calls:
    """What the calls of a module are. They are steps where they follow the number of steps.

    Where that cannot be varied, they are where they run in turn with what is known to run once a step. Those of another
    shape each time, with all steps in one of them, or with a module between every two that is not called once a step,
    are uses; if none of this is so, their number alone tells.

    Raises:
        ValueError: as many calls as samples, or out of proportion to the steps.
    """
    a, b = len(probed.two.outputs[name]), len(probed.three.outputs.get(name, []))
    if a != b:
        raise ValueError(
            f"module {name!r} was called {a} times on 2 samples and {b} times on 3: its outputs have no axis of "
            "samples; choose layers= that see a whole batch at once"
        )
    if probed.longer is None:
        if T == 1 or a % T:
            return Calls(False, a)
        if any(_in_turn(name, other, probed.two, a // T, T) for other in loops.each_step) or any(
            calls_within(name, other, probed.two) == [T] * (a // T) for other in loops.containers
        ):
            return Calls(True, a // T)
        no_steps = _differ(name, probed.two, T) or _holds_steps(name, probed, T) or _apart(name, probed.two, T)
        return Calls(False, a) if no_steps else Calls(True, a // T, by_number=True)
    c = len(probed.longer.outputs.get(name, []))
    if a == c:
        return Calls(False, a)
    if a * (T + 1) == c * T:
        return Calls(True, a // T)
    raise ValueError(
        f"module {name!r} was called {a} times for {T} steps and {c} times for {T + 1}: "
        "expected the same number of calls in every step; choose layers= without it"
    )


def looped(trace: Trace, T: int, model: nn.Module) -> bool:
    """Whether any module that has weights, or is a user's own, runs so often that its calls could be T steps."""
    modules = named(model)
    return any(
        len(calls) % T == 0 and not _differ(name, trace, T) and not _apart(name, trace, T)
        for name, calls in trace.outputs.items()
        if not type(modules[name]).__module__.startswith("torch.") or list(modules[name].parameters())
    )


def _in_turn(name: str, other: str, trace: Trace, uses: int, T: int) -> bool:
    """Whether between every two turns of another module, called in T turns, lie so many calls of this one."""
    total = len(trace.outputs.get(other, []))
    if not total or total % T:
        return False
    ends = [i + 1 for i, (called, _) in enumerate(trace.order) if called == other][total // T - 1 :: total // T]
    turns = (trace.order[start:end] for start, end in pairwise([0, *ends, len(trace.order)]))
    first, *between, last = (sum(called == name for called, _ in turn) for turn in turns)
    return first + last == uses and all(count == uses for count in between)


def _differ(name: str, trace: Trace, T: int) -> bool:
    """Whether outputs differ in shape from step to step, in whatever order the uses run."""
    shapes = trace.shapes(name)
    uses = len(shapes) // T
    return any(shapes[i] != shapes[i % uses] for i in range(len(shapes))) and any(
        shapes[i] != shapes[i - i % T] for i in range(len(shapes))
    )


def _holds_steps(name: str, probed: Probed, T: int) -> bool:
    """Whether an output already has an axis of T steps where SpikingJelly keeps it: first, or slowest in a fold."""
    a, b = (trace.shapes(name)[0] for trace in (probed.two, probed.three))
    if a is None or b is None or len(a) != len(b) or not a:
        return False
    return leads(a, next((i for i in range(len(a)) if a[i] != b[i]), 0), T)


def _apart(name: str, trace: Trace, T: int) -> bool:
    """Whether between every two calls something ends that is not called once a step, as the layers of a network do."""
    at = [i for i, (called, _) in enumerate(trace.order) if called == name]
    return bool(at[1:]) and all(
        any(len(trace.outputs[called]) % T for called, _ in trace.order[first + 1 : second])
        for first, second in pairwise(at)
    )


def use_by_use(name: str, probed: Probed, uses: int, T: int, noise: Noise) -> bool:
    """Whether all steps of one use come before those of the next (a container over time), not all uses of a step.

    On one step more, the first T steps come back: at the same calls if step by step, else a step later for each use.
    Where that tells nothing (equal outputs), on noise neither, it is use by use if a module that holds this one is
    called once a use.
    """
    told = _steps_come_back_later(name, probed, uses, T)
    if told is None and probed.longer is not None and (other := noise(True)) is not None:
        told = _steps_come_back_later(name, other, uses, T)
    if told is not None:
        return told
    holders = [name[:i] for i, letter in enumerate(name) if letter == "."] + [""]
    return any(
        calls_within(name, holder, probed.two) == [T] * uses
        and (probed.longer is None or calls_within(name, holder, probed.longer) == [T + 1] * uses)
        for holder in holders
    )


def _steps_come_back_later(name: str, probed: Probed, uses: int, T: int) -> bool | None:
    if probed.longer is None:
        return None
    a, c = probed.two.outputs.get(name, []), probed.longer.outputs.get(name, [])
    if (len(a), len(c)) != (uses * T, uses * (T + 1)) or not all(isinstance(x, Tensor) for x in (*a, *c)):
        return None
    at_once, later = (sum(distance(x, c[i + shift * (i // T)]) for i, x in enumerate(a)) for shift in (0, 1))
    return later < at_once if max(at_once, later) > 3 * min(at_once, later) + 1e-9 else None


def calls_within(name: str, holder: str, trace: Trace) -> list[int]:
    """Number of calls of a module within each call of one that holds it."""
    counts, inside = [], 0
    for called, _ in trace.order:
        if called == name:
            inside += 1
        elif called == holder:
            counts.append(inside)
            inside = 0
    return counts
