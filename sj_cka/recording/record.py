"""Hooks on the layers of a network, and `record`, which keeps all that they put out."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sj_cka.recording.drive import N_NEEDED, Drive, Layout
from sj_cka.recording.layers import LayerSpec, Select
from sj_cka.recording.observation_plan import ObservationPlan, planned
from sj_cka.recording.probes import Probes
from sj_cka.recording.state import is_multi_step, is_single_step, preserved
from sj_cka.recording.tap import Tap
from sj_cka.recording.trace import depth, holds
from sj_cka.recording.ways import run_fault, takes_time_first
from sj_cka.recording.wrappers import as_written, check_network, named, uncompiled

What = Literal["output", "membrane"]
Receive = Callable[[Tap, int, Tensor, What], None]


class Membrane:
    """The membrane potential v of one neuron after the reset, read after each of its calls.

    In multi-step mode the neuron is told to keep `v_seq` until `restore`; in single-step mode it keeps `v` anyhow.

    Args:
        name: dotted name of the neuron.
        neuron: one of SpikingJelly's neurons.

    Raises:
        ValueError: the neuron has no membrane potential, or does not keep that of every step.
    """

    def __init__(self, name: str, neuron: nn.Module) -> None:
        self.neuron: Any = neuron
        self.what = f"neuron {name!r} ({type(neuron).__name__})"
        if not hasattr(neuron, "v") and not hasattr(neuron, "store_v_seq"):
            raise ValueError(
                f"{self.what}: expected a neuron with a membrane potential v, got one without: choose layers= without "
                "it, or observe what it puts out"
            )
        self.held, self.before = "", dict[str, Any]()  # where the sequence is kept, and what is to be put back
        if is_multi_step(neuron):
            # CLIF (ComplementaryLIFNode) keeps all its states, v first, and leaves v_seq empty
            states = hasattr(neuron, "store_state_seqs")
            flag, self.held = ("store_state_seqs", "state_seqs") if states else ("store_v_seq", "v_seq")
            if not hasattr(neuron, flag):
                raise ValueError(
                    f"{self.what}: expected a neuron that keeps the membrane potential of every step (store_v_seq), "
                    'got one without: run it in single-step mode (functional.set_step_mode(net, "s")), or choose '
                    "layers= without it"
                )
            self.before = {key: getattr(neuron, key) for key in (flag, self.held)}
            setattr(neuron, flag, True)

    def take(self, like: Tensor) -> Tensor:
        """v of the call that just ended, `[T, N, ...]` or `[N, ...]`, with the shape of what it put out."""
        v = getattr(self.neuron, self.held or "v")
        if self.held:
            setattr(self.neuron, self.held, None)  # one layer's sequence is held at a time
            v = v[0] if isinstance(v, list) else v
        if not isinstance(v, Tensor) or v.shape != like.shape:
            raise ValueError(
                f"{self.what}: expected a membrane potential of the shape of its output, {list(like.shape)}, got "
                f"{holds(v)}: choose layers= without it, or observe what it puts out"
            )
        return v

    def restore(self) -> None:
        """Leaves the neuron's flag and its sequence as they were."""
        for key, value in self.before.items():
            setattr(self.neuron, key, value)


class Observation:
    """Hooks on the layers of a plan, for one pass over n samples; `close` takes them off.

    Runs that the package makes meanwhile for another purpose (`own_run`) are not received.

    Args:
        model: the network that the plan is for.
        plan: its plan.
        n: samples of the pass.
        receive: `receive(tap, step, rows, what)` gets `[S, n, ...]` of every call and the first of its S steps, from
            0; S = 1 where a call is one step, or where the layer does not change with time.
        observe: "output": what a layer puts out; "membrane": of a neuron (`tap.neuron`), the membrane potential after
            the reset, as SpikingJelly keeps it in `v_seq` or `v`. Other layers have none and are not received.
        taps: those of the plan's that this pass is about; None for all.

    Raises:
        ValueError: a neuron without a membrane potential of every step.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: ObservationPlan,
        n: int,
        receive: Receive,
        observe: Sequence[What] = ("output",),
        taps: Iterable[Tap] | None = None,
    ) -> None:
        known: tuple[What, ...] = get_args(What)
        if isinstance(observe, str) or not observe or any(what not in known for what in observe):
            raise ValueError(f"expected observe as a tuple of {' and '.join(map(repr, known))}, got {observe!r}")
        self.plan, self.n, self.receive = plan, n, receive
        self.outputs = "output" in observe
        self.depth = depth()
        self.calls: Counter[str] = Counter()
        self.taps: dict[str, list[Tap]] = {}
        for tap in plan.taps if taps is None else taps:
            if self.outputs or tap.neuron:
                self.taps.setdefault(tap.module, []).append(tap)
        self.membranes: dict[str, Membrane] = {}
        modules = named(model)
        with ExitStack() as hooks:
            for name, here in self.taps.items():
                if "membrane" in observe and here[0].neuron:
                    self.membranes[name] = Membrane(name, modules[name])
                    hooks.callback(self.membranes[name].restore)
                hooks.callback(modules[name].register_forward_hook(partial(self._called, name)).remove)
            self.hooks = hooks.pop_all()

    def close(self) -> None:
        """Takes the hooks off, and leaves the neurons keeping what they kept before."""
        self.hooks.close()

    def check(self) -> None:
        """Raises RuntimeError where a layer was called more or less often than in the probes."""
        for name, taps in self.taps.items():
            expected = taps[0].uses * (self.plan.T if taps[0].time == "calls" else 1)
            if self.calls[name] != expected:
                raise RuntimeError(
                    f"layer {name!r} was called {self.calls[name]} times on this batch, {expected} times in the "
                    "probes; a layer whose calls depend on the data cannot be compared: choose layers= without it"
                )

    def _called(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if depth() != self.depth:
            return
        call, T = self.calls[name], self.plan.T
        self.calls[name] += 1
        for tap in self.taps[name]:
            if (step := tap.step_of(call, T)) is None:
                continue
            if self.outputs:
                self.receive(tap, step, tap.rows(output, self.n, T), "output")
            if name in self.membranes:
                v = self.membranes[name].take(tap.picked(output))
                self.receive(tap, step, tap.split(v, self.n, T), "membrane")


@contextmanager
def record(
    model: nn.Module, layers: LayerSpec = None, *, layout: Layout | None = None, select: Select = None
) -> Iterator[dict[str, Tensor]]:
    """Records what the layers of a network put out while the caller runs it.

    A network of single-step neurons gives one step for each call; any other may be called on several batches, whose
    samples are joined along N. Values are detached copies. The first call runs three probes on a few of its samples
    first and leaves the network as it was. What is compiled runs uncompiled meanwhile, and torch's transformer layers
    without their fast path, which skips their members. The probes of other records, and what `compare` runs, are not
    recorded.

    Args:
        model: any network.
        layers: dotted names, globs, module types or predicates `(name, module) -> bool`; None for the default layers:
            every neuron, every other leaf that is called and every block output, without the last Linear.
        layout: what the caller gives the network, "NCHW" (samples first) or "TNCHW"; None finds out.
        select: for modules that put out several tensors, which of them is the layer's: `{module: what}` with a dotted
            name or glob and an index into a tuple, a key of a dict, a name of an attribute, or a function of the
            output; or one function `(module, output) -> tensor` for all.

    Yields:
        `{layer: [T, N, ...]}`, filled by every call; T = 1 for a layer that does not change with time.

    Raises:
        ValueError: a layer that is not there, is never called or has no axis of samples; fewer than 3 samples; a
            `select` that names no layer or nothing in its output.
        TypeError: an output, or what `select` picks of it, that is no tensor; no network of Python modules.
        StateError: a `reset()` or `train()` of the network's own that fails or whose work cannot be undone.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> with record(net) as features:
        ...     _ = net(torch.randn(7, 3))
        >>> {layer: tuple(X.shape) for layer, X in features.items()}
        {'0': (1, 7, 5), '1': (1, 7, 5)}
    """
    check_network(model)
    features: dict[str, Tensor] = {}
    recording = _Recording(model, layers, layout, select, features)
    with ExitStack() as hooks:
        hooks.enter_context(uncompiled())
        hooks.callback(model.register_forward_pre_hook(recording.before, prepend=True, with_kwargs=True).remove)
        hooks.callback(model.register_forward_hook(recording.after).remove)
        hooks.callback(recording.stop)
        yield features


class _Recording:
    """What lasts from call to call: the plan, found at the first one, and the hooks of the call under way."""

    def __init__(
        self,
        model: nn.Module,
        layers: LayerSpec,
        layout: Layout | None,
        select: Select,
        features: dict[str, Tensor],
    ) -> None:
        self.model, self.layers, self.layout, self.select, self.features = model, layers, layout, select, features
        self.call_is_step = is_single_step(model)
        self.plan: ObservationPlan | None = None
        self.depth = depth()
        self.observation: Observation | None = None
        self.call: dict[str, list[Tensor]] = {}

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if depth() != self.depth:
            return
        self.stop()  # the call before this one may have ended in an exception
        if self.plan is None:
            self.plan = self._plan((args, kwargs))
            self.call_is_step = self.call_is_step and self.plan.T == 1
        self.call = {tap.layer: [] for tap in self.plan.taps}
        self.observation = Observation(model, self.plan, self.plan.drive.samples((args, kwargs)), self._keep)

    def after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if depth() != self.depth or (observation := self.observation) is None:
            return
        self.stop()
        observation.check()
        for layer, rows in self.call.items():
            new = torch.cat(rows)
            if layer in self.features:
                new = torch.cat([self.features[layer], new], dim=0 if self.call_is_step else 1)
            self.features[layer] = new

    def stop(self) -> None:
        """Takes the hooks off the layers, if a call left them there."""
        if self.observation is not None:
            self.observation.close()
            self.observation = None

    def _keep(self, tap: Tap, step: int, rows: Tensor, what: What) -> None:
        self.call[tap.layer].append(rows.detach().clone())

    def _plan(self, batch: tuple[tuple[Any, ...], dict[str, Any]]) -> ObservationPlan:
        drives = {
            layout: Drive("as is", sample_axis=axis, forward=_call) for layout, axis in (("NCHW", 0), ("TNCHW", 1))
        }
        probes, layout = Probes(self.model, batch, self.select), self.layout
        with as_written(), preserved(self.model):
            if layout is None and drives["NCHW"].samples(batch) < N_NEEDED:  # too short to be an axis of samples
                layout = "TNCHW" if any(map(is_multi_step, self.model.modules())) else "NCHW"
            elif layout is None:
                layout = "TNCHW" if takes_time_first(probes, drives["NCHW"], drives["TNCHW"]) else "NCHW"
            if layout not in drives:
                raise ValueError(f"expected layout to be one of {', '.join(drives)}, got {layout!r}")
            if (n := drives[layout].samples(batch)) < N_NEEDED:
                raise ValueError(f"record tells samples from steps by probes on 3 samples, got a first call with {n}")
            fault = run_fault(probes, drives[layout])
            if fault is not None and self.layout is None and layout == "TNCHW":  # taken because the other does not run
                fault = run_fault(probes, drives["NCHW"]) or fault
            if fault is not None:
                raise fault.error or ValueError(f"record: {fault.words}")
            plan = planned(probes, drives[layout], self.layers)
        for note in plan.notes:
            warnings.warn(f"record ({type(self.model).__name__}): {note}", stacklevel=2)
        return plan


def _call(model: nn.Module, batch: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    args, kwargs = batch
    return model(*args, **kwargs)
