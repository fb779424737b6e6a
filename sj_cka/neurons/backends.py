"""Which implementation of the neurons runs on a device."""

import inspect
import os
from importlib.metadata import version
from typing import Literal, NamedTuple, get_args

import torch
from spikingjelly.activation_based import base, functional, neuron
from spikingjelly.activation_based import surrogate as surrogates

from sj_cka.neurons import compiling
from sj_cka.neurons.current import CurrentLIFNode
from sj_cka.neurons.surrogates import SURROGATES, gradient_of
from sj_cka.plugins import OptionError, check_option

BackendName = Literal["cupy", "native", "triton", "fused", "torch"]
NeuronKind = Literal["lif", "if", "plif", "current_lif"]

NODES: dict[NeuronKind, type[neuron.BaseNode]] = {
    "lif": neuron.LIFNode,
    "if": neuron.IFNode,
    "plif": neuron.ParametricLIFNode,
    "current_lif": CurrentLIFNode,
}

# those that 2.0.0's kernels, native and Triton, and 2.0.0rc1's Triton kernels know
_WITH_KERNELS = (
    surrogates.Sigmoid,
    surrogates.ATan,
    surrogates.PiecewiseQuadratic,
    surrogates.PiecewiseExp,
    surrogates.SoftSign,
    surrogates.SuperSpike,
    surrogates.Erf,
)


class Backend(NamedTuple):
    """An implementation of neurons: `name`, and in words why this one."""

    name: BackendName
    reason: str


def neuron_backend(
    kind: NeuronKind,
    device: torch.device | str = "cpu",
    wish: str = "auto",
    surrogate: surrogates.SurrogateFunctionBase | None = None,
) -> Backend:
    """Which implementation of a kind of neuron runs here?

    - "cupy": CuPy kernels of SpikingJelly 2.0.0rc1 (float32 and float16), chosen by the node's `backend`; with the
      surrogates that have CUDA code there (sigmoid, atan, s2nn, q_pseudo_spike, fake_numerical_gradient and the
      ...relu);
    - "native": compiled CUDA kernels of 2.0.0, where SpikingJelly was built with them; chosen by SpikingJelly;
    - "triton": Triton kernels, in 2.0.0rc1 chosen by the node's `backend`, in 2.0.0 by SpikingJelly for the process;
      these and "native" with the surrogates sigmoid, atan, piecewise_quadratic, piecewise_exp, soft_sign, super_spike
      and erf;
    - "fused": `FusedNode`, with the surrogates of SURROGATES; on the CPU, and on CUDA where it is asked for: there
      torch.compile makes its kernels, in some seconds for each kind of layer in the process;
    - "torch": SpikingJelly's own torch code, on any device.

    What 2.0.0 chooses on CUDA is asked of SpikingJelly itself; its environment variables SJ_LIF_CUDA_IMPLEMENTATION,
    SJ_IF_... and SJ_PLIF_... (cuda, triton, torch), read when it is imported, change it. Without a GPU the tests cover
    this choice, not the kernels.

    Args:
        kind: of neuron.
        device: where the network will run.
        wish: one of the names above, or "auto": the first of them that runs on the device.
        surrogate: which surrogate gradient the neurons have; None for Sigmoid.

    Returns:
        The name, and the reason: for "auto" it says why those before it do not run.

    Raises:
        ValueError: an unknown kind or wish, one that cannot be had here, or a CUDA device that torch does not find.

    Example:
        >>> neuron_backend("plif", "cpu").name
        'fused'
    """
    device = torch.device(device)
    names: tuple[BackendName, ...] = get_args(BackendName)
    if kind not in NODES:
        raise ValueError(f"expected a kind of neuron: {', '.join(NODES)}; got {kind!r}")
    check_option(wish in ("auto", *names), "backend", f'backend "auto" or one of {", ".join(names)}', repr(wish))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device} asked for, but torch {torch.__version__} finds no CUDA device")
    surrogate = surrogates.Sigmoid() if surrogate is None else surrogate
    refused: list[str] = []
    for name in names:
        if wish not in ("auto", name):
            continue
        if name == "fused" and device.type == "cuda" and wish == "auto":
            why_not: str | None = "is compiled on CUDA, which takes time, and has to be asked for"
        else:
            why_not = _why_not(name, kind, device, surrogate)
        if why_not is None:
            return Backend(name, "asked for" if wish == name else "; ".join([f"first that runs on {device}", *refused]))
        refused.append(f'"{name}" {why_not}')
    raise OptionError("backend", f"backend {'; '.join(refused)}; got device {device}")


def lif_backend(device: torch.device | str = "cpu", wish: str = "auto") -> Backend:
    """Which implementation of LIF with its default surrogate runs here? See `neuron_backend`.

    Example:
        >>> lif_backend("cpu").name
        'fused'
    """
    return neuron_backend("lif", device, wish)


def _why_not(
    name: BackendName, kind: NeuronKind, device: torch.device, surrogate: surrogates.SurrogateFunctionBase
) -> str | None:
    """Why this backend does not run on the device, as the end of a sentence; None if it does."""
    if name == "fused":
        if gradient_of(surrogate) is None:
            return f"has no gradient of the surrogate {type(surrogate).__name__}"
        if device.type == "cuda":
            told = compiling.why_not("cuda")
            return None if told is None else f"cannot be compiled on CUDA ({told})"
        return None if device.type == "cpu" else "runs on the CPU and on CUDA"
    if name == "torch" and (device.type != "cuda" or node_chooses()):
        return None
    if device.type != "cuda":
        return "needs a CUDA device"
    here = f"here is {version('spikingjelly')}"
    if node_chooses():
        if name == "native":
            return f"needs SpikingJelly 2.0.0 or newer, {here}"
        if name not in NODES[kind](step_mode="m").supported_backends:
            return f"has no kernels for the neuron {kind!r}, {here}"
        try:
            base.check_backend_library(name)
        except ImportError as error:
            return f"needs {name}, which cannot be imported ({error.__cause__ or error})"
    elif name == "cupy":
        return f"needs SpikingJelly 2.0.0rc1, the last release with CuPy kernels, {here}"
    if name != "torch" and not _has_kernels(name, surrogate):
        return f"has no kernels for the surrogate {type(surrogate).__name__}"
    return None if node_chooses() else _why_not_chosen(name, kind, device, surrogate)


def _why_not_chosen(
    name: BackendName, kind: NeuronKind, device: torch.device, surrogate: surrogates.SurrogateFunctionBase
) -> str | None:
    """Why SpikingJelly 2.0.0 does not run this on the CUDA device, as the end of a sentence; None if it does."""
    if kind == "current_lif":
        kind = "lif"  # whose kernels take its currents
    variable = f"SJ_{kind.upper()}_CUDA_IMPLEMENTATION"
    if name == "torch" and not _has_kernels(name, surrogate):
        asked = os.environ.get(variable, "auto")
        if asked in ("auto", "torch"):
            return None  # SpikingJelly leaves its kernels aside by itself
        return f"is not what {variable}={asked} asks for"
    chosen = functional.neuron_implementation(kind, device)
    key = "cuda" if name == "native" else name
    if chosen["implementation"] == key:
        return None
    if key in chosen["unavailable"]:
        return f"cannot be loaded ({chosen['unavailable'][key]})"
    return f"is not what SpikingJelly chose ({chosen['implementation']}; {variable}={key} asks for it)"


def _has_kernels(name: BackendName, surrogate: surrogates.SurrogateFunctionBase) -> bool:
    """Whether a backend's CUDA kernels know the surrogate gradient."""
    if name != "cupy":
        return type(surrogate) in _WITH_KERNELS
    try:
        surrogate.cuda_codes(y="y", x="x", dtype="float")
    except NotImplementedError:
        return False
    return True


def node_chooses() -> bool:
    """Whether a node names its kernels (2.0.0rc1: `backend=`), or SpikingJelly does so for the process (2.0.0)."""
    return "backend" in inspect.signature(neuron.LIFNode).parameters


def unfused() -> dict[str, list[str]]:
    """What fused passes leave to SpikingJelly's own torch code on a CPU, by what it is: classes, and calls in words.

    Neurons are those of its classes that are none of NODES; what is listed of calls and surrogates is of these nodes.
    """
    fused = {entry.kind for entry in SURROGATES.values()}
    classes = {
        "neurons": (neuron, base.MemoryModule, lambda kind: kind not in NODES.values()),
        "surrogates": (surrogates, surrogates.SurrogateFunctionBase, lambda kind: kind not in fused),
    }
    found = {
        what: [
            name
            for name, kind in inspect.getmembers(place, inspect.isclass)
            if issubclass(kind, parent) and "Base" not in name and left(kind)
        ]
        for what, (place, parent, left) in classes.items()
    }
    return found | {"calls": ["single-step", "in float16", "in mixed precision", "under torch.compile and torch.func"]}
