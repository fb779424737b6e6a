"""LIF neurons behind synapses whose current decays: the current filters the input, the LIF integrates the current."""

from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor


class SynapticCurrent(neuron.BaseNode):
    """Mixed in before a LIF node of SpikingJelly: a memory `current` that filters its input over time.

        I[t] = (1 - 1/tau_syn) I[t-1] + x[t]
        h[t] = (1 - 1/tau) v[t-1] + I[t]
        s[t] = H(h[t] - v_threshold)                       spikes, H(0) = 1
        v[t] = h[t] - s[t] v_threshold                     soft reset; the current is not reset

    It is the neuron of Lin et al. (2025, IEEE Access 13, 113606; arXiv 2402.01782), whose input is that of weights from
    below and from its own layer, without delays: theirs, as it is described second-hand, takes spikes of step t - 1 and
    the current I[t-1]. SpikingJelly's `CUBALIFNode` of c_decay = 1 - 1/tau_syn and v_decay = 1 - 1/tau is the same.

    Args:
        tau_syn: time constant of the current in time steps, > 1.
        tau: that of the membrane, > 1.
        v_reset: as of the LIF node; None, the soft reset of the equations above.
        options: others of the LIF node; `decay_input` is False.
    """

    current: Tensor | float

    def __init__(self, *, tau_syn: float = 2.0, tau: float = 2.0, v_reset: float | None = None, **options: Any) -> None:
        super().__init__(tau=tau, decay_input=False, v_reset=v_reset, **options)
        self.tau_syn = tau_syn
        self.register_memory("current", 0.0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tau_syn={self.tau_syn}"

    def single_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        [self.current] = self._currents([x], self.current)
        return super().single_step_forward(self.current, *args, **kwargs)

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Any:
        currents = self._currents(x_seq.unbind(), self.current)
        self.current = currents[-1]
        return super().multi_step_forward(torch.stack(currents), *args, **kwargs)

    def functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], **kwargs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        v, current = states
        multi = self.step_mode == "m"
        currents = self._currents(inputs[0].unbind() if multi else [inputs[0]], current)
        filtered = torch.stack(currents) if multi else currents[0]
        return super().functional_forward((filtered,), (v, currents[-1]), **kwargs)

    def multi_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], **kwargs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        outputs, (v, *_) = super().multi_step_functional_forward(inputs, states, **kwargs)
        return outputs, (v, *states[1:])  # SpikingJelly's kernels give v alone

    def _currents(self, steps: Any, current: Tensor | float) -> list[Tensor]:
        """I[t] of every step [N, *], from the current before the first: 0 where that has another shape."""
        if not isinstance(current, Tensor):
            current = torch.full_like(steps[0], current)
        elif current.shape != steps[0].shape:
            current = torch.zeros_like(steps[0])
        current = current.to(steps[0])
        kept = 1.0 - 1.0 / self.tau_syn
        return [current := torch.add(x, current, alpha=kept) for x in steps]


class CurrentLIFNode(SynapticCurrent, neuron.LIFNode):
    """SpikingJelly's `LIFNode` with a synaptic current; see `SynapticCurrent`.

    Example:
        >>> node = CurrentLIFNode(step_mode="m")
        >>> node(torch.tensor([[0.75], [0.0], [0.0]])).flatten()  # I = .75, .375, .1875; h = .75, .75, .5625
        tensor([0., 0., 0.])
        >>> node.v, node.current
        (tensor([0.5625]), tensor([0.1875]))
    """
