"""A network that makes or takes time steps, run without: `[N, ...]` in, `[N, ...]` out."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from sj_cka.twins.drives import Drive, counted, find_drive, takes_steps


@dataclass
class Timing:
    """What a twin knows of time: the names of its activations, and the drives found so far.

    Args:
        activations: dotted names of what stands where a neuron was.
        drives: what tells one kind of input from another (see `_key`) -> drive.
        originals: the modules of the network that the twin was made of, and their names: none of them is to run.
    """

    activations: tuple[str, ...]
    drives: dict[tuple[Any, ...], Drive] = field(default_factory=dict)
    originals: WeakKeyDictionary[nn.Module, str] = field(default_factory=WeakKeyDictionary)

    def __reduce__(self) -> Any:  # the originals do not go to another process
        return Timing, (self.activations, self.drives)

    def __deepcopy__(self, memo: Any) -> Timing:
        return Timing(self.activations, dict(self.drives), self.originals)


class Untimed(nn.Module):
    """Mixed in before the class of a network: the forward of that class on one step."""

    _timing: Timing | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward on `[N, ...]`, without an axis of steps."""
        timing = self._timing
        if timing is None or _is_traced(args, kwargs):
            return super().forward(*args, **kwargs)
        given = args, kwargs
        drive = _drive(self, timing, *given)
        if drive.axis is not None:
            leaves, spec = pytree.tree_flatten((args, kwargs))
            for i in drive.driven:
                leaves[i] = leaves[i].unsqueeze(drive.axis)
            args, kwargs = pytree.tree_unflatten(leaves, spec)
        with counted(self, drive.counters):
            output = super().forward(*args, **kwargs)
        leaves, spec = pytree.tree_flatten(output)
        axes = tuple(y.ndim if isinstance(y, Tensor) else None for y in leaves)
        if axes != drive.leaves:
            drive = _drive_anew(self, timing, given, drive, axes)
        left = [_without(leaf, axis) for leaf, axis in zip(leaves, drive.step_axes, strict=True)]
        return pytree.tree_unflatten(left, spec)

    def __reduce_ex__(self, protocol: Any) -> Any:  # the class is made at run time: pickle has to make it again
        return _blank, (_class_below(type(self)),), self.__getstate__()


def untimed(net: nn.Module, activations: tuple[str, ...], original: nn.Module) -> nn.Module:
    """The same network, by a subclass of its class that runs it without time."""
    twin, kind = net, _class_below(type(net))  # type: Any, Any
    twin.__class__ = _untimed_class(kind)
    originals = WeakKeyDictionary({module: name for name, module in original.named_modules()})
    twin._timing = Timing(activations, originals=originals)
    return net


def timed(net: nn.Module) -> nn.Module:
    """A network as its own class runs it; of a twin, a view that shares all else with it."""
    if not isinstance(net, Untimed):
        return net
    kind: Any = _class_below(type(net))
    view: nn.Module = kind.__new__(kind)
    vars(view).update(vars(net))
    return view


def _class_below(kind: Any) -> Any:
    """The network's own class under that of a twin."""
    return kind.__mro__[2] if issubclass(kind, Untimed) else kind


@torch.compiler.disable
def _drive(net: nn.Module, timing: Timing, args: Any, kwargs: Any) -> Drive:
    """The drive for an input, found where it is of a new kind."""
    key = _key(net, timing, args, kwargs)
    if key not in timing.drives:
        forward = _class_below(type(net)).forward
        timing.drives[key] = find_drive(net, forward, timing.activations, timing.originals, args, kwargs)
    return timing.drives[key]


@torch.compiler.disable
def _drive_anew(net: nn.Module, timing: Timing, given: Any, before: Drive, axes: tuple[int | None, ...]) -> Drive:
    """The drive for an output of another structure, as a changed attribute of the network brings about."""
    del timing.drives[_key(net, timing, *given)]
    drive = _drive(net, timing, *given)
    if (drive.axis, drive.driven, drive.counters, drive.leaves) != (before.axis, before.driven, before.counters, axes):
        raise RuntimeError(
            "expected an output of the same structure from the same input, got another one than on copies of its first "
            "sample: the twin cannot know where it has an axis of steps"
        )
    return drive


def _key(net: nn.Module, timing: Timing, args: Any, kwargs: Any) -> tuple[Any, ...]:
    """What a drive depends on: structure of the input, shapes but for the first axis, flags, training, step mode.

    A number of samples or steps that happens to be one of features would else find its own drive for all others.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    firsts = [x.shape[0] for x in leaves if isinstance(x, Tensor) and x.ndim]
    kinds = []
    for x in leaves:
        if isinstance(x, Tensor):
            kinds.append(("tensor", firsts.index(x.shape[0]) if x.ndim else None, *x.shape[1:]))
        else:
            kinds.append((type(x).__name__, x if isinstance(x, bool | int | float | str | None) else None))
    activation = net.get_submodule(timing.activations[0])
    return str(spec), tuple(kinds), net.training, takes_steps(activation)


def _is_traced(args: Any, kwargs: Any) -> bool:
    """Whether torch.fx gives symbols in place of values."""
    return any(isinstance(x, fx.Proxy) for x in pytree.tree_leaves((args, kwargs)))


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
