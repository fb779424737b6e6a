"""How the layers of weights and the neurons of a network hang together, as a run of it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sj_cka.recording import from_rest, is_neuron, keep_gradients, kept, modes_kept
from sj_cka.recording.state import outside_neurons
from sj_cka.training.credit.layers import LAYERS, check_layer

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh)  # of a network without neurons


@dataclass(frozen=True)
class Wiring:
    """What of a network learning rules act on.

    Args:
        layers: name -> layer of weights, of those that run, in order.
        neurons: name -> neurons, in order; in an artificial network its activations.
        into: layer -> neurons that its output reaches with no other neurons between, nearest first.
        behind: layers whose output goes through another layer before it reaches neurons.
        from_: layer -> neurons that its input comes from with no other layer between.
        classifier: layers whose output are the logits, with no neurons and no other layer between.
        spiking_logits: neurons that the logits come from with no layer between.
        held: (layer, neurons, or "the logits") that the output of the first reaches the second at a later step, with no
            neurons between: through a state that is not of neurons.
        past: (neurons, neurons) that the spikes of the first reach the second past all layers.
        calls: layer or neurons -> calls in a run.
        norms: batch normalisation, by name.
        shapes: what a layer puts out, and what neurons are given, in a call.
        units: neurons -> how many they are for a sample.
        rows: axes of the logits before the classes: `[N]` or `[T, N]`.
        others: names of weights of more than one axis that no layer here holds.
    """

    layers: dict[str, nn.Module]
    neurons: dict[str, nn.Module]
    into: dict[str, list[str]]
    behind: set[str]
    from_: dict[str, list[str]]
    classifier: list[str]
    spiking_logits: list[str]
    held: list[tuple[str, str]]
    past: list[tuple[str, str]]
    calls: dict[str, float]
    norms: list[str]
    shapes: dict[str, torch.Size]
    units: dict[str, int]
    rows: torch.Size
    others: list[str]

    @property
    def spiking(self) -> bool:
        """Whether there are spiking neurons: else these are the activations of an artificial network."""
        return any(map(is_neuron, self.neurons.values()))

    def is_recurrent(self, layer: str) -> bool:
        """Whether a layer takes the spikes of the neurons that it feeds."""
        return bool(self.from_[layer]) and self.from_[layer] == self.into[layer]

    def has_rows(self, neurons: str) -> bool:
        """Whether neurons put out something for every row of the logits, in the same order."""
        calls, rows = int(self.calls[neurons]), [n for n in self.rows if n != 1]
        axes = [n for n in (calls, *self.shapes[neurons]) if n != 1]
        return axes[: len(rows)] == rows

    @property
    def blocks(self) -> dict[str, list[str]]:
        """Neurons -> the layers that feed them."""
        return {neurons: [layer for layer in self.layers if neurons in self.into[layer]] for neurons in self.neurons}


class _Mark(torch.autograd.Function):
    """A tensor as it is, that the graph behind it can be known by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mark: _Marked) -> Tensor:
        ctx.mark = mark
        return x.clone()  # a view would refuse what works in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@dataclass(eq=False)
class _Marked:
    """A call of a layer or of neurons, in a run: the graph of its input."""

    name: str
    neurons: bool
    run: int
    given: Any
    shape: torch.Size


@dataclass
class _Watch:
    """The calls of a run."""

    calls: list[_Marked] = field(default_factory=list)
    run: int = -1

    def on(self, name: str, module: nn.Module, neurons: bool) -> Callable[[], None]:
        """Watches a module; gives what ends it."""

        def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
            if not args:
                raise ValueError(
                    f"expected a forward that gives layers and neurons their input as the first argument, {name!r} is "
                    f"given it by name: call it as module(x)"
                )
            call = _Marked(name, neurons, self.run, args[0].grad_fn, (args[0] if neurons else out).shape)
            self.calls.append(call)
            return _Mark.apply(out, call)

        return module.register_forward_hook(after).remove


def wiring_of(network: nn.Module, run: Callable[[], Tensor], runs: int) -> Wiring:
    """The wiring of a network, which is left as it was.

    Args:
        network: takes and gives tensors.
        run: runs it, and gives the logits.
        runs: how often it is to be run, states kept in between.

    Raises:
        ValueError: weights that are used outside the call of their layer, neurons that are never called, an input
            given by name, a convolution that no rule can go back through, or a run without samples.
    """
    named = outside_neurons(network)
    spiking = any(map(is_neuron, named.values()))
    units = {n: m for n, m in named.items() if (is_neuron(m) if spiking else isinstance(m, _ACTIVATIONS))}
    layers: dict[str, nn.Module] = {n: m for n, m in named.items() if isinstance(m, LAYERS) and n not in units}
    watch = _Watch()
    with kept(network), without_noise(network), torch.enable_grad(), ExitStack() as hooks:
        for name, module in (layers | units).items():
            hooks.callback(watch.on(name, module, name in units))

        def again(number: int) -> Tensor:
            watch.run = number
            return run()

        logits = from_rest(network, lambda: [again(number) for number in range(runs)])
        if not logits[0].numel():
            raise ValueError("expected samples, by which it is seen how layers hang together; got none")
        called = [call.name for call in watch.calls]
        layers = {name: layers[name] for name in dict.fromkeys(called) if name in layers}
        for name, module in layers.items():
            check_layer(name, module)
        if silent := [name for name in units if name not in called]:
            raise ValueError(f"expected a forward that calls its neurons as modules, {silent[0]!r} is never called")
        others = _other_weights(network, layers, [one.grad_fn for one in logits])
        into: dict[str, list[str]] = {name: [] for name in layers}
        from_: dict[str, list[str]] = {name: [] for name in layers}
        behind, past = set[str](), set[tuple[str, str]]()
        for call in watch.calls:
            near, far = _before(call.given)
            if not call.neurons:
                from_[call.name] += [n for n in near if n in units and n not in from_[call.name]]
                continue
            past |= {(name, call.name) for name in near if name in units}
            behind |= far
            for name in [*(n for n in near if n in layers), *far]:
                if call.name not in into[name]:
                    into[name].append(call.name)
        near, far = _before(*(one.grad_fn for one in logits))
        behind |= far
        held = {(first, call.name) for call in watch.calls for first in _of_before(call.given, call.run)}
        held |= {(first, "the logits") for i, one in enumerate(logits) for first in _of_before(one.grad_fn, i)}
    calls = {name: called.count(name) / runs for name in dict.fromkeys(called)}
    shapes = {call.name: call.shape for call in watch.calls}
    outputs = logits[0].numel() // logits[0].shape[-1]
    return Wiring(
        layers,
        {name: units[name] for name in calls if name in units},
        into,
        behind,
        from_,
        [name for name in near if name in layers],
        [name for name in near if name in units],
        sorted(held),
        sorted(past),
        calls,
        [n for n, m in named.items() if isinstance(m, nn.modules.batchnorm._BatchNorm)],
        shapes,
        {name: int(shapes[name].numel() * calls[name]) // outputs for name in calls if name in units},
        logits[0].shape[:-1],
        others,
    )


def _other_weights(network: nn.Module, layers: Mapping[str, nn.Module], logits: Sequence[Any]) -> list[str]:
    """Weights that the logits hang on and that no layer holds.

    Raises:
        ValueError: those of a layer, which a function uses in its place.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    held = {id(p): (n, m) for n, m in network.named_modules() if isinstance(m, LAYERS) for p in m.parameters()}
    others = []
    for parameter in _outside_layers(logits):
        if id(parameter) in held:
            layer, module = held[id(parameter)]
            raise ValueError(
                f"expected a forward that calls its layers as modules: {names[id(parameter)]!r} is used without a call "
                f"of {layer!r} ({type(module).__name__}), where no learning rule could see it"
            )
        if parameter.ndim > 1 and id(parameter) in names:
            others.append(names[id(parameter)])
    return others


def _before(*nodes: Any) -> tuple[list[str], set[str]]:
    """The layers and neurons that graphs begin at; and the layers behind these layers, with no neurons between."""
    near, far = dict.fromkeys(_marks(nodes)), set[str]()
    todo = [mark for mark in near if not mark.neurons]
    while todo:
        for mark in _marks([todo.pop().given]):
            if not mark.neurons and mark.name not in far:
                far.add(mark.name)
                todo.append(mark)
    return list(dict.fromkeys(mark.name for mark in near)), far


def _marks(nodes: Sequence[Any]) -> Iterator[_Marked]:
    """The calls that graphs begin at, each once; none behind another."""
    todo, seen = [node for node in nodes if node is not None], set[Any]()
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(mark := getattr(node, "mark", None), _Marked):
            yield mark
        else:
            todo += [before for before, _ in node.next_functions if before is not None]


def _of_before(node: Any, run: int) -> list[str]:
    """The layers of earlier runs that a graph begins at."""
    return [mark.name for mark in _marks([node]) if not mark.neurons and mark.run < run]


def _outside_layers(nodes: Sequence[Any]) -> Iterator[Tensor]:
    """The parameters that graphs use, but for what a layer of weights does inside."""
    todo, seen = list(nodes), set[Any]()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        mark = getattr(node, "mark", None)
        if isinstance(mark, _Marked) and not mark.neurons:
            todo.append(mark.given)
        else:
            todo += [before for before, _ in node.next_functions]


@contextmanager
def without_noise(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, but for neurons that have no surrogate gradient there; as it was before at the end."""
    with modes_kept(network):
        network.eval()
        keep_gradients(network)
        yield
