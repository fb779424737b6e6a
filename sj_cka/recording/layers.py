"""Which modules of a network are layers: the choice by name, glob, type or predicate, and the default."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from spikingjelly.activation_based import layer as sj_layer
from torch import nn

from sj_cka.plugins import closest
from sj_cka.recording.state import outside_neurons
from sj_cka.recording.trace import Trace
from sj_cka.recording.wrappers import named, unwrapped

Layer = str | type[nn.Module] | Callable[[str, nn.Module], bool]
LayerSpec = Layer | Sequence[Layer] | None
_GLOB = re.compile(r"[*?\[]")
_LABEL = re.compile(r"(?P<module>.*)#(?P<use>\d+)")  # of a layer that is one of several uses of a module
# they only lay out time for what they hold
_CONTAINERS = (
    sj_layer.MultiStepContainer,
    sj_layer.SeqToANNContainer,
    sj_layer.StepModeContainer,
    sj_layer.TLastMultiStepContainer,
    sj_layer.TLastSeqToANNContainer,
)


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
            matched = _named(layer, names)
            if not matched and (label := _LABEL.fullmatch(layer)):
                matched, use = _named(label["module"], names), int(label["use"])
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
    Identity or a dropout in evaluation. What only passes the network's input on (a Flatten before all else) is none.
    """
    modules = candidates(model)
    chosen = [name for name in trace.called if name in modules and not trace.repeats(name)]
    chosen = [name for name in chosen if not isinstance(modules[name], _CONTAINERS)]
    linear = [name for name in chosen if isinstance(modules[name], nn.Linear)]
    chosen = [name for name in chosen if not linear or name != linear[-1]]
    if not chosen:
        raise ValueError("the network calls no module that could be a layer; give it submodules, or name layers=")
    return chosen


def _names(model: nn.Module) -> dict[str, str]:
    """Every name of every candidate, also those that wrappers make -> the one that it goes by, which is its first."""
    first = {id(module): name for name, module in candidates(model).items()}
    every = [*named(model, every_name=True).items(), *model.named_modules(remove_duplicate=False)]
    return {name: first[id(inner)] for name, module in every if id(inner := unwrapped(module)) in first}


def _named(layer: str, names: dict[str, str]) -> set[str]:
    """The modules of a name, or of a glob."""
    if layer in names:
        return {names[layer]}
    if _GLOB.search(layer) is None:
        return set()
    return {module for name, module in names.items() if fnmatch.fnmatchcase(name, layer)}


def _matches(layer: type[nn.Module] | Callable[[str, nn.Module], bool], name: str, module: nn.Module) -> bool:
    return isinstance(module, layer) if isinstance(layer, type) else bool(layer(name, module))


def _describe(layer: Layer) -> str:
    return repr(layer) if isinstance(layer, str) else getattr(layer, "__name__", repr(layer))
