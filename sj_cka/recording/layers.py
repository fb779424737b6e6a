"""Which modules of a network are layers, by name, glob, type, predicate or default; and which of their tensors."""

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from spikingjelly.activation_based import layer as sj_layer
from torch import Tensor, nn

from sj_cka.plugins import closest
from sj_cka.recording.state import outside_neurons
from sj_cka.recording.trace import Pick, Trace, holds
from sj_cka.recording.wrappers import named, unwrapped, without_wrappers

Layer = str | type[nn.Module] | Callable[[str, nn.Module], bool]
LayerSpec = Layer | Sequence[Layer] | None
_LABEL = re.compile(r"(?P<module>.*)#(?P<use>\d+)")  # of a layer that is one of several uses of a module
# they only lay out time for what they hold
_CONTAINERS = (
    sj_layer.MultiStepContainer,
    sj_layer.SeqToANNContainer,
    sj_layer.StepModeContainer,
    sj_layer.TLastMultiStepContainer,
    sj_layer.TLastSeqToANNContainer,
)
Selector = int | str | Callable[[Any], Tensor]
# by module: an index into a tuple, a key or attribute name, or a function of the output; or (module, output) -> tensor
Select = Mapping[str, Selector] | Callable[[str, Any], Any] | None


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Every module that may be a layer, by dotted name: all but the root and what lies inside a neuron."""
    modules = outside_neurons(model)
    if len(modules) > 1:  # a bare module is its own only layer
        modules.pop("", None)
    return modules


class ChosenUse(NamedTuple):
    """A module that was chosen, and which of its uses in a step; None for all."""

    module: str
    use: int | None = None


def patterns_of(layers: LayerSpec) -> list[Layer] | None:
    """The patterns of a choice of layers, one by one; None for the default.

    Raises:
        TypeError: what is no name, glob, type or predicate.
    """
    if layers is None:
        return None
    patterns = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str | type) else [layers]
    for pattern in patterns:
        if isinstance(pattern, nn.Module) or not (isinstance(pattern, str) or callable(pattern)):
            raise TypeError(f"layers: expected a dotted name, glob, module type or predicate, got {pattern!r}")
    return patterns


def choose(model: nn.Module, layers: LayerSpec, trace: Trace) -> dict[ChosenUse, int]:
    """The layers asked for, each once, and the place of the pattern that asked for them.

    A module that has several names goes by each of them, and "name#use", as layers of several uses are labelled, is one
    of its uses.

    Raises:
        TypeError: a pattern that is no name, glob, type or predicate.
        ValueError: a pattern that matches nothing, or only what is never called.
    """
    patterns = patterns_of(layers)
    if patterns is None:
        return {ChosenUse(name): 0 for name in default_layers(model, trace)}
    if not patterns:
        raise ValueError("layers: expected at least one name, glob, type or predicate, got none")
    modules, names = candidates(model), _names(model)
    chosen: dict[ChosenUse, int] = {}
    for place, layer in enumerate(patterns):
        use: int | None = None
        if isinstance(layer, str):
            fitting = _matching(layer, names)
            if not fitting and (label := _LABEL.fullmatch(layer)):
                fitting, use = _matching(label["module"], names), int(label["use"])
            matched = {names[name] for name in fitting}
        else:
            matched = {name for name, module in modules.items() if _matches(layer, name, module)}
        if not matched:
            hint = closest(layer, modules) if isinstance(layer, str) else ""
            raise ValueError(f"layers: {_describe(layer)} matches no module{hint}")
        called = [ChosenUse(name, use) for name in trace.called if name in matched]
        if not called:
            why = "the forward pass never calls; a layer must be called as a module, not through its weights"
            if any(isinstance(modules[name], torch.jit.ScriptModule) for name in matched):
                why = "is compiled TorchScript and cannot be watched: give the network the module that it was made of"
            raise ValueError(f"layers: {_describe(layer)} matches {', '.join(sorted(matched)[:3])}, which {why}")
        chosen |= {c: place for c in called if c not in chosen and ChosenUse(c.module) not in chosen}
    return chosen


def default_layers(model: nn.Module, trace: Trace) -> list[str]:
    """Every neuron, every other leaf and every block output, in order of execution, but the last Linear.

    Of modules that put out the very same tensor only the first to do so counts: the innermost, or the one before an
    Identity or a dropout in evaluation. What only passes the network's input on (a Flatten before all else) is none,
    nor what only lays out time: SpikingJelly's containers, and a module that says so by an attribute `lays_out_time`.
    """
    modules = candidates(model)
    called = (name for name in trace.called if name in modules and not _lays_out_time(modules[name]))
    chosen = [name for name in called if not trace.repeats(name)]
    linear = [name for name in chosen if isinstance(modules[name], nn.Linear)]
    chosen = [name for name in chosen if not linear or name != linear[-1]]
    if not chosen:
        raise ValueError("the network calls no module that could be a layer; give it submodules, or name layers=")
    return chosen


def _lays_out_time(module: nn.Module) -> bool:
    return isinstance(module, _CONTAINERS) or bool(getattr(module, "lays_out_time", False))


def _names(model: nn.Module) -> dict[str, str]:
    """Every name of every candidate, also those that wrappers make -> the one that it goes by, which is its first."""
    first = {id(module): name for name, module in candidates(model).items()}
    every = [*named(model, every_name=True).items(), *model.named_modules(remove_duplicate=False)]
    return {name: first[id(inner)] for name, module in every if id(inner := unwrapped(module)) in first}


def _matching(pattern: str, names: Collection[str]) -> list[str]:
    """Of some names the one that a pattern is, or those that it matches as a glob."""
    return [pattern] if pattern in names else [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _matches(layer: type[nn.Module] | Callable[[str, nn.Module], bool], name: str, module: nn.Module) -> bool:
    return isinstance(module, layer) if isinstance(layer, type) else bool(layer(name, module))


def _describe(layer: Layer) -> str:
    return repr(layer) if isinstance(layer, str) else getattr(layer, "__name__", repr(layer))


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
        if not _matching(pattern, layers):
            raise ValueError(f"select: {pattern!r} matches none of the layers{closest(pattern, layers)}")


def select_for(model: nn.Module, select: Select) -> Select:
    """The part of `select` whose patterns match a module of this network, where it is meant for several."""
    select = select_without_wrappers(model, select)
    if not isinstance(select, Mapping):
        return select
    names = list(named(model))
    return {pattern: selector for pattern, selector in select.items() if _matching(str(pattern), names)}


def select_without_wrappers(model: nn.Module, select: Select) -> Select:
    """`select` by the names that modules have without what wraps the network."""
    if not isinstance(select, Mapping):
        return select
    return {without_wrappers(model, p) if isinstance(p, str) else p: selector for p, selector in select.items()}


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
