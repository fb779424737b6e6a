"""Spiking neurons by name, as a recipe asks for them; all multi-step, [T, N, *] -> spikes [T, N, *].

Equations: `sj_cka.neurons.fused`; surrogates: `sj_cka.neurons.surrogates`. What is said of `lif` holds for the others.
"""

import math
from typing import Any, Literal

import torch
from spikingjelly.activation_based import neuron

from sj_cka.neurons import backends, compiling
from sj_cka.neurons.nodes import FusedCurrentLIFNode, FusedIFNode, FusedLIFNode, FusedPLIFNode
from sj_cka.neurons.surrogates import SurrogateName, make_surrogate
from sj_cka.plugins import OptionError, check_option

_FUSED: dict[backends.NeuronKind, type[neuron.BaseNode]] = {
    "lif": FusedLIFNode,
    "if": FusedIFNode,
    "plif": FusedPLIFNode,
    "current_lif": FusedCurrentLIFNode,
}


def lif(
    *,
    tau: float = 2.0,
    decay_input: bool = False,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: SurrogateName = "sigmoid",
    alpha: float | None = None,
    backend: Literal["auto", "cupy", "native", "triton", "fused", "torch"] = "auto",
    compiled: bool = False,
    device: torch.device | str = "cpu",
) -> neuron.BaseNode:
    """One layer of leaky integrate-and-fire (LIF) neurons.

    Args:
        tau: membrane time constant in time steps, > 1.
        decay_input: whether the input leaks too.
        v_threshold: threshold.
        v_reset: potential after a spike; None for a soft reset (subtract the threshold).
        detach_reset: whether the backward treats the reset as a constant.
        surrogate: shape of the surrogate gradient; what other parameters than alpha it has stay at SpikingJelly's
            defaults.
        alpha: its steepness, > 0. None: 6 for "sigmoid", which is the tanh surrogate of the paper's code, slope 1.5 at
            the threshold; SpikingJelly's default for the others.
        backend: see `neuron_backend`.
        compiled: whether "fused" runs as kernels that torch.compile makes (`sj_cka.neurons.compiling`): faster, after
            some seconds for each kind of layer in the process, forward and backward; needs a C++ compiler.
        device: where the network will run; the node is built before it is moved there, so it has to be told.

    Returns:
        A node of SpikingJelly. Except for "torch" it is a `FusedLIFNode`: with CUDA kernels on CUDA tensors as asked
        for, and still fused where the network is taken back to the CPU.

    Raises:
        ValueError: a value outside its range, a backend that cannot be had on this device, or `compiled` with another
            backend than "fused" or without a C++ compiler that works.

    Example:
        >>> lif()(torch.full((3, 1), 0.75)).flatten()
        tensor([0., 1., 0.])
    """
    return _node(
        "lif",
        v_threshold,
        v_reset,
        detach_reset,
        surrogate,
        alpha,
        backend,
        compiled,
        device,
        tau=_time_constant("tau", tau),
        decay_input=decay_input,
    )


def if_(
    *,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: SurrogateName = "sigmoid",
    alpha: float | None = None,
    backend: Literal["auto", "cupy", "native", "triton", "fused", "torch"] = "auto",
    compiled: bool = False,
    device: torch.device | str = "cpu",
) -> neuron.BaseNode:
    """One layer of integrate-and-fire (IF) neurons, without a leak; arguments as of `lif`.

    Example:
        >>> if_()(torch.full((3, 1), 0.5)).flatten()
        tensor([0., 1., 0.])
    """
    return _node("if", v_threshold, v_reset, detach_reset, surrogate, alpha, backend, compiled, device)


def plif(
    *,
    init_tau: float = 2.0,
    decay_input: bool = False,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: SurrogateName = "sigmoid",
    alpha: float | None = None,
    backend: Literal["auto", "cupy", "native", "triton", "fused", "torch"] = "auto",
    compiled: bool = False,
    device: torch.device | str = "cpu",
) -> neuron.BaseNode:
    """One layer of parametric LIF neurons, whose time constant is learnt, one for the layer: 1/tau = sigma(w).

    Args:
        init_tau: time constant before the training, in time steps, > 1; other arguments as of `lif`.

    Example:
        >>> round(plif(init_tau=4.0).w.sigmoid().item(), 6)
        0.25
    """
    return _node(
        "plif",
        v_threshold,
        v_reset,
        detach_reset,
        surrogate,
        alpha,
        backend,
        compiled,
        device,
        init_tau=_time_constant("init_tau", init_tau),
        decay_input=decay_input,
    )


def current_lif(
    *,
    tau_syn: float = 2.0,
    tau: float = 2.0,
    v_threshold: float = 1.0,
    detach_reset: bool = False,
    surrogate: SurrogateName = "sigmoid",
    alpha: float | None = None,
    backend: Literal["auto", "cupy", "native", "triton", "fused", "torch"] = "auto",
    compiled: bool = False,
    device: torch.device | str = "cpu",
) -> neuron.BaseNode:
    """One layer of LIF neurons with a synaptic current that decays, soft reset (`sj_cka.neurons.current`).

    Args:
        tau_syn: time constant of the synaptic current, in time steps, > 1.
        tau: membrane time constant, in time steps, > 1; other arguments as of `lif`. Backends and `compiled` are those
            of the LIF part: the current is torch's own operations everywhere.

    Example:
        >>> current_lif()(torch.tensor([[0.875], [0.5], [0.0]])).flatten()  # h = .875, 1.375, .65625
        tensor([0., 1., 0.])
    """
    return _node(
        "current_lif",
        v_threshold,
        None,
        detach_reset,
        surrogate,
        alpha,
        backend,
        compiled,
        device,
        tau_syn=_time_constant("tau_syn", tau_syn),
        tau=_time_constant("tau", tau),
    )


def _time_constant(key: str, tau: float) -> float:
    check_option(math.isfinite(tau) and tau > 1, key, f"a finite {key} > 1 (in time steps)", tau)
    return float(tau)


def _node(
    kind: backends.NeuronKind,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    surrogate: str,
    alpha: float | None,
    backend: str,
    compiled: bool,
    device: torch.device | str,
    **leak: Any,
) -> neuron.BaseNode:
    """A checked node of the kind, on the backend that is chosen."""
    function = make_surrogate(surrogate, alpha)
    check_option(math.isfinite(v_threshold), "v_threshold", "a finite v_threshold", v_threshold)
    finite = v_reset is None or math.isfinite(v_reset)
    check_option(finite, "v_reset", "a finite v_reset, or None for a soft reset", v_reset)

    name = backends.neuron_backend(kind, device, backend, function).name
    if compiled:
        _check_compiled(name, device)
    make = backends.NODES[kind] if name == "torch" else _FUSED[kind]
    node = make(
        **leak,
        v_threshold=float(v_threshold),
        v_reset=None if v_reset is None else float(v_reset),
        surrogate_function=function,
        detach_reset=detach_reset,
        step_mode="m",
        **({"backend": name} if name in ("cupy", "triton") and backends.node_chooses() else {}),
    )
    if name == "fused":
        node.compiled, node.fused_on_cuda = compiled, torch.device(device).type == "cuda"
    return node


def _check_compiled(name: backends.BackendName, device: torch.device | str) -> None:
    if name != "fused":
        raise OptionError(
            "compiled",
            f'expected backend "fused" for compiled=True, since no other is compiled here; got "{name}" on device '
            f'{device}; leave compiled away, or ask for backend "fused"',
        )
    # on CUDA nothing else than compiled is fused, and whether that can be was asked already
    why_not = compiling.why_not() if torch.device(device).type == "cpu" else None
    if why_not is not None:
        raise OptionError(
            "compiled",
            f"expected a C++ compiler that torch.compile can use, for compiled=True; got {why_not}; install one (g++; "
            "the environment variable CXX names another), or leave compiled away",
        )
