"""Modules as they are at one moment, to be put back to the bit whatever runs in between."""

from __future__ import annotations

import copy
import inspect
import random
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sj_cka.recording.wrappers import in_words

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PACKAGES = {"torch", "torchvision", "spikingjelly", "sj_cka"}  # whose modules keep their parameters in a forward pass
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), type, nn.Module, types.FunctionType, types.MethodType)
OF_TORCH = frozenset(vars(nn.Module()))
_DEPTH = 3  # of objects that hold each other
_CALLED = ("forward", "__call__", "train", "eval", "reset")


class Refusal(Exception):
    """An error that no other way of running a network would mend."""


class StateError(Refusal, RuntimeError):
    """A module's own `reset()`, `train()` or `eval()` failed, or what was changed in a module cannot be put back."""


def from_outside(function: Any) -> bool:
    """Whether a function is neither torch's, torchvision's, SpikingJelly's nor this package's."""
    home = getattr(function, "__module__", None) or type(function).__module__
    return str(home).partition(".")[0] not in _PACKAGES


def computes_by_own_code(module: nn.Module) -> bool:
    """Whether the forward pass of a module is from outside; that of TorchScript, no function of its class, is not."""
    return from_outside(inspect.getattr_static(type(module), "forward"))


def may_write(module: nn.Module) -> bool:
    """Whether running a module may change parameters: it has code from outside, or is an embedding with `max_norm`."""
    places = (vars(module), *map(vars, type(module).__mro__))
    code = [place[name] for place in places for name in _CALLED if name in place]
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(map(from_outside, (*code, *hooks))) or getattr(module, "max_norm", None) is not None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits in the same shape; NaN counts as itself."""
    if not _alike(a, b) or a.layout != torch.strided or a.is_quantized:
        return False
    a, b = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in (a.detach(), b.detach()))
    kind = _INTEGERS[a.element_size()]
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


@dataclass
class _Kept:
    """A parameter or buffer: where its values lie, and a copy of them where they may be changed."""

    tensor: Tensor
    name: str
    data: Tensor
    values: Tensor | None
    flag: bool
    grad: _Kept | None
    attributes: dict[str, Any]


class Snapshot:
    """Every attribute of modules, and the values of their buffers and of what parameters may be changed.

    Args:
        modules: each with its name, as errors call it.
        written: the modules whose own and inner parameters may be changed, by id; their values are copied (from a GPU
            into main memory).
    """

    def __init__(self, modules: Sequence[tuple[str, nn.Module]], written: Iterable[nn.Module] = ()) -> None:
        self.modules = [(name, m, type(m), dict(vars(m)), _inside(m)) for name, m in modules]
        copied = {id(p) for module in written for p in module.parameters()}
        self.kept: dict[int, _Kept] = {}
        for name, module in modules:
            for group, always in ((module._parameters, False), (module._buffers, True)):
                for key, x in group.items():
                    if x is not None and id(x) not in self.kept:
                        self.kept[id(x)] = _keep(x, f"{key!r} of {in_words(name, module)}", always or id(x) in copied)

    def put_back(self) -> None:
        """Puts everything back.

        Raises:
            StateError: a value that cannot be.
        """
        for name, module, kind, attributes, inside in self.modules:
            if type(module) is not kind:
                try:
                    module.__class__ = kind
                except TypeError as error:
                    raise StateError(
                        f"{in_words(name, module)} has become a {type(module).__name__}: {error}"
                    ) from error
            now = vars(module)
            for key in now.keys() - attributes.keys():
                del now[key]
            now.update(attributes)
            for key, content in inside.items():
                _refill(now[key], content)
        with torch.no_grad():
            for kept in self.kept.values():
                _put_back(kept)

    def put_back_parameters(self) -> bool:
        """Puts parameters and members back, but neither buffers nor plain attributes; whether any had changed.

        Raises:
            StateError: as of `put_back`.
        """
        changed = False
        for _, module, _, attributes, inside in self.modules:
            for key in ("_parameters", "_modules"):
                changed |= _refill(vars(module)[key], inside[key])
            module.training = attributes["training"]
            for x in module._parameters.values():
                if x is not None:
                    changed |= _put_back(self.kept[id(x)])
        return changed

    def put_back_buffer(self, owner: nn.Module, key: str) -> None:
        """Puts one buffer of a module back."""
        x = next(inside["_buffers"][key] for _, module, _, _, inside in self.modules if module is owner)
        owner._buffers[key] = x
        if x is not None:
            _put_back(self.kept[id(x)])

    def put_back_plain(self, buffers_stay: Container[int]) -> None:
        """Puts plain attributes back, and buffers but for those of some modules, by id."""
        for _, module, _, attributes, inside in self.modules:
            for key in vars(module).keys() - attributes.keys() - OF_TORCH:
                del vars(module)[key]
            vars(module).update({key: x for key, x in attributes.items() if key not in OF_TORCH})
            for key in () if id(module) in buffers_stay else inside["_buffers"]:
                self.put_back_buffer(module, key)


def versions(module: nn.Module) -> tuple[Any, ...]:
    """What is another as soon as a parameter of a network was written to in place, given other memory or replaced."""
    return tuple(
        (id(p), p.data_ptr(), 0 if p.is_inference() else p._version)
        for p in module.parameters()
        if p.layout == torch.strided
    )


def copies_of_state(modules: Iterable[nn.Module]) -> None:
    """Gives modules copies of the state in their plain attributes, so that the original is not written to.

    State is a tensor, an array, a random generator, or a list, tuple, set or dict of them, also in an object from
    outside that the module holds. What several modules share they share afterwards.
    """
    modules = list(modules)
    held = [x for m in modules for x in (*m._parameters.values(), *m._buffers.values()) if x is not None]
    memo: dict[int, Any] = {id(x): x for x in held}
    memory = {x.untyped_storage().data_ptr() for x in held if x.layout == torch.strided and not x.is_meta}
    for module in modules:
        for key, value in list(vars(module).items()):
            if key not in OF_TORCH and (copied := _copy(value, memo, memory)) is not value:
                vars(module)[key] = copied


def _inside(module: nn.Module) -> dict[str, Any]:
    """What the dictionaries and sets of a module hold that stay the same objects: parameters, members, hooks."""
    kinds = (dict, OrderedDict, set)
    return {key: type(x)(x) for key, x in vars(module).items() if key in OF_TORCH and type(x) in kinds}


def _refill(container: Any, content: Any) -> bool:
    """Gives a dictionary or set its content of before, in place and in its order; whether it had another."""
    alike = (
        container == content
        if isinstance(container, set)
        else list(container) == list(content) and all(container[key] is x for key, x in content.items())
    )
    if not alike:
        container.clear()
        container.update(content)
    return not alike


def _keep(x: Tensor, name: str, copied: bool) -> _Kept:
    values = None
    if copied:
        values = x.detach().cpu() if x.is_cuda and isinstance(x, nn.Parameter) else x.detach().clone()
    grad = _keep(x.grad, f"the gradient of {name}", copied) if x.is_leaf and x.grad is not None else None
    return _Kept(x, name, x.detach(), values, x.requires_grad, grad, dict(vars(x)))


def _put_back(kept: _Kept) -> bool:
    """Puts a parameter or buffer back; whether it had changed."""
    x, grad = kept.tensor, None if kept.grad is None else kept.grad.tensor
    with torch.inference_mode(x.is_inference()), torch.no_grad():
        try:
            if not _has_memory(kept.data):  # code from outside has freed it
                if kept.values is None:
                    raise StateError(f"the memory of {kept.name} was freed: its values cannot be put back")
                kept.data = kept.values.to(kept.data.device, copy=True)
            if moved := not _is_where_it_was(kept):
                x.data = kept.data
            if written := kept.values is not None and not same_bits(x.to(kept.values.device), kept.values):
                x.data.copy_(kept.values)
            if other := x.is_leaf and (x.requires_grad != kept.flag or x.grad is not grad):
                x.requires_grad_(kept.flag)
                x.grad = grad
        except StateError:
            raise
        except RuntimeError as error:
            raise StateError(f"{kept.name} was changed and cannot be put back: {error}") from error
    vars(x).clear()
    vars(x).update(kept.attributes)
    return (kept.grad is not None and _put_back(kept.grad)) or moved or written or other


def _has_memory(x: Tensor) -> bool:
    """Whether all of a tensor still lies in memory; reading it would else end the process."""
    if x.layout != torch.strided or not x.numel():
        return True
    last = x.storage_offset() + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.untyped_storage().nbytes() >= (last + 1) * x.element_size()


def _is_where_it_was(kept: _Kept) -> bool:
    x, data = kept.tensor, kept.data
    return _alike(x, data) and (
        x.layout != torch.strided or (x.data_ptr() == data.data_ptr() and x.stride() == data.stride())
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and a.layout == b.layout


def _copy(value: Any, memo: dict[int, Any], memory: set[int], depth: int = 0) -> Any:
    """A value with the state in it copied; the value itself where there is none."""
    if isinstance(value, _SIMPLE):
        return value
    if id(value) in memo:
        return memo[id(value)]
    memo[id(value)] = copied = value  # where it holds itself
    if isinstance(value, Tensor):
        aliased = value.layout == torch.strided and value.untyped_storage().data_ptr() in memory
        copied = value if aliased or value.is_meta else value.detach().clone()
    elif isinstance(value, np.ndarray) or type(value) in (set, bytearray):
        copied = copy.copy(value)
    elif isinstance(value, torch.Generator):
        copied = value.clone_state()
    elif isinstance(value, random.Random | np.random.Generator | np.random.RandomState):
        copied = copy.deepcopy(value)
    elif isinstance(value, tuple):
        parts = [_copy(x, memo, memory, depth) for x in value]
        if any(x is not y for x, y in zip(parts, value, strict=True)):
            copied = type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    elif type(value) in (dict, OrderedDict, defaultdict, list, deque):
        copied = copy.copy(value)
        for key, x in value.items() if isinstance(value, dict) else enumerate(value):
            copied[key] = _copy(x, memo, memory, depth)
    elif type(value) is types.SimpleNamespace:
        copied = types.SimpleNamespace(**{key: _copy(x, memo, memory, depth) for key, x in vars(value).items()})
    elif depth < _DEPTH and _is_from_outside(value):
        attributes = {key: _copy(x, memo, memory, depth + 1) for key, x in vars(value).items()}
        copied = object.__new__(type(value))
        vars(copied).update(attributes)
    memo[id(value)] = copied
    return copied


def _is_from_outside(value: Any) -> bool:
    """Whether a value is an object with attributes alone, of a class that is none of Python's, torch's and NumPy's."""
    kind = type(value)
    home = kind.__module__.partition(".")[0]
    theirs = home in _PACKAGES or home == "numpy" or (home in sys.stdlib_module_names and home != "__main__")
    # no more than what Python gives every object
    return not theirs and kind.__dictoffset__ != 0 and kind.__basicsize__ == _BASIC


_BASIC = type("_Plain", (), {}).__basicsize__
