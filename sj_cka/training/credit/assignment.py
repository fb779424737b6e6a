"""A rule at work on one batch: what it puts in place of autograd's way through layers, neurons and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from sj_cka.neurons.nodes import detach_states
from sj_cka.training.credit.feedback import from_logits, in_place_of_weight, local_readout
from sj_cka.training.credit.layers import Backward, Synapses
from sj_cka.training.credit.traces import Eligibility, Filter, Step, decays
from sj_cka.training.credit.wiring import Wiring

if TYPE_CHECKING:
    from sj_cka.training.credit.rule import Rule

Loss = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[str, Tensor, Tensor], None]


class Losses(NamedTuple):
    """Losses of logits and labels.

    Args:
        of_logits: of the network.
        local: of local readouts.
        scale: from a loss to what gradients are taken of.
    """

    of_logits: Loss
    local: Loss
    scale: Callable[[Tensor], Tensor]


class Assignment:
    """Hooks on a network while it runs a batch, block of steps by block of steps.

    Args:
        rule: what is to be computed.
        network: at rest, with gradients to add to.
        wiring: of the network; the rule goes with it.
        losses: what is to become smaller.
        symmetric: neurons -> matrices that carry errors to them, where the rule's are not random.
        watch: see `Rule`.
    """

    def __init__(
        self,
        rule: Rule,
        network: nn.Module,
        wiring: Wiring,
        losses: Losses,
        symmetric: dict[str, Tensor] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.rule, self.wiring, self.losses, self.symmetric, self.watch = rule, wiring, losses, symmetric, watch
        self.memories = [m for m in network.modules() if isinstance(m, base.MemoryModule)]
        self.hooks = ExitStack()
        self.given: dict[str, Tensor] = {}  # neurons -> their last input
        self.spikes: dict[str, list[Tensor]] = {name: [] for name in wiring.neurons}  # of each call in a block
        self.seen: dict[str, Tensor] = {}  # layer -> its last input
        self.filters: dict[str, Filter] = {}
        self.eligibilities: dict[tuple[str, str], Eligibility] = {}
        self.leaves: dict[str, dict[str, Tensor]] = {}  # neurons -> their states before the step that runs
        if rule.time == "presynaptic_trace":
            of = {name: decays(module) for name, module in wiring.neurons.items()}
            self.filters = {layer: Filter(of[n[0]] or ()) for layer, n in wiring.into.items() if n}
        if rule.time == "eligibility_trace":
            self.eligibilities = {
                (layer, parameter): Eligibility(module, parameter)
                for layer, module in wiring.layers.items()
                for parameter in ("weight", "bias")
                if wiring.into[layer] and getattr(getattr(module, parameter, None), "requires_grad", False)
            }
        self.followed = {name: wiring.neurons[name] for layer, _ in self.eligibilities for name in wiring.into[layer]}

    def __enter__(self) -> Assignment:
        for name, module in self.wiring.layers.items():
            self.hooks.callback(module.register_forward_pre_hook(self._before_layer(name)).remove)
            self.hooks.callback(module.register_forward_hook(self._after_layer(name)).remove)
        for name, module in self.wiring.neurons.items():
            self.hooks.callback(module.register_forward_hook(self._after_neurons(name)).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.close()

    def _before_layer(self, name: str) -> Callable[..., Any]:
        cut = self.rule.direct and bool(self.wiring.from_[name]) and not self.wiring.is_recurrent(name)

        def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return (args[0].detach(), *args[1:]) if cut else None

        return before

    def _after_layer(self, name: str) -> Callable[..., Any]:
        fixed = self.rule.space == "feedback_alignment"

        def after(module: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
            x = args[0]
            other = Backward()
            if fixed:
                other = other._replace(weight=in_place_of_weight(self.rule.seed, name, module.weight.detach()))
            if name in self.filters:
                trace, ones = self.filters[name](x.detach())
                other = other._replace(x=trace, ones=ones)
            if self.eligibilities:  # else it would only be held longer
                self.seen[name] = x.detach()
            if other != Backward() and torch.is_grad_enabled():
                out = Synapses.apply(out.detach(), x, module.weight, getattr(module, "bias", None), module, other)
            if self.watch is not None:
                self.watch(name, out, x.detach())
            return out

        return after

    def _after_neurons(self, name: str) -> Callable[..., Any]:
        def after(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
            if self.eligibilities:
                self.given[name] = args[0]
            if not self.rule.direct:
                return None
            self.spikes[name].append(out)
            return out.clone()  # what works in place must not change them

        return after

    def backward(self, logits: Tensor, part: slice, y: Tensor, weight: float) -> Tensor:
        """Adds the gradients of the loss of a block that just ran; gives the loss.

        Args:
            logits: of all its steps.
            part: the steps of which the loss is to be taken; all for logits without time.
            y: labels `[N]`.
            weight: of the block's loss.
        """
        jacobians = self._jacobians() if self.eligibilities else {}
        value = logits.new_zeros(())
        if len(logits[part]):
            value = self.losses.of_logits(logits[part], y) * weight
            if self.rule.space == "direct_feedback_alignment":
                logits.retain_grad()
            self.losses.scale(value).backward()
            if self.rule.space == "direct_feedback_alignment":
                assert logits.grad is not None
                self._send(logits.grad)
            elif self.rule.space == "local_error":
                for own in self._local_logits(logits):
                    self.losses.scale(self.losses.local(own[part], y) * weight).backward()
        for (layer, _), eligibility in self.eligibilities.items():
            neurons = self.wiring.into[layer][0]
            eligibility.add(jacobians[neurons], self.seen[layer])
        return value.detach()

    def _send(self, error: Tensor) -> None:
        """Gives every layer of neurons the error of the logits, `[N, classes]` or `[T, N, classes]`."""
        classes = error.shape[-1]
        for name, calls in self._learning():
            fixed = from_logits(self.rule.seed, name, classes, self.wiring.units[name], calls[0])
            matrix = fixed if self.symmetric is None else self.symmetric[name].to(fixed)
            signal = error.to(matrix.dtype) @ matrix
            torch.autograd.backward(calls, list(signal.reshape(len(calls), *calls[0].shape)))

    def _local_logits(self, logits: Tensor) -> Iterator[Tensor]:
        """What fixed readouts make of every layer of neurons, shaped as the logits."""
        for name, calls in self._learning():
            spikes = torch.stack(calls).reshape(*logits.shape[:-1], self.wiring.units[name])
            yield spikes @ local_readout(self.rule.seed, name, logits.shape[-1], spikes.shape[-1], spikes).T

    def _learning(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Neurons with something to learn in front of them, and what they put out in each call of the block."""
        return ((name, calls) for name, calls in self.spikes.items() if calls and calls[0].requires_grad)

    def _jacobians(self) -> dict[str, Step]:
        """What the neurons that are followed did in the step that just ran."""
        steps = {}
        for name, module in self.followed.items():
            states = {key: z for key, z in _states(module).items() if z.requires_grad}
            before = self.leaves.get(name, {})
            of = [self.given[name], *before.values()]
            rows = [torch.autograd.grad(z.sum(), of, retain_graph=True, allow_unused=True) for z in states.values()]
            steps[name] = Step(list(before.values()), [row[1:] for row in rows], [row[0] for row in rows])
        return steps

    def forget(self) -> None:
        """Ends a block: states go on as numbers, and errors end at them."""
        for module in self.memories:
            detach_states(module)
        self.leaves = {name: _states(module) for name, module in self.followed.items()}
        for states in self.leaves.values():
            for leaf in states.values():
                leaf.requires_grad_()
        for calls in self.spikes.values():
            calls.clear()


def _states(module: nn.Module) -> dict[str, Tensor]:
    memories: dict[str, Any] = getattr(module, "_memories", {})
    return {key: z for key, z in memories.items() if isinstance(z, Tensor) and z.is_floating_point()}
