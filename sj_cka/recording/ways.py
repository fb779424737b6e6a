"""The way in which a network is to be run on a batch, found by running it on a few samples."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sj_cka.recording.calls import looped
from sj_cka.recording.drive import LAYOUTS, N_NEEDED, Drive, Forward, Layout, sample_axis, tensors_in
from sj_cka.recording.probes import Probes, carries, changed, held_states, not_back, own_steps, taken_for_steps, tried
from sj_cka.recording.snapshot import computes_by_own_code
from sj_cka.recording.state import from_rest, is_neuron, is_single_step
from sj_cka.recording.tap import N_PROBE, SAME, TWO, distance
from sj_cka.recording.trace import Trace, own_run
from sj_cka.recording.wrappers import named

_LOUD = 100.0  # times the batch
_OWN_LAYOUT = (
    "layout= is that of the loader; if the network itself takes frames in another one, say so: "
    "forward=lambda net, batch: net(batch.transpose(0, 1))"
)


def find_drive(probes: Probes, T: int | None, layout: Layout | None, forward: Forward | None) -> Drive:
    """How a network is to be run on batches like this one, found by running it on two and three samples.

    The batch is given as it is. If that raises, or if a module takes the samples for steps, the batch is shown T times;
    single-step neurons that were called once are called T times; otherwise the network makes its own steps. Frames are
    given whole, time first, or samples first if it takes samples for steps otherwise; or one after the other to a
    network of single-step neurons, or without any, that cannot take them so.

    Raises:
        ValueError: T is missing where it is needed, or differs from the network's own number; samples are taken for
            steps.
    """
    if T is not None and (isinstance(T, bool) or not isinstance(T, Integral) or T < 1):
        raise ValueError(f"expected T, the number of time steps, as an integer from 1, got {T!r}")
    T = None if T is None else int(T)  # NumPy's integers are no int
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"expected layout to be one of {', '.join(LAYOUTS)}, got {layout!r}")
    drive = Drive("as is", sample_axis=sample_axis(layout, forward), forward=forward)
    if (n := drive.samples(probes.batch)) < N_NEEDED:
        raise ValueError(f"samples are told from steps by probes on {N_NEEDED} samples, got a batch of {n}")
    neurons, single = any(map(is_neuron, probes.model.modules())), is_single_step(probes.model)
    if forward is None and layout in ("TNCHW", "NTCHW"):
        return _of_frames(probes, T, layout, single)
    failed = steps_are_samples(probes, drive)
    if not failed:
        steps = probes.steps(drive, T)
        if not (single and steps == 1 and forward is None):
            return replace(drive, T=_own(probes, drive, T, steps))
    if forward is not None or T is None:
        fault = run_fault(probes, drive)
        if fault and (forward is not None or not neurons or fault.error is None):
            raise ValueError(f"with forward=, {fault.words}" if forward is not None else fault.words)
    if forward is not None:
        raise ValueError(f"forward= does not give the network time steps and samples apart: {failed}")
    if not neurons and probes.keeps_time:  # what it is to be given in each step is not known
        raise ValueError(f"{failed}: say how it is given its input over time, forward=lambda net, batch: ...")
    if T is None:
        raise ValueError(
            f"{failed or 'the network makes no time steps of its own'}: pass T=, how often the input is to be shown"
        )
    return _shown(probes, T, failed)


def _own(probes: Probes, drive: Drive, T: int | None, steps: int | None) -> int | None:
    """The number of steps that a network makes of a batch as it is; None where it shows none.

    Raises:
        ValueError: it is another than asked for.
    """
    timed = probes.keeps_time
    if T is None or steps == T or (steps is None and (timed or T == 1)):
        return steps if timed else steps or T
    if steps is None:
        return T if looped(probes.trace(drive, N_PROBE[0]), T, probes.model) else None
    if timed and drive.forward is not None and steps % T == 0:
        return T  # the caller says so: its neurons are used several times in a step
    uses = (
        f". If it makes none but uses a neuron {steps} times in a step, run it yourself: T={T}, "
        f"forward=lambda net, batch: [net(batch) for _ in range({T})]"
    )
    raise ValueError(
        f"the network makes {steps} time steps of its own, T = {T} was asked for: pass T={steps}, or none"
        + (uses if timed else "")
    )


def _shown(probes: Probes, T: int, failed: str) -> Drive:
    """The way to show a batch T times: in one call, where it cannot be given as it is, else in T calls."""
    drive = Drive("repeat" if failed else "loop", T)
    try:
        probes.trace(drive, N_PROBE[0])
    except Exception as error:  # told in full: the network's own words are the reason
        shape = f"N, {', '.join(map(str, probes.batch.shape[1:]))}"
        raise ValueError(
            f"the network cannot be run. On [{shape}]: {failed or 'it made one step only'}. On [T, {shape}]: {error}. "
            "Set all its layers to one step mode (functional.set_step_mode), or say how to run it: "
            "forward=lambda net, batch: ..."
        ) from error
    return drive


def _of_frames(probes: Probes, T: int | None, layout: Layout, single: bool) -> Drive:
    """How a network takes frames `[T, N, ...]`."""
    batch, given = probes.batch, probes.batch.shape[0]
    if T is not None and T != given:
        raise ValueError(
            f"expected frames [T, N, ...] with T = {T}, got a batch of shape {tuple(batch.shape)} ({layout})"
        )
    whole = Drive("frames", given, sample_axis=1)
    turned, loop = replace(whole, mode="turned frames"), replace(whole, mode="frame loop")
    timed = probes.keeps_time
    raised = steps_are_samples(probes, whole)
    failed = raised or _mixed(probes, whole)
    if single and not failed and own_steps(probes.model, probes.trace(whole, 2)) == given:
        return whole
    if not failed and not single:
        return loop if not timed and not steps_are_samples(probes, loop) and _takes_a_step(probes, whole) else whole
    # samples first, if so the samples are no steps; a network without time is given one frame after the other instead
    clear = not steps_are_samples(probes, turned) and not _mixed(probes, turned)
    if clear and own_steps(probes.model, probes.trace(turned, 2)) in (given, None) and (timed or failed):
        if layout == "NTCHW":
            return turned
        raise ValueError(
            f"the network cannot be given frames as [T, N, ...], which layout={layout!r} says of {tuple(batch.shape)}: "
            f'{failed}; it can as [N, T, ...]. If that is what the loader gives, pass layout="NTCHW"; {_OWN_LAYOUT}'
        )
    if failed and timed and not single:
        raise ValueError(
            f"the network cannot be given {given} frames, neither as [T, N, ...] ({failed}) nor as [N, T, ...] "
            f"({steps_are_samples(probes, turned) or 'it makes another number of steps'}); {_OWN_LAYOUT}"
        )
    return loop if raised or timed else whole


def _takes_a_step(probes: Probes, whole: Drive) -> bool:
    """Whether a network that keeps a state from call to call takes all frames as one batch of its next step.

    So a network that is a user's own takes them where its layers are Linear, which do not count axes (snnTorch's).
    """
    run, _ = probes.twice(whole)
    if not carries(run):
        return False
    turned, _ = Probes(probes.model, probes.batch.flip(0), probes.select).twice(whole)
    pairs = [(a, b) for name in run.outputs for a, b in zip(run.outputs[name], turned.outputs[name], strict=False)]
    pairs = [(a, b) for a, b in pairs if isinstance(a, Tensor) and a.ndim > 1 and len(a) == whole.T]
    return bool(pairs) and all(isinstance(b, Tensor) and distance(a, b.flip(0)) <= SAME for a, b in pairs)


def expect_at_rest(probes: Probes, drive: Drive) -> None:
    """Raises where a network still holds a state of an earlier batch, in which one of the same size would begin.

    Raises:
        ValueError: with the module's name.
    """
    count = drive.samples(probes.batch)
    if not any(count in shape for shape in held_states(probes.model).values()):
        return
    run, left = probes.twice(drive)
    if left and carries(run):
        raise ValueError(
            f"{left[0]}, a state from a batch before: set it back first, or give the module a reset() without "
            "arguments, which is called before every batch"
        )


def steps_are_samples(probes: Probes, drive: Drive) -> str:
    """Why a batch cannot be given as it is: the network raises, or a module takes samples for steps; '' if it can."""
    both = tried(probes.both, drive)
    return f"{type(both).__name__}: {both}" if isinstance(both, Exception) else taken_for_steps(probes.model, *both)


class RunFault(NamedTuple):
    """Why a network cannot be run on a few samples, in words, and what it raises on the whole batch, if it does."""

    error: Exception | None
    words: str


def run_fault(probes: Probes, drive: Drive) -> RunFault | None:
    """What is wrong with running a network on a few samples of a batch; None where it runs."""
    for n in N_PROBE:
        if isinstance(few := tried(probes.trace, drive, n), Exception):
            break
    else:
        return None
    with torch.no_grad(), own_run():
        whole = tried(from_rest, probes.model, lambda: drive.run(probes.model, probes.batch))
    if isinstance(whole, Exception):
        hints = (
            f" ({held} of shape {shape}: if that is a state from a batch before, set it back first, or give the module "
            "a reset() without arguments)"
            for held, shape in held_states(probes.model).items()
        )
        words = f"it does not run on the batch: {type(whole).__name__}: {whole}{next(hints, '')}"
        return RunFault(whole, words)
    words = (
        f"it runs on its batch of {drive.samples(probes.batch)}, but not on {n} of its samples, with which steps and "
        f"samples are found out ({type(few).__name__}: {few}): let it take any number of samples"
    )
    return RunFault(None, words)


def takes_time_first(probes: Probes, samples_first: Drive, time_first: Drive) -> bool:
    """Whether samples of a call are taken for steps if they are thought first, and are none if they are second."""
    if steps_are_samples(probes, samples_first):
        return True
    if not _mixed(probes, samples_first) or time_first.samples(probes.batch) < N_NEEDED:
        return False
    return not steps_are_samples(probes, time_first) and not _mixed(probes, time_first)


def _mixed(probes: Probes, drive: Drive) -> str:
    """Which module lets samples see each other, in words; '' for none. Where nothing keeps time, this tells frames."""
    if probes.keeps_time:
        return ""
    two, three = probes.both(drive)
    last = [run.outputs[""][-1] for run in (two, three)]
    if all(isinstance(x, Tensor) for x in last) and last[0].shape == last[1].shape:
        return "what the network puts out has no axis of samples"
    name = None if two.drew else _seen_mixed(probes, drive, two.outputs)[0]
    return "" if name is None else f"module {name!r} gives a sample other values beside other samples"


def _seen_mixed(probes: Probes, drive: Drive, names: Iterable[str]) -> tuple[str | None, float]:
    """The first module that gives a sample other values beside other samples, and on what noise; 0 for none.

    Neurons that are silent over three samples, as over the first three steps, are looked at on loud noise.
    """
    two, three = probes.both(drive)
    name = not_back(two, three, three, names)
    if name is not None or not _silent(probes.model, two):
        return name, 0
    loud = tried(probes.both, drive, noise=_LOUD)
    return (None, 0) if isinstance(loud, Exception) else (not_back(*loud, loud[1], names), _LOUD)


def _silent(model: nn.Module, run: Trace) -> bool:
    """Whether a module of a user's own puts out nothing but zeros in all calls."""
    return any(
        all(not x.any() for call in run.outputs[name] for x in islice(tensors_in(call), 1) if not x.is_nested)
        for name, module in named(model).items()
        if name in run.outputs and computes_by_own_code(module)
    )


def expect_samples_apart(probes: Probes, drive: Drive, names: Iterable[str], suspect: str | None = None) -> None:
    """Raises where a run of a network takes its samples for time steps, or begins where the run before ended.

    Samples that see each other without an order among them (batch statistics) are none of this, and of a network that
    draws random numbers it cannot be told.

    Args:
        probes, drive: its runs.
        names: modules whose outputs are looked at.
        suspect: a module that is known to put out other values for the same samples.

    Raises:
        ValueError: with the module's name.
    """
    failed = steps_are_samples(probes, drive)
    if failed:
        raise ValueError(f"{failed}: {_hint(drive)}")
    if probes.both(drive)[0].drew:
        return
    names = list(names)
    name, noise = (suspect, 0.0) if suspect else _seen_mixed(probes, drive, names)
    if name is not None and not suspect:
        two, three = probes.both(drive, noise=noise)
        name = not_back(two, probes.swapped(drive, noise=noise), three, names)
    if name is None:
        return
    if (kept := changed(probes.trace(drive, N_PROBE[0]), probes.run(drive, TWO))) is not None:
        raise ValueError(
            f"module {kept!r} ({type(named(probes.model)[kept]).__name__}) puts out other values for the same "
            "samples in a second run: it keeps a state from one batch to the next. Give it a reset() without "
            "arguments, which is called before every batch"
        )
    raise ValueError(
        f"module {name!r} gives a sample other values where another stands before it in the batch: the network takes "
        f"the samples for time steps. {_hint(drive)}"
    )


def _hint(drive: Drive) -> str:
    if drive.mode == "as is" and drive.forward is None:
        return (
            'if the loader gives frames, say in which layout, layout="NTCHW" for [N, T, ...] or "TNCHW" for '
            f"[T, N, ...]; {_OWN_LAYOUT}"
        )
    return _OWN_LAYOUT
