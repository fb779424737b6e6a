"""How a network below an artificial twin is run on one step, found by running it on few samples."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sj_cka.recording.state import is_multi_step, outside_neurons

_N = (2, 3)  # samples of the probes
Counters = tuple[tuple[str, str], ...]  # (module, attribute) of what counts the steps


@dataclass(frozen=True)
class Drive:
    """How the network below a twin is run.

    Args:
        axis: where one step is put into the input; None: it is given as it is.
        counters: what is set to 1 meanwhile.
        step_axes: for each leaf of the output its axis of steps, None where it has none.
    """

    axis: int | None
    counters: Counters
    step_axes: tuple[int | None, ...]


def live_tensors(net: nn.Module) -> dict[int, Tensor]:
    """Copies of the tensors in attributes that hang on a graph, which `copy.deepcopy` refuses; as a memo for it."""
    leaves = pytree.tree_leaves([vars(module) for module in net.modules()])
    return {id(x): x.detach().clone() for x in leaves if isinstance(x, Tensor) and not x.is_leaf}


def no_hooks(net: nn.Module, *kinds: str) -> dict[int, OrderedDict[int, Any]]:
    """Empty ones in place of hooks, by default those after a forward or backward pass; as a memo for deepcopy."""
    attributes = [f"_{kind}_hooks" for kind in kinds or ("forward", "backward", "backward_pre")]
    return {id(getattr(m, attribute)): OrderedDict() for m in net.modules() for attribute in attributes}


@dataclass
class _Run:
    """What one probe saw: the input shapes of each activation's calls, and the shape of each leaf of the output."""

    calls: dict[str, list[torch.Size]]
    leaves: list[torch.Size | None]


class _Probes:
    """Runs on copies of one sample, of a quiet copy of a twin: without hooks, with its own buffers."""

    def __init__(self, net: nn.Module, activations: tuple[str, ...], x: Tensor, args: Any, kwargs: Any) -> None:
        own: dict[int, Any] = {id(p): p for p in net.parameters()}
        quiet: Any = copy.deepcopy(net, {**own, **live_tensors(net), **no_hooks(net), **no_hooks(net, "forward_pre")})
        quiet._timing = None
        self.net: nn.Module = quiet
        modules = dict(quiet.named_modules())
        self.activations = {name: modules[name] for name in activations}
        self.x, self.rest = x.detach(), (args, kwargs)
        self.devices = {p.device.index for p in net.parameters() if p.is_cuda}

    def run(self, n: int, axis: int | None, samples: int, counters: Counters = (), steps: int = 1) -> _Run:
        """One run on n samples, which are counted on axis `samples` of the input."""
        N = self.x.shape[samples]

        def some(y: Any) -> Any:
            counts = isinstance(y, Tensor) and y.ndim > samples and y.shape[samples] == N
            return y.index_select(samples, torch.zeros(n, dtype=torch.long, device=y.device)) if counts else y

        x = some(self.x)
        if axis is not None:
            x = x.unsqueeze(axis).repeat_interleave(steps, axis)
        args, kwargs = pytree.tree_map(some, self.rest)
        calls: dict[str, list[torch.Size]] = {}
        handles = [
            module.register_forward_pre_hook(
                lambda _, given, name=name: calls.setdefault(name, []).append(given[0].shape)
            )
            for name, module in self.activations.items()
        ]
        try:
            with torch.random.fork_rng(devices=self.devices), torch.no_grad(), counted_once(self.net, counters):
                output = self.net(x, *args, **kwargs)
        except AttributeError as error:
            name = next((name for name, module in self.activations.items() if module is error.obj), None)
            if name is None:
                raise
            raise NeuronReadError(
                f"the forward reads {error.name!r} of neuron {name!r}, which the twin's {type(error.obj).__name__} has "
                "not: let it use what the neuron puts out"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        return _Run(calls, [y.shape if isinstance(y, Tensor) else None for y in pytree.tree_leaves(output)])

    def both(self, axis: int | None, samples: int, counters: Counters = ()) -> tuple[_Run, _Run]:
        """The runs on two and on three samples."""
        two, three = (self.run(n, axis, samples, counters) for n in _N)
        return two, three

    def fault(self, two: _Run, three: _Run) -> str:
        """What says that samples were taken for something else; '' if nothing does."""
        for name, shapes in two.calls.items():
            others = three.calls.get(name, [])
            if len(shapes) != len(others):
                return f"{name!r} is called once for each sample"
            multi = is_multi_step(self.activations[name])
            if multi and any(a[:1] != b[:1] for a, b in zip(shapes, others, strict=True)):
                return f"multi-step {name!r} takes the samples for time steps"
        if all(_sample_axis(*pair) is None for pair in zip(two.leaves, three.leaves, strict=False)):
            return "no tensor in the output has an axis of samples"
        return ""

    def steps(self, seen: _Run) -> int:
        """Steps of a run: the longest axis of time of a multi-step activation, or else the fewest calls of any."""
        multi = [shapes[0][0] for name, shapes in seen.calls.items() if is_multi_step(self.activations[name])]
        return max(multi) if multi else min((len(shapes) for shapes in seen.calls.values()), default=1)

    def counters(self, name: str | None, steps: int | None) -> list[Counters]:
        """Attributes of blocks that are whole numbers above 1, or equal to `steps`, by their name; `T` first."""
        found: dict[str, list[tuple[str, str]]] = {}
        for path, module in outside_neurons(self.net).items():
            for key, value in vars(module).items():
                counts = type(value) is int and (value > 1 if steps is None else value == steps)
                if counts and next(module.children(), None) is not None and name in (None, key):
                    found.setdefault(key, []).append((path, key))
        return [tuple(found[key]) for key in sorted(found, key=lambda key: key != "T")]


class NeuronReadError(ValueError):
    """A forward that reads what only a neuron has."""


def find_drive(net: nn.Module, activations: tuple[str, ...], x: Tensor, args: Any, kwargs: Any) -> Drive:
    """How the network below a twin is run on inputs like this one, found by running it on few samples.

    Raises:
        ValueError: it runs in no way, with what it says to each; or its forward reads what only a neuron has.
    """
    probes, said = _Probes(net, activations, x, args, kwargs), []
    ways = [("as it is", None, 0), ("with a step at axis 0", 0, 0), ("with a step at axis 1", 1, 0)]
    if x.ndim > 2:
        ways.append(("as frames [T, N, ...]", None, 1))
    for words, axis, samples in ways:
        for counters in ((), *(probes.counters("T", None) if samples == 0 else ())):
            try:
                two, three = probes.both(axis, samples, counters)
            except NeuronReadError:
                raise
            except Exception as error:  # whatever a network says to input of another shape
                said.append(f"{words}: {type(error).__name__}: {error}")
                continue
            if fault := probes.fault(two, three):
                said.append(f"{words}: {fault}")
                continue
            if samples == 1:
                return Drive(axis, (), (None,) * len(two.leaves))
            return _drive(probes, axis, counters, two, three)
    shape = ", ".join(map(str, x.shape))
    raise ValueError(
        f"the twin cannot be run on [{shape}], expected what the network takes at one step, [N, ...]. "
        + "; ".join(dict.fromkeys(said))
    )


def _drive(probes: _Probes, axis: int | None, counters: Counters, two: _Run, three: _Run) -> Drive:
    """The drive of a network that runs with a step at this axis: its steps made one, if an attribute counts them."""
    other: _Run | None = None
    steps = probes.steps(two)
    for fewer in probes.counters(None, steps) if steps > 1 else []:
        try:
            once = probes.both(axis, 0, fewer)
        except Exception:  # the attribute is of another meaning
            continue
        if not probes.fault(*once) and probes.steps(once[0]) == 1:
            other, counters, steps, (two, three) = two, fewer, 1, once
            break
    if other is None and axis is not None:
        try:
            other = probes.run(_N[0], axis, 0, counters, steps=2)
        except Exception:  # it takes this number of steps only
            other = None
    others: list[torch.Size | None] = other.leaves if other is not None else [None] * len(two.leaves)
    if len(others) != len(two.leaves):
        others = [None] * len(two.leaves)
    found = zip(two.leaves, three.leaves, others, strict=True)
    return Drive(axis, counters, tuple(_step_axis(a, b, longer, steps) for a, b, longer in found))


def _sample_axis(two: torch.Size | None, three: torch.Size | None) -> int | None:
    """The first axis that grows with the samples."""
    if two is None or three is None or len(two) != len(three):
        return None
    return next((i for i, (a, b) in enumerate(zip(two, three, strict=True)) if a * _N[1] == b * _N[0] and a), None)


def _step_axis(two: torch.Size | None, three: torch.Size | None, longer: torch.Size | None, steps: int) -> int | None:
    """The axis of an output that has as many entries as there are steps and grows with them, beside that of samples."""
    samples = _sample_axis(two, three)
    if two is None or samples is None:
        return None
    if longer is None:  # the number of steps could not be varied
        return 0 if samples == 1 and two[0] == steps else None
    if len(longer) != len(two):
        return None
    grown = [i for i, (a, b) in enumerate(zip(two, longer, strict=True)) if a != b]
    return grown[0] if len(grown) == 1 and grown[0] != samples and two[grown[0]] == steps else None


@contextmanager
def counted_once(net: nn.Module, counters: Counters) -> Iterator[None]:
    """Sets what counts the steps to 1 while it lasts."""
    at = [(vars(net.get_submodule(name)), key) for name, key in counters]
    before = [attributes[key] for attributes, key in at]
    try:
        for attributes, key in at:
            attributes[key] = 1
        yield
    finally:
        for (attributes, key), value in zip(at, before, strict=True):
            attributes[key] = value
