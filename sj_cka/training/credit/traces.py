"""What the weights of a neuron remember of their input: one trace for an input, or one for each synapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from sj_cka.models.recurrence import Elementwise
from sj_cka.neurons.current import CurrentLIFNode
from sj_cka.neurons.nodes import FusedCurrentLIFNode, FusedIFNode, FusedLIFNode
from sj_cka.training.credit.layers import CONVOLUTIONS, as_batch, padding_of

# kind -> what a unit of input leaves of itself by each step in the neuron's potential, from filter to filter
_LIF = (neuron.LIFNode, FusedLIFNode)
_IF = (neuron.IFNode, FusedIFNode)
_CURRENT_LIF = (CurrentLIFNode, FusedCurrentLIFNode)
_STEPS = [f"{steps}{how}forward" for steps in ("", "single_step_", "multi_step_") for how in ("", "functional_")]


def decays(node: Any) -> tuple[float, ...] | None:
    """Decays of the filters from a neuron's input to its potential, spikes left aside; None of a kind not known here.

    LIF: 1 - 1/tau; IF: 1; with a synaptic current both that of the current and that of the potential. A subclass with
    a step of its own is another kind; so is a PLIF, whose decay is learnt while the trace remembers the old one.
    """
    known = next((cls for cls in type(node).__mro__ if cls in (*_LIF, *_IF, *_CURRENT_LIF)), None)
    if known is None or any(getattr(type(node), step, None) is not getattr(known, step, None) for step in _STEPS):
        return None
    if known in _IF:
        return (1.0,)
    leak = 1 - 1 / node.tau
    return (leak,) if known in _LIF else (1 - 1 / node.tau_syn, leak)


class Filter:
    """First-order filters one after the other: state <- decay state + input."""

    def __init__(self, decays: Sequence[float]) -> None:
        self.decays = decays
        self.states: list[Tensor | float] = [0.0 for _ in decays]
        self.ones = [0.0 for _ in decays]

    def __call__(self, x: Tensor) -> tuple[Tensor, float]:
        """The trace of the inputs so far, and that of an input that is always 1."""
        one = 1.0
        for i, decay in enumerate(self.decays):
            x = self.states[i] = x + decay * self.states[i]
            one = self.ones[i] = one + decay * self.ones[i]
        return x, one


class Step(NamedTuple):
    """What neurons did in a step.

    Args:
        before: their states before it; none before the first. Their `.grad` is that of the loss of the step.
        by_states: of each state after it, the derivative by each before; None for 0.
        by_input: of each state after it, the derivative by the neurons' input.
    """

    before: Sequence[Tensor]
    by_states: Sequence[Sequence[Tensor | None]]
    by_input: Sequence[Tensor]


class Eligibility:
    """What every synapse of a layer has left in the states of the neurons that it feeds.

    With z[t] the states of a neuron (its potential, its current) and x[t] its input, which is sum_j w_j x_j[t],

        e_j[t] = dz[t]/dw_j = J[t] e_j[t-1] + (dz[t]/dx[t]) x_j[t],        J[t] = dz[t]/dz[t-1]

    where the neuron acts on itself alone (the eligibility vector of Bellec et al. 2020). J holds the reset as the
    neuron's gradient has it: detached or not, hard or soft.

    Args:
        module: the layer.
        parameter: its weight or its bias.
    """

    def __init__(self, module: Any, parameter: str) -> None:
        self.module, self.of_bias = module, parameter == "bias"
        self.states: list[Tensor] = []

    def add(self, step: Step, x: Tensor) -> None:
        """Adds to the parameter's gradient what went through the states before a step, and takes the step.

        Args:
            step: of the neurons.
            x: what the layer was given in it.
        """
        past = [(z.grad, e) for z, e in zip(step.before, self.states, strict=True) if z.grad is not None]
        if past:
            total: Tensor = torch.stack([self._met(self._after(grad), e) for grad, e in past]).sum(0)
            torch.autograd.backward([self.parameter], [total])
        seen = self._before(x)
        new = []
        for row, by_input in zip(step.by_states, step.by_input, strict=True):
            now = self._after(by_input)
            known = [(self._after(j), e) for j, e in zip(row, self.states, strict=True) if j is not None]
            total = known[0][0] * known[0][1] if known else now * seen
            for j, e in known[1:]:
                total.addcmul_(j, e)
            new.append(total.addcmul_(now, seen) if known else total)
        self.states = new

    def _met(self, grad: Tensor, e: Tensor) -> Tensor:
        """What errors of neurons make of what synapses left in them, shaped as the parameter."""
        if self._is_diagonal:
            return (grad * e).sum_to_size(self.parameter.shape)
        return torch.einsum("mo,moi->oi", grad.squeeze(2), e).reshape(self.parameter.shape)

    @property
    def parameter(self) -> Tensor:
        """The weight or the bias: of a weight that is made of others, as by weight norm, made anew each time."""
        made: Tensor = self.module.bias if self.of_bias else self.module.weight
        return made

    @property
    def _is_diagonal(self) -> bool:
        return isinstance(self.module, Elementwise)

    def _before(self, x: Tensor) -> Tensor:
        """Input by sample and place, `[M, 1, in]`; of one weight a unit as it is. In the precision of the weight."""
        module: Any = self.module
        x = x.to(module.weight.dtype)
        if self._is_diagonal:
            return x
        if isinstance(module, CONVOLUTIONS):
            columns = nn.functional.unfold(
                as_batch(module, x), module.kernel_size, module.dilation, padding_of(module), module.stride
            )
            x = columns.transpose(1, 2)
        x = x.flatten(0, -2)
        return torch.ones_like(x[:, :1]).unsqueeze(1) if self.of_bias else x.unsqueeze(1)

    def _after(self, z: Tensor) -> Tensor:
        """What is of neurons, `[M, out, 1]`; of one weight a unit as it is. In the precision of the weight."""
        z = z.to(self.module.weight.dtype)
        if self._is_diagonal:
            return z
        if isinstance(self.module, CONVOLUTIONS):
            z = as_batch(self.module, z).movedim(1, -1)
        return z.flatten(0, -2).unsqueeze(2)
