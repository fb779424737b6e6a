"""Learning rules written down once more, slowly: every call of a layer or of neurons is a node, errors go by nodes.

Nothing here is shared with the way that a training takes, but the random matrices: no gradient is replaced, no trace
carried along. What came of an input, and when, is looked up in one graph of a run in which nothing is detached; a rule
is a choice of the pairs of steps and nodes between which errors go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sj_cka.recording import kept, reset_states
from sj_cka.recording.state import outside_neurons
from sj_cka.training.credit.feedback import from_logits, in_place_of_weight, local_readout, transposed_paths
from sj_cka.training.credit.wiring import Wiring, without_noise

if TYPE_CHECKING:
    from sj_cka.training.credit.rule import Rule

Loss = Callable[[Tensor, Tensor], Tensor]
_NEVER = 1e12  # a threshold that no potential reaches


@dataclass(eq=False)
class _Node:
    """A call of a module.

    Args:
        name: of the module.
        t: step.
        x: what it was given, a function of leaves of other nodes.
        out: what it put out.
        leaf: what stands for that in all that follows.
        error: what has come back to the leaf so far.
        late: what has come back to it from later steps and goes no further.
        own: of neurons, the parameters that this call used: copies, so that each step has its own.
    """

    name: str
    t: int
    x: Tensor
    out: Tensor
    leaf: Tensor
    error: Tensor | None = None
    late: Tensor | None = None
    own: dict[str, nn.Parameter] = field(default_factory=dict)


def by_definition(
    rule: Rule,
    network: nn.Module,
    steps: Tensor,
    y: Tensor,
    loss: Loss,
    only: int | None = None,
    wiring: Wiring | None = None,
    fade: float = 1.0,
) -> dict[str, Tensor]:
    """The gradients that a rule leaves, in evaluation mode, from rest.

    Args:
        rule: goes with the network.
        network: left as it was.
        steps: `[T, N, ...]`.
        y: labels `[N]`.
        loss: the mean over a batch of the loss of logits `[1, N, classes]`.
        only: take the loss of this step, from 0, divided by T, in place of the mean over all.
        fade: what is left of a presynaptic trace in a step, over what should be: other than 1 for a wrong one.
        wiring: of the network; None to find it, and to check that the rule goes with it.

    Returns:
        Name of a parameter -> gradient; zeros where nothing comes to it.

    Raises:
        ValueError: the rule does not go with the network, or a parameter is used outside the call of its module.
    """
    wiring = wiring or rule.wiring(network, steps)
    with kept(network), without_noise(network), torch.enable_grad():
        reset_states(network)
        nodes, logits = _run(network, wiring, steps)
        T = len(steps)
        used = range(T) if only is None else [only]
        losses: Tensor = torch.stack([loss(logits[t], y) / T for t in used]).sum()
        errors = torch.autograd.grad(losses, logits, retain_graph=True, allow_unused=True)
        _pull(nodes, losses, torch.ones_like(losses), lambda node: True)
        symmetric = None
        if rule.feedback == "symmetric":
            symmetric = transposed_paths(network, wiring.neurons, lambda: network(steps[:1, :1]))
        for node in reversed(nodes):
            if node.name in wiring.neurons:
                if node.t in used:
                    _meet(rule, node, errors[node.t], logits[node.t], symmetric, lambda own: loss(own, y) / T)
                _through_neurons(rule, wiring, nodes, node)
            elif node.error is not None:
                _through_layer(rule, wiring, nodes, node)
        gradients = {name: torch.zeros_like(p) for name, p in network.named_parameters() if p.requires_grad}
        first = {id(p): name for name, p in network.named_parameters()}  # of one that several modules share
        names = {name: first[id(p)] for name, p in network.named_parameters(remove_duplicate=False)}
        for name in dict.fromkeys(node.name for node in nodes):
            own = [node for node in nodes if node.name == name]
            found = (
                _of_neurons(rule, own) if name in wiring.neurons else _of_parameters(rule, network, wiring, own, fade)
            )
            for parameter, gradient in found.items():
                gradients[names[f"{name}.{parameter}".removeprefix(".")]] += gradient
    return {name: gradient.detach() for name, gradient in gradients.items()}


def _run(network: nn.Module, wiring: Wiring, steps: Tensor) -> tuple[list[_Node], list[Tensor]]:
    """The calls of a run, in order, and the logits `[1, N, classes]` of each step."""
    nodes: list[_Node] = []
    logits: list[Tensor] = []
    with ExitStack() as hooks:
        for name, module in outside_neurons(network).items():
            if {name} & {*wiring.neurons, *wiring.layers} or any(True for _ in module.parameters(recurse=False)):

                def after(module: nn.Module, args: tuple[Any, ...], out: Tensor, name: str = name) -> Tensor:
                    leaf = out.detach().requires_grad_()
                    own = dict(module.named_parameters(recurse=False)) if name in wiring.neurons else {}
                    nodes.append(_Node(name, len(logits), args[0], out, leaf, own=own))
                    return leaf.clone()  # what works in place must not change it

                if name in wiring.neurons:
                    hooks.enter_context(_parameters_for_each_call(module))
                hooks.callback(module.register_forward_hook(after).remove)
        for step in steps.split(1):
            logits.append(network(step))
    return nodes, logits


@contextmanager
def _parameters_for_each_call(module: nn.Module) -> Iterator[None]:
    """Puts copies in place of a module's parameters before each call."""
    parameters = dict(module.named_parameters(recurse=False))

    def copied(module: nn.Module, args: Any) -> None:
        for name, parameter in parameters.items():
            module._parameters[name] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)

    hook = module.register_forward_pre_hook(copied)
    try:
        yield
    finally:
        hook.remove()
        module._parameters.update(parameters)


def _pull(
    nodes: Sequence[_Node], out: Tensor, grad: Tensor, wanted: Callable[[_Node], bool], late: bool = False
) -> None:
    """Adds what a gradient of a tensor means for the leaves that it is made of."""
    found = [node for node in nodes if wanted(node)]
    if not found or not out.requires_grad:
        return
    leaves = [node.leaf for node in found]
    parts = torch.autograd.grad(out, leaves, grad, retain_graph=True, allow_unused=True)
    for node, part in zip(found, parts, strict=True):
        if part is not None and late:
            node.late = part if node.late is None else node.late + part
        elif part is not None:
            node.error = part if node.error is None else node.error + part


def _same_block(rule: Rule, t: int, s: int) -> bool:
    """Whether errors of step t go back to step s."""
    if rule.time == "bptt":
        return True
    return t // (rule.k or 1) == s // (rule.k or 1)


def _meet(
    rule: Rule,
    node: _Node,
    error: Tensor | None,
    logits: Tensor,
    symmetric: dict[str, Tensor] | None,
    loss: Callable[[Tensor], Tensor],
) -> None:
    """Gives neurons at a step the error that a rule sends them past all layers, if it does."""
    classes, units = logits.shape[-1], node.leaf.reshape(*logits.shape[:-1], -1)
    if rule.space == "direct_feedback_alignment":
        assert error is not None
        matrix = from_logits(rule.seed, node.name, classes, units.shape[-1], units)
        sent = (error @ (matrix if symmetric is None else symmetric[node.name])).view_as(node.leaf)
    elif rule.space == "local_error":
        readout = local_readout(rule.seed, node.name, classes, units.shape[-1], units)
        [sent] = torch.autograd.grad(loss(units @ readout.T), node.leaf)
    else:
        return
    node.error = sent if node.error is None else node.error + sent


def _through_neurons(rule: Rule, wiring: Wiring, nodes: Sequence[_Node], node: _Node) -> None:
    """From the spikes of neurons at a step back to their inputs, at that step and before it through their states."""
    if node.error is None:
        return
    _pull(nodes, node.out, node.error, lambda n: n.name not in wiring.neurons and _same_block(rule, node.t, n.t))
    if rule.time == "eligibility_trace":
        _pull(nodes, node.out, node.error, lambda n: n.name not in wiring.neurons and n.t < node.t, late=True)


def _through_layer(rule: Rule, wiring: Wiring, nodes: Sequence[_Node], node: _Node) -> None:
    """From the output of a layer back to its input, by its own weight or by another."""
    layer: Any = wiring.layers.get(node.name)
    if layer is not None and rule.direct and not wiring.is_recurrent(node.name) and wiring.from_[node.name]:
        return
    assert node.error is not None
    if layer is None:  # a module with parameters that is no layer of weights, as a normalisation
        _pull(nodes, node.out, node.error, lambda n: n is not node and _same_block(rule, node.t, n.t))
        return
    weight = layer.weight
    if rule.space == "feedback_alignment":
        weight = in_place_of_weight(rule.seed, node.name, weight.detach())
    x = node.x.detach().requires_grad_()
    [grad] = torch.autograd.grad(functional_call(layer, {"weight": weight}, (x,)), x, node.error)
    _pull(nodes, node.x, grad, lambda n: n is not node and _same_block(rule, node.t, n.t))


def _of_parameters(
    rule: Rule, network: nn.Module, wiring: Wiring, calls: Sequence[_Node], fade: float
) -> dict[str, Tensor]:
    """Gradients of the parameters of a module from all its calls, in order."""
    module = network.get_submodule(calls[0].name)
    within = calls[0].name in wiring.layers  # of a layer all, also what its weight is made of
    parameters = {name: p for name, p in module.named_parameters(recurse=within) if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    neurons = wiring.into.get(calls[0].name, [])
    trace = rule.time == "presynaptic_trace" and bool(neurons)
    response = [1.0]
    if trace:
        right = _response(wiring.neurons[neurons[0]], calls[0].leaf, len(calls))
        response = [value * fade**n for n, value in enumerate(right)]
    for i, node in enumerate(calls):
        arrived = [error for error in (node.error, node.late) if error is not None]
        if not arrived or not parameters:
            continue
        error: Tensor = torch.stack(arrived).sum(0)
        seen = node.x.detach()
        if trace:
            seen = torch.stack([response[i - j] * calls[j].x.detach() for j in range(i + 1)]).sum(0)
        out = module(seen) if wiring.layers.get(node.name) is module else node.out
        parts = torch.autograd.grad(out, list(parameters.values()), error, retain_graph=True, allow_unused=True)
        for name, part in zip(parameters, parts, strict=True):
            if part is None:
                raise ValueError(
                    f"expected parameters that their module uses by itself, {name!r} of {node.name!r} is used between "
                    "calls of other modules, where no definition follows it: make it a module of its own"
                )
            total[name] += part * (sum(response[: i + 1]) if name == "bias" and trace else 1.0)
    return total


def _of_neurons(rule: Rule, calls: Sequence[_Node]) -> dict[str, Tensor]:
    """Gradients of the parameters of neurons from all their calls: of the steps that errors go back to."""
    total = {name: torch.zeros_like(p) for name, p in calls[0].own.items() if p.requires_grad}
    for node in calls:
        near = [other for other in calls if other.t <= node.t and _same_block(rule, node.t, other.t)]
        for name in total if node.error is not None else ():
            copies = [other.own[name] for other in near]
            parts = torch.autograd.grad(node.out, copies, node.error, retain_graph=True, allow_unused=True)
            total[name] += torch.stack([part for part in parts if part is not None]).sum(0)
    return total


def _response(node: Any, like: Tensor, T: int) -> list[float]:
    """What an input of 1 at one step leaves in the potential of neurons that never spike, over what it is at first."""

    def potentials(first: float) -> Iterator[Tensor]:
        reset_states(node)
        for t in range(T):
            node(like.new_full((1, 1), first if t == 0 else 0.0))
            yield node.v.flatten()[0]

    with kept(node), torch.no_grad():
        node.v_threshold = _NEVER
        after = [float(one - none) for one, none in zip(list(potentials(1.0)), list(potentials(0.0)), strict=True)]
    return [value / after[0] for value in after]
