"""The fused neurons by torch.compile: all T steps of a pass as one kernel, which inductor writes: on the CPU in C++,
which g++ compiles, on CUDA in Triton.

A function is traced with its numbers as constants, T steps unrolled, and compiled for any number of neurons; so a layer
of another size, or a shorter last batch, compiles nothing new, while another T, dtype, surrogate or number of threads
does, once in a process. That takes seconds, where inductor's cache on disk has it already, about one.

No FMA and no unsafe mathematics: a compiler may not round otherwise than the operations do one after the other.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from sj_cka.recording.wrappers import compiled_again

_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"cpp.enable_floating_point_contract_flag": "off", "cpp.enable_unsafe_math_opt_flag": False},
    "cuda": {"emulate_precision_casts": True, "eager_numerics.division_rounding": True},
}
_MOST_STEPS = 32  # unrolled; the time to compile grows with them


@functools.cache
def why_not(device: str = "cpu") -> str | None:
    """Why torch.compile makes no kernel here, as the object of "got"; None if a small one runs. Takes seconds, once."""
    try:
        x = torch.arange(3.0, device=device)
        wrong = not torch.equal(_compile(lambda y: [y + 1.0], (x,))(x)[0], x + 1.0)
    except (RuntimeError, AssertionError, ImportError, OSError) as error:  # also those of torch.compile
        told = " ".join(str(error).split("\n\n")[0].split())  # then follows advice on how to debug torch
        return f"{type(error).__name__}: {told}"
    return "a kernel that adds wrongly" if wrong else None


def fits(x_seq: Tensor) -> bool:
    """Whether an input [T, N, *] is compiled. Not so bfloat16 on the CPU, where inductor keeps it as float32 between
    the operations of a kernel, so that potentials differ; and one neuron or none would be compiled for themselves."""
    kept_wide = x_seq.dtype == torch.bfloat16 and x_seq.device.type == "cpu"
    return not kept_wide and len(x_seq) <= _MOST_STEPS and x_seq[0].numel() > 1


def run(
    function: Callable[..., list[Tensor]], tensors: tuple[Tensor | None, ...], **constants: Hashable
) -> list[Tensor]:
    """function(*tensors, **constants), compiled. Tensors are [*, M] with one M, or 0-dim; the function writes to none
    of them, and knows M from the shapes alone."""
    layout = tuple(None if tensor is None else (tensor.shape[:-1], tensor.ndim, tensor.dtype) for tensor in tensors)
    device = next(tensor.device for tensor in tensors if tensor is not None)
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    kernel = _kernel(function, layout, tuple(constants.items()), device, threads)
    with torch.no_grad(), compiled_again():
        return kernel(*(tensor.detach() for tensor in tensors if tensor is not None))


@functools.cache
def _kernel(
    function: Callable[..., list[Tensor]],
    layout: tuple[tuple[torch.Size, int, torch.dtype] | None, ...],
    constants: tuple[tuple[str, Hashable], ...],
    device: torch.device,
    threads: int,  # inductor writes their number into the kernel
) -> Callable[..., list[Tensor]]:
    def of_given(*given: Tensor) -> list[Tensor]:
        tensors = iter(given)
        return function(*(None if entry is None else next(tensors) for entry in layout), **dict(constants))

    samples = [
        torch.zeros((*entry[0], 2) if entry[1] else (), dtype=entry[2], device=device) for entry in layout if entry
    ]
    return _compile(of_given, samples)


def _compile(function: Callable[..., list[Tensor]], samples: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    with torch.inference_mode(False), torch.no_grad():
        graph = make_fx(torch.func.functionalize(function))(*samples)
    # a graph has code of its own, and torch.compile counts recompilations by code
    options = _OPTIONS["cuda" if samples[0].is_cuda else "cpu"]
    return torch.compile(graph.forward, dynamic=True, fullgraph=True, options=options)
