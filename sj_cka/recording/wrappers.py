"""Networks inside what wraps them, under the names that they have without it; and what cannot be looked into at all."""

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

# by class, the child that is the network; by name where importing the class takes seconds
_WRAPPERS: dict[type | str, str] = {
    nn.DataParallel: "module",
    nn.parallel.DistributedDataParallel: "module",
    AveragedModel: "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "_fsdp_wrapped_module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "_checkpoint_wrapped_module",
}
_plain: ContextVar[bool] = ContextVar("sj_cka runs networks uncompiled", default=False)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel, AveragedModel, torch.compile and their like."""
    while (child := _wrapped(model)) is not None:
        model = model._modules[child]  # type: ignore[assignment]
    return model


def _wrapped(model: nn.Module) -> str | None:
    kind: Any = type(model)
    return _wrapped_kind(kind)


@lru_cache(maxsize=1024)
def _wrapped_kind(kind: type) -> str | None:
    keys = (key for cls in kind.__mro__ for key in (cls, f"{cls.__module__}.{cls.__qualname__}"))
    return next((_WRAPPERS[key] for key in keys if key in _WRAPPERS), None)


def named(model: nn.Module, *, every_name: bool = False) -> dict[str, nn.Module]:
    """Every module by its dotted name, the root as "", without wrappers and without the names that they add.

    Args:
        model: the network.
        every_name: a module that has several names goes by each of them, not by the first alone.
    """
    modules: dict[str, nn.Module] = {}
    visited: set[int] = set()

    def walk(module: nn.Module, name: str) -> None:
        module = unwrapped(module)
        if not every_name and id(module) in visited:
            return
        visited.add(id(module))
        modules[name] = module
        for key, child in module._modules.items():
            if child is not None:
                walk(child, f"{name}.{key}" if name else key)

    walk(model, "")
    return modules


def in_words(name: str, module: nn.Module) -> str:
    """A module as errors call it."""
    return f"module {name!r} ({type(module).__name__})" if name else f"the network ({type(module).__name__})"


def listed(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def bare(model: nn.Module) -> nn.Module:
    """The network inside its wrappers, with none around a member either: itself, or a copy that shares all else."""
    copies: dict[int, nn.Module] = {}

    def without(module: nn.Module) -> nn.Module:
        module = unwrapped(module)
        if id(module) not in copies:
            inside = {key: child if child is None else without(child) for key, child in module._modules.items()}
            copies[id(module)] = module
            if any(inside[key] is not child for key, child in module._modules.items()):
                copies[id(module)] = copy.copy(module)
                vars(copies[id(module)])["_modules"] = inside
        return copies[id(module)]

    return without(model)


def without_wrappers(model: nn.Module, name: str) -> str:
    """A module's name, or a pattern, as `named` has it, where it is given with what a wrapper adds to it."""
    module, kept, parts = model, [], name.split(".")
    for i, part in enumerate(parts):
        child = _wrapped(module)
        if child == part and part not in unwrapped(module)._modules:
            module = module._modules[part]  # type: ignore[assignment]
            continue
        kept.append(part)
        inside = unwrapped(module)._modules.get(part)
        if inside is None:  # a glob, or no module: told elsewhere
            return ".".join([*kept, *parts[i + 1 :]])
        module = inside
    return ".".join(kept)


def check_network(model: Any, what: str = "the network", *, watched: bool = True) -> None:
    """Raises unless a network can be run, its weights having values, and looked into.

    Args:
        model: what is given as one.
        what: how errors call it.
        watched: whether its layers are to be seen; else it is only run.

    Raises:
        TypeError: no `nn.Module`; to be watched, compiled TorchScript or a graph without modules.
        ValueError: a module without values, lazy or on the device meta.
    """
    if not isinstance(model, nn.Module):
        hint = ""
        if type(model).__module__.startswith("torch.export"):
            hint = ": an exported program has no modules left; give the network that it was exported from"
        elif isinstance(model, torch.jit.ScriptFunction):
            hint = ": compiled TorchScript cannot be looked into; give the network that it was made of"
        raise TypeError(f"expected {what} as an nn.Module, got {type(model).__name__}{hint}")
    inside = unwrapped(model)
    # what torch.export checks its inputs by is the one module that is no layer
    if (
        watched
        and isinstance(inside, fx.GraphModule)
        and not any(node.op == "call_module" and node.target != "_guards_fn" for node in inside.graph.nodes)
    ):
        raise TypeError(
            f"expected {what} as a network of modules, got a graph of functions ({type(model).__name__}), as "
            "torch.export makes it, which has no layers left: give the network that it was made of"
        )
    if watched and isinstance(inside, torch.jit.ScriptModule):
        raise TypeError(
            f"expected {what} as a network of Python modules, got TorchScript ({type(model).__name__}), whose layers "
            "cannot be watched: give the network that it was scripted or traced from"
        )
    for name, module in named(model).items():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for key, value in (*module._parameters.items(), *module._buffers.items()):
            if value is None or not (is_lazy(value) or value.is_meta):
                continue
            how = (
                "it is lazy; run the network once on a batch first"
                if is_lazy(value)
                else "it is on the device meta; to_empty(device=...) and load_state_dict give it some"
            )
            raise ValueError(f"{what}: {key!r} of {in_words(name, module)} has no values yet: {how}")


@contextmanager
def as_written() -> Iterator[None]:
    """Runs networks as they are written while it lasts: uncompiled, outside inference mode, layer by layer.

    Hooks see nothing inside a compiled graph and make torch compile anew. In inference mode tensors have no version, by
    which in-place operations are told. The fast path of torch's transformer layers skips their members and hands on
    nested tensors.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        stack.enter_context(uncompiled())
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """The same, in whatever mode of gradients and inference the caller is."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        if "torch._dynamo" in sys.modules:  # else nothing was compiled, and the import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.callback(_plain.reset, _plain.set(True))
        yield


@contextmanager
def compiled_again() -> Iterator[None]:
    """For this package's own kernels, which `uncompiled` is not about."""
    with torch.compiler.set_stance("default") if _plain.get() else ExitStack():
        yield
