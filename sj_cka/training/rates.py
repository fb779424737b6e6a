"""Firing rates while a network trains."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sj_cka.recording import is_neuron
from sj_cka.recording.state import outside_neurons
from sj_cka.training.distributed import sum_of


class RateMeter:
    """Hooks that sum the spikes of every layer of neurons; `take()` gives their rates since the last time.

    Both sums live on the device, and a hook knows no name: torch.compile then makes one graph of all hooks of a
    network, and compiles nothing anew as they count.
    """

    def __init__(self, network: nn.Module) -> None:
        self.neurons = {name: module for name, module in outside_neurons(network).items() if is_neuron(module)}
        self.device = next(network.parameters()).device
        self.hooks = ExitStack()
        self.spikes, self.counts = (
            [torch.zeros((), dtype=torch.float64, device=self.device) for _ in self.neurons] for _ in range(2)
        )

    def __enter__(self) -> RateMeter:
        for module, spikes, count in zip(self.neurons.values(), self.spikes, self.counts, strict=True):
            self.hooks.callback(module.register_forward_hook(_adder(spikes, count)).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.close()

    def take(self) -> tuple[float, dict[str, float]]:
        """Spikes per neuron and step of all layers together, NaN without neurons, and of each layer."""
        if not self.neurons:
            return float("nan"), {}
        spikes, counts = (total.cpu() for total in sum_of(torch.stack(self.spikes), torch.stack(self.counts)))
        for total in (*self.spikes, *self.counts):
            total.zero_()
        return float(spikes.sum() / counts.sum()), dict(zip(self.neurons, (spikes / counts).tolist(), strict=True))


def _adder(spikes: Tensor, count: Tensor) -> Any:
    """A hook that adds the spikes of a call, and the number of those that could have been."""

    def add(module: nn.Module, args: Any, out: Tensor) -> None:
        spikes.add_(out.detach().sum(dtype=torch.float32))
        count.add_(out.numel())

    return add
