"""Which modules of a network are layers: the choice by name, glob, type or predicate, and the default."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence

from spikingjelly.activation_based import layer as sj_layer
from torch import nn

from sj_cka.plugins import closest
from sj_cka.recording.state import outside_neurons
from sj_cka.recording.trace import Trace

Layer = str | type[nn.Module] | Callable[[str, nn.Module], bool]
LayerSpec = Layer | Sequence[Layer] | None
_GLOB = re.compile(r"[*?\[]")
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
    found = outside_neurons(model)
    if len(found) > 1:  # a bare module is its own only layer
        found.pop("", None)
    return found


def choose(model: nn.Module, layers: LayerSpec, trace: Trace) -> list[list[str]]:
    """Dotted names of the layers asked for: a list for each pattern, in the order asked; each name once.

    Raises:
        ValueError: a pattern that matches nothing, or only what is never called.
    """
    if layers is None:
        return [default_layers(model, trace)]
    modules = candidates(model)
    chosen: list[list[str]] = []
    patterns = [layers] if isinstance(layers, str) or callable(layers) else list(layers)
    if not patterns:
        raise ValueError("layers: expected at least one name, glob, type or predicate, got none")
    for layer in patterns:
        if isinstance(layer, str) and layer in modules:
            matched = [layer]
        else:
            matched = [name for name, module in modules.items() if _matches(layer, name, module)]
        if not matched:
            hint = closest(layer, modules) if isinstance(layer, str) else ""
            raise ValueError(f"layers: {_describe(layer)} matches no module{hint}")
        called = [name for name in trace.called if name in matched]
        if not called:
            raise ValueError(
                f"layers: {_describe(layer)} matches {', '.join(matched[:3])}, which the forward pass never calls; "
                "a layer must be called as a module, not through its weights"
            )
        chosen.append([name for name in called if not any(name in group for group in chosen)])
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


def _matches(layer: Layer, name: str, module: nn.Module) -> bool:
    if isinstance(layer, str):
        return _GLOB.search(layer) is not None and fnmatch.fnmatchcase(name, layer)
    if isinstance(layer, type):
        return isinstance(module, layer)
    return bool(layer(name, module))


def _describe(layer: Layer) -> str:
    return repr(layer) if isinstance(layer, str) else getattr(layer, "__name__", repr(layer))
