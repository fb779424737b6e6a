"""From what the layers of a network put out on one minibatch to centred Grams, for each observable."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sj_cka.cka.gram import as_real
from sj_cka.cka.layer_grams import Allocate, Grams, flat, units_in
from sj_cka.cka.permutations import STEPS, permuted_steps
from sj_cka.cka.products import launch_bound
from sj_cka.recording import ObservationPlan, Tap

Observable = Literal["output", "membrane", "rate", "latency"]
OBSERVABLES: tuple[Observable, ...] = ("output", "membrane", "rate", "latency")
OF_NEURONS = ("membrane", "latency")  # other layers have none
Spatial = Literal["flatten", "mean"]


def steps_of(tap: Tap, T: int, observable: str) -> int:
    """Number of steps of an observable of a layer."""
    return T if tap.time != "static" and observable not in ("rate", "latency") else 1


def empty_grams(
    taps: Sequence[Tap], observable: str, n: int, T: int, device: torch.device, allocate: Allocate | None = None
) -> Grams:
    """Grams of an observable of some layers, to be filled."""
    steps = {tap.layer: steps_of(tap, T, observable) for tap in taps}
    return Grams(steps, 1 if observable in ("rate", "latency") else T, n, device, allocate)


def held_bytes(taps: Sequence[Tap], T: int, n: int, observable: str) -> int:
    """Bytes of features that wait for their last step where layers are called once a step."""
    # all steps; their sum; the latency, and whether a unit was silent so far
    each = {STEPS: 4 * T, "rate": 4, "latency": 5}.get(observable, 0)
    return sum(each * n * tap.width for tap in taps if tap.time == "calls")


def over_samples(X: Tensor) -> Tensor:
    """Sums `[S, D]` over the samples of `[S, n, D]`; on a CPU a product with ones takes half the time of `sum`."""
    if launch_bound(X.device):
        return X.sum(1, dtype=torch.float32)
    with torch.autocast(X.device.type, enabled=False):  # it would count in bfloat16
        return (X.new_ones(1, X.shape[1]) @ X).squeeze(1).float()


class Observer:
    """Receives what the hooks of a pass give, makes the observables of it and fills in their Grams.

    Args:
        plan: of the network.
        grams: observable -> its Grams. Their taps decide of which layers it is taken.
        spatial: "mean" averages maps over space.
        generator: of the orders of permuted steps.
        only: layers to take (again), None for all.
    """

    def __init__(
        self,
        plan: ObservationPlan,
        grams: Mapping[str, Grams],
        spatial: Spatial,
        generator: torch.Generator,
        only: Collection[str] | None = None,
    ) -> None:
        self.T, self.grams, self.spatial, self.generator, self.only = plan.T, grams, spatial, generator, only
        self.held: dict[tuple[str, str], Any] = {}  # what waits for the last step, by observable and layer

    def receive(self, tap: Tap, step: int, rows: Tensor, what: str) -> None:
        """Takes `[S, n, ...]` of one call of a layer, its first step and whether it is output or membrane."""
        again = self.only is not None
        if self.only is not None and tap.layer not in self.only:
            return
        try:
            X = as_real(rows.detach())  # sums over steps and space would be rounded in half precision
        except TypeError as error:
            raise TypeError(f"layer {tap.layer!r}: {error}; or choose layers= without it") from error
        if self.spatial == "mean" and tap.maps:
            X = X.flatten(3).mean(3)
        units, X = units_in(X), flat(X)
        grams = {name: centred for name, centred in self.grams.items() if tap.layer in centred.first}
        if what == "membrane":
            grams["membrane"].put(tap.layer, step, X, units=units, again=again)
            return
        unchanging = tap.time == "static" or self._steady(grams, tap, X)
        step, steps = (0, len(X)) if unchanging else (step, self.T)
        if tap.neuron and not again and grams:
            # of all the one that knows single steps, if there is one
            centred = grams.get("output") or max(grams.values(), key=lambda centred: centred.index.shape[1])
            centred.count(tap.layer, step, over_samples(X), self.T if tap.time == "calls" else len(X))
        for name, centred in grams.items():
            if name == "membrane":
                continue  # is received by itself
            if unchanging and name != "latency":  # taken once: its rate is its output, all its orders are one
                # the orders of permuted steps stand for no single units
                own = None if name == STEPS else units
                centred.put(tap.layer, 0, X[:1], units=own, spikes=tap.neuron, again=again)
                centred.repeat(tap.layer, 1 if name == "rate" else len(X))
            elif name == "output":
                centred.put(tap.layer, step, X, units=units, spikes=tap.neuron, again=again)
            else:
                held = self._held(name, tap, X)
                if step + len(X) < steps:
                    self.held[name, tap.layer] = held
                    continue
                features = self._over_steps(name, held)
                centred.put(tap.layer, 0, features, spikes=name == STEPS and tap.neuron, again=again)
                if name == "rate":
                    centred.scale(tap.layer, self.T**-2)

    def _steady(self, grams: Mapping[str, Grams], tap: Tap, X: Tensor) -> bool:
        """Whether all steps of this output are the same; looked at only where they were in the probe.

        A device that would have to be waited for is believed to repeat the probe, and asked after the pass.
        """
        if not tap.steady or len(X) != self.T:
            return False
        if self.only is not None or not launch_bound(X.device):
            return all(torch.equal(x, X[0]) for x in X[1:])
        for centred in list(grams.values())[:1]:
            centred.waiting.mark(tap.layer, (X[1:] != X[:1]).any().view(1))
        return True

    def _held(self, name: str, tap: Tap, X: Tensor) -> Any:
        """What an observable keeps of the steps so far."""
        before = self.held.pop((name, tap.layer), None)
        if name == "rate":
            total = X.sum(0)  # counts of spikes stay integers; the Gram is divided by T^2 instead
            return total if before is None else before + total
        if name == STEPS:  # an order cannot be permuted before its last step is known
            return [*(before or ()), X.clone() if tap.time == "calls" else X]
        zeros = torch.zeros_like(X[0], dtype=torch.float32)
        latency, silent = before or (zeros, zeros == 0)
        for x in X:
            silent = silent & (x <= 0)
            latency += silent
        return latency, silent

    def _over_steps(self, name: str, held: Any) -> Tensor:
        """Features `[S, n, D]` of an observable, of what it kept of all steps."""
        if name == STEPS:
            return permuted_steps(torch.cat(held) if held[1:] else held[0], self.generator)
        return (held if name == "rate" else held[0]).unsqueeze(0)
