"""The state of a network that running it changes: neuron memories, buffers, training flags, random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spikingjelly.activation_based import base, neuron
from torch import Tensor, nn

_NEURONS = neuron.__name__  # 28 of SpikingJelly's 46 neuron classes are not BaseNode; all live in this package


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's neurons, or a subclass of one."""
    return any(cls.__module__.startswith(_NEURONS) for cls in type(module).__mro__)


def reset_states(model: nn.Module) -> None:
    """Resets every stateful module of a network, once per batch.

    Walks the modules anew each time: SpikingJelly's `functional.reset_net` keeps a list that a replaced module escapes.
    """
    for module in model.modules():
        if isinstance(module, base.MemoryModule):
            module.reset()


@contextmanager
def preserved(*models: nn.Module) -> Iterator[None]:
    """Puts back training flags, buffers, neuron states and torch's random state on leaving, also after an exception."""
    modules = {id(m): m for model in models for m in model.modules()}.values()
    training = [(m, m.training) for m in modules]
    buffers = [(b, b.clone()) for m in modules for b in m.buffers(recurse=False)]
    memories = [(m, dict(m._memories)) for m in modules if isinstance(m, base.MemoryModule)]
    devices = {p.device for m in modules for p in m.parameters(recurse=False) if p.is_cuda}
    for module, memory in memories:  # what runs in between works on copies
        module._memories.update({key: _copy(value) for key, value in memory.items()})
    with torch.random.fork_rng(devices=[d.index for d in devices]):
        try:
            yield
        finally:
            for module, flag in training:
                module.training = flag
            with torch.no_grad():
                for buffer, saved in buffers:
                    buffer.copy_(saved)
            for module, memory in memories:
                module._memories.clear()
                module._memories.update(memory)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
