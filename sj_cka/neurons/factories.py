"""Spiking neurons by name, as a recipe asks for them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from spikingjelly.activation_based import neuron, surrogate

from sj_cka.neurons import backends
from sj_cka.neurons.fused import FusedLIFNode

_SURROGATES = {"sigmoid": surrogate.Sigmoid, "atan": surrogate.ATan}
# 6: the tanh surrogate of the paper's code. 2: SpikingJelly's own.
_ALPHA = {"sigmoid": 6.0, "atan": 2.0}


def lif(
    *,
    tau: float = 2.0,
    decay_input: bool = False,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: Literal["sigmoid", "atan"] = "sigmoid",
    alpha: float | None = None,
    backend: Literal["auto", "cupy", "native", "triton", "fused", "torch"] = "auto",
    device: torch.device | str = "cpu",
) -> neuron.BaseNode:
    """One layer of LIF neurons, multi-step: [T, N, *] -> spikes [T, N, *]; equations in `sj_cka.neurons.fused`.

    Args:
        tau: membrane time constant in time steps, > 1.
        decay_input: whether the input leaks too.
        v_threshold: threshold.
        v_reset: potential after a spike; None for a soft reset (subtract the threshold).
        detach_reset: whether the backward treats the reset as a constant.
        surrogate: shape of the surrogate gradient.
        alpha: its steepness, > 0. None: 6 for "sigmoid", which is the tanh surrogate of the paper's code, slope 1.5 at
            the threshold; 2 for "atan", SpikingJelly's default.
        backend: see `lif_backend`.
        device: where the network will run; the node is built before it is moved there, so it has to be told.

    Returns:
        A node of SpikingJelly. Except for "torch" it is a `FusedLIFNode`: with CUDA kernels on CUDA tensors as asked
        for, and still fused where the network is taken back to the CPU.

    Raises:
        ValueError: a value outside its range, or a backend that cannot be had on this device.

    Example:
        >>> lif()(torch.full((3, 1), 0.75)).flatten()
        tensor([0., 1., 0.])
    """
    if surrogate not in _SURROGATES:
        raise ValueError(f"expected surrogate {' or '.join(_SURROGATES)}; got {surrogate!r}")
    alpha = _ALPHA[surrogate] if alpha is None else alpha
    if not (math.isfinite(tau) and tau > 1):
        raise ValueError(f"expected a finite tau > 1 (in time steps); got {tau}")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"expected a finite alpha > 0; got {alpha}")
    if not math.isfinite(v_threshold):
        raise ValueError(f"expected a finite v_threshold; got {v_threshold}")
    if v_reset is not None and not math.isfinite(v_reset):
        raise ValueError(f"expected a finite v_reset, or None for a soft reset; got {v_reset}")

    name = backends.lif_backend(device, backend).name
    node = neuron.LIFNode if name == "torch" else FusedLIFNode
    return node(
        tau=float(tau),
        decay_input=decay_input,
        v_threshold=float(v_threshold),
        v_reset=None if v_reset is None else float(v_reset),
        surrogate_function=_SURROGATES[surrogate](alpha=float(alpha)),
        detach_reset=detach_reset,
        step_mode="m",
        **({"backend": name} if name in ("cupy", "triton") and backends.node_chooses() else {}),
    )
