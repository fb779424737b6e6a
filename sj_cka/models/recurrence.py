"""Layers of neurons that feed their spikes back into themselves, one step later."""

from __future__ import annotations

from typing import Any, Literal

import torch
from spikingjelly.activation_based import base, layer
from torch import Tensor, nn

from sj_cka.models.time_axis import NeuronLayer
from sj_cka.neurons.nodes import detach_states
from sj_cka.plugins import check_option

Recurrent = bool | Literal["elementwise"]
_SMALL = 0.1


class Recurrence(base.MemoryModule):
    """The recurrent input of a layer of neurons: x[t] + V s[t-1], without V s[t-1] at the first step after a reset.

    That is the explicit recurrence of Lin et al. (2025, IEEE Access 13, 113606; arXiv 2402.01782), where x is what
    weights make of the spikes from below. `v`, V, is called once a step, at the first one with zeros. The memory
    `spikes`, `[1, N, ...]`, is what the neurons put out at the last step; of another shape than the input, as of a
    batch of another size, it counts as none.

    Args:
        v: the weights, which take `[1, N, ...]` and give the same shape.
    """

    spikes: Tensor | None

    def __init__(self, v: nn.Module) -> None:
        super().__init__()
        self.step_mode = "m"
        self.v = v
        self.register_memory("spikes", None)

    def forward(self, x: Tensor) -> Tensor:
        """Input of the neurons at one step, `[1, N, ...]` as x."""
        spikes = self.spikes
        if spikes is None or spikes.shape != x.shape:
            spikes = torch.zeros_like(x)
        recurrent: Tensor = self.v(spikes)
        return x + recurrent

    def detach(self) -> None:
        """Takes the spikes out of the graph; see `detach_states`."""
        detach_states(self)

    def over_time(self, neuron: nn.Module, x_seq: Tensor) -> Tensor:
        """Spikes `[T, N, ...]` of multi-step neurons, called once a step, for the input from below `[T, N, ...]`."""
        steps = []
        for x in x_seq.split(1):
            self.spikes = neuron(self(x))
            steps.append(self.spikes)
        return torch.cat(steps)

    def without_time(self) -> Unfed:
        """What stands for it in an artificial twin."""
        return Unfed(self.v)


class Unfed(nn.Module):
    """The weights of a `Recurrence` in an artificial network, where they have no effect.

    Such a network sees an input once, from rest, so that there is no step before whose activations could come back: it
    computes what a recurrent network does at its first step. The weights are kept, so that twins have equal parameters.

    Args:
        v: the weights.
    """

    def __init__(self, v: nn.Module) -> None:
        super().__init__()
        self.v = v

    def over_time(self, neuron: nn.Module, x: Tensor) -> Tensor:
        """What the activation makes of x."""
        activations: Tensor = neuron(x)
        return activations


class Elementwise(nn.Module):
    """One weight for each neuron or channel, w x.

    Args:
        size: neurons or channels.
        axes: of the image of a channel.
    """

    def __init__(self, size: int, axes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, *[1] * axes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weights anew: uniform within +-0.1.

        That is a tenth of the usual threshold: 1/sqrt(fan in) is 1 here, and many a neuron would keep itself firing.
        """
        nn.init.uniform_(self.weight, -_SMALL, _SMALL)

    def forward(self, x: Tensor) -> Tensor:
        """w x, of the shape of x, `[..., size]` or `[..., size, H, W]`."""
        return self.weight * x


def check_recurrent(recurrent: Any) -> Recurrent:
    """The option of that name.

    Raises:
        OptionError: it is none of its values.
    """
    fits = isinstance(recurrent, bool) or recurrent == "elementwise"
    check_option(fits, "recurrent", 'true, false or "elementwise"', repr(recurrent))
    return recurrent


def add_recurrence(network: nn.Module, recurrent: Recurrent, T: int | None) -> None:
    """Gives every layer of neurons of a network its recurrent weights; nothing where `recurrent` is False.

    Behind a Linear that is a dense matrix, behind a convolution one of 3x3 on its channels, both without bias and
    uniform within +-1/sqrt(fan in), as torch draws them; or else `Elementwise`. To be called when all other weights are
    drawn: those are then what they are in the network without recurrence.

    Args:
        network: its layers are `NeuronLayer`.
        recurrent: True, False or "elementwise".
        T: None makes an artificial network.
    """
    if not recurrent:
        return
    for neurons in list(network.modules()):
        if isinstance(neurons, NeuronLayer):
            below = next(neurons.children())
            v = _weights(below, elementwise=recurrent == "elementwise")
            neurons.recurrent = Unfed(v) if T is None else Recurrence(v)


def _weights(below: Any, *, elementwise: bool) -> nn.Module:
    """V for the neurons behind a Linear or convolution."""
    if isinstance(below, nn.Linear):
        n = below.out_features
        return Elementwise(n, 0) if elementwise else layer.Linear(n, n, bias=False, step_mode=below.step_mode)
    channels, mode = below.out_channels, below.step_mode
    if elementwise:
        return Elementwise(channels, 2)
    return layer.Conv2d(channels, channels, 3, padding=1, bias=False, step_mode=mode)
