"""Which implementation of the neurons runs on a device."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Literal, NamedTuple, get_args

import torch
from spikingjelly.activation_based import base, functional, neuron

BackendName = Literal["cupy", "native", "triton", "fused", "torch"]


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
    if name == "torch" and (device.type != "cuda" or node_chooses()):
        return None
    if device.type != "cuda":
        return "needs a CUDA device"
    here = f"here is {version('spikingjelly')}"
    if node_chooses():
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


def node_chooses() -> bool:
    """Whether a node names its kernels (2.0.0rc1: `backend=`), or SpikingJelly does so for the process (2.0.0)."""
    return "backend" in inspect.signature(neuron.LIFNode).parameters
