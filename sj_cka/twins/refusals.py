"""What of a spiking network has no counterpart in a network without time."""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from spikingjelly.activation_based import base, encoding, rnn, surrogate
from spikingjelly.activation_based import layer as sj_layer
from torch import fx, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from sj_cka.recording.snapshot import Refusal
from sj_cka.recording.state import is_neuron, outside_neurons
from sj_cka.recording.wrappers import in_words

_REFUSED: tuple[tuple[tuple[type, ...], str], ...] = (
    ((sj_layer.SynapseFilter,), "filters its input over time"),
    ((sj_layer.Delay,), "delays its input by steps"),
    (
        (sj_layer.ElementWiseRecurrentContainer, sj_layer.LinearRecurrentContainer),
        "feeds its output back into the next step",
    ),
    ((rnn.SpikingRNNBase, rnn.SpikingRNNCellBase), "feeds its output back into the next step"),
    (
        (
            sj_layer.TemporalEffectiveBatchNorm1d,
            sj_layer.TemporalEffectiveBatchNorm2d,
            sj_layer.TemporalEffectiveBatchNorm3d,
            sj_layer.BatchNormThroughTime1d,
            sj_layer.BatchNormThroughTime2d,
            sj_layer.BatchNormThroughTime3d,
        ),
        "has parameters of its own for every time step",
    ),
    (
        (sj_layer.TemporalWiseAttention, sj_layer.MultiDimensionalAttention),
        "weighs the time steps with parameters for every one of them",
    ),
    ((sj_layer.SpikeCountToBinary, sj_layer.TemporalBinSum), "turns counts into time steps, or back"),
    ((sj_layer.GradwithTrace, sj_layer.SpikeTraceOp), "takes spikes together with their trace"),
    (
        (
            encoding.StatelessEncoder,
            encoding.StatefulEncoder,
            encoding.PopSpikeEncoderDeterministic,
            encoding.PopSpikeEncoderRandom,
        ),
        "codes its input in spikes; take the network behind it",
    ),
    # the two dropouts are translated, and what brings its counterpart; all else that has a memory comes here
    ((base.MemoryModule,), "keeps a state from step to step"),
)


def check_translatable(net: nn.Module) -> None:
    """Raises ValueError, with name and reason, on the first module that has no counterpart without time.

    So it does for a network that torch.fx traced, and for one without neurons.
    """
    if isinstance(net, fx.GraphModule):
        raise ValueError(
            f"expected a network with a forward of its class, got a graph that torch.fx traced ({type(net).__name__}), "
            "as SpikingJelly's ann2snn makes it: the network that was converted is its artificial twin, and "
            "sj_cka.twins.converted_snn converts it under its own names"
        )
    inside = {id(m) for neuron in net.modules() if is_neuron(neuron) for m in neuron.modules()}
    for name, module in outside_neurons(net).items():
        if type(module) in (sj_layer.Dropout, sj_layer.Dropout2d) or without_time(module):
            continue
        if reason := _reason(module, id(module) in inside):
            raise ValueError(f"{in_words(name, module)} has no artificial twin: it {reason}")
    if not any(map(is_neuron, net.modules())):
        raise ValueError(f"expected a network with neurons of SpikingJelly, found none in {type(net).__name__}")


def without_time(module: nn.Module) -> Callable[[], nn.Module] | None:
    """What makes the counterpart of a module in a network without time, where it brings one: its method of this name.

    The counterpart takes over the parameters of the module, and has no state.
    """
    own = getattr(module, "without_time", None)
    return own if callable(own) else None


class Untranslatable(Refusal, ValueError):
    """A forward that reads what only a neuron has, or runs the network that the twin was made of."""


@contextmanager
def of_the_twin_alone(twin: nn.Module, originals: Mapping[nn.Module, str]) -> Iterator[None]:
    """While it lasts, what is no part of a twin but runs in its place raises Untranslatable.

    Args:
        twin: the twin.
        originals: the modules of the network that it was made of, with their names.
    """
    thread, known = threading.get_ident(), {id(module) for module in twin.modules()}

    def before(module: nn.Module, args: Any) -> None:
        if threading.get_ident() != thread or id(module) in known:
            return
        held = "through a function (a lambda, a closure) or a list that keeps it; let it call what is its own attribute"
        if (name := originals.get(module)) is not None:
            raise Untranslatable(
                f"the forward runs {name!r} ({type(module).__name__}) of the network that the twin was made of, {held}"
            )
        if is_neuron(module):
            raise Untranslatable(f"the forward runs a neuron ({type(module).__name__}) that is no module of it, {held}")

    def guarded(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before(module, args)
        return forward(*args, **kwargs)

    # a neuron is guarded by itself, since a forward may call that of a neuron without its hooks
    neurons = [module for module in originals if is_neuron(module) and "forward" not in vars(module)]
    handle = register_module_forward_pre_hook(before)
    try:
        for module in neurons:
            vars(module)["forward"] = partial(guarded, module, module.forward)
        yield
    finally:
        handle.remove()
        for module in neurons:
            vars(module).pop("forward", None)


def warn_of_logic(net: nn.Module) -> None:
    """Warns of connections that are logic on spikes: SEW's IAND, x (1 - y), is none on the values of a ReLU."""
    if named := [name for name, m in net.named_modules() if str(vars(m).get("cnf", "")).upper() == "IAND"]:
        warnings.warn(
            f"{named[0]!r}{f' and {len(named) - 1} more' if len(named) > 1 else ''}: IAND, x (1 - y), is a logical "
            'connection of spikes; on the values of the twin, which are not 0 or 1, it is not. cnf="ADD" is the one '
            "that has a counterpart",
            stacklevel=3,
        )


def _reason(module: Any, in_neuron: bool) -> str:
    if is_neuron(module):
        inputs, outputs = getattr(module, "_num_inputs", 1), getattr(module, "_num_outputs", 1)  # FlexSN
        several = inputs != 1 or outputs not in (None, 1)
        return f"is a neuron of {inputs} inputs and {outputs} outputs, an activation has one each" if several else ""
    for kinds, reason in _REFUSED:
        if isinstance(module, kinds):
            return reason
    if isinstance(module, surrogate.SurrogateFunctionBase) and not in_neuron:
        return "makes spikes outside a neuron"
    if callable(getattr(module, "reset", None)) and not any(map(is_neuron, module.modules())):
        return "has a reset(), thus a state, and holds no neuron of SpikingJelly"
    return ""
