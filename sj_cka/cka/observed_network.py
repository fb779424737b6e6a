"""A network with the plan of its observation, which gives centred Grams of every batch."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from sj_cka.cka.arguments import by_side
from sj_cka.cka.layer_grams import Allocate, Grams
from sj_cka.cka.minibatches import Minibatch
from sj_cka.cka.observables import OF_NEURONS, Observer, Spatial, empty_grams
from sj_cka.cka.permutations import STEPS
from sj_cka.recording import (
    Observation,
    ObservationPlan,
    StateError,
    What,
    at_rest,
    named,
    own_run,
    patterns_of,
    plan_observation,
    select_for,
    to_evaluation,
    unwrapped,
    without_wrappers,
)

_OF_STEPS = {"rate": 'observe="rate"', STEPS: 'permutations={"steps": 1}'}  # observables of networks with time


@dataclass
class ObservedNetwork:
    """A network with the plan of its observation.

    Args:
        side: "x" or "y".
        model, plan, device: the network, how it is observed, where it runs.
        observables: what is observed, permuted steps of the output among it; the first is the main one.
        spatial: how maps become features.
    """

    side: str
    model: nn.Module
    plan: ObservationPlan
    device: torch.device
    observables: Sequence[str]
    spatial: Spatial

    def __post_init__(self) -> None:
        neurons = tuple(tap for tap in self.plan.taps if tap.neuron)
        # without neurons there are no potentials and no spikes: then the activation stands for them
        self.source = {name: name if neurons or name not in OF_NEURONS else "output" for name in self.observables}
        self.taps = {name: neurons if name in OF_NEURONS else self.plan.taps for name in self.source.values()}

    def grams(self, batch: Any, seed: int, allocate: Allocate | None) -> dict[str, Grams]:
        """Centred Grams of every layer and step on one batch, for each observable.

        Args:
            batch: what the network is given, on its device.
            seed: of the batch, for the orders of permuted steps.
            allocate: makes the space for the Grams; None for the device's memory.
        """
        n, T = self.plan.drive.samples(batch), self.plan.T
        grams = {name: empty_grams(taps, name, n, T, self.device, allocate) for name, taps in self.taps.items()}
        cuda = self.device.type == "cuda"
        drawn = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if cuda else None
        self._run(batch, grams, seed)
        again = set().union(*(centred.waiting.marked() for centred in grams.values()))
        if again:
            torch.set_rng_state(drawn[0])  # what the network draws, it draws again
            if drawn[1] is not None:
                torch.cuda.set_rng_state(drawn[1], self.device)
            self._run(batch, grams, seed, again)
        assert all(all(centred.filled) for centred in grams.values()), "a layer was observed at some of its steps only"
        return {name: grams[source] for name, source in self.source.items()}

    def _run(self, batch: Any, grams: Mapping[str, Grams], seed: int, only: set[str] | None = None) -> None:
        plan, n = self.plan, self.plan.drive.samples(batch)
        orders = torch.Generator().manual_seed(2 * seed + (self.side == "y"))  # both sides draw their own
        if only is not None:  # and layers that are taken again no orders that others have
            orders.manual_seed(int(torch.randint(2**62, (), generator=orders)))
        observer = Observer(plan, grams, self.spatial, orders, only)
        what: tuple[What, ...] = ("output", "membrane") if "membrane" in self.taps else ("output",)
        layers = {tap.layer for taps in self.taps.values() for tap in taps} if only is None else only
        taps = tuple(tap for tap in plan.taps if tap.layer in layers)
        with own_run():
            observation = Observation(self.model, plan, n, observer.receive, observe=what, taps=taps)
            try:
                to_evaluation(self.model)
                with torch.no_grad(), at_rest(self.model):
                    plan.drive.run(self.model, batch)
            finally:
                observation.close()
        observation.check()


class View(NamedTuple):
    """A network and what is wanted of it."""

    model: nn.Module
    layers: Any
    T: int | None
    select: Any


def views_of(models: Mapping[str, nn.Module], layers: Any, T: Any, select: Any, *, one_loader: bool) -> dict[str, View]:
    """Side -> what is wanted of its network; x alone where one pass serves both sides.

    Args:
        models: by side.
        layers, T, select: as of `compare`.
        one_loader: both sides are shown the same.
    """
    wanted, steps = by_side("layers", layers), by_side("T", T)
    if not isinstance(layers, Mapping):
        wanted = dict.fromkeys(wanted, patterns_of(layers))  # once: they may come from an iterator
    views = {
        side: View(model, patterns_of(wanted[side]), steps[side], select_for(model, select))
        for side, model in models.items()
    }
    for pattern in select if isinstance(select, Mapping) else ():
        if not any(without_wrappers(view.model, str(pattern)) in view.select for view in views.values()):
            raise ValueError(f"select: {pattern!r} matches no module of {' or '.join(models)}")
    same = one_loader and not isinstance(layers, Mapping) and steps["x"] == steps["y"]
    return {"x": views["x"]} if same and models["x"] is models.get("y") else views


def observed_networks(
    views: Mapping[str, View],
    batch: Minibatch,
    observables: Sequence[str],
    spatial: Spatial,
    device: torch.device | str | None,
) -> dict[str, ObservedNetwork]:
    """Side -> its network with the plan of its observation, found by runs on a few samples of a batch.

    Raises:
        ValueError: it cannot be observed; the message names it.
    """
    networks = {}
    for side, view in views.items():
        name, on = f"network {side} ({name_of(view.model)})", _device(side, view.model, device)
        options = {"layout": batch.layout, "forward": batch.forward, "select": view.select}
        try:
            observed = plan_observation(view.model, batch.inputs(side, on), layers=view.layers, T=view.T, **options)
        except StateError as error:
            raise StateError(f"{name}: {error}") from error
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"{name}: {error}") from error
        if view.layers is None:
            observed = _without_complex(observed)
        for note in observed.notes:
            warnings.warn(f"{name}: {note}", stacklevel=3)
        networks[side] = ObservedNetwork(side, view.model, observed, on, observables, spatial)
    return networks


def name_of(model: nn.Module) -> str:
    """What results and messages call a network: its class."""
    return type(unwrapped(model)).__name__


def expect_steps(networks: Mapping[str, ObservedNetwork], T: Any, observables: Sequence[str]) -> None:
    """Raises ValueError where time is asked for of networks that show no time steps.

    One T is for whichever network makes steps, one of a mapping for its own side.
    """
    none = {side: network for side, network in networks.items() if network.plan.drive.T is None}
    each = T if isinstance(T, Mapping) else {}
    asked = [] if T is None or each else [f"T = {T}"]
    asked += [words for name, words in _OF_STEPS.items() if name in observables]
    for side, network in none.items():
        of_side = [f"T = {each[side]}"] if each.get(side) is not None else []
        if of_side or (asked and len(none) == len(networks)):
            raise ValueError(
                f"network {side} ({name_of(network.model)}) shows no time steps, which "
                f"{' and '.join(of_side or asked)} {'need' if len(of_side or asked) > 1 else 'needs'}: no integer "
                "attribute of it sets how often its modules are called or how long an axis of their outputs is. Let it "
                "read its number of steps from one (self.T), and pass that as T=; or, if the loader gives frames, say "
                'how, layout="NTCHW" or "TNCHW"; or call it once a step, '
                "forward=lambda net, batch: [net(x) for x in ...]"
            )


def _without_complex(observed: ObservationPlan) -> ObservationPlan:
    """A plan without the layers of complex numbers, which nobody asked for; unless there are no others."""
    real = tuple(tap for tap in observed.taps if tap.real)
    if not real or len(real) == len(observed.taps):
        return observed
    left_out = ", ".join(repr(tap.layer) for tap in observed.taps if not tap.real)
    note = f"layers of complex numbers are left out: {left_out}; select= can take their modulus, or real and imaginary"
    return replace(observed, taps=real, notes=(*observed.notes, f"{note} parts"))


def expect_evaluation(side: str, model: nn.Module) -> None:
    """Raises ValueError where any module of a network is in training mode."""
    modules = named(model)
    name = next((name for name, module in modules.items() if module.training), None)
    if name is not None:
        where = f"module {name!r} ({type(modules[name]).__name__}) of network {side}" if name else ""
        raise ValueError(
            f"{where or f'network {side}'} is in training mode: batch normalisation would use, and change, the "
            f"statistics of each batch. Call {side}.eval() first, or pass allow_train=True to run it in evaluation mode"
        )


def _device(side: str, network: nn.Module, wish: torch.device | str | None) -> torch.device:
    """Where a network runs: where its parameters are."""
    there = {p.device for p in network.parameters()}
    if len(there) > 1:
        raise ValueError(
            f"network {side} has parameters on several devices ({', '.join(sorted(map(str, there)))}): move it to one"
        )
    if wish is None:
        return next(iter(there), torch.device("cpu"))
    on = torch.device(wish)
    if there and next(iter(there)).type != on.type:
        raise ValueError(
            f"network {side} is on {next(iter(there))}, device={str(wish)!r} was asked for: move it there first, "
            f"{side}.to({str(wish)!r})"
        )
    return on
