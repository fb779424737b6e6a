"""A network that makes or takes time steps, run without: `[N, ...]` in, `[N, ...]` out."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from sj_cka.recording.knobs import Knob, turned
from sj_cka.recording.state import is_multi_step, is_neuron
from sj_cka.twins.one_step import OneStep, find_one_step


@dataclass
class Timing:
    """What a twin knows of time: the names of its activations, and how it is run, as far as that was found out.

    Args:
        activations: dotted names of what stands where a neuron was.
        runs: what tells one kind of input from another (see `_key`) -> how it is run on one step.
        originals: the modules of the network that the twin was made of, and their names: none of them is to run.
    """

    activations: tuple[str, ...]
    runs: dict[tuple[Any, ...], OneStep] = field(default_factory=dict)
    originals: WeakKeyDictionary[nn.Module, str] = field(default_factory=WeakKeyDictionary)

    def __reduce__(self) -> Any:  # the originals do not go to another process
        return Timing, (self.activations, self.runs)

    def __deepcopy__(self, memo: Any) -> Timing:
        return Timing(self.activations, dict(self.runs), self.originals)


class Untimed(nn.Module):
    """Mixed in before the class of a network: the forward of that class on one step.

    What the forward does with time is tried on copies of one sample at the first call (anew for another structure or
    shape of the input, another flag in it, and in training): the input is given as it is, or with an axis of one step
    at axis 0 or 1, whichever runs without that a neuron takes samples for steps or that samples mix. The input is the
    first argument with a tensor in it, which may be a list or a dictionary; if that alone does not run, every tensor of
    N samples gets a step. An attribute that counts the steps (`T`, or of any name) is 1 meanwhile; an axis of steps,
    wherever it is, is averaged out of the output. Frames `[T, N, ...]` that fit none of that are given as they are, and
    so is an input that could be both, as `[T, N, D]` where a batch normalisation has N features: where axis 1 could
    have no other length if axis 0 were samples, it is N. A forward that calls its neurons a number of times that stands
    in no attribute gives the right output, but its activations are then called as often, and are uses (`lif#0`,
    `lif#1`, ...) to `compare`.

    Under `torch.compile` this trial is no part of the graph: the twin compiles with breaks, not with `fullgraph=True`.
    """

    is_without_steps = True  # to `sj_cka.recording`, whatever counts those of the network that it was made of
    _timing: Timing | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward on `[N, ...]`, without an axis of steps."""
        timing = self._timing
        # torch.fx gives symbols in place of values
        if timing is None or any(isinstance(x, fx.Proxy) for x in pytree.tree_leaves((args, kwargs))):
            return super().forward(*args, **kwargs)
        given = args, kwargs
        run = _run(self, timing, *given)
        if run.driven:
            leaves, spec = pytree.tree_flatten((args, kwargs))
            for i in run.driven:
                leaves[i] = leaves[i].unsqueeze(run.drive.step_axis)
            args, kwargs = pytree.tree_unflatten(leaves, spec)
        with turned([Knob(vars(self.get_submodule(name)), key, 1) for name, key in run.counters], 1):
            output = super().forward(*args, **kwargs)
        leaves, spec = pytree.tree_flatten(output)
        axes = tuple(y.ndim if isinstance(y, Tensor) else None for y in leaves)
        if axes != run.axes:
            run = _run_anew(self, timing, given, run, axes)
        averaged = [leaf if tap is None else tap.averaged(leaf) for leaf, tap in zip(leaves, run.taps, strict=True)]
        return pytree.tree_unflatten(averaged, spec)

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
def _run(net: nn.Module, timing: Timing, args: Any, kwargs: Any) -> OneStep:
    """How a twin is run on an input, found where it is of a new kind."""
    key = _key(net, timing, args, kwargs)
    if key not in timing.runs:
        timing.runs[key] = find_one_step(
            quiet(net, timing.activations),
            _class_below(type(net)).forward,
            timing.activations,
            timing.originals,
            args,
            kwargs,
        )
    return timing.runs[key]


@torch.compiler.disable
def _run_anew(net: nn.Module, timing: Timing, given: Any, before: OneStep, axes: tuple[int | None, ...]) -> OneStep:
    """The same for an output of another structure, as a changed attribute of the network brings about."""
    del timing.runs[_key(net, timing, *given)]
    run = _run(net, timing, *given)
    if (run.drive, run.driven, run.counters, run.axes) != (before.drive, before.driven, before.counters, axes):
        raise RuntimeError(
            "expected an output of the same structure from the same input, got another one than on copies of its first "
            "sample: the twin cannot know where it has an axis of steps"
        )
    return run


def _key(net: nn.Module, timing: Timing, args: Any, kwargs: Any) -> tuple[Any, ...]:
    """What a run depends on: structure of the input, shapes but for the first axis, flags, training, step mode.

    A number of samples or steps that happens to be one of features would else find its own run for all others.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    firsts = [x.shape[0] for x in leaves if isinstance(x, Tensor) and x.ndim]
    kinds = tuple(
        ("tensor", firsts.index(x.shape[0]) if x.ndim else None, *x.shape[1:])
        if isinstance(x, Tensor)
        else (type(x).__name__, x if isinstance(x, bool | int | float | str | None) else None)
        for x in leaves
    )
    return str(spec), kinds, net.training, takes_steps(net.get_submodule(timing.activations[0]))


@lru_cache(maxsize=256)
def _untimed_class(kind: Any) -> Any:
    twin = types.new_class(f"{kind.__name__}Twin", (Untimed, kind))
    twin.__module__ = kind.__module__
    return twin


def _blank(kind: Any) -> Any:
    cls = _untimed_class(kind)
    return cls.__new__(cls)


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
