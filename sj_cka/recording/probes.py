"""Runs of a network on a few samples, and what they say about how it is to be run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import gcd
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sj_cka.recording.drive import LAYOUTS, N_NEEDED, Drive, Forward, Layout, sample_axis
from sj_cka.recording.folds import N_PROBE, Probed
from sj_cka.recording.own_runs import own_run
from sj_cka.recording.select import Select, picks, select_without_wrappers
from sj_cka.recording.snapshot import StateError
from sj_cka.recording.state import from_rest, is_multi_step, is_neuron, outside_neurons
from sj_cka.recording.trace import Trace, trace
from sj_cka.recording.wrappers import named


class Probes:
    """Runs of a network on a few samples of one batch, each made once and kept.

    Args:
        model: the network.
        batch: what it is to be given.
        select: as in `plan`.
    """

    def __init__(self, model: nn.Module, batch: Any, select: Select = None) -> None:
        self.model, self.batch, self.select = model, batch, select_without_wrappers(model, select)
        self.picks = picks(self.select, outside_neurons(model))
        self._kept: dict[tuple[Any, ...], Trace] = {}

    def trace(self, drive: Drive, n: int, T: int | None = None, *, noise: bool = False) -> Trace:
        """One run on n samples, or noise in their place, and T steps (the drive's or the network's own if None)."""
        key = (drive.mode, drive.sample_axis, n, T if T is not None or drive.mode == "as is" else drive.T, noise)
        if key not in self._kept:
            some = drive.take(self.batch, n, noise=noise)
            self._kept[key] = trace(self.model, lambda: drive.run(self.model, some, T), self.picks)
        return self._kept[key]

    def keep(self, drive: Drive) -> None:
        """Lets go of the runs on any other drive."""
        kept = self._kept.items()
        self._kept = {key: seen for key, seen in kept if key[:2] == (drive.mode, drive.sample_axis)}

    def probed(self, drive: Drive, T: int | None, *, noise: bool = False) -> Probed:
        """All three probes of a network of T steps (None where it has no time)."""
        two, three = (self.trace(drive, n, noise=noise) for n in N_PROBE)
        return Probed(two, three, None if T is None else self._longer(drive, T, noise))

    def _longer(self, drive: Drive, T: int, noise: bool) -> Trace | None:
        """The probe on one step more, None where the number of steps cannot be varied."""
        own = drive.mode == "as is"
        with steps_set(self.model, T, T + 1) if own else nullcontext(True) as varied:
            if not varied:
                return None
            try:
                longer = self.trace(drive, N_PROBE[0], T + 1, noise=noise)
            except StateError:
                raise
            except Exception:  # T is a size of the weights (PSN), or an attribute T means something else
                return None
        varied = not own or own_steps(self.model, longer) == T + 1
        return longer if varied and _neurons_follow(self.model, longer) else None


def find_drive(probes: Probes, T: int | None, layout: Layout | None, forward: Forward | None) -> Drive:
    """How a network is to be run on batches like this one, found by running it on two and three samples.

    The batch is given as it is. If that raises, or if a neuron takes the samples for steps, the batch is shown T times;
    single-step neurons that were called once are called T times; otherwise the network makes its own steps. Frames are
    given whole, or one after the other to a network of single-step neurons, or without any, that cannot take them so.

    Raises:
        ValueError: T is missing where it is needed, or differs from the network's own number.
    """
    if T is not None and (isinstance(T, bool) or not isinstance(T, Integral) or T < 1):
        raise ValueError(f"expected T, the number of time steps, as an integer from 1, got {T!r}")
    T = None if T is None else int(T)  # NumPy's integers are no int
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"expected layout to be one of {', '.join(LAYOUTS)}, got {layout!r}")
    model, batch = probes.model, probes.batch
    frames = layout in ("TNCHW", "NTCHW")
    drive = Drive("as is", sample_axis=sample_axis(layout, forward), forward=forward)
    if (n := drive.samples(batch)) < N_NEEDED:
        raise ValueError(f"samples are told from steps by probes on {N_NEEDED} samples, got a batch of {n}")
    neurons = [module for module in model.modules() if is_neuron(module)]
    single = bool(neurons) and not any(map(is_multi_step, neurons))
    if forward is None and frames:
        given = batch.shape[0]
        if T is not None and T != given:
            raise ValueError(
                f"expected frames [T, N, ...] with T = {T}, got a batch of shape {tuple(batch.shape)} ({layout})"
            )
        whole = Drive("frames", given, sample_axis=1)
        if neurons and not single:
            return whole
        # single-step networks, and those without neurons that cannot take all frames at once, see one after the other
        failed = steps_are_samples(probes, whole)
        loops = failed or (single and own_steps(model, probes.trace(whole, 2)) != given)
        return replace(whole, mode="frame loop") if loops else whole
    if not (failed := steps_are_samples(probes, drive)):
        own = own_steps(model, probes.trace(drive, 2))
        if not neurons:
            return replace(drive, T=own) if T in (None, own) else drive
        if not (single and own == 1 and forward is None):
            if forward is not None and T is not None and own is not None and own % T == 0:
                own = T  # the caller says so: its neurons are used several times in a step
            if T is not None and own is not None and T != own:
                raise ValueError(
                    f"the network makes {own} time steps of its own, T = {T} was asked for: pass T={own}, or none. "
                    f"If it makes none but uses a neuron {own} times in a step, run it yourself: T={T}, "
                    f"forward=lambda net, batch: [net(batch) for _ in range({T})]"
                )
            return replace(drive, T=own)
    if forward is not None or T is None:
        fault = fault_of(probes, drive)
        if fault and (forward is not None or not neurons or fault.error is None):
            raise ValueError(f"with forward=, {fault.words}" if forward is not None else fault.words)
    if forward is not None:
        raise ValueError(f"forward= does not give the network time steps and samples apart: {failed}")
    if T is None:
        raise ValueError(
            f"{failed or 'the network makes no time steps of its own'}: pass T=, how often the input is to be shown"
        )
    repeated = Drive("repeat" if failed else "loop", T)
    try:
        probes.trace(repeated, 2)
    except Exception as error:  # told in full: the network's own words are the reason
        shape = f"N, {', '.join(map(str, batch.shape[1:]))}"
        raise ValueError(
            f"the network cannot be run. On [{shape}]: {failed or 'it made one step only'}. On [T, {shape}]: {error}. "
            "Set all its layers to one step mode (functional.set_step_mode), or say how to run it: "
            "forward=lambda net, batch: ..."
        ) from error
    return repeated


def steps_are_samples(probes: Probes, drive: Drive) -> str:
    """Why a batch cannot be given as it is: the network raises, or a neuron takes samples for steps; '' if it can."""
    try:
        two, three = (probes.trace(drive, n) for n in N_PROBE)
    except StateError:
        raise
    except Exception as error:  # whatever a network says to input without a time axis
        return f"{type(error).__name__}: {error}"
    modules = named(probes.model)
    for name, shapes in two.inputs.items():
        others = three.inputs.get(name, [])
        if len(shapes) * 3 == len(others) * 2:
            return f"neuron {name!r} is called once for each sample"
        multi = is_multi_step(modules[name])
        if multi and others and shapes[0][0] * 3 == others[0][0] * 2:
            return f"multi-step neuron {name!r} takes the samples for time steps"
    return ""


class Fault(NamedTuple):
    """Why a network cannot be run on a few samples, in words, and what it raises on the whole batch, if it does."""

    error: Exception | None
    words: str


def fault_of(probes: Probes, drive: Drive) -> Fault | None:
    """What is wrong with running a network on a few samples of a batch; None where it runs."""
    for n in N_PROBE:
        try:
            probes.trace(drive, n)
        except StateError:
            raise
        except Exception as error:  # its own words are the reason
            few, said = n, f"{type(error).__name__}: {error}"
            break
    else:
        return None
    try:
        with torch.no_grad(), own_run():
            from_rest(probes.model, lambda: drive.run(probes.model, probes.batch))
    except StateError:
        raise
    except Exception as error:
        return Fault(error, f"it does not run on the batch: {type(error).__name__}: {error}")
    words = (
        f"it runs on its batch of {drive.samples(probes.batch)}, but not on {few} of its samples, with which steps and "
        f"samples are found out ({said}): let it take any number of samples"
    )
    return Fault(None, words)


def own_steps(model: nn.Module, seen: Trace) -> int | None:
    """Number of time steps that a run has: the neurons' time axis, or their number of calls, or those of the network.

    A network without neurons has none, unless it was itself called several times.
    """
    modules = named(model)
    multi = [shapes[0][0] for name, shapes in seen.inputs.items() if is_multi_step(modules[name])]
    if multi:
        return max(multi)
    single = {name: len(shapes) for name, shapes in seen.inputs.items()}
    if not single:
        calls = len(seen.outputs.get("", []))
        return calls if calls > 1 else None
    return _turns(seen, min(single, key=lambda name: single[name]))


def _turns(seen: Trace, name: str) -> int:
    """Turns of the loop that calls a module: its calls, or fewer where what lies between them is called less often.

    A neuron used twice in one step, with a layer in between, makes no steps.
    """
    at = [i for i, (called, _) in enumerate(seen.order) if called == name]
    others = [len(seen.outputs[called]) for called, _ in seen.order[at[0] : at[-1]]]
    return gcd(len(at), *(calls for calls in others if len(at) % calls == 0))


@contextmanager
def steps_set(model: nn.Module, old: int, new: int) -> Iterator[bool]:
    """Sets every attribute `T` of a network that equals `old` to `new` while it lasts; yields whether there was one."""
    modules = [m for m in model.modules() if type(m.__dict__.get("T")) is int and m.__dict__["T"] == old]
    try:
        for module in modules:
            module.__dict__["T"] = new
        yield bool(modules)
    finally:
        for module in modules:
            module.__dict__["T"] = old


def _neurons_follow(model: nn.Module, seen: Trace) -> bool:
    """Whether every multi-step neuron put out as many steps as it was given; one bound to its T (GatedLIF) does not."""
    modules = named(model)
    return all(
        given[0] == len(output)
        for name, shapes in seen.inputs.items()
        if is_multi_step(modules[name])
        for given, output in zip(shapes, seen.outputs[name], strict=True)
        if isinstance(output, Tensor)
    )
