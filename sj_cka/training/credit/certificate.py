"""What a learning rule computes on a network: beside BPTT, and against its definition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import Tensor, nn

from sj_cka.training.credit.alignment import (
    Updates,
    beside_bptt,
    by_module,
    check_alive,
    check_learning,
    check_steps,
    in_float64,
    per_step,
    updates,
)
from sj_cka.training.credit.definition import by_definition
from sj_cka.training.credit.rule import Rule
from sj_cka.training.credit.traces import decays
from sj_cka.training.credit.wiring import Wiring
from sj_cka.training.learning_rules import LearningRule, function_of, rule_of

EXACT = 1e-9  # relative difference of gradients in float64 that rounding alone may make
OTHER = 1e-6  # relative difference from which on two rules are two


@dataclass(frozen=True)
class Certificate:
    """What a learning rule computed on one batch, in float64.

    Args:
        rule: what it says that it is.
        whole, by_step: that rule's updates beside BPTT's, see `Alignment`.
        deviation: layer -> relative difference of the update from the rule's definition.
        identities: layer -> relative difference from BPTT, where theory says that there is none.
        controls: what this rule is not, another rule or the same with a fault -> largest relative difference of a
            layer's update from the definition of that.
        classifier: layers whose output are the logits.
        not_local: batch normalisation, which takes what other samples are.
        faults: why the certificate does not hold; empty where it does.
    """

    rule: Rule
    whole: pd.DataFrame
    by_step: pd.DataFrame
    deviation: Mapping[str, float]
    identities: Mapping[str, float]
    controls: Mapping[str, float]
    classifier: tuple[str, ...]
    not_local: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the rule computes what it says."""
        return not self.faults

    def __str__(self) -> str:
        lines = [f"{'layer':28} {'cosine':>8} {'norm / BPTT':>12} {'off its definition':>19}"]
        for layer, cosine, ratio in self.whole.itertuples(index=False, name=None):
            note = "  equals BPTT, as it must" if self.identities.get(layer, math.inf) < EXACT else ""
            lines.append(f"{layer:28} {cosine:8.4f} {ratio:12.3f} {self.deviation[layer]:19.1e}{note}")
        lines += [f"not {name}: differs from it by {value:.2g}" for name, value in self.controls.items()]
        lines.append(f"classifies: {', '.join(self.classifier)}")
        if self.not_local:
            lines.append(f"not local, whatever the rule: {', '.join(self.not_local)} (batch normalisation)")
        lines.append("the certificate holds" if self.holds else f"the certificate FAILS: {'; '.join(self.faults)}")
        return "\n".join(lines)


def certify(
    rule: str | Mapping[str, Any] | Rule | LearningRule,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    definition: str | Mapping[str, Any] | Rule | None = None,
) -> Certificate:
    """Checks what a learning rule computes on a batch, in float64 and in evaluation mode, with a loss of every step.

    Its updates are compared with BPTT's, step by step, and with its definition, a slow second implementation that
    shares no way back with it (`sj_cka.training.credit.definition`). Layers whose update must be BPTT's are held to it.
    As a control, the definitions of other rules and of the same with a fault in its trace have to come out as
    different.

    Args:
        rule: a name of LEARNING_RULES, a mapping with `name` and options, a `Rule`, or a function like those of the
            table.
        network: as a training takes it; left as it was.
        x: samples as the network takes them: images `[N, ...]` of one that shows them T times, or steps `[T, N, ...]`.
        y: labels `[N]`.
        definition: what a function is to be, given as `rule` is; None: what `rule` says of itself.

    Returns:
        A certificate; print it.

    Raises:
        ValueError: as of `alignment`; neurons that are silent, or a layer that BPTT gives no gradient, where every rule
            would pass.
    """
    function, made = function_of(rule), rule_of(rule if definition is None else definition)
    with in_float64(network, x, y) as (twin, steps, y):
        wiring = made.wiring(twin, steps)
        check_steps(twin, steps, y)
        check_alive(twin, wiring, steps)
        found, back = updates(function, twin, steps, y), updates(Rule(), twin, steps, y)
        check_learning(back)
        beside = beside_bptt(made, twin, steps, y)

        def off_definition(of: Rule, fade: float = 1.0) -> dict[str, float]:
            defined = by_definition(of, twin, steps, y, per_step, wiring=wiring, fade=fade)
            return off(found, by_module(defined, twin))

        deviation = off_definition(made)
        as_bptt = as_by_bptt(made, wiring, len(steps))
        identities = {layer: value for layer, value in off(found, back).items() if layer in as_bptt}
        others = {name: (other, 1.0) for name, other in another(made, len(steps)).items()} | faulty(made, wiring)
        controls = {name: max(off_definition(*other).values()) for name, other in others.items()}
    faults = [f"{layer} is {value:.1e} off its definition" for layer, value in deviation.items() if not value < EXACT]
    faults += [
        f"{layer} is {value:.1e} off BPTT, which it must equal"
        for layer, value in identities.items()
        if not value < EXACT
    ]
    faults += [f"it is the same as {name}, which it is not to be" for name, value in controls.items() if value < OTHER]
    norms, classifier = tuple(wiring.norms), tuple(wiring.classifier)
    return Certificate(made, *beside[:2], deviation, identities, controls, classifier, norms, tuple(faults))


def off(found: Updates, other: Updates) -> dict[str, float]:
    """Layer -> how far its update is off another, over the norm of that; infinite where that is 0 and it is not."""
    distances = {layer: (float((found[layer] - other[layer]).norm()), float(other[layer].norm())) for layer in other}
    return {
        layer: (distance / norm if norm else (math.inf if distance else 0.0))
        for layer, (distance, norm) in distances.items()
    }


def as_by_bptt(rule: Rule, wiring: Wiring, T: int) -> set[str]:
    """The layers whose update is BPTT's, whatever the weights, given a loss of every step.

    The layers that the logits come from are in all rules. So are, where errors come to them as in backpropagation, the
    layers of the last neurons: with traces that follow the neuron, if no spikes come back to it through other weights;
    an eligibility trace always follows, a presynaptic one if the reset is soft and detached.
    """
    if rule.space == "backprop" and (rule.time == "bptt" or (rule.k or 0) >= T):
        return {*wiring.layers, *wiring.norms}
    last = [
        name
        for name in wiring.neurons
        if all(
            layer in wiring.classifier or wiring.is_recurrent(layer)
            for layer, sources in wiring.from_.items()
            if name in sources
        )
    ]
    exact = set(wiring.classifier)
    if rule.space == "backprop" or rule.feedback == "symmetric":
        for name in last:
            exact |= set(wiring.blocks[name]) if _follows(rule, wiring, name, T) else set()
    return exact


def _follows(rule: Rule, wiring: Wiring, name: str, T: int) -> bool:
    """Whether a rule follows neurons through time as they are."""
    if rule.time == "bptt" or (rule.k or 0) >= T:
        return True
    if any(wiring.is_recurrent(layer) for layer in wiring.blocks[name]):
        return False
    soft = _is_soft(wiring.neurons[name])
    return rule.time == "eligibility_trace" or (rule.time == "presynaptic_trace" and soft)


def another(rule: Rule, T: int) -> dict[str, Rule]:
    """Rules that differ from one in space, or in time, on every network with neurons that remember."""
    whole = rule.time in ("none", "truncated") and (rule.k or 1) < T
    in_time = replace(rule, time="bptt" if whole else "none", k=None)
    if rule.space == "backprop":
        in_space = replace(rule, space="feedback_alignment")
    elif rule.feedback == "symmetric":
        in_space = replace(rule, feedback="random")
    else:
        in_space = replace(rule, seed=rule.seed + 1)
    what = {"symmetric": "random feedback"}.get(rule.feedback, "other random matrices")
    return {
        f"{in_time.time} in time": in_time,
        "feedback_alignment" if rule.space == "backprop" else what: in_space,
    }


def faulty(rule: Rule, wiring: Wiring) -> dict[str, tuple[Rule, float]]:
    """The same rule with a fault in its trace, where that shows: name -> the rule that it then is, and its `fade`."""
    if rule.time == "presynaptic_trace":
        return {"a trace that loses a tenth more a step": (rule, 0.9)}
    neurons = wiring.neurons.values()
    resets = any(not _is_soft(module) for module in neurons) and all(decays(module) is not None for module in neurons)
    if rule.time == "eligibility_trace" and resets:
        return {"a trace that knows no reset": (replace(rule, time="presynaptic_trace"), 1.0)}
    return {}


def _is_soft(neurons: Any) -> bool:
    """Whether the reset has no part in what neurons remember of their input: it is soft and detached."""
    return getattr(neurons, "v_reset", 0.0) is None and bool(getattr(neurons, "detach_reset", False))
