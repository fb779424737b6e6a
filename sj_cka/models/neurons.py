"""The spiking neurons of the networks here, and which implementation of LIF runs on a device.

The equations stand in `sj_cka.models.fused_lif`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Literal, NamedTuple, get_args

import torch
from spikingjelly.activation_based import base, functional, neuron, surrogate

from sj_cka.models.fused_lif import FusedLIFNode

BackendName = Literal["cupy", "native", "triton", "fused", "torch"]

_SURROGATES = {"sigmoid": surrogate.Sigmoid, "atan": surrogate.ATan}
# 6: the tanh surrogate of the paper's code. 2: SpikingJelly's own.
_ALPHA = {"sigmoid": 6.0, "atan": 2.0}


class Backend(NamedTuple):
    """An implementation of LIF: `name`, and in words why this one."""

    name: BackendName
    reason: str


def lif_backend(device: torch.device | str = "cpu", wish: str = "auto") -> Backend:
    """Which implementation of LIF runs here?

    - "cupy": CuPy kernels of SpikingJelly 2.0.0rc1 (float32 and float16), chosen by the node's `backend`;
    - "native": compiled CUDA kernels of 2.0.0, where SpikingJelly was built with them; chosen by SpikingJelly;
    - "triton": Triton kernels, in 2.0.0rc1 chosen by the node's `backend`, in 2.0.0 by SpikingJelly for the process;
    - "fused": `FusedLIFNode` on the CPU;
    - "torch": SpikingJelly's own torch code, on any device.

    What 2.0.0 chooses on CUDA is asked of SpikingJelly itself; its environment variable SJ_LIF_CUDA_IMPLEMENTATION
    (cuda, triton, torch), read when it is imported, changes it. Without a GPU the tests cover this choice, not the
    kernels.

    Args:
        device: where the network will run.
        wish: one of the names above, or "auto": the first of them that runs on the device.

    Returns:
        The name, and the reason: for "auto" it says why those before it do not run.

    Raises:
        ValueError: an unknown wish, one that cannot be had here, or a CUDA device that torch does not find.

    Example:
        >>> lif_backend("cpu").name
        'fused'
    """
    device = torch.device(device)
    names: tuple[BackendName, ...] = get_args(BackendName)
    if wish not in ("auto", *names):
        raise ValueError(f'expected backend "auto" or one of {", ".join(names)}; got {wish!r}')
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device} asked for, but torch {torch.__version__} finds no CUDA device")
    refused: list[str] = []
    for name in names:
        if wish not in ("auto", name):
            continue
        why_not = _why_not(name, device)
        if why_not is None:
            return Backend(name, "asked for" if wish == name else "; ".join([f"first that runs on {device}", *refused]))
        refused.append(f'"{name}" {why_not}')
    raise ValueError(f"backend {'; '.join(refused)}; got device {device}")


def _why_not(name: BackendName, device: torch.device) -> str | None:
    """Why this backend does not run on the device, as the end of a sentence; None if it does."""
    if name == "fused":
        return None if device.type == "cpu" else "runs on the CPU"
    if name == "torch" and (device.type != "cuda" or _node_chooses()):
        return None
    if device.type != "cuda":
        return "needs a CUDA device"
    here = f"here is {version('spikingjelly')}"
    if _node_chooses():
        if name == "native":
            return f"needs SpikingJelly 2.0.0 or newer, {here}"
        try:
            base.check_backend_library(name)
        except ImportError as error:
            return f"needs {name}, which cannot be imported ({error.__cause__ or error})"
        return None
    if name == "cupy":
        return f"needs SpikingJelly 2.0.0rc1, the last release with CuPy kernels, {here}"
    chosen = functional.neuron_implementation("lif", device)
    key = "cuda" if name == "native" else name
    if chosen["implementation"] == key:
        return None
    if key in chosen["unavailable"]:
        return f"cannot be loaded ({chosen['unavailable'][key]})"
    return f"is not what SpikingJelly chose ({chosen['implementation']}; SJ_LIF_CUDA_IMPLEMENTATION={key} asks for it)"


def _node_chooses() -> bool:
    """Whether a node names its kernels (2.0.0rc1: `backend=`), or SpikingJelly does so for the process (2.0.0)."""
    return "backend" in inspect.signature(neuron.LIFNode).parameters


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
    """One layer of LIF neurons, multi-step: [T, N, *] -> spikes [T, N, *]; equations in `sj_cka.models.fused_lif`.

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

    name = lif_backend(device, backend).name
    node = neuron.LIFNode if name == "torch" else FusedLIFNode
    return node(
        tau=float(tau),
        decay_input=decay_input,
        v_threshold=float(v_threshold),
        v_reset=None if v_reset is None else float(v_reset),
        surrogate_function=_SURROGATES[surrogate](alpha=float(alpha)),
        detach_reset=detach_reset,
        step_mode="m",
        **({"backend": name} if name in ("cupy", "triton") and _node_chooses() else {}),
    )


NEURONS: dict[str, Callable[..., neuron.BaseNode]] = {"lif": lif}
