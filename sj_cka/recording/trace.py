"""One run of a network on a few samples, with every call of every module written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sj_cka.recording.own_runs import depth, own_run
from sj_cka.recording.select import Pick, Unpicked, unbatched
from sj_cka.recording.state import is_neuron, outside_neurons, reset_states


@dataclass
class Trace:
    """What the modules of a network put out in one run.

    Args:
        outputs: module name -> the output of each call, in order; the tensor picked out of it, where one is named.
        inputs: neuron name -> the shape of the first tensor that each call is given.
        order: calls (module, i) in the order in which they ended, so that members come before their block.
        repeated: calls (module, i) whose output is the very tensor that an earlier call put out, or the input.
    """

    outputs: dict[str, list[Any]] = field(default_factory=dict)
    inputs: dict[str, list[torch.Size]] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)
    repeated: set[tuple[str, int]] = field(default_factory=set)

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

    def hook_for(name: str, neuron: bool) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if depth() != here:
                return
            if name in picks:
                try:
                    output = picks[name](output)
                except (ValueError, TypeError) as error:  # raised where the module turns out to be a layer
                    output = Unpicked(error)
            if isinstance(output, Tensor):
                output = unbatched(output)
            calls = seen.outputs.setdefault(name, [])
            seen.order.append((name, len(calls)))
            if isinstance(output, Tensor) and output.numel():
                if _identity(output) in produced:
                    seen.repeated.add((name, len(calls)))
                produced.add(_identity(output))
            calls.append(output)  # kept alive, so that no later tensor takes its address
            given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None) if neuron else None
            if given is not None:
                seen.inputs.setdefault(name, []).append(given.shape)

        return hook

    def given(module: nn.Module, args: Any) -> None:
        for x in args:
            if isinstance(x, Tensor) and depth() == here:
                produced.add(_identity(x))
                kept.append(x)

    kept: list[Tensor] = []
    here = depth() + 1
    handles = [model.register_forward_pre_hook(given)]
    try:
        for name, module in outside_neurons(model).items():
            handles.append(module.register_forward_hook(hook_for(name, is_neuron(module)), with_kwargs=True))
        model.eval()
        reset_states(model)
        with torch.no_grad(), own_run():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _identity(x: Tensor) -> tuple[int, int, int]:
    """Where a tensor lies; an in-place operation keeps the memory but raises the version: it makes another tensor."""
    return (x.data_ptr(), x.numel(), 0 if x.is_inference() else x._version)
