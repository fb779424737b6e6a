"""Which tensor of an output that holds several is the layer's."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch  # the only way to what vmap hides

from sj_cka.plugins import closest
from sj_cka.recording.wrappers import named, without_wrappers

Selector = int | str | Callable[[Any], Tensor]
# by module: an index into a tuple, a key or attribute name, or a function of the output; or (module, output) -> tensor
Select = Mapping[str, Selector] | Callable[[str, Any], Any] | None
Pick = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Unpicked:
    """What a probe keeps in place of an output of which no tensor could be picked: why not, told if it is a layer."""

    error: ValueError | TypeError


def picks(select: Select, names: Iterable[str]) -> dict[str, Pick]:
    """For each module that `select` names, the function that takes one tensor out of an output of it.

    A module's own name goes before a glob, and a glob before a later one. An index or key by a glob leaves a tensor as
    it is: there is nothing to pick.

    Args:
        select: as in `plan_observation`.
        names: dotted names of the modules.

    Raises:
        TypeError: a `select` of another kind.
    """
    if select is None:
        return {}
    if callable(select):
        return {name: partial(_by_function, name, partial(select, name)) for name in names}
    if not isinstance(select, Mapping):
        raise TypeError(
            'expected select as {"module": index, key or function of the output}, or as a function (module, output) -> '
            f"tensor, got {type(select).__name__}"
        )
    for key, selector in select.items():
        known = isinstance(selector, int | str) or callable(selector)
        if not isinstance(key, str) or isinstance(selector, bool) or not known:
            raise TypeError(
                "select: expected the name or glob of a module with an index, a key or a function of its output, got "
                f"{key!r}: {selector!r}"
            )
    picked: dict[str, Pick] = {}
    for name in names:
        globs: Iterator[str] = (p for p in select if fnmatch.fnmatchcase(name, p))
        pattern = name if name in select else next(globs, None)
        if pattern is not None:
            selector = select[pattern]
            picked[name] = (
                partial(_by_function, name, selector)
                if callable(selector)
                else partial(_by_key, name, selector, pattern == name)
            )
    return picked


def check_matches(select: Select, layers: Iterable[str]) -> None:
    """Raises ValueError where a pattern of `select` matches no layer that is observed."""
    layers = list(layers)
    for pattern in select if isinstance(select, Mapping) else ():
        if not any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"select: {pattern!r} matches none of the layers{closest(pattern, layers)}")


def select_for(model: nn.Module, select: Select) -> Select:
    """The part of `select` whose patterns match a module of this network, where it is meant for several."""
    select = select_without_wrappers(model, select)
    if not isinstance(select, Mapping):
        return select
    names = list(named(model))
    return {p: selector for p, selector in select.items() if p in names or fnmatch.filter(names, str(p))}


def select_without_wrappers(model: nn.Module, select: Select) -> Select:
    """`select` by the names that modules have without what wraps the network."""
    if not isinstance(select, Mapping):
        return select
    return {without_wrappers(model, p) if isinstance(p, str) else p: selector for p, selector in select.items()}


def readable(x: Tensor) -> Tensor:
    """A tensor's values as they are everywhere: dequantised, dense, and outside `torch.vmap` its hidden axis last.

    (SpikingJelly's containers with time last are a `vmap`.)
    """
    while functorch.is_batchedtensor(x):
        x = functorch.get_unwrapped(x).movedim(functorch.maybe_get_bdim(x), -1)
    if x.is_quantized:
        return x.dequantize()
    return x if x.layout == torch.strided or x.is_nested else x.to_dense()


def holds(output: Any) -> str:
    """What an output is, in words."""
    if isinstance(output, Tensor):
        return "a nested tensor" if output.is_nested else f"a tensor {list(output.shape)}"
    kind = f"a {type(output).__name__}"
    if isinstance(output, Mapping):
        return f"{kind} with {', '.join(f'{key!r}: {_short(value)}' for key, value in output.items())}"
    if hasattr(output, "_fields"):
        return f"{kind} with {', '.join(f'{key}: {_short(getattr(output, key))}' for key in output._fields)}"
    if isinstance(output, tuple | list):
        return f"{kind} of ({', '.join(map(_short, output))})"
    return kind


def not_a_tensor(module: str, output: Any) -> str:
    """The message for an output that is no tensor, with how to pick one."""
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(output, Mapping | tuple | list):
        entries = output.items() if isinstance(output, Mapping) else enumerate(output)
    key = next((key for key, value in entries if isinstance(value, Tensor)), None)
    if key is None:
        how = f"lambda output: ...}} picks one out of it, or choose layers= without {module!r}"
    else:
        how = f"{key!r}}} picks the first one; or choose layers= without {module!r}"
    return f"module {module!r} puts out {holds(output)}, expected a tensor: select={{{module!r}: {how}"


def _short(value: Any) -> str:
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return f"{type(value).__name__} of {len(value)}"
    return holds(value).removeprefix("a ") if isinstance(value, Tensor) else type(value).__name__


def _by_function(name: str, function: Callable[[Any], Any], output: Any) -> Tensor:
    """What the caller's function takes out of an output, with errors that name the module."""
    try:
        chosen = function(output)
    except Exception as error:  # whatever a caller's function stumbles over in this output
        raise ValueError(
            f"select: the function for module {name!r} raised {type(error).__name__}: {error}; it was given "
            f"{holds(output)}"
        ) from error
    if not isinstance(chosen, Tensor):
        raise TypeError(
            f"select: the function for module {name!r} gave {holds(chosen)}, expected a tensor; it was given "
            f"{holds(output)}"
        )
    return chosen


def _by_key(name: str, key: int | str, exact: bool, output: Any) -> Tensor:
    """The entry of a tuple or dict, or the attribute, of this index or name."""
    if isinstance(output, Tensor):
        if exact:
            raise TypeError(
                f"select: expected several tensors of module {name!r} to pick {key!r} from, got {holds(output)}: "
                "leave it out of select="
            )
        return output
    try:
        chosen = getattr(output, key) if isinstance(key, str) and not isinstance(output, Mapping) else output[key]
    except (IndexError, KeyError, AttributeError, TypeError) as error:
        what = "an index" if isinstance(key, int) else "a key or attribute"
        raise ValueError(
            f"select: expected {what} of what module {name!r} puts out, {holds(output)}, got {key!r}"
        ) from error
    if not isinstance(chosen, Tensor):
        raise TypeError(
            f"select: {key!r} of what module {name!r} puts out is {holds(chosen)}, expected a tensor: pick one "
            f"with a function, select={{{name!r}: lambda output: output[{key!r}][0]}}"
        )
    return chosen
