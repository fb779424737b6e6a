"""The plan of an observation: the layers, where samples and steps lie in each, and how the network is run."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sj_cka.recording.axes import N_PROBE, Tap, find_taps
from sj_cka.recording.drive import Drive, Forward, Layout, find_drive, own_steps, steps_set
from sj_cka.recording.layers import LayerSpec, choose
from sj_cka.recording.state import is_neuron, preserved
from sj_cka.recording.trace import Trace, trace


@dataclass(frozen=True)
class Plan:
    """How one network is observed.

    Args:
        taps: one for each layer, in order.
        drive: how the network is run on a batch.
        T: number of steps; 1 for a network without time.
    """

    taps: tuple[Tap, ...]
    drive: Drive
    T: int

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
    drive: Drive | None = None,
) -> Plan:
    """Plans the observation of a network from a few samples of a batch; the network is left as it was.

    Args:
        model: any network.
        batch: what the network is to be given, at least 3 samples.
        layers, T, layout, forward: as in `compare`.
        drive: how the network is run, where that is known already.

    Raises:
        ValueError: layers that are not there or never called, outputs without samples, or a T that does not fit.
    """
    with preserved(model):
        drive = drive or find_drive(model, batch, T, layout, forward)
        two, three = (_probe(model, drive, batch, n) for n in N_PROBE)
        steps = drive.T if drive.T is not None else own_steps(model, two)
        longer = _longer(model, drive, batch, steps)
        if longer is not None and not _scales(two, longer):
            longer, steps = (None, steps) if any(map(is_neuron, model.modules())) else (longer, 1)
        position = {call: i for i, call in enumerate(two.order)}
        groups = choose(model, layers, two)
        taps = find_taps([name for group in groups for name in group], two, three, longer, steps or 1)
        group_of = {name: i for i, group in enumerate(groups) for name in group}
        taps.sort(key=lambda tap: (group_of[tap.module], position[tap.module, tap.use]))
    return Plan(tuple(taps), drive, steps or 1)


def _probe(model: nn.Module, drive: Drive, batch: Any, n: int, T: int | None = None) -> Trace:
    return trace(model, lambda: drive.run(model, drive.take(batch, n), T))


def _longer(model: nn.Module, drive: Drive, batch: Any, T: int | None) -> Trace | None:
    """The probe on one step more, None where the number of steps cannot be varied."""
    if T is None:
        return None
    own = drive.mode == "as is"
    with steps_set(model, T, T + 1) if own else nullcontext(True) as varied:
        if not varied:
            return None
        try:
            longer = _probe(model, drive, batch, N_PROBE[0], T + 1)
        except Exception:  # T is a size of the weights (PSN), or an attribute T means something else: not to be varied
            return None
    varied = not own or own_steps(model, longer) == T + 1
    return longer if varied and _neurons_follow(model, longer) else None


def _neurons_follow(model: nn.Module, seen: Trace) -> bool:
    """Whether every multi-step neuron put out as many steps as it was given; one bound to its T (GatedLIF) does not."""
    modules = dict(model.named_modules())
    return all(
        given[0] == len(output)
        for name, shapes in seen.inputs.items()
        if getattr(modules[name], "step_mode", "s") == "m"
        for given, output in zip(shapes, seen.outputs[name], strict=True)
        if isinstance(output, Tensor)
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
