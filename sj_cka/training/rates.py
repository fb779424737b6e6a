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
    """Hooks that sum the spikes of every layer of neurons; `take()` gives their rates since the last time."""

    def __init__(self, network: nn.Module) -> None:
        self.neurons = {name: module for name, module in outside_neurons(network).items() if is_neuron(module)}
        self.device = next(network.parameters()).device
        self.hooks = ExitStack()
        self.spikes: dict[str, Tensor] = {}
        self.count: dict[str, int] = {}

    def __enter__(self) -> RateMeter:
        for name, module in self.neurons.items():

            def add(module: nn.Module, args: Any, spikes: Tensor, name: str = name) -> None:
                seen = spikes.detach().sum(dtype=torch.float32)
                self.spikes[name] = self.spikes[name] + seen if name in self.spikes else seen.to(torch.float64)
                self.count[name] = self.count.get(name, 0) + spikes.numel()

            self.hooks.callback(module.register_forward_hook(add).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.close()

    def take(self) -> tuple[float, dict[str, float]]:
        """Spikes per neuron and step of all layers together, NaN without neurons, and of each layer."""
        names, device = list(self.neurons), self.device
        none = torch.zeros((), dtype=torch.float64, device=device)
        spikes = torch.stack([self.spikes.get(name, none) for name in names]) if names else none.view(1)
        counts = torch.tensor([self.count.get(name, 0) for name in names] or [0], dtype=torch.float64, device=device)
        spikes, counts = (total.cpu() for total in sum_of(spikes, counts))
        self.spikes, self.count = {}, {}
        return float(spikes.sum() / counts.sum()), dict(zip(names, (spikes / counts).tolist(), strict=False))
