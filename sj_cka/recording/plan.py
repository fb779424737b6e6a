"""The plan of an observation: the layers, where samples and steps lie in each, and how the network is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import nn

from sj_cka.recording.axes import find_taps
from sj_cka.recording.drive import Drive, Forward, Layout
from sj_cka.recording.folds import Probed
from sj_cka.recording.layers import Choice, LayerSpec, choose
from sj_cka.recording.probes import Probes, find_drive, own_steps
from sj_cka.recording.select import Select, check_matches
from sj_cka.recording.snapshot import StateError
from sj_cka.recording.state import is_multi_step, is_neuron, preserved
from sj_cka.recording.tap import Tap
from sj_cka.recording.trace import Trace
from sj_cka.recording.wrappers import as_written, check_network, named


@dataclass(frozen=True)
class Plan:
    """How one network is observed.

    Args:
        taps: one for each layer, in order.
        drive: how the network is run on a batch.
        T: number of steps; 1 for a network without time.
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


def plan(
    model: nn.Module,
    batch: Any,
    *,
    layers: LayerSpec = None,
    T: int | None = None,
    layout: Layout | None = None,
    forward: Forward | None = None,
    select: Select = None,
) -> Plan:
    """Plans the observation of a network from a few samples of a batch; the network is left as it was.

    Args:
        model: any network.
        batch: what the network is to be given, at least 3 samples.
        layers, T, layout, forward: as in `compare`.
        select: for modules that put out several tensors, which of them is the layer's: `{module: what}` with a dotted
            name or glob and an index into a tuple, a key of a dict, a name of an attribute, or a function of the
            output; or one function `(module, output) -> tensor` for all.

    Raises:
        ValueError: layers that are not there or never called, outputs without samples, a T that does not fit, or a
            `select` that names no layer or nothing in its output.
        TypeError: an output, or what `select` picks of it, that is no tensor.
    """
    check_network(model)
    with as_written(), preserved(model):
        probes = Probes(model, batch, select)
        return planned(probes, find_drive(probes, T, layout, forward), layers)


def planned(probes: Probes, drive: Drive, layers: LayerSpec) -> Plan:
    """The plan of a network that is known how to run; its state is not preserved."""
    probes.keep(drive)
    model = probes.model
    modules = named(model)
    steps = drive.T if drive.T is not None else own_steps(model, probes.trace(drive, 2))
    probed, T = probes.probed(drive, steps), steps or 1
    if probed.longer is not None and not _scales(probed.two, probed.longer):
        if any(map(is_neuron, modules.values())):
            probed = probed._replace(longer=None)
        else:
            T = 1

    @cache
    def noise() -> Probed | None:
        try:
            found = probes.probed(drive, steps, noise=True)
        except StateError:
            raise
        except Exception:  # whatever a network says to noise
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
    taps = [
        replace(tap, select=probes.picks.get(tap.module), neuron=is_neuron(modules[tap.module]))
        for tap in find_taps(names, probed, T, noise, uses)
    ]

    def place(tap: Tap) -> tuple[int, int]:
        asked = [group_of[c] for c in (Choice(tap.module, tap.use), Choice(tap.module)) if c in group_of]
        return min(asked), position[tap.module, tap.use]

    taps.sort(key=place)
    return Plan(tuple(taps), drive, T, () if probed.longer is not None or T == 1 else _by_size(modules, taps, T))


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
    named = ", ".join(map(repr, doubtful[:3])) + (f" and {len(doubtful) - 3} more" if len(doubtful) > 3 else "")
    return (
        f"the network's number of steps could not be varied, so that {named} "
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
