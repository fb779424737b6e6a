"""How a network below an artificial twin is run on one step, found by running it on few samples."""

from __future__ import annotations

import copy
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from sj_cka.recording.state import is_multi_step, is_neuron, outside_neurons

_N = (2, 3)  # samples of the probes
Counters = tuple[tuple[str, str], ...]  # (module, attribute) of what counts the steps


@dataclass(frozen=True)
class Drive:
    """How the network below a twin is run.

    Args:
        axis: where one step is put into the tensors that get one; None: all are given as they are.
        driven: which leaves of (args, kwargs) get one.
        counters: what is set to 1 meanwhile.
        leaves: for each leaf of the output its number of axes, None where it is no tensor.
        step_axes: for each leaf of the output its axis of steps, None where it has none.
    """

    axis: int | None
    driven: tuple[int, ...]
    counters: Counters
    leaves: tuple[int | None, ...]
    step_axes: tuple[int | None, ...]


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


def _home(hook: Any) -> str:
    """The module that defines a hook."""
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


def takes_steps(activation: nn.Module) -> bool:
    """Whether the network calls an activation on an axis of steps; `Uses` are told by the one they stand for."""
    return getattr(activation, "outer_mode", "m" if is_multi_step(activation) else "s") == "m"


@dataclass(frozen=True)
class _Way:
    """One way to read the input: what it is called, where a step goes, in which leaves, and the axis of samples."""

    words: str
    axis: int | None
    driven: tuple[int, ...]
    samples: int


@dataclass
class _Run:
    """What one probe saw: the input shapes of each activation's calls, and the leaves of the output."""

    calls: dict[str, list[torch.Size]]
    leaves: list[Any]

    @property
    def shapes(self) -> list[torch.Size | None]:
        return [y.shape if isinstance(y, Tensor) else None for y in self.leaves]


class Untranslatable(ValueError):
    """A forward that reads what only a neuron has, or runs the network that the twin was made of."""


class _Probes:
    """Runs on copies of one sample, of a quiet copy of a twin: without hooks, with its own buffers."""

    def __init__(
        self, net: nn.Module, activations: Sequence[str], originals: Mapping[nn.Module, str], args: Any, kwargs: Any
    ) -> None:
        kept: dict[int, Any] = {id(p): p for p in net.parameters()}
        for name in activations:
            if is_neuron(own := net.get_submodule(name)):  # of a spiking twin that is made of a twin
                kept[id(own)] = _stand_in(own)
        quiet: Any = copy.deepcopy(net, {**kept, **live_tensors(net), **no_hooks(net), **no_hooks(net, "forward_pre")})
        quiet._timing = None
        self.net: nn.Module = quiet
        modules = dict(quiet.named_modules())
        self.activations: dict[str, nn.Module] = {name: modules[name] for name in activations}
        self.originals = originals
        self.known = {id(module) for module in modules.values()}
        self.devices = {p.device.index for p in net.parameters() if p.is_cuda}
        leaves, self.spec = pytree.tree_flatten((args, kwargs))
        self.leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]

    def of_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Leaves of the input whose shape starts like this."""
        axes = len(shape)
        return tuple(i for i, x in enumerate(self.leaves) if isinstance(x, Tensor) and x.shape[:axes] == shape)

    def run(
        self,
        way: _Way,
        n: int,
        counters: Counters = (),
        *,
        count: int = 1,
        steps: int = 1,
        features: int | None = None,
        sample: int | None = None,
        step: tuple[int, int] | None = None,
        still: bool = False,
    ) -> _Run:
        """One run on n samples.

        Args:
            way: how the input is read.
            n: samples, all alike.
            counters: what is set to `count` meanwhile.
            count: see there.
            steps: entries of the axis of steps that is put in.
            features: entries of axis 1 of the input, in place of its own number.
            sample: one whose values are NaN, to see where they get to.
            step: (t, of so many), one at which the input of the activations is NaN.
            still: without drawing random numbers or taking statistics of the batch.
        """
        leaves = list(self.leaves)
        first = leaves[way.driven[0]]
        for i in self.of_shape(first.shape[: way.samples + 1]):
            x = _resized(leaves[i], way.samples, n)
            if features is not None and x.ndim > 1 and x.shape[1] == first.shape[1]:
                x = _resized(x, 1, features)
            if sample is not None and x.is_floating_point():
                x.select(way.samples, sample).fill_(torch.nan)
            leaves[i] = x
        if way.axis is not None:
            for i in way.driven:
                leaves[i] = leaves[i].unsqueeze(way.axis).repeat_interleave(steps, way.axis)
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        calls: dict[str, list[torch.Size]] = {}
        try:
            with ExitStack() as left, torch.random.fork_rng(devices=self.devices), torch.no_grad():
                left.enter_context(counted(self.net, counters, count))
                left.enter_context(self._watched(calls, step))
                if still or sample is not None or step is not None:
                    left.enter_context(_still(self.net))
                output = self.net(*args, **kwargs)
        except AttributeError as error:
            name = next((name for name, module in self.activations.items() if module is error.obj), None)
            if name is None:
                raise
            raise Untranslatable(
                f"the forward reads {error.name!r} of neuron {name!r}, which the twin's {type(error.obj).__name__} has "
                "not: let it use what the neuron puts out"
            ) from error
        return _Run(calls, pytree.tree_leaves(output))

    @contextmanager
    def _watched(self, calls: dict[str, list[torch.Size]], step: tuple[int, int] | None) -> Iterator[None]:
        """Notes the calls of the activations, and lets none run that are not the twin's."""
        thread = threading.get_ident()

        def before(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == thread and id(module) not in self.known:
                self._refuse(module)

        def watch(name: str, module: Any) -> None:
            own = module.forward

            def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
                shapes = calls.setdefault(name, [])
                shapes.append(x.shape)
                if step is not None:
                    x = self._marked(x, takes_steps(module), len(shapes) - 1, *step)
                return own(x, *args, **kwargs)

            vars(module)["forward"] = forward

        def guard(module: Any) -> None:
            own = module.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                before(module, args)
                return own(*args, **kwargs)

            vars(module)["forward"] = forward

        # a neuron is guarded by itself, since a forward may call that of a neuron without its hooks
        foreign = [module for module in self.originals if is_neuron(module) and "forward" not in vars(module)]
        handle = register_module_forward_pre_hook(before)
        try:
            for name, module in self.activations.items():
                watch(name, module)
            for module in foreign:
                guard(module)
            yield
        finally:
            handle.remove()
            for module in (*self.activations.values(), *foreign):
                vars(module).pop("forward", None)

    def _marked(self, x: Tensor, multi: bool, call: int, t: int, steps: int) -> Tensor:
        """The input of an activation, NaN at step t."""
        if multi and x.shape[0] == steps:
            x = x.clone()
            x[t] = torch.nan
        elif not multi and call == t:
            x = torch.full_like(x, torch.nan)
        return x

    def _refuse(self, module: nn.Module) -> None:
        """Raises where the forward calls what is no part of the twin, but runs in its place."""
        held = "through a function (a lambda, a closure) or a list that keeps it; let it call what is its own attribute"
        if (name := self.originals.get(module)) is not None:
            raise Untranslatable(
                f"the forward runs {name!r} ({type(module).__name__}) of the network that the twin was made of, {held}"
            )
        if is_neuron(module):
            raise Untranslatable(f"the forward runs a neuron ({type(module).__name__}) that is no module of it, {held}")

    def both(self, way: _Way, counters: Counters = ()) -> tuple[_Run, _Run]:
        """The runs on two and on three samples."""
        two, three = (self.run(way, n, counters) for n in _N)
        return two, three

    def fault(self, two: _Run, three: _Run) -> str:
        """What says that samples were taken for something else; '' if nothing does."""
        if not two.calls:
            return "no activation of the twin is called"
        for name, shapes in two.calls.items():
            others = three.calls.get(name, [])
            if len(shapes) != len(others):
                return f"{name!r} is called once for each sample"
            multi = takes_steps(self.activations[name])
            if multi and any(a[:1] != b[:1] for a, b in zip(shapes, others, strict=True)):
                return f"multi-step {name!r} takes the samples for time steps"
        if len(two.leaves) != len(three.leaves):
            return "the structure of the output changes with the samples"
        if all(_sample_axis(*pair) is None for pair in zip(two.shapes, three.shapes, strict=True)):
            return "no tensor in the output has an axis of samples"
        return ""

    def mixes(self, way: _Way, counters: Counters, two: _Run, three: _Run) -> bool:
        """Whether the output of a sample depends on another one."""
        try:
            seen = self.run(way, _N[1], counters, sample=1)
        except Exception:  # it does not bear NaN
            return False
        for y, a, b in zip(seen.leaves, two.shapes, three.shapes, strict=False):
            axis = _sample_axis(a, b)
            if axis is not None and y.shape == b and _places(y, axis) not in ([], [1]):
                return True
        return False

    def steps(self, seen: _Run) -> int:
        """Steps of a run: the longest axis of time of a multi-step activation, or else the fewest calls of any."""
        multi = [shapes[0][0] for name, shapes in seen.calls.items() if takes_steps(self.activations[name])]
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

    def any_number(self, way: _Way, counters: Counters) -> bool:
        """Whether axis 1 of the input can have another number of entries."""
        own = self.leaves[way.driven[0]].shape[1]
        for other in {*_N, own + 1} - {own}:
            try:
                self.run(way, _N[0], counters, features=other)
            except Untranslatable:
                raise
            except Exception:
                continue
            return True
        return False


def find_drive(
    net: nn.Module,
    forward: Callable[..., Any],
    activations: Sequence[str],
    originals: Mapping[nn.Module, str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Drive:
    """How the network below a twin is run on inputs like this one, found by running it on few samples.

    Args:
        net: the twin.
        forward: the forward of its network, unbound.
        activations: names of what stands where a neuron was.
        originals: the modules of the network that the twin was made of, with their names.
        args: of the forward.
        kwargs: of the forward.

    Raises:
        TypeError: no tensor in the input.
        ValueError: it runs in no way, with what it says to each; or its forward reads what only a neuron has, or runs
            the network that the twin was made of.
    """
    probes, said = _Probes(net, activations, originals, args, kwargs), []
    own, everything = _with_samples(net, forward, probes, args, kwargs)
    ways = [_Way("as it is", None, own, 0)]
    for axis in (0, 1):
        ways += [_Way(f"with a step at axis {axis}", axis, driven, 0) for driven in dict.fromkeys((own, everything))]
    x = probes.leaves[own[0]]
    frames = _Way("as frames [T, N, ...]", None, probes.of_shape(x.shape[:2]), 1) if x.ndim > 2 else None
    mixing: list[tuple[_Way, Counters, _Run, _Run]] = []
    for way in (*ways, *([frames] if frames else [])):
        for counters in ((), *(probes.counters("T", None) if way.samples == 0 else ())):
            try:
                two, three = probes.both(way, counters)
            except Untranslatable:
                raise
            except Exception as error:  # whatever a network says to input of another shape
                said.append(f"{way.words}: {type(error).__name__}: {error}")
                continue
            if fault := probes.fault(two, three):
                said.append(f"{way.words}: {fault}")
                continue
            if not probes.mixes(way, counters, two, three):
                return _drive(probes, *_rather(probes, frames, way, counters, two, three))
            mixing.append((way, counters, two, three))
    if mixing:  # no way keeps the samples apart: the network itself does not
        return _drive(probes, *mixing[0])
    shape = ", ".join(map(str, x.shape))
    raise ValueError(
        f"the twin cannot be run on [{shape}], expected what the network takes at one step, [N, ...]. "
        + "; ".join(dict.fromkeys(said))
    )


def _with_samples(
    net: nn.Module, forward: Callable[..., Any], probes: _Probes, args: Any, kwargs: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leaves of the input with an axis of samples: those in the first argument that has some, and those in all."""
    for value in list(_bound(net, forward, args, kwargs).values())[1:]:
        among = {id(x) for x in pytree.tree_leaves(value) if isinstance(x, Tensor) and x.ndim}
        flat = pytree.tree_leaves((args, kwargs))
        own = [i for i, x in enumerate(flat) if id(x) in among]
        if own:
            everything = probes.of_shape(flat[own[0]].shape[:1])
            return tuple(i for i in own if i in everything), everything
    got = ", ".join(type(x).__name__ for x in pytree.tree_leaves((args, kwargs))) or "nothing"
    raise TypeError(
        f"expected a tensor [N, ...] in the input of the twin, alone or in lists, tuples and dictionaries, got {got}: "
        "a twin has to know where time is; give it tensors"
    )


def _bound(net: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by their names."""
    try:
        return dict(inspect.signature(forward).bind(net, *args, **kwargs).arguments)
    except TypeError as error:
        raise TypeError(f"{forward.__qualname__}{inspect.signature(forward)}: {error}") from None


def _rather(
    probes: _Probes, frames: _Way | None, way: _Way, counters: Counters, two: _Run, three: _Run
) -> tuple[_Way, Counters, _Run, _Run]:
    """The reading as frames where another bears no other number of entries at axis 1, and frames bear any.

    `[T, N, D]` with N = C would else be N samples of C channels to a batch normalisation of C features.
    """
    given = way, counters, two, three
    if frames is None or way is frames or probes.leaves[way.driven[0]].shape[1] == 1:
        return given
    try:
        other = probes.both(frames)
    except Untranslatable:
        raise
    except Exception:  # they are no frames
        return given
    if probes.fault(*other) or probes.mixes(frames, (), *other) or probes.any_number(way, counters):
        return given
    return frames, (), *other


def _drive(probes: _Probes, way: _Way, counters: Counters, two: _Run, three: _Run) -> Drive:
    """The drive of a network that is read in this way: its steps made one, if an attribute counts them."""
    axes = tuple(None if shape is None else len(shape) for shape in two.shapes)
    if way.samples == 1:
        return Drive(None, (), (), axes, (None,) * len(axes))
    other: _Run | None = None
    steps = probes.steps(two)
    for fewer in probes.counters(None, steps) if steps > 1 else []:
        try:
            once = probes.both(way, fewer)
            if probes.fault(*once) or probes.steps(once[0]) != 1 or not _same(probes, way, counters, fewer, steps):
                continue
        except Exception:  # the attribute is of another meaning
            continue
        other, counters, steps, (two, three) = two, fewer, 1, once
        break
    if other is None and steps == 1:
        other = _longer(probes, way, counters, two)
    varied: Sequence[torch.Size | None] = [None] * len(axes)
    if other is not None and len(other.leaves) == len(axes):
        varied = other.shapes
    marks: Sequence[tuple[Any, Any] | None] = [None] * len(axes)
    if other is None and steps > 1:
        marks = _marks(probes, way, counters, steps) or marks
    step_axes = tuple(
        _step_axis(*of_leaf, steps) for of_leaf in zip(two.shapes, three.shapes, varied, marks, strict=True)
    )
    return Drive(way.axis, way.driven if way.axis is not None else (), counters, axes, step_axes)


def _longer(probes: _Probes, way: _Way, counters: Counters, two: _Run) -> _Run | None:
    """A run on two steps of a network that has run on one; None where nothing varies their number."""
    if way.axis is not None:
        try:
            return probes.run(way, _N[0], counters, steps=2)
        except Exception:  # it takes this number of steps only
            return None
    if any(shape is not None and 1 in shape for shape in two.shapes):
        for more in probes.counters(None, 1):
            try:
                seen = probes.run(way, _N[0], more, count=2)
            except Exception:  # the attribute is of another meaning
                continue
            if probes.steps(seen) == 2:
                return seen
    return None


def _same(probes: _Probes, way: _Way, counters: Counters, fewer: Counters, steps: int) -> bool:
    """Whether one step gives what several do, averaged or summed: an attribute may count layers in place of steps."""
    several, once = (probes.run(way, _N[0], which, still=True) for which in (counters, fewer))
    for a, b in zip(several.leaves, once.leaves, strict=True):
        if not (isinstance(a, Tensor) and a.is_floating_point()):
            continue
        axis = [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
        if axis:
            a, b = a.mean(axis), b.mean(axis)
        scale = float(a.abs().max()) if a.numel() else 0.0
        if not any(torch.allclose(a, factor * b, rtol=1e-3, atol=1e-4 * scale) for factor in (1, steps)):
            return False
    return True


def _marks(probes: _Probes, way: _Way, counters: Counters, steps: int) -> list[tuple[Any, Any]]:
    """Each leaf of the output where the first, and where the last step is NaN; none if the network bears no NaN."""
    try:
        first, last = (probes.run(way, _N[0], counters, step=(t, steps)).leaves for t in (0, steps - 1))
    except Exception:
        return []
    return list(zip(first, last, strict=True))


def _sample_axis(two: torch.Size | None, three: torch.Size | None) -> int | None:
    """The first axis that grows with the samples."""
    if two is None or three is None or len(two) != len(three):
        return None
    return next((i for i, (a, b) in enumerate(zip(two, three, strict=True)) if a * _N[1] == b * _N[0] and a), None)


def _step_axis(
    two: torch.Size | None,
    three: torch.Size | None,
    other: torch.Size | None,
    marks: tuple[Any, Any] | None,
    steps: int,
) -> int | None:
    """The axis of an output, beside that of samples, that has an entry for each step.

    It is told by a run of another number of steps, or by where the values of one step get to.
    """
    samples = _sample_axis(two, three)
    if two is None or samples is None:
        return None
    if other is not None:
        if len(other) != len(two):
            return None
        grown = [i for i, (a, b) in enumerate(zip(two, other, strict=True)) if a != b]
        return grown[0] if len(grown) == 1 and grown[0] != samples and two[grown[0]] == steps else None
    axes = [i for i, size in enumerate(two) if size == steps and i != samples]
    if marks is not None and all(_places(y, samples) for y in marks):
        first, last = marks
        return next((i for i in axes if len(_places(last, i)) == 1 and _places(first, i) != _places(last, i)), None)
    return 0 if samples == 1 and 0 in axes else None


def _places(y: Any, axis: int) -> list[int]:
    """The entries of an axis in which there is a NaN."""
    if not (isinstance(y, Tensor) and y.is_floating_point()):
        return []
    return sorted(set(y.isnan().nonzero()[:, axis].tolist()))


def _resized(x: Tensor, axis: int, size: int) -> Tensor:
    """So many copies of the first entry of an axis."""
    return x.index_select(axis, torch.zeros(size, dtype=torch.long, device=x.device))


def _stand_in(own: nn.Module) -> nn.Module:
    stand_in: Any = nn.Identity()
    stand_in.step_mode = "m" if takes_steps(own) else "s"
    return stand_in


@contextmanager
def _still(net: nn.Module) -> Iterator[None]:
    """Layers in evaluation mode while it lasts, blocks, whose forward may ask for it, as they are."""
    layers = [module for module in net.modules() if module.training and next(module.children(), None) is None]
    try:
        for module in layers:
            module.training = False
        yield
    finally:
        for module in layers:
            module.training = True


@contextmanager
def counted(net: nn.Module, counters: Counters, count: int = 1) -> Iterator[None]:
    """Sets what counts the steps to one, or another number, while it lasts."""
    at = [(vars(net.get_submodule(name)), key) for name, key in counters]
    before = [attributes[key] for attributes, key in at]
    try:
        for attributes, key in at:
            attributes[key] = count
        yield
    finally:
        for (attributes, key), value in zip(at, before, strict=True):
            attributes[key] = value
