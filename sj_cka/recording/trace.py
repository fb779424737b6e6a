"""One run of a network on a few samples, with every call of every module written down."""

import pickle
import random
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch  # the only way to what vmap hides

from sj_cka.recording.state import from_rest, keeps_time, outside_neurons, to_evaluation
from sj_cka.recording.wrappers import unwrapped

Pick = Callable[[Any], Tensor]
_depth: ContextVar[int] = ContextVar("sj_cka own runs", default=0)


@contextmanager
def own_run() -> Iterator[None]:
    """While this package runs a network itself, what was watching it before looks away: probes feed no record."""
    token = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(token)


def depth() -> int:
    """Number of own runs under way, one inside the other. Hooks made at one depth see the calls at that depth alone."""
    return _depth.get()


@dataclass(frozen=True)
class Unpicked:
    """What a probe keeps in place of an output of which no tensor could be picked: why not, told if it is a layer."""

    error: ValueError | TypeError


@dataclass
class Trace:
    """What the modules of a network put out in one run.

    Args:
        outputs: module name -> the output of each call, in order; the tensor picked out of it, where one is named.
        inputs: name of a module that keeps time -> the shape of the first tensor that each call is given.
        order: calls (module, i) in the order in which they ended, so that members come before their block.
        repeated: calls (module, i) whose output is the very tensor that an earlier call put out, or the input.
        drew: whether random numbers were drawn meanwhile.
    """

    outputs: dict[str, list[Any]] = field(default_factory=dict)
    inputs: dict[str, list[torch.Size]] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)
    repeated: set[tuple[str, int]] = field(default_factory=set)
    drew: bool = False

    @property
    def called(self) -> list[str]:
        """Names of the modules in the order in which their first call ended."""
        return [name for name, i in self.order if i == 0]

    def shapes(self, name: str) -> list[torch.Size | None]:
        """The shapes of what a module put out in each call; None for what is no tensor."""
        return [getattr(x, "shape", None) for x in self.outputs.get(name, [])]

    def repeats(self, name: str) -> bool:
        """Whether every call of a module only passed on what another had put out."""
        return all((name, i) in self.repeated for i in range(len(self.outputs[name])))


def trace(
    model: nn.Module,
    run: Callable[[], None],
    picks: Mapping[str, Pick] | None = None,
    activations: Collection[str] | None = None,
) -> Trace:
    """Runs a network without gradients and writes down every call.

    Args:
        model: the network.
        run: runs it once.
        picks: module name -> the function that takes one tensor out of its output.
        activations: what stands where the neurons of a network without states were: it is run as it is, and they are
            what keeps time. None: the network is run from reset states in evaluation mode, and what it has keeps time.
    """
    writer = _Writer(picks or {}, depth() + 1)

    def once() -> None:
        writer.start()
        run()

    with ExitStack() as hooks:
        hooks.callback(unwrapped(model).register_forward_pre_hook(writer.given).remove)
        for name, module in outside_neurons(model).items():
            if isinstance(module, torch.jit.ScriptModule):  # it bears no hooks
                continue
            timed = keeps_time(module) if activations is None else name in activations
            called = partial(writer.called, name, timed)
            hooks.callback(module.register_forward_hook(called, with_kwargs=True).remove)
        if activations is None:
            to_evaluation(model)
        before = _random_states(model)
        with torch.no_grad(), own_run():
            from_rest(model, once) if activations is None else once()
        writer.seen.drew = before != _random_states(model)
    return writer.seen


class _Writer:
    """Writes down the calls of a run, by hooks that look at those of one depth of own runs alone."""

    def __init__(self, picks: Mapping[str, Pick], here: int) -> None:
        self.picks, self.here = picks, here
        self.kept: list[Tensor] = []  # as all outputs are, so that no later tensor takes the address of one
        self.start()

    def start(self) -> None:
        """Forgets what was written down."""
        self.seen = Trace()
        self.produced: set[tuple[Any, ...]] = set()

    def given(self, module: nn.Module, args: Any) -> None:
        """What the network itself is given."""
        for x in args:
            if isinstance(x, Tensor) and depth() == self.here and x.layout == torch.strided and not x.is_nested:
                self.produced.add(_identity(x))
                self.kept.append(x)

    def called(self, name: str, timed: bool, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """One call of a module."""
        if depth() != self.here:
            return
        calls = self.seen.outputs.setdefault(name, [])
        call = name, len(calls)
        self.seen.order.append(call)
        try:
            output = self.picks[name](output) if name in self.picks else output
            if isinstance(output, Tensor):
                output = self._tensor(call, output)
        except (ValueError, TypeError) as error:  # raised where the module turns out to be a layer
            output = Unpicked(error)
        calls.append(output)
        given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None) if timed else None
        if given is not None:
            self.seen.inputs.setdefault(name, []).append(given.shape)

    def _tensor(self, call: tuple[str, int], output: Tensor) -> Tensor:
        """The values of an output, once it is noted whether the very tensor was there before."""
        try:
            if output.is_nested:
                raise TypeError(not_a_tensor(call[0], output))
            output = readable(output)
            identity = _identity(output) if output.numel() else None
        except RuntimeError as error:  # of a kind of tensor that hides its values
            raise TypeError(f"module {call[0]!r}: {error}") from error
        if identity in self.produced:
            self.seen.repeated.add(call)
        if identity is not None:
            self.produced.add(identity)
        return output


def _random_states(model: nn.Module) -> list[Any]:
    """Where the generators stand that a network may draw from: Python's, NumPy's and torch's."""
    devices = {p.device for p in model.parameters() if p.is_cuda}
    of_torch = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    of_numpy = pickle.dumps(np.random.get_state(legacy=False))
    return [random.getstate(), of_numpy, *(state.numpy().tobytes() for state in of_torch)]


def _identity(x: Tensor) -> tuple[int, int, int]:
    """Where a tensor lies; an in-place operation keeps the memory but raises the version: it makes another tensor.

    What a network makes in an inference mode of its own has no version: there its values tell.
    """
    if not x.is_inference():
        return (x.data_ptr(), x.numel(), x._version)
    values = x.contiguous().flatten().view(torch.uint8).cpu().numpy()
    return (x.data_ptr(), x.numel(), zlib.crc32(values.tobytes()))


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
