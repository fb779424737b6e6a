"""The state of a network that running it changes: neuron memories, buffers, training flags, random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from spikingjelly.activation_based import base, neuron
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

_NEURONS = neuron.__name__  # 28 of SpikingJelly's 46 neuron classes are not BaseNode; all live in this package


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's neurons, or a subclass of one."""
    kind: Any = type(module)
    return _is_neuron_class(kind)


@lru_cache(maxsize=1024)
def _is_neuron_class(kind: type) -> bool:
    return any(cls.__module__.startswith(_NEURONS) for cls in kind.__mro__)


def is_multi_step(module: nn.Module) -> bool:
    """Whether a module takes all steps in one call: by its step mode, or because it knows no other."""
    return getattr(module, "step_mode", "m" if isinstance(module, base.MultiStepModule) else "s") == "m"


def outside_neurons(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by dotted name, the root as "", but for what works on no activations.

    That is what lies inside a neuron (its surrogate function, ...) and what makes weights (weight_norm, spectral_norm
    and other `torch.nn.utils.parametrizations`).
    """
    found: dict[str, nn.Module] = {}
    inside: list[str] = []
    for name, module in model.named_modules():
        if any(f"{name}.".startswith(prefix) for prefix in inside):
            continue
        found[name] = module
        within = f"{name}." if name else ""
        if is_neuron(module):
            inside.append(within)
        elif is_parametrized(module):
            inside.append(f"{within}parametrizations.")
    return found


def neurons(model: nn.Module) -> list[str]:
    """Dotted names of a network's neurons, in the order of its modules; "" for a network that is one itself."""
    return [name for name, module in outside_neurons(model).items() if is_neuron(module)]


def reset_states(model: nn.Module) -> None:
    """Resets every module of a network that has a `reset()`, once per batch.

    Walks the modules anew each time: SpikingJelly's `functional.reset_net` keeps a list that a replaced module escapes.
    """
    for module in model.modules():
        if _has_reset(module):
            module.reset()  # type: ignore[operator]


@contextmanager
def preserved(*models: nn.Module) -> Iterator[None]:
    """Puts back training flags, buffers, neuron states and torch's random state on leaving, also after an exception."""
    modules = {id(m): m for model in models for m in model.modules()}.values()
    training = [(m, m.training) for m in modules]
    buffers = [(m, dict(m._buffers)) for m in modules]
    contents = [(b, b.clone()) for m in modules for b in m.buffers(recurse=False)]
    memories = [(m, dict(m._memories)) for m in modules if isinstance(m, base.MemoryModule)]
    # v_seq of SpikingJelly's neurons, and the state of a user's own neuron, are plain attributes
    plain = [(m, _attributes(m)) for m in modules if _has_reset(m)]
    devices = {p.device for m in modules for p in m.parameters(recurse=False) if p.is_cuda}
    for module, memory in memories:  # what runs in between works on copies
        module._memories.update({key: _copy(value) for key, value in memory.items()})
    for module, attributes in plain:
        module.__dict__.update({key: _copy(value) for key, value in attributes.items()})
    with torch.random.fork_rng(devices=[d.index for d in devices]):
        try:
            yield
        finally:
            for module, flag in training:
                module.training = flag
            with torch.no_grad():
                for module, named in buffers:
                    module._buffers.update(named)
                for buffer, saved in contents:
                    buffer.copy_(saved)
            for module, attributes in plain:
                for key in _attributes(module).keys() - attributes.keys():
                    del module.__dict__[key]
                module.__dict__.update(attributes)
            for module, memory in memories:
                module._memories.clear()
                module._memories.update(memory)


def _has_reset(module: nn.Module) -> bool:
    return callable(getattr(module, "reset", None))


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if not key.startswith("_")}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(_copy(one) for one in value)
    return {key: _copy(one) for key, one in value.items()} if type(value) is dict else value
