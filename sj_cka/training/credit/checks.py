"""Whether a learning rule goes with a network, and if not, why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from sj_cka.models.normalisation import StepBatchNorm1d, StepBatchNorm2d
from sj_cka.neurons.nodes import detach_states
from sj_cka.recording import kept, preserved, reset_states
from sj_cka.recording.state import is_multi_step
from sj_cka.training.credit.layers import has_own_forward
from sj_cka.training.credit.traces import decays
from sj_cka.training.credit.wiring import Wiring, without_noise

if TYPE_CHECKING:
    from sj_cka.training.credit.rule import Rule


def check_fits(rule: Rule, network: nn.Module, wiring: Wiring, T: int | None) -> None:
    """Raises ValueError where a rule would compute something else on a network than it says.

    Args:
        rule: the rule.
        network: to be trained, or looked at in evaluation mode.
        wiring: of the network.
        T: steps; None where the rule does not run step by step.
    """
    if rule.space != "backprop" or rule.traced:
        _check_layers(rule, wiring)
    if T is not None:
        _check_steps(rule, network, wiring, T)
    if rule.space == "feedback_alignment" or rule.traced:
        _check_forward(rule, wiring)
    if rule.direct:
        _check_blocks(rule, wiring)
    if rule.traced:
        _check_traced(rule, wiring)
    if rule.time == "eligibility_trace":
        _check_synapses(wiring)


def _check_layers(rule: Rule, wiring: Wiring) -> None:
    if wiring.others:
        raise ValueError(
            f"expected weights of linear layers and convolutions, which {_named(rule)} can tell from other "
            f"computations; got {wiring.others[0]!r}"
        )


def _check_forward(rule: Rule, wiring: Wiring) -> None:
    if own := [name for name, module in wiring.layers.items() if has_own_forward(module)]:
        raise ValueError(
            f"expected layers that compute W x + b of their weight for {_named(rule)}, which puts another weight or "
            f"input in place: {own[0]!r} is a {type(wiring.layers[own[0]]).__name__} with a forward of its own"
        )


def _check_steps(rule: Rule, network: nn.Module, wiring: Wiring, T: int) -> None:
    if not wiring.spiking:
        raise ValueError(
            f"expected a spiking network for the time rule {rule.time!r}, got one without spiking neurons, which has "
            "no past to know of"
        )
    if T < 2:
        raise ValueError(
            f"expected at least two steps for the time rule {rule.time!r}, got T = {T}: with one step it is the same "
            "as bptt"
        )
    norms = {name: network.get_submodule(name) for name in wiring.norms}
    merged = [name for name, norm in norms.items() if norm.training and not isinstance(norm, _OF_A_STEP)]
    if merged:
        raise ValueError(
            f"expected batch normalisation of each step, or none (model: norm: step, or none), for the time rule "
            f"{rule.time!r}: the statistics of {merged[0]!r} are over all steps, which cannot be had step by step"
        )
    if wiring.spiking_logits:
        raise ValueError(
            f"expected logits of a layer of weights, without a state, for the time rule {rule.time!r}: they come from "
            f"the neurons {wiring.spiking_logits[0]!r}"
        )
    for layer, reached in wiring.held:
        if reached == "the logits":
            raise ValueError(
                f"expected logits of a layer of weights, without a state, for the time rule {rule.time!r}: what "
                f"{layer!r} puts out reaches those of later steps (a filter, or another readout with a state)"
            )
    for name in wiring.neurons:
        if wiring.calls[name] > 1:
            raise ValueError(
                f"expected neurons that run once a step for the time rule {rule.time!r}: {name!r} runs "
                f"{wiring.calls[name]:g} times, and its state would go on otherwise than in a run of all steps"
            )


def _check_blocks(rule: Rule, wiring: Wiring) -> None:
    if wiring.spiking_logits or not wiring.classifier:
        got = f"neurons {wiring.spiking_logits[0]!r}" if wiring.spiking_logits else "no layer"
        raise ValueError(f"expected logits of a layer of weights for {_named(rule)}, they come from {got}")
    if not wiring.neurons:
        raise ValueError(f"expected neurons, or activations, that {_named(rule)} can give errors to; found none")
    if wiring.past:
        first, second = wiring.past[0]
        raise ValueError(
            f"expected blocks one behind the other for {_named(rule)}: the output of {first!r} reaches {second!r} past "
            "its layers (a shortcut)"
        )
    for name in wiring.neurons:
        if not wiring.has_rows(name):
            raise ValueError(
                f"expected neurons that run once for every row of the logits for {_named(rule)}, so that each has the "
                f"error of its own step and sample: logits are {[*wiring.rows, 'classes']}, {name!r} runs "
                f"{wiring.calls[name]:g} times on {list(wiring.shapes[name])}; take the mean over time in the loss, "
                "not in the network, and neurons of their own for every layer"
            )
    for layer, sources in wiring.from_.items():
        if rule.time in ("bptt", "truncated") and 0 < len({*sources} & {*wiring.into[layer]}) < len({*sources}):
            raise ValueError(
                f"expected recurrent weights apart from those from below for {_named(rule)}, which goes through the "
                f"first and not the second: {layer!r} takes the spikes of {' and '.join(map(repr, sources))}"
            )
    _check_one_block(rule, wiring)


def _check_one_block(rule: Rule, wiring: Wiring) -> None:
    for layer, neurons in wiring.into.items():
        if len(neurons) > 1 or (neurons and layer in wiring.classifier):
            others = [*map(repr, neurons), *(["the logits"] if layer in wiring.classifier else [])]
            raise ValueError(
                f"expected layers that feed neurons each of one place for {_named(rule)}: {layer!r} feeds "
                f"{' and '.join(others[:2])} (a shortcut)"
            )


def _check_traced(rule: Rule, wiring: Wiring) -> None:
    _check_one_block(rule, wiring)
    for name, calls in wiring.calls.items():
        if calls > 1:
            raise ValueError(
                f"expected layers and neurons that run once a step for the time rule {rule.time!r}: {name!r} runs "
                f"{calls:g} times"
            )
    if wiring.held:
        layer, reached = wiring.held[0]
        raise ValueError(
            f"expected no state but that of neurons for the time rule {rule.time!r}, whose traces follow these alone: "
            f"what {layer!r} puts out reaches {reached!r} at later steps, too (a filter or a delay)"
        )
    for name, module in wiring.neurons.items():
        if rule.time == "presynaptic_trace" and decays(module) is None:
            raise ValueError(
                f"expected neurons whose trace is known for the time rule 'presynaptic_trace' (LIF, IF, and LIF with a "
                f"synaptic current): {name!r} is a {type(module).__name__}; an eligibility_trace follows any neuron"
            )


def _check_synapses(wiring: Wiring) -> None:
    if wiring.norms:
        raise ValueError(
            f"expected no batch normalisation for the time rule 'eligibility_trace' (model: norm: none): "
            f"{wiring.norms[0]!r} makes what a synapse left in a neuron depend on other samples"
        )
    for name, module in wiring.layers.items():
        if name in wiring.behind:
            raise ValueError(
                f"expected layers right before their neurons for the time rule 'eligibility_trace': between "
                f"{name!r} and its neurons stands another layer"
            )
        if any(wiring.shapes[name] != wiring.shapes[neurons] for neurons in wiring.into[name]):
            raise ValueError(
                f"expected a neuron for every output of a layer for the time rule 'eligibility_trace': {name!r} puts "
                f"out {tuple(wiring.shapes[name])}, its neurons are given {tuple(wiring.shapes[wiring.into[name][0]])}"
            )
        if isinstance(module, nn.Conv1d | nn.Conv3d) or (isinstance(module, nn.Conv2d) and module.groups > 1):
            raise ValueError(
                f"expected linear layers and two-dimensional convolutions of one group for the time rule "
                f"'eligibility_trace', {name!r} is a {type(module).__name__}"
            )


def _named(rule: Rule) -> str:
    return f"the learning rule {rule.space} x {rule.time}"


_OF_A_STEP = (StepBatchNorm1d, StepBatchNorm2d)


def check_sums(network: nn.Module, wiring: Wiring, run: Callable[[], Tensor]) -> None:
    """Raises ValueError where the input of neurons is not the sum of what their layers put out, in the mode at hand.

    Args:
        network: left as it was.
        wiring: of it; every layer and all neurons run once.
        run: runs a step of it.
    """
    outputs: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}

    def of_layer(name: str, module: nn.Module, args: Any, out: Tensor) -> None:
        outputs[name] = out.clone()

    def of_neurons(name: str, module: nn.Module, args: Any, out: Tensor) -> None:
        given[name] = args[0]

    with preserved(network), torch.no_grad(), ExitStack() as hooks:
        for modules, hook in ((wiring.layers, of_layer), (wiring.neurons, of_neurons)):
            for name, module in modules.items():
                hooks.callback(module.register_forward_hook(functools.partial(hook, name)).remove)
        reset_states(network)
        run()
    for name, layers in wiring.blocks.items():
        if not layers:  # nothing learns there
            continue
        total: Tensor = torch.stack([outputs[layer] for layer in layers]).sum(0)
        if not torch.allclose(given[name], total, rtol=1e-4, atol=1e-6):
            raise ValueError(
                f"expected neurons right behind their layers for the time rule 'eligibility_trace': the input of "
                f"{name!r} is not the sum of what {' and '.join(map(repr, layers))} put out (a dropout, a norm, "
                "or another function between)"
            )


def check_ends(network: nn.Module, step: Tensor) -> None:
    """Raises ValueError where errors go on to the step before, because its states lie where no rule can cut them off.

    Args:
        network: left as it was.
        step: what it is given, `[1, N, ...]`.
    """
    with kept(network), without_noise(network), torch.enable_grad():
        reset_states(network)
        first = step.detach().clone().requires_grad_()
        network(first)
        for module in network.modules():
            if isinstance(module, base.MemoryModule):
                detach_states(module)
        [reached] = torch.autograd.grad(network(step).sum(), [first], allow_unused=True)
    if reached is not None:
        raise ValueError(
            "expected states that SpikingJelly knows of for a rule that runs step by step: errors go on to the step "
            "before; make what remembers it a MemoryModule, and its state one by register_memory"
        )


def check_goes_on(name: str, module: nn.Module, x: Tensor) -> None:
    """Raises ValueError where neurons that take all steps in a call do not go on from step to step when given each."""
    if not is_multi_step(module) or decays(module) is not None:  # of known kinds it is known that they do
        return
    drawn = 2 * torch.randn((8, *x.shape[1:]), generator=torch.Generator().manual_seed(0))
    x_seq = drawn.to(x)
    with kept(module), torch.no_grad():
        reset_states(module)
        at_once = module(x_seq)
        reset_states(module)
        by_step = torch.cat([module(step) for step in x_seq.split(1)])
    if not torch.allclose(at_once, by_step):
        raise ValueError(
            f"expected neurons that go on from step to step for a rule that runs step by step: those of {name!r} "
            f"({type(module).__name__}) spike otherwise when they are given one step at a time"
        )


def check_own(name: str, module: nn.Module, x: Tensor) -> None:
    """Raises ValueError where neurons of one layer act on each other, so that no synapse can follow its own alone."""
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    with kept(module), torch.enable_grad():
        reset_states(module)
        given = (x.detach() + drawn).requires_grad_()
        out = module(given) + module(given)  # what acts by the states shows in the second step
        [each] = torch.autograd.grad(out.sum(), [given], retain_graph=True)
        [weighted] = torch.autograd.grad((drawn * out).sum(), [given])
    if not torch.allclose(weighted, drawn * each, rtol=1e-4, atol=1e-6):
        raise ValueError(
            f"expected neurons that act each on itself alone for the time rule 'eligibility_trace': those of {name!r} "
            f"({type(module).__name__}) act on each other"
        )
