"""The plan of an observation: the layers, where samples and steps lie in each, and how the network is run."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from spikingjelly.activation_based import base
from torch import nn

from sj_cka.recording.axes import find_taps
from sj_cka.recording.calls import Loops
from sj_cka.recording.drive import Drive, Forward, Layout
from sj_cka.recording.layers import ChosenUse, LayerSpec, Select, check_matches, choose
from sj_cka.recording.probes import Probes, tried
from sj_cka.recording.state import is_multi_step, is_neuron, preserved
from sj_cka.recording.tap import Probed, Tap
from sj_cka.recording.trace import Trace
from sj_cka.recording.ways import expect_at_rest, expect_samples_apart, find_drive
from sj_cka.recording.wrappers import as_written, check_network, listed, named


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
    drive = replace(drive, T=probes.steps(drive) if drive.T is None else drive.T)
    probed, T = probes.probed(drive, drive.T), drive.T or 1
    if probed.longer is not None and all(
        probed.two.shapes(name) == probed.longer.shapes(name) for name in probed.two.outputs
    ):
        probed = probed._replace(longer=None)
        if not probes.keeps_time:  # whatever it is given, nothing in it has steps
            T = 1
    places = choose(probes.model, layers, probed.two)
    names = list(dict.fromkeys(choice.module for choice in places))
    check_matches(probes.select, names if layers is not None else probed.two.called)
    expect_samples_apart(probes, drive, names)
    taps, refused = _taps(probes, drive, probed, T, places, leave_out=layers is None)
    if not taps:
        raise next(iter(refused.values()))
    position = {call: i for i, call in enumerate(probed.two.order)}

    def place(tap: Tap) -> tuple[int, int]:
        asked = [places[c] for c in (ChosenUse(tap.module, tap.use), ChosenUse(tap.module)) if c in places]
        return min(asked), position[tap.module, tap.use]

    taps.sort(key=place)
    notes = [f"left out of the layers, which were not named: {error}" for error in refused.values()]
    notes = [note.removesuffix("; choose layers= without it") for note in notes]
    if probed.longer is None and T > 1:
        notes += _doubts(named(probes.model), taps, T)
    return ObservationPlan(tuple(taps), drive, T, tuple(notes))


def _taps(
    probes: Probes, drive: Drive, probed: Probed, T: int, choices: Collection[ChosenUse], *, leave_out: bool
) -> tuple[list[Tap], dict[str, Exception]]:
    """The taps of what was chosen, and the errors of the modules that are no layers, if they are left out."""

    @cache
    def noise(longer: bool) -> Probed | None:
        noisy = tried(probes.probed, drive, drive.T if longer and probed.longer is not None else None, noise=True)
        return None if isinstance(noisy, Exception) else noisy

    modules, refused = named(probes.model), dict[str, Exception]()
    uses: dict[str, list[int] | None] = {}
    for name in (choice.module for choice in choices):
        some = sorted(use for module, use in choices if module == name and use is not None)
        uses[name] = None if ChosenUse(name) in choices else some
    taps = find_taps(
        uses,
        probed,
        T,
        noise,
        loops=_loops(modules, probed.two),
        swapped=lambda: None if probed.two.drew else probes.swapped(drive),
        not_back=partial(_random_fold, probes, drive),
        refused=refused if leave_out else None,
    )
    known = ((tap, probes.picks.get(tap.module), is_neuron(modules[tap.module])) for tap in taps)
    return [replace(tap, select=pick, neuron=neuron) for tap, pick, neuron in known], refused


def _loops(modules: dict[str, nn.Module], trace: Trace) -> Loops:
    """What runs once a step: the network where it is called so, its single-step neurons, and containers over time."""
    single = [name for name in trace.inputs if not is_multi_step(modules[name])]
    return Loops(["", *single], [name for name in trace.outputs if isinstance(modules[name], base.MultiStepModule)])


def _random_fold(probes: Probes, drive: Drive, module: str) -> ValueError:
    """Why the order of a fold was not found; raises where it is the network's fault and not the module's."""
    expect_samples_apart(probes, drive, (), suspect=module)
    return ValueError(
        f"module {module!r} folds samples into another axis, and draws random numbers, so that the same samples "
        "do not come back and the order of the fold cannot be found; choose layers= without it"
    )


def _doubts(modules: dict[str, nn.Module], taps: Sequence[Tap], T: int) -> Iterator[str]:
    """Names the layers of which the steps were told on thin evidence, as their number could not be varied.

    That is by the size of an axis where nothing in or around the layer knows of time, or by the number of calls alone.
    """

    def knows_time(tap: Tap) -> bool:
        holders = [modules[tap.module[:i]] for i, letter in enumerate(tap.module) if letter == "."]
        inside = [*modules[tap.module].modules()]
        return any(map(is_multi_step, (*holders, *inside))) or any(map(is_neuron, inside))

    by_size = [tap.layer for tap in taps if tap.time == "axis" and not knows_time(tap)]
    by_number = list(dict.fromkeys(tap.module for tap in taps if tap.by_number))
    why = "the network's number of steps could not be varied, so that "
    if by_size:
        verb = "is" if len(by_size) == 1 else "are"
        yield f"{why}{listed(by_size)} {verb} taken to hold T = {T} steps by the size of an axis alone"
    if by_number:
        yield f"{why}the calls of {listed(by_number)} are taken for T = {T} steps by their number alone"
