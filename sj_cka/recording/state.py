"""The state of a network that running it changes: neuron memories, buffers, training flags, random state."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from spikingjelly.activation_based import base, encoding, layer, neuron
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sj_cka.recording.snapshot import (
    Snapshot,
    StateError,
    computes_by_own_code,
    copies_of_state,
    from_outside,
    may_write,
    same_bits,
    versions,
)
from sj_cka.recording.wrappers import in_words, named, unwrapped

Result = TypeVar("Result")

_NEURONS = neuron.__name__  # 28 of SpikingJelly's 46 neuron classes are not BaseNode; all live in this package


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's neurons, or a subclass of one."""
    kind: Any = type(module)
    return _is_kind_of_neuron(kind)


@lru_cache(maxsize=1024)
def _is_kind_of_neuron(kind: type) -> bool:
    return any(cls.__module__.startswith(_NEURONS) for cls in kind.__mro__)


def keeps_time(module: nn.Module) -> bool:
    """Whether what a module of SpikingJelly is given has steps: a neuron, or another that remembers the steps before.

    Encoders make the steps, of input that has none; what a dropout remembers is not used in evaluation.
    """
    remembers = isinstance(module, base.MemoryModule) or (isinstance(module, base.StepModule) and _has_reset(module))
    no_steps = isinstance(module, encoding.StatefulEncoder | layer.Dropout | layer.DropConnectLinear)
    return is_neuron(module) or (remembers and not no_steps)


def is_multi_step(module: nn.Module) -> bool:
    """Whether a module takes all steps in one call: by its step mode, or because it knows no other."""
    return getattr(module, "step_mode", "m" if isinstance(module, base.MultiStepModule) else "s") == "m"


def is_single_step(model: nn.Module) -> bool:
    """Whether a network has neurons, and all of them take one step in a call."""
    neurons = [module for module in model.modules() if is_neuron(module)]
    return bool(neurons) and not any(map(is_multi_step, neurons))


def is_without_steps(model: nn.Module) -> bool:
    """Whether a network says by an attribute of this name that it makes no steps, as artificial twins do.

    They keep what counted the steps of the network that they were made of.
    """
    return bool(getattr(unwrapped(model), "is_without_steps", False))


def outside_neurons(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by dotted name, the root as "", but for what works on no activations.

    That is what lies inside a neuron (its surrogate function, ...) and what makes weights (weight_norm, spectral_norm
    and other `torch.nn.utils.parametrizations`).
    """
    modules: dict[str, nn.Module] = {}
    inside: list[str] = []
    for name, module in named(model).items():
        if any(f"{name}.".startswith(prefix) for prefix in inside):
            continue
        modules[name] = module
        within = f"{name}." if name else ""
        if is_neuron(module) or is_parametrized(module):
            inside.append(within if is_neuron(module) else f"{within}parametrizations.")
    return modules


def neurons(model: nn.Module) -> list[str]:
    """Dotted names of a network's neurons, in the order of its modules; "" for a network that is one itself."""
    return [name for name, module in outside_neurons(model).items() if is_neuron(module)]


def to_evaluation(model: nn.Module) -> None:
    """Puts a network into evaluation mode, unless it is.

    Raises:
        StateError: an `eval()` or `train()` of its own that fails.
    """
    model = unwrapped(model)
    if any(module.training for module in model.modules()):
        _call(model.eval, "eval()", "", model)


# SpikingJelly's torch code of these cuts the surrogate gradient off in evaluation mode (IF and LIF in 2.0.0rc1); the
# training mode of the node itself changes nothing else in them. OTTT's hands traces to the next layer then.
_CUT_IN_EVALUATION = (neuron.IFNode, neuron.LIFNode, neuron.ComplementaryLIFNode)
_NOT_ONLY = (neuron.OTTTLIFNode,)


def keep_gradients(model: nn.Module) -> None:
    """Puts those neurons of a network in evaluation mode into training mode that have no surrogate gradient else."""
    for module in model.modules():
        if isinstance(module, _CUT_IN_EVALUATION) and not isinstance(module, _NOT_ONLY):
            module.training = True


def reset_states(model: nn.Module) -> None:
    """Puts the states of a network to rest, once per batch.

    SpikingJelly's modules with a memory are reset, and other modules that have a `reset()` which can be called without
    arguments: whatever else than states it changes (parameters, members, statistics) is put back to the bit.

    Walks the modules anew each time: SpikingJelly's `functional.reset_net` keeps a list that a replaced module escapes.

    Raises:
        StateError: a `reset()` that fails, or that changes what cannot be put back.
    """
    for name, module in named(model).items():
        if not _has_reset(module):
            continue
        if from_outside(module.reset):
            _reset_from_outside(name, module)
        else:
            module.reset()  # type: ignore[operator]


def from_rest(model: nn.Module, run: Callable[[], Result]) -> Result:
    """Resets a network in evaluation mode, runs it and gives what that gave.

    It runs again where a run shows that a `reset()` from outside set back what is no state: a buffer that no
    pass changes, as the mean that a normalisation has learnt. That is put back, now and at every later reset.
    """
    while True:
        with at_rest(model):
            result = run()
        if _told_from_states(model):
            return result


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Resets a network; what a user's own modules keep state in is put back on leaving.

    That is their plain attributes, and their buffers unless a `reset()` from outside sets those back.
    """
    reset_states(model)
    modules = named(model)
    resets = [module for module in modules.values() if _has_reset(module) and from_outside(module.reset)]
    outside = {name: module for name, module in modules.items() if computes_by_own_code(module)}
    snapshot = Snapshot(list(outside.items()))
    copies_of_state(outside.values())
    try:
        yield
    finally:
        snapshot.put_back_plain({id(inner) for module in resets for inner in module.modules()})


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Puts every module back into the mode that it was in, through its own `train()` where it has one."""
    before = [(name, module, module.training) for model in models for name, module in _with_wrappers(model)]
    try:
        yield
    finally:
        for name, module, flag in before:
            if module.training != flag and any(from_outside(f) for f in (type(module).train, module.train)):
                _call(partial(module.train, flag), f"train({flag})", name, module)
        for _, module, flag in before:
            module.training = flag


@contextmanager
def kept(*models: nn.Module) -> Iterator[None]:
    """Puts networks back to the bit as they were on leaving, also after an exception.

    That is every attribute of every module: parameters with their gradients and flags, buffers, members, hooks, modes
    and states. Parameters are copied where code from outside might write to them.

    Raises:
        StateError: what cannot be put back, named by its module.
    """
    modules = list({id(m): (name, m) for model in models for name, m in _with_wrappers(model)}.values())
    copied = _copied.get()
    written = [module for _, module in modules if id(module) not in copied and may_write(module)]
    snapshot = Snapshot(modules, written)
    token = _copied.set(copied | {id(inner) for module in written for inner in module.modules()})
    try:
        copies_of_state(module for _, module in modules)
        with modes_kept(*models):
            yield
    finally:
        _copied.reset(token)
        snapshot.put_back()


@contextmanager
def preserved(*models: nn.Module) -> Iterator[None]:
    """Puts back networks, as `kept` does, and torch's random state."""
    devices = {p.device.index for model in models for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=devices), kept(*models):
        yield


_copied: ContextVar[frozenset[int]] = ContextVar("sj_cka modules whose parameters are copied", default=frozenset())


def _with_wrappers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    names = {id(module): name for name, module in named(model).items()}
    for name, module in model.named_modules():
        yield names.get(id(module), name), module


def _call(function: Callable[[], Any], called: str, name: str, module: nn.Module) -> None:
    try:
        function()
    except Exception as error:  # whatever a network's own code stumbles over
        raise StateError(
            f"{called} of {in_words(name, module)} raised {type(error).__name__}: {error}; states are reset and modes "
            "set through it before the network is run"
        ) from error


def _has_reset(module: nn.Module) -> bool:
    """Whether a module has a method `reset` that can be called without arguments; a gate of that name is a module."""
    reset: Any = getattr(module, "reset", None)
    is_method = (inspect.ismethod(reset) or inspect.isfunction(reset)) and not inspect.iscoroutinefunction(reset)
    return is_method and all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for p in inspect.signature(reset).parameters.values()
    )


@dataclass
class _Known:
    """What is known of a module's own `reset()`.

    Args:
        harmless: the versions of its parameters at which it changed none of them.
        states: buffers that it changes, by dotted name -> whether a pass in evaluation mode changes them too.
        last: their values after the last reset.
        open: those of the last reset of which that is not known -> what they held before, and after.
    """

    harmless: tuple[Any, ...] | None = None
    states: dict[str, bool] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    open: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def _reset_from_outside(name: str, module: nn.Module) -> None:
    known = _known.setdefault(module, _Known())
    before, buffers = versions(module), {key: x.detach().clone() for key, x in module.named_buffers()}
    within = f"{name}." if name else ""
    inner = [(within + key if key else name, m) for key, m in module.named_modules()]
    snapshot = Snapshot(inner, [] if known.harmless == before else [module])
    _call(module.reset, "reset()", name, module)  # type: ignore[arg-type]
    changed = snapshot.put_back_parameters()
    if known.harmless == before and versions(module) != before:
        raise StateError(
            f"reset() of {in_words(name, module)} changed its parameters, which it did not at first: "
            "they cannot be put back; let it reset states alone"
        )
    known.harmless = None if changed or versions(module) != before else before
    known.open.clear()
    for key, old in buffers.items():
        path, _, attribute = key.rpartition(".")
        owner = module.get_submodule(path)
        new = owner._buffers.get(attribute)
        if new is None or not same_bits(new, old):
            if known.states.get(key) is False and not same_bits(known.last.get(key, old), old):
                known.states[key] = True  # a run has changed it since
            if not from_outside(type(owner)) or known.states.get(key) is False:
                snapshot.put_back_buffer(owner, attribute)
            elif key not in known.states and new is not None:
                known.open[key] = old, new.detach().clone()
        if key in known.states and (new := owner._buffers.get(attribute)) is not None:
            known.last[key] = new.detach().clone()


def _told_from_states(model: nn.Module) -> bool:
    """Tells buffers that a run changed since the reset from the others and puts those back; whether there are none."""
    told = True
    for module in named(model).values():
        if (known := _known.get(module)) is None:
            continue
        for key, (old, new) in known.open.items():
            path, _, attribute = key.rpartition(".")
            now = module.get_submodule(path)._buffers[attribute]
            known.states[key] = now is None or not same_bits(now, new)
            if not known.states[key]:
                module.get_submodule(path)._buffers[attribute] = old
                known.last[key], told = old.clone(), False
        known.open.clear()
    return told
