"""What a copy of a network leaves behind: graphs, hooks, and neurons that a twin of a twin has again."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sj_cka.recording.state import is_multi_step, is_neuron


def live_tensors(net: nn.Module) -> dict[int, Tensor]:
    """Copies of the tensors in attributes that hang on a graph, which `copy.deepcopy` refuses; as a memo for it."""
    leaves = pytree.tree_leaves([vars(module) for module in net.modules()])
    return {id(x): x.detach().clone() for x in leaves if isinstance(x, Tensor) and not x.is_leaf}


def no_hooks(net: nn.Module, *kinds: str) -> dict[int, OrderedDict[int, Any]]:
    """Empty ones in place of hooks, by default those after a forward or backward pass; as a memo for deepcopy."""
    attributes = [f"_{kind}_hooks" for kind in kinds or ("forward", "backward", "backward_pre")]
    return {id(getattr(m, attribute)): OrderedDict() for m in net.modules() for attribute in attributes}


def no_watching(net: nn.Module) -> dict[int, Callable[..., None]]:
    """`watches_nothing` in place of hooks before a forward pass that SpikingJelly's monitors, or this package, put."""
    hooks = [hook for module in net.modules() for hook in module._forward_pre_hooks.values()]
    return {id(hook): watches_nothing for hook in hooks if _home(hook).startswith(("spikingjelly.", "sj_cka."))}


def watches_nothing(*args: Any) -> None:
    """Stands for a hook that is left out."""


def takes_steps(activation: nn.Module) -> bool:
    """Whether the network calls an activation on an axis of steps; `Uses` are told by the one they stand for."""
    return getattr(activation, "outer_mode", "m" if is_multi_step(activation) else "s") == "m"


def quiet(twin: Any, activations: Iterable[str]) -> Any:
    """A copy of a twin to try things on: its own parameters, buffers of its own, without hooks or knowledge of time.

    The neurons of a spiking twin that is made of it become what passes on its input.
    """
    kept: dict[int, Any] = {id(p): p for p in twin.parameters()}
    for name in activations:
        if is_neuron(neuron := twin.get_submodule(name)):
            stand_in: Any = nn.Identity()
            stand_in.step_mode = "m" if takes_steps(neuron) else "s"
            kept[id(neuron)] = stand_in
    copied = copy.deepcopy(twin, {**kept, **live_tensors(twin), **no_hooks(twin), **no_hooks(twin, "forward_pre")})
    copied._timing = None
    return copied


def _home(hook: Any) -> str:
    """The module that defines a hook."""
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", None) or type(hook).__module__)
