"""The plan of an observation: the layers, where samples and steps lie in each, and how the network is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from spikingjelly.activation_based import base
from torch import nn

from sj_cka.recording.axes import find_taps
from sj_cka.recording.calls import Loops
from sj_cka.recording.drive import Drive, Forward, Layout
from sj_cka.recording.folds import NotBack, Probed
from sj_cka.recording.layers import Choice, LayerSpec, choose
from sj_cka.recording.probes import Probes, tried
from sj_cka.recording.select import Select, check_matches
from sj_cka.recording.state import is_multi_step, is_neuron, keeps_time, preserved
from sj_cka.recording.tap import Tap
from sj_cka.recording.trace import Trace
from sj_cka.recording.ways import expect_at_rest, expect_samples_apart, find_drive
from sj_cka.recording.wrappers import as_written, check_network, named


@dataclass(frozen=True)
class ObservationPlan:
    """How one network is observed.

    Args:
        taps: one for each layer, in order.
        drive: how the network is run on a batch.
        T: number of steps; 1 for a network without time, of which the drive has none.
        notes: what was decided on thin evidence, a sentence each.
    """

    taps: tuple[Tap, ...]
    drive: Drive
    T: int
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in order."""
        return tuple(tap.layer for tap in self.taps)


def plan_observation(
    model: nn.Module,
    batch: Any,
    *,
    layers: LayerSpec = None,
    T: int | None = None,
    layout: Layout | None = None,
    forward: Forward | None = None,
    select: Select = None,
) -> ObservationPlan:
    """Plans the observation of a network from a few samples of a batch; the network is left as it was.

    Args:
        model: any network.
        batch: what the network is to be given, at least 3 samples.
        layers, T, layout, forward: as in `compare`. Where no layers are asked for, a module whose output
            cannot be one is left out with a note.
        select: for modules that put out several tensors, which of them is the layer's: `{module: what}` with a dotted
            name or glob and an index into a tuple, a key of a dict, a name of an attribute, or a function of the
            output; or one function `(module, output) -> tensor` for all.

    Raises:
        ValueError: layers that are not there or never called, outputs without samples, a T that does not fit, samples
            taken for steps, state kept from batch to batch, or a `select` that names no layer or nothing in its output.
        TypeError: an output, or what `select` picks of it, that is no tensor.
    """
    check_network(model)
    with as_written(), preserved(model):
        probes = Probes(model, batch, select)
        drive = find_drive(probes, T, layout, forward)
        expect_at_rest(probes, drive)
        return planned(probes, drive, layers)


def planned(probes: Probes, drive: Drive, layers: LayerSpec) -> ObservationPlan:
    """The plan of a network that is known how to run; its state is not preserved."""
    probes.keep(drive)
    model = probes.model
    modules = named(model)
    steps = drive.T if drive.T is not None else probes.steps(drive)
    drive, T = replace(drive, T=steps), steps or 1
    probed = probes.probed(drive, steps)
    if probed.longer is not None and not _scales(probed.two, probed.longer):
        probed = probed._replace(longer=None)
        if not any(map(keeps_time, model.modules())):  # whatever it is given, nothing in it has steps
            T = 1

    @cache
    def noise() -> Probed | None:
        found = tried(probes.probed, drive, steps, noise=True)
        if isinstance(found, Exception):
            return None
        return found if probed.longer is not None else found._replace(longer=None)

    position = {call: i for i, call in enumerate(probed.two.order)}
    groups = choose(model, layers, probed.two)
    group_of = {choice: i for i, group in enumerate(groups) for choice in group}
    names = list(dict.fromkeys(choice.module for choice in group_of))
    uses = {
        name: sorted(use for module, use in group_of if module == name and use is not None)
        for name in names
        if Choice(name) not in group_of
    }
    check_matches(probes.select, names if layers is not None else probed.two.called)
    expect_samples_apart(probes, drive, names)
    refused: dict[str, Exception] = {}
    try:
        found = find_taps(
            names,
            probed,
            T,
            noise,
            uses,
            loops=_loops(modules, probed.two),
            swapped=lambda: None if probed.two.drew else probes.swapped(drive),
            refused=refused if layers is None else None,
        )
    except NotBack as error:
        raise ValueError(_random_fold(probes, drive, error)) from error
    refused |= {
        name: ValueError(_random_fold(probes, drive, why)) for name, why in refused.items() if isinstance(why, NotBack)
    }
    if not found:
        raise next(iter(refused.values()))
    taps = [replace(tap, select=probes.picks.get(tap.module), neuron=is_neuron(modules[tap.module])) for tap in found]

    def place(tap: Tap) -> tuple[int, int]:
        asked = [group_of[c] for c in (Choice(tap.module, tap.use), Choice(tap.module)) if c in group_of]
        return min(asked), position[tap.module, tap.use]

    taps.sort(key=place)
    notes = _left_out(refused)
    if probed.longer is None and T > 1:
        notes += _by_size(modules, taps, T) + _by_number(taps, T)
    return ObservationPlan(tuple(taps), drive, T, notes)


def _loops(modules: dict[str, nn.Module], seen: Trace) -> Loops:
    """What runs once a step: the network where it is called so, its single-step neurons, and containers over time."""
    neurons = [name for name in seen.inputs if not is_multi_step(modules[name])]
    containers = [name for name in seen.outputs if isinstance(modules[name], base.MultiStepModule)]
    return Loops(["", *neurons], containers)


def _random_fold(probes: Probes, drive: Drive, error: NotBack) -> str:
    """Why the order of a fold was not found; raises where it is the network's fault and not the module's."""
    expect_samples_apart(probes, drive, (), suspect=error.module)
    return (
        f"module {error.module!r} folds samples into another axis, and draws random numbers, so that the same samples "
        "do not come back and the order of the fold cannot be found; choose layers= without it"
    )


def _left_out(refused: Mapping[str, Exception]) -> tuple[str, ...]:
    """Names the modules that were left out of the default layers, and why."""
    return tuple(
        f"left out of the layers, which were not named: {error}".removesuffix("; choose layers= without it")
        for error in refused.values()
    )


def _by_number(taps: Sequence[Tap], T: int) -> tuple[str, ...]:
    """Names the layers whose calls were told to be steps by their number alone."""
    doubtful = list(dict.fromkeys(tap.module for tap in taps if tap.by_number))
    if not doubtful:
        return ()
    return (
        f"the network's number of steps could not be varied, so that the calls of {_listed(doubtful)} are taken for "
        f"T = {T} steps by their number alone",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _by_size(modules: dict[str, nn.Module], taps: Sequence[Tap], T: int) -> tuple[str, ...]:
    """Names the layers whose axis of time was told by its size alone: nothing in or around them knows of time."""
    doubtful = []
    for tap in taps:
        if tap.time != "axis":
            continue
        holders = [modules[tap.module[:i]] for i, letter in enumerate(tap.module) if letter == "."]
        if any(map(is_multi_step, holders)):
            continue
        if not any(is_neuron(m) or is_multi_step(m) for m in modules[tap.module].modules()):
            doubtful.append(tap.layer)
    if not doubtful:
        return ()
    return (
        f"the network's number of steps could not be varied, so that {_listed(doubtful)} "
        f"{'is' if len(doubtful) == 1 else 'are'} taken to hold T = {T} steps by the size of an axis alone",
    )


def _scales(two: Trace, longer: Trace) -> bool:
    """Whether anything at all changed with one step more."""
    for name, outputs in two.outputs.items():
        others = longer.outputs.get(name, [])
        if len(outputs) != len(others):
            return True
        if any(getattr(a, "shape", None) != getattr(b, "shape", None) for a, b in zip(outputs, others, strict=True)):
            return True
    return False
