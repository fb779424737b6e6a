"""Runs of a network on a few samples, and what they say about its time steps and its samples."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from sj_cka.recording.drive import Drive, tensors_in
from sj_cka.recording.knobs import Knob, knobs, trials, turned
from sj_cka.recording.layers import Select, picks, select_without_wrappers
from sj_cka.recording.snapshot import OF_TORCH, Refusal, computes_by_own_code
from sj_cka.recording.state import Result, is_multi_step, is_neuron, is_without_steps, keeps_time, outside_neurons
from sj_cka.recording.tap import N_PROBE, SAME, SWAPPED, THREE, TWO, Probed, distance, distances, scaling
from sj_cka.recording.trace import Trace, trace
from sj_cka.recording.wrappers import in_words, named

_RUN = 1e-4  # relative difference beyond which a second run on the same samples gave other values
_ORDERS = dict(zip(N_PROBE, (TWO, THREE), strict=True))


def tried(run: Callable[..., Result], *args: Any, **options: Any) -> Result | Exception:
    """What a run gives, or what a network raises that does not bear it.

    Raises:
        Refusal: as the run does.
    """
    try:
        return run(*args, **options)
    except Refusal:
        raise
    except Exception as error:  # whatever a network says
        return error


class Probes:
    """Runs of a network on a few samples of one batch, each made once and kept.

    Args:
        model: the network.
        batch: what it is to be given.
        select: as in `plan_observation`.
        activations: of an artificial twin: names of what stands where neurons were, as of `trace`.
    """

    def __init__(
        self, model: nn.Module, batch: Any, select: Select = None, activations: Collection[str] | None = None
    ) -> None:
        self.model, self.batch, self.select = model, batch, select_without_wrappers(model, select)
        self.activations = activations
        self.picks = picks(self.select, outside_neurons(model))
        self._kept: dict[tuple[Any, ...], Trace] = {}
        # mode and T -> what sets it, and the run on a step more
        self._turned: dict[tuple[str, int], tuple[Sequence[Knob], Trace | None]] = {}

    @property
    def keeps_time(self) -> bool:
        """Whether anything in the network is known to keep time."""
        return any(map(keeps_time, self.model.modules()))

    def trace(self, drive: Drive, n: int, *, noise: float = 0) -> Trace:
        """One run on n samples, or noise in their place."""
        return self._once(drive, _ORDERS[n], noise=noise)

    def both(self, drive: Drive, *, noise: float = 0) -> tuple[Trace, Trace]:
        """The runs on 2 and on 3 samples."""
        return self.trace(drive, N_PROBE[0], noise=noise), self.trace(drive, N_PROBE[1], noise=noise)

    def swapped(self, drive: Drive, *, noise: float = 0) -> Trace:
        """The run on 2 samples in the other order."""
        return self._once(drive, SWAPPED, noise=noise)

    def twice(self, drive: Drive) -> tuple[Trace, list[str]]:
        """Two runs on 2 samples, the second from where the first ended; and what of an earlier batch they replaced.

        That is what a user's own modules hold of the size of the batch, a module and an attribute each, in words.
        """
        some, count = drive.take(self.batch, TWO), drive.samples(self.batch)
        left: list[str] = []

        def run() -> None:
            before = held_states(self.model)
            drive.run(self.model, some)
            drive.run(self.model, some)
            now = held_states(self.model)
            left[:] = [
                f"{key} of shape {shape}"
                for key, shape in before.items()
                if count in shape and now.get(key, shape) != shape
            ]

        return trace(self.model, run, self.picks, self.activations), left

    def keep(self, drive: Drive) -> None:
        """Lets go of the runs on any other drive."""
        ours = drive.mode, drive.sample_axis
        self._kept = {key: run for key, run in self._kept.items() if key[:2] == ours}

    def probed(self, drive: Drive, T: int | None, *, noise: bool = False) -> Probed:
        """All three probes of a network of T steps (None where it has no time)."""
        return Probed(*self.both(drive, noise=noise), None if T is None else self._longer(drive, T, noise))

    def steps(self, drive: Drive, asked: int | None = None) -> int | None:
        """Number of time steps that a run has; None where it shows none.

        They are those of what keeps time, or the calls of the network itself. Failing these, they are the value of an
        integer attribute that sets how often modules are called, or how long an axis is: `asked`, where one has it,
        else one that is called after time.
        """
        two = self.trace(drive, N_PROBE[0])
        steps = own_steps(self.model, two)
        if steps is not None or drive.mode != "as is" or is_without_steps(self.model):
            return drive.T if steps is None else steps
        of_time = {int(knob.value): None for knob in knobs(self.model) if knob.of_time and knob.value > 1}
        for T in dict.fromkeys([*([asked] if asked and asked > 1 else []), *of_time]):
            if _divides(T, two) and self._longer(drive, T) is not None:
                return T
        return None

    def _once(self, drive: Drive, order: Sequence[int], T: int | None = None, noise: float = 0) -> Trace:
        key = (drive.mode, drive.sample_axis, order, T if T is not None or drive.mode == "as is" else drive.T, noise)
        if key not in self._kept:
            self._kept[key] = self.run(drive, order, T, noise)
        return self._kept[key]

    def run(
        self,
        drive: Drive,
        order: Sequence[int],
        T: int | None = None,
        noise: float = 0,
        *,
        marked: int | None = None,
    ) -> Trace:
        """One run made anew, on samples in an order, of which one may be marked (see `Drive.take`)."""
        some = drive.take(self.batch, order, noise=noise, marked=marked)
        return trace(self.model, lambda: drive.run(self.model, some, T), self.picks, self.activations)

    def settings(self, T: int) -> Iterable[Sequence[Knob]]:
        """The sets of attributes of value T that may be the number of steps of a network that makes its own."""
        return trials(self.model, T)

    def varied(
        self, drive: Drive, order: Sequence[int], T: int, to: int, *, marked: int | None = None
    ) -> Iterator[tuple[Sequence[Knob], Trace]]:
        """Runs on another number of steps than T, and the attributes that were set for it; none where it is given."""
        for some in [()] if drive.mode != "as is" and drive.T == T else self.settings(T):
            with turned(some, to):
                run = tried(self.run, drive, order, to, marked=marked)
            if isinstance(run, Trace):  # else T is a size of weights (PSN), or an attribute means something else
                yield some, run

    def _longer(self, drive: Drive, T: int, noise: bool = False) -> Trace | None:
        """The probe on one step more, None where the number of steps cannot be varied."""
        if (drive.mode, T) not in self._turned:
            runs = self.varied(drive, TWO, T, T + 1)
            follows = ((some, longer) for some, longer in runs if self._follows(drive, T, some, longer))
            self._turned[drive.mode, T] = next(follows, ([], None))
        some, longer = self._turned[drive.mode, T]
        if noise and longer is not None:
            with turned(some, T + 1):
                return self._once(drive, TWO, T + 1, noise)
        return longer

    def _follows(self, drive: Drive, T: int, some: Sequence[Knob], longer: Trace) -> bool:
        """Whether a run that was asked for one step more has it."""
        two = self.trace(drive, N_PROBE[0])
        if some and own_steps(self.model, two) is None:
            return _scales(two, longer, T, all(knob.of_time for knob in some))
        return (not some or own_steps(self.model, longer) == T + 1) and _follow(self.model, longer)


def own_steps(model: nn.Module, run: Trace) -> int | None:
    """Number of time steps that a run has: the neurons' time axis, or their number of calls, or those of the network.

    Multi-step neurons of which each is called several times, with one step, are called as single-step ones are. Where
    there are no neurons, other modules that keep time stand for them; a network without either has none, unless it was
    itself called several times.
    """
    modules = named(model)
    timed = [name for name in run.inputs if is_neuron(modules[name])] or list(run.inputs)
    multi = [run.inputs[name][0][0] for name in timed if is_multi_step(modules[name]) and run.inputs[name][0]]
    one_by_one = all(is_neuron(modules[name]) and len(run.inputs[name]) > 1 for name in timed)
    if multi and not (max(multi) == 1 and one_by_one):
        return max(multi)
    single = {name: len(run.inputs[name]) for name in timed}
    if not single:
        calls = len(run.outputs.get("", []))
        return calls if calls > 1 else None
    return _turns(run, min(single, key=lambda name: single[name]))


def _turns(run: Trace, name: str) -> int:
    """Turns of the loop that calls a module: its calls, or fewer where what lies between them is called less often.

    A neuron used twice in one step, with a layer in between, makes no steps.
    """
    at = [i for i, (called, _) in enumerate(run.order) if called == name]
    others = [len(run.outputs[called]) for called, _ in run.order[at[0] : at[-1]]]
    return gcd(len(at), *(calls for calls in others if len(at) % calls == 0))


def taken_for_steps(model: nn.Module, two: Trace, three: Trace) -> str:
    """Which module takes the samples of both runs for steps, in words; '' for none."""
    modules = named(model)
    for name, shapes in two.inputs.items():
        others = three.inputs.get(name, [])
        kind = "neuron" if is_neuron(modules[name]) else "module"
        if len(shapes) * N_PROBE[1] == len(others) * N_PROBE[0]:
            return f"{kind} {name!r} is called once for each sample"
        pairs = zip(shapes, others, strict=False)
        if is_multi_step(modules[name]) and any(scaling(*pair)[:1] == [0] for pair in pairs):
            return f"multi-step {kind} {name!r} takes the samples for time steps"
    return ""


def not_back(two: Trace, other: Trace, three: Trace, names: Iterable[str]) -> str | None:
    """The first module whose outputs for two samples are not those in another run that has them in the other order.

    Looked at is what has one axis of samples, which `two` and `three` tell; a fold is undone elsewhere.
    """
    pairs: list[tuple[str, Tensor, Tensor]] = []
    for name in names:
        calls = zip(*(run.outputs.get(name, []) for run in (two, other, three)), strict=False)
        for a, b, c in calls:
            if not all(isinstance(x, Tensor) for x in (a, b, c)) or a.ndim != c.ndim:
                continue
            axes = [i for i in range(a.ndim) if a.shape[i] != c.shape[i]]
            if [(a.shape[i], c.shape[i]) for i in axes] == [N_PROBE]:
                pairs.append((name, a, b.narrow(axes[0], 0, N_PROBE[0]).flip(axes[0])))
    apart = distances([pair for _, *pair in pairs])
    return next((name for (name, _, _), far in zip(pairs, apart, strict=True) if far > SAME), None)


def changed(a: Trace, b: Trace) -> str | None:
    """The first module that put out other values in one of two runs on the same samples."""
    pairs = ((name, a.outputs[name][i], x) for name, i in a.order for x in b.outputs.get(name, [])[i : i + 1])
    return next((name for name, *pair in pairs if _differ(*pair)), None)


def carries(run: Trace) -> bool:
    """Whether the second of two runs on the same samples gave other values: it began where the first ended."""
    halves = ((calls[: len(calls) // 2], calls[len(calls) // 2 :]) for calls in run.outputs.values())
    pairs = (pair for half in halves for pair in zip(*half, strict=False))
    return not run.drew and any(_differ(a, b) for a, b in pairs)


def _differ(a: Any, b: Any) -> bool:
    """Whether what was put out in two runs are tensors of other values."""
    return isinstance(a, Tensor) and isinstance(b, Tensor) and distance(a, b) > _RUN


def held_states(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a user's own modules hold as attributes or buffers, and that are not all zero."""
    return {
        f"{in_words(name, module)} holds {key!r}": tuple(x.shape)
        for name, module in named(model).items()
        if computes_by_own_code(module)
        for key, value in (*vars(module).items(), *module._buffers.items())
        if key not in OF_TORCH
        for x in tensors_in(value)
        if x.ndim > 1 and x.is_floating_point() and x.layout == torch.strided and bool(x.any())
    }


def _follow(model: nn.Module, run: Trace) -> bool:
    """Whether every multi-step module put out as many steps as it was given; one bound to its T (GatedLIF) does not."""
    modules = named(model)
    return all(
        given[0] == len(output)
        for name, shapes in run.inputs.items()
        if is_multi_step(modules[name])
        for given, output in zip(shapes, run.outputs[name], strict=False)
        if given and isinstance(output, Tensor)
    )


def _divides(T: int, run: Trace) -> bool:
    """Whether anything is called, or has a size, that could be so many steps."""
    return any(
        len(outputs) % T == 0 or any(size and size % T == 0 for x in outputs for size in getattr(x, "shape", ()))
        for outputs in run.outputs.values()
    )


def _scales(run: Trace, longer: Trace, T: int, of_time: bool) -> bool:
    """Whether calls or an axis follow the number of steps; nothing may change in another way unless the attribute that
    was turned is called after time."""
    follows = False
    for name, outputs in run.outputs.items():
        others = longer.outputs.get(name, [])
        a, b = (tuple(getattr(calls[0], "shape", ())) if calls else () for calls in (outputs, others))
        if len(outputs) == len(others) and a == b:
            continue
        calls = len(outputs) * (T + 1) == len(others) * T and a == b
        grown = [i for i in range(len(a)) if a[i] != b[i]] if len(a) == len(b) else []
        axis = len(outputs) == len(others) and len(grown) == 1 and a[grown[0]] * (T + 1) == b[grown[0]] * T
        if calls or axis:
            follows = True
        elif not of_time:
            return False
    return follows
