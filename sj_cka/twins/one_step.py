"""How the network below an artificial twin is run on one step, found by running it on few samples."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sj_cka.recording.drive import Drive
from sj_cka.recording.knobs import Knob, knobs, turned
from sj_cka.recording.probes import Probes, own_steps, taken_for_steps, tried
from sj_cka.recording.snapshot import computes_by_own_code
from sj_cka.recording.state import is_multi_step, modes_kept
from sj_cka.recording.tap import N_PROBE, Tap
from sj_cka.recording.trace import Trace
from sj_cka.twins.attempt import MARKED, Attempt, leaves_of
from sj_cka.twins.refusals import Untranslatable, of_the_twin_alone


@dataclass(frozen=True)
class OneStep:
    """How the network below a twin is run on one step.

    Args:
        drive: how the input is given: as it is, or repeated once, along an axis of one step.
        driven: which leaves of (args, kwargs) get one.
        counters: (module, attribute) of what counts the steps and is set to 1 meanwhile.
        axes: for each leaf of the output its number of axes, None where it is no tensor.
        taps: for each leaf of the output where its samples and its steps lie, None where it has no samples.
    """

    drive: Drive
    driven: tuple[int, ...]
    counters: tuple[tuple[str, str], ...]
    axes: tuple[int | None, ...]
    taps: tuple[Tap | None, ...]


class _Unfit(Exception):
    """A way to run the network in which samples are taken for something else."""


def find_one_step(
    net: nn.Module,
    forward: Callable[..., Any],
    activations: Sequence[str],
    originals: Mapping[nn.Module, str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> OneStep:
    """How the network below a twin is run on inputs like this one, found by running it on few samples.

    They are copies of the first one. In the first round one of them is NaN: it gets to wherever that sample does, so
    that one run tells what takes samples for steps, or mixes them. A second round is without, for inputs that are no
    floating point and networks that do not bear it.

    Args:
        net: a quiet copy of the twin.
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
    search = _Search(net, forward, activations, originals, args, kwargs)
    for marked in (MARKED, None):
        if (attempt := search.best(marked)) is not None:
            return search.one_step(attempt)
    raise ValueError(
        f"the twin cannot be run on {list(search.batch[0].shape)}, expected what the network takes at one step, "
        f"[N, ...]. {'; '.join(search.said)}"
    )


class _Search(Probes):
    """Runs of a quiet copy of a twin; of the leaves of its input those that get a step come first in the batch."""

    def __init__(
        self,
        net: nn.Module,
        forward: Callable[..., Any],
        activations: Sequence[str],
        originals: Mapping[nn.Module, str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        first, everything = _with_samples(net, forward, args, kwargs)
        self.order = [*dict.fromkeys((*first, *everything, *range(len(leaves))))]
        batch = [leaves[i].detach() if isinstance(leaves[i], Tensor) else leaves[i] for i in self.order]
        super().__init__(net, batch, activations=tuple(activations))
        self.originals, self.said = originals, dict[str, None]()
        # in evaluation they neither draw nor mix samples; blocks, which may ask for the mode, and a user's own are left
        self.still = [m for m in self.model.modules() if not [*m.children()] and not computes_by_own_code(m)]
        self.devices = {p.device.index for p in net.parameters() if p.is_cuda}

        def call(model: nn.Module, batch: Sequence[Any]) -> Any:
            given = dict(zip(self.order, batch, strict=True))
            args, kwargs = pytree.tree_unflatten([given[i] for i in range(len(given))], spec)
            return model(*args, **kwargs)

        as_is = Drive("as is", forward=call)
        counts = dict.fromkeys((len(first), len(everything)))
        with_a_step = [
            replace(as_is, mode="repeat", T=1, step_axis=axis, repeated=count) for axis in (0, 1) for count in counts
        ]
        self.ways = [as_is, *with_a_step]
        self.frames = [replace(as_is, sample_axis=1)] if batch[0].ndim > 2 else []

    def best(self, marked: int | None) -> Attempt | None:
        """The first way that keeps the samples apart; failing that, the first: the network itself mixes them.

        One in which no activation is called, as far as hooks see, comes after all others.
        """
        mixing: list[Attempt] = []
        self.said.clear()
        counters = [k for k in knobs(self.model) if k.of_time and k.value > 1 and k.module is not None]
        sets: list[list[Knob]] = [[], counters] if counters else [[]]
        for ones, way in (*product(sets, self.ways), *product(sets[:1], self.frames)):
            attempt = tried(self.attempt, way, ones, marked)
            if isinstance(attempt, Exception):
                what = attempt if isinstance(attempt, _Unfit) else f"{type(attempt).__name__}: {attempt}"
                self.said[f"{_words(way)}: {what}"] = None
            elif attempt.two.inputs and not attempt.mixes():
                return self._rather(attempt, marked)
            else:
                mixing.append(attempt)
        return min(mixing, key=lambda attempt: not attempt.two.inputs, default=None)

    def one_step(self, attempt: Attempt) -> OneStep:
        """What a twin has to know of a way to run it."""
        drive, counters, two, _, T = attempt
        axes = tuple(x.ndim if isinstance(x, Tensor) else None for x in leaves_of(two))
        taps: tuple[Tap | None, ...] = (None,) * len(axes)  # frames come out as they went in
        if drive.sample_axis == 0:
            last = tried(self._last_step, attempt) if T[0] == T[1] > 1 else None
            taps = attempt.taps(None if isinstance(last, Exception) else last)
        driven = tuple(self.order[: drive.repeated]) if drive.mode == "repeat" else ()
        named = tuple((str(knob.module), knob.key) for knob in counters)
        return OneStep(replace(drive, forward=None), driven, named, axes, taps)

    def attempt(self, drive: Drive, counters: Sequence[Knob], marked: int | None) -> Attempt:
        """A way on two samples and on three, of which the second run is on another number of steps, if it bears one.

        Raises:
            _Unfit: samples are taken for something else.
        """
        with turned(counters, 1):
            two = self.run(drive, (0, 0), marked=marked)
            if marked is not None:
                self._expect_apart(two)
            T = own_steps(self.model, two) or 1
            other = 1 if T > 1 else 2
            if drive.sample_axis == 0:  # frames bring their steps
                for some, three in self.varied(drive, (0, 0, 0), T, other, marked=marked):
                    varied = Attempt(drive, (*counters, *(some if T > 1 else ())), two, three, (T, other))
                    if isinstance(tried(self._fit, varied), Attempt) and self._means_steps(varied, some):
                        return varied
            return self._fit(Attempt(drive, counters, two, self.run(drive, (0, 0, 0), marked=marked), (T, T)))

    def settings(self, T: int) -> Iterable[Sequence[Knob]]:
        """Those that the twin itself can set: no configuration, which it may share."""
        sets = ([knob for knob in some if knob.module is not None] for some in super().settings(T))
        return [some for some in sets if some]

    def _means_steps(self, varied: Attempt, some: Sequence[Knob]) -> bool:
        """Whether attributes that were set are of no other meaning."""
        T, other = varied.T
        return not some or (own_steps(self.model, varied.three) == other and (T == 1 or varied.agrees()))

    def _fit(self, attempt: Attempt) -> Attempt:
        """The same where its samples are taken for nothing else."""
        if fault := taken_for_steps(self.model, attempt.two, attempt.three):
            raise _Unfit(fault)
        if len(leaves_of(attempt.two)) != len(leaves_of(attempt.three)):
            raise _Unfit("the structure of the output changes with the samples")
        if all(axis is None for *_, axis in attempt.outputs()):
            raise _Unfit("no tensor in the output has an axis of samples")
        return attempt

    def run(
        self,
        drive: Drive,
        order: Sequence[int],
        T: int | None = None,
        noise: float = 0,
        *,
        marked: int | None = None,
    ) -> Trace:
        """A run that leaves no trace, and in which nothing runs or is read that is no part of the twin."""
        still, fork = modes_kept(self.model), torch.random.fork_rng(devices=self.devices)
        try:
            with of_the_twin_alone(self.model, self.originals), still, fork:
                for layer in self.still:
                    layer.training = False
                return super().run(drive, order, T, noise, marked=marked)
        except AttributeError as error:
            for name in self.activations or ():
                if self.model.get_submodule(name) is error.obj:
                    raise Untranslatable(
                        f"the forward reads {error.name!r} of neuron {name!r}, which the twin's "
                        f"{type(error.obj).__name__} has not: let it use what the neuron puts out"
                    ) from error
            raise

    def _expect_apart(self, two: Trace) -> None:
        """Raises where an activation sees a sample of its own at each of its steps: one all NaN, the other without."""
        for name in two.inputs:
            multi = is_multi_step(self.model.get_submodule(name))
            for steps in two.outputs[name] if multi else [two.outputs[name]]:
                if len(steps) == N_PROBE[0] and steps[0].numel():
                    first, second = (x.isnan() for x in steps)
                    if bool(second.all()) and not bool(first.any()):
                        how = "takes the samples for time steps" if multi else "is called once for each sample"
                        raise _Unfit(f"{'multi-step ' if multi else ''}{name!r} {how}")

    def _rather(self, attempt: Attempt, marked: int | None) -> Attempt:
        """The reading as frames where another bears no other number of entries at axis 1, and frames bear any.

        `[T, N, D]` with N = C would else be N samples of C channels to a batch normalisation of C features.
        """
        x = self.batch[0]
        if attempt.drive in self.frames or x.ndim < 3 or x.shape[1] == 1 or x.shape[1] not in self._normalised():
            return attempt
        frames = tried(self.attempt, self.frames[0], (), marked)
        if isinstance(frames, Exception) or frames.mixes():
            return attempt
        batch, others = self.batch, {*N_PROBE, x.shape[1] + 1} - {x.shape[1]}
        try:
            for other in others:
                self.batch = self.frames[0].take(batch, (0,) * other)
                if isinstance(tried(self._bare, attempt), Trace):
                    return attempt
        finally:
            self.batch = batch
        return frames

    def _bare(self, attempt: Attempt) -> Trace:
        with turned(attempt.counters, 1):
            return self.run(attempt.drive, (0, 0))

    def _normalised(self) -> set[int]:
        """Lengths of the vectors in modules that hold nothing else, as normalisations do."""
        held = [[*m.parameters(recurse=False), *m.buffers(recurse=False)] for m in self.model.modules()]
        return {len(x) for tensors in held if all(x.ndim < 2 for x in tensors) for x in tensors if x.ndim}

    def _last_step(self, attempt: Attempt) -> list[Any]:
        """The leaves of the output where the activations are NaN at the last step."""
        calls, T = Counter[str](), attempt.T[0]

        def mark(name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            calls[name] += 1
            if is_multi_step(module):
                return torch.cat([output[:-1], output[-1:] * torch.nan]) if len(output) == T else None
            return output * torch.nan if calls[name] == T else None

        with ExitStack() as hooks:
            for name in self.activations or ():
                hook = self.model.get_submodule(name).register_forward_hook(partial(mark, name))
                hooks.callback(hook.remove)
            return leaves_of(self._bare(attempt))


def _with_samples(
    net: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leaves of the input with an axis of samples: those in the first argument that has some, and those in all."""
    flat = pytree.tree_leaves((args, kwargs))
    try:
        bound = inspect.signature(forward).bind(net, *args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{forward.__qualname__}{inspect.signature(forward)}: {error}") from None
    for value in list(bound.values())[1:]:
        among = {id(x) for x in pytree.tree_leaves(value) if isinstance(x, Tensor) and x.ndim}
        if first := [i for i, x in enumerate(flat) if id(x) in among]:
            n = len(flat[first[0]])
            everything = tuple(i for i, x in enumerate(flat) if isinstance(x, Tensor) and x.ndim and len(x) == n)
            return tuple(i for i in first if i in everything), everything
    raise TypeError(
        "expected a tensor [N, ...] in the input of the twin, alone or in lists, tuples and dictionaries, got "
        f"{', '.join(type(x).__name__ for x in flat) or 'nothing'}: a twin has to know where time is; give it tensors"
    )


def _words(drive: Drive) -> str:
    if drive.mode == "repeat":
        return f"with a step at axis {drive.step_axis}"
    return "as frames [T, N, ...]" if drive.sample_axis else "as it is"
