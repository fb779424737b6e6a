"""A network that makes or takes time steps, run without: `[N, ...]` in, `[N, ...]` out."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sj_cka.twins.drives import Drive, counted_once, find_drive


@dataclass
class Timing:
    """What a twin knows of time: the names of its activations, and the drives found so far.

    Args:
        activations: dotted names of what stands where a neuron was.
        drives: (axes of the input, training, step mode) -> drive.
    """

    activations: tuple[str, ...]
    drives: dict[tuple[Any, ...], Drive] = field(default_factory=dict)


class Untimed(nn.Module):
    """Mixed in before the class of a network: the forward of that class on one step."""

    _timing: Timing | None = None

    def forward(self, x: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward on `[N, ...]`, without an axis of steps."""
        timing = self._timing
        if timing is None or not isinstance(x, Tensor):
            return super().forward(x, *args, **kwargs)
        key = (x.ndim, self.training, self.get_submodule(timing.activations[0]).step_mode)
        if key not in timing.drives:
            timing.drives[key] = find_drive(self, timing.activations, x, args, kwargs)
        drive = timing.drives[key]
        with counted_once(self, drive.counters):
            output = super().forward(x if drive.axis is None else x.unsqueeze(drive.axis), *args, **kwargs)
        leaves, spec = pytree.tree_flatten(output)
        left = [_without(leaf, axis) for leaf, axis in zip(leaves, drive.step_axes, strict=True)]
        return pytree.tree_unflatten(left, spec)

    def __reduce_ex__(self, protocol: Any) -> Any:  # the class is made at run time: pickle has to make it again
        return _blank, (type(self).__mro__[2],), self.__getstate__()


def untimed(net: nn.Module, activations: tuple[str, ...]) -> nn.Module:
    """The same network, by a subclass of its class that runs it without time."""
    twin, kind = net, type(net)  # type: Any, Any
    twin.__class__ = _untimed_class(kind)
    twin._timing = Timing(activations)
    return net


@lru_cache(maxsize=256)
def _untimed_class(kind: Any) -> Any:
    made = types.new_class(f"{kind.__name__}Twin", (Untimed, kind))
    made.__module__ = kind.__module__
    return made


def _blank(kind: Any) -> Any:
    cls = _untimed_class(kind)
    return cls.__new__(cls)


def _without(leaf: Any, axis: int | None) -> Any:
    if axis is None:
        return leaf
    return leaf.squeeze(axis) if leaf.shape[axis] == 1 else leaf.mean(axis)
