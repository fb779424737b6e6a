"""One run of a network on a few samples, with every call of every module written down."""

from __future__ import annotations

import pickle
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sj_cka.recording.own_runs import depth, own_run
from sj_cka.recording.select import Pick, Unpicked, not_a_tensor, readable
from sj_cka.recording.state import from_rest, keeps_time, outside_neurons, to_evaluation
from sj_cka.recording.wrappers import unwrapped


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

    def repeats(self, name: str) -> bool:
        """Whether every call of a module only passed on what another had put out."""
        return all((name, i) in self.repeated for i in range(len(self.outputs[name])))


def trace(model: nn.Module, run: Callable[[], None], picks: Mapping[str, Pick] | None = None) -> Trace:
    """Runs a network from reset states, in evaluation mode and without gradients, and writes down every call.

    Args:
        model: the network.
        run: runs it once.
        picks: module name -> the function that takes one tensor out of its output.
    """
    seen = Trace()
    picks = picks or {}
    produced: set[tuple[Any, ...]] = set()

    def hook_for(name: str, timed: bool) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if depth() != here:
                return
            if name in picks:
                try:
                    output = picks[name](output)
                except (ValueError, TypeError) as error:  # raised where the module turns out to be a layer
                    output = Unpicked(error)
            calls = seen.outputs.setdefault(name, [])
            seen.order.append((name, len(calls)))
            if isinstance(output, Tensor):
                try:
                    if output.is_nested:
                        raise TypeError(not_a_tensor(name, output))
                    output = readable(output)
                    identity = _identity(output) if output.numel() else None
                except (RuntimeError, TypeError) as error:  # of a kind of tensor that hides its values
                    why = error if isinstance(error, TypeError) else TypeError(f"module {name!r}: {error}")
                    output, identity = Unpicked(why), None
                if identity in produced:
                    seen.repeated.add((name, len(calls)))
                if identity is not None:
                    produced.add(identity)
            calls.append(output)  # kept alive, so that no later tensor takes its address
            given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None) if timed else None
            if given is not None:
                seen.inputs.setdefault(name, []).append(given.shape)

        return hook

    def given(module: nn.Module, args: Any) -> None:
        for x in args:
            if isinstance(x, Tensor) and depth() == here and x.layout == torch.strided and not x.is_nested:
                produced.add(_identity(x))
                kept.append(x)

    kept: list[Tensor] = []
    here = depth() + 1
    handles = [unwrapped(model).register_forward_pre_hook(given)]
    try:
        for name, module in outside_neurons(model).items():
            if isinstance(module, torch.jit.ScriptModule):  # it bears no hooks
                continue
            handles.append(module.register_forward_hook(hook_for(name, keeps_time(module)), with_kwargs=True))
        to_evaluation(model)

        def once() -> None:
            vars(seen).update(vars(Trace()))
            produced.clear()
            run()

        before = _random_states(model)
        with torch.no_grad(), own_run():
            from_rest(model, once)
        seen.drew = before != _random_states(model)
    finally:
        for handle in handles:
            handle.remove()
    return seen


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
