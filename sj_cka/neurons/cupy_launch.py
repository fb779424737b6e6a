"""SpikingJelly 2.0.0rc1's CuPy kernels of IF, LIF and PLIF, launched with little work for the processor.

Source and parameters of a kernel are SpikingJelly's, and so is every number; only the launch is ours. SpikingJelly's
makes an array on the device for each scalar, goes through two custom operators, copies what is not contiguous, and runs
in CuPy's stream. Here scalars are made once, time steps keep their order in memory (channels-last too), potentials are
written where they are read, and a kernel runs in torch's current stream, so that a CUDA graph can hold it.

What is not launched here is left to SpikingJelly: another release, or kernels with other parameters than are known.
"""

import functools
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from spikingjelly import configure
from torch import Tensor
from torch.autograd.function import once_differentiable

from sj_cka.neurons.chunks import empty_steps, is_channels_last

RELEASE = "2.0.0rc1"
_CTYPES = {torch.float32: "float", torch.float16: "half2"}
_MOST = 2**31 - 1  # the kernels count in int32


class Neuron(NamedTuple):
    """What a kernel is made for: `leak` is 1/tau of "lif", None for "if" and for "plif", whose leak is a tensor."""

    kind: str
    leak: float | None
    decay_input: bool
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    surrogate: Any  # SpikingJelly's function, which writes its own CUDA code


class _Kernel(NamedTuple):
    raw: Any  # cupy.RawKernel
    parameters: tuple[str, ...]


def launches(x_seq: Tensor, neuron: Neuron) -> bool:
    """Whether a multi-step call on x_seq [T, N, *] is launched here.

    Not so: another release of SpikingJelly, dtypes other than float32 and float16, an odd number of float16 neurons
    (which the kernels take in pairs), none at all, more than int32 counts, and calls that torch.compile or torch.func
    trace.
    """
    dtype = x_seq.dtype
    return (
        x_seq.is_cuda
        and dtype in _CTYPES
        and 0 < x_seq.numel() <= _MOST
        and (dtype == torch.float32 or x_seq[0].numel() % 2 == 0)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and _kernels(*_key(neuron, dtype)) is not None
    )


def multi_step(x_seq: Tensor, v: Tensor | float, leak: Tensor | None, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """Spikes and potentials after each step, both [T, N, *] in the memory order of x_seq.

    Args:
        x_seq: input [T, N, *].
        v: potential before the first step, [N, *] of the dtype of x_seq, or one number for all.
        leak: 1/tau of "plif", of one element; else None.
        neuron: its kind and constants.
    """
    return _MultiStep.apply(x_seq, v, leak, neuron)


class _MultiStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_seq: Tensor, v: Tensor | float, leak: Tensor | None, neuron: Neuron) -> tuple[Tensor, ...]:
        kernels = _kernels(*_key(neuron, x_seq.dtype))
        assert kernels is not None  # `launches` asked
        T, x = len(x_seq), x_seq[0]
        x_seq = _dense(x_seq)
        spikes, h = empty_steps(T, x), empty_steps(T, x)
        v_v_seq = empty_steps(T + 1, x)  # the potential before the first step, then after each
        v_v_seq[0] = v
        given = {"x_seq": x_seq, "spike_seq": spikes, "h_seq": h, "v_v_seq": v_v_seq}
        if leak is not None:
            given["decay"] = leak = leak.to(x_seq).expand(2).contiguous()  # half2 reads two
        _run(kernels[0], x_seq, neuron, given)
        ctx.neuron, ctx.of_one = neuron, isinstance(v, Tensor)
        ctx.save_for_backward(h, *(() if leak is None else (leak, v_v_seq)))
        ctx.set_materialize_grads(False)
        return spikes, v_v_seq[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v_seq: Tensor | None) -> tuple[Tensor | None, ...]:
        h, *of_plif = ctx.saved_tensors
        kernels = _kernels(*_key(ctx.neuron, h.dtype))
        assert kernels is not None
        given = {
            "h_seq": h,
            "grad_spike_seq": _like(h, grad_spikes),
            "grad_v_seq": _like(h, grad_v_seq),
            "grad_x_seq": torch.empty_like(h),
            "grad_v_init": torch.empty_like(h[0]),
        }
        if of_plif:
            grad_leak = torch.zeros((), device=h.device)
            given |= {"decay": of_plif[0], "v_v_seq": of_plif[1], "grad_decay": grad_leak}
        _run(kernels[1], h, ctx.neuron, given)
        return (
            given["grad_x_seq"],
            given["grad_v_init"] if ctx.of_one and ctx.needs_input_grad[1] else None,
            given.get("grad_decay"),
            None,
        )


def _run(kernel: _Kernel, x_seq: Tensor, neuron: Neuron, given: dict[str, Tensor]) -> None:
    """Launches a kernel over all neurons of x_seq, in torch's current stream."""
    dtype, device = x_seq.dtype, x_seq.device
    lanes = x_seq.numel() if dtype == torch.float32 else x_seq.numel() // 2
    N = lanes // len(x_seq)
    given |= {name: _scalar(count, torch.int32, device) for name, count in (("numel", lanes), ("N", N))}
    values = {"v_th": neuron.v_threshold, "v_reset": neuron.v_reset, "decay": neuron.leak}
    given |= {name: _scalar(value, dtype, device) for name, value in values.items() if value is not None}
    threads = configure.cuda_threads
    pointers = tuple(given[name].data_ptr() for name in kernel.parameters)
    with torch.cuda.device_of(x_seq):
        kernel.raw((-(-N // threads),), (threads,), pointers, stream=_stream(device))


def _dense(x_seq: Tensor) -> Tensor:
    """Steps [T, N, *] one after another without gaps, each contiguous or channels-last; a copy where they are not."""
    x = x_seq[0]
    if (x.is_contiguous() or is_channels_last(x)) and (len(x_seq) == 1 or x_seq.stride(0) == x.numel()):
        return x_seq
    return empty_steps(len(x_seq), x).copy_(x_seq)


def _like(h: Tensor, gradient: Tensor | None) -> Tensor:
    """A gradient in the memory order of h; zeros for none, which nothing may write to."""
    if gradient is None:
        return _zeros(1 << (h.numel() - 1).bit_length(), h.dtype, h.device)
    return gradient if gradient.stride() == h.stride() else torch.empty_like(h).copy_(gradient)


# Both live as long as the process: a CUDA graph that was captured reads them by their addresses. They are few: a scalar
# takes 512 bytes, and sizes of zeros are powers of two, so that all together are at most 4 times the largest layer.
@functools.cache
def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _kept(lambda: torch.tensor([value, value], dtype=dtype).to(device), device)  # half2 reads two


@functools.cache
def _zeros(numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _kept(lambda: torch.zeros(numel, dtype=dtype, device=device), device)


def _kept(make: Callable[[], Tensor], device: torch.device) -> Tensor:
    """A tensor for any stream of the device: made before this returns."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("a constant of the CuPy kernels is missing in a CUDA graph: run a step before its capture")
    with torch.inference_mode(False):
        made = make()
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return made


def _stream(device: torch.device) -> Any:
    """torch's current stream, for CuPy; asked for at each launch, since it is another one while a graph is captured."""
    import cupy

    return cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream)


def _key(neuron: Neuron, dtype: torch.dtype) -> tuple[str, bool, bool, bool, str, str]:
    code = _surrogate_code(neuron.surrogate, ctype := _CTYPES[dtype])
    return neuron.kind, neuron.decay_input, neuron.v_reset is not None, neuron.detach_reset, code, ctype


_CODES: dict[tuple[Any, ...], str] = {}


def _surrogate_code(surrogate: Any, ctype: str) -> str:
    """CUDA code of a surrogate gradient, which its class and its numbers decide."""
    numbers = ((name, value) for name, value in vars(surrogate).items() if isinstance(value, (bool, int, float)))
    key = (type(surrogate), ctype, *numbers)
    if key not in _CODES:
        _CODES[key] = surrogate.cuda_codes(y=f"const {ctype} grad_s_to_h", x="over_th", dtype=ctype)
    return _CODES[key]


@functools.cache
def _kernels(
    kind: str, decay_input: bool, hard: bool, detach_reset: bool, code: str, ctype: str
) -> tuple[_Kernel, _Kernel] | None:
    """The kernels of a forward and of a backward pass; None where this release's are not those that are known."""
    if version("spikingjelly") != RELEASE:
        return None
    from spikingjelly.activation_based.cuda_kernel.neuron_kernel.multi_step import integrate_and_fire, lif, plif

    leak = {} if kind == "if" else {"decay_input": decay_input}
    reset = {"hard_reset": hard, "dtype": ctype}
    there = {"if": (integrate_and_fire, "IFNode"), "lif": (lif, "LIFNode"), "plif": (plif, "ParametricLIFNode")}
    module, name = there[kind]
    forward = getattr(module, f"{name}FPTTKernel")(**leak, **reset)
    backward = getattr(module, f"{name}BPTTKernel")(
        **leak, surrogate_function=lambda **_: code, detach_reset=detach_reset, **reset
    )
    codes = forward.full_codes, backward.full_codes  # sorts the parameters
    expected = _forward_parameters(kind, hard, ctype), _backward_parameters(kind, hard, ctype)
    if (forward.cparams, backward.cparams) != expected:
        return None
    raw_forward, raw_backward = map(_raw_kernel, codes, (forward.kernel_name, backward.kernel_name))
    return _Kernel(raw_forward, tuple(forward.cparams)), _Kernel(raw_backward, tuple(backward.cparams))


def _raw_kernel(code: str, name: str) -> Any:
    import cupy

    options, backend = tuple(configure.cuda_compiler_options), configure.cuda_compiler_backend
    return cupy.RawKernel(code, name, options=options, backend=backend)


def _forward_parameters(kind: str, hard: bool, ctype: str) -> dict[str, str]:
    outputs = dict.fromkeys(("v_v_seq", "h_seq", "spike_seq"), f"{ctype} *")
    return _constants(kind, hard, ctype) | {"x_seq": f"const {ctype} *"} | outputs


def _backward_parameters(kind: str, hard: bool, ctype: str) -> dict[str, str]:
    inputs = dict.fromkeys(("grad_spike_seq", "grad_v_seq", "h_seq"), f"const {ctype} *")
    outputs = dict.fromkeys(("grad_x_seq", "grad_v_init"), f"{ctype} *")
    of_plif = {"grad_decay": "float *", "v_v_seq": f"const {ctype} *"} if kind == "plif" else {}
    return _constants(kind, hard, ctype) | inputs | outputs | of_plif


def _constants(kind: str, hard: bool, ctype: str) -> dict[str, str]:
    leak = {"lif": {"decay": f"const {ctype} &"}, "plif": {"decay": f"const {ctype} *"}, "if": {}}
    reset = {"v_reset": f"{ctype} &"} if hard else {}
    return {"numel": "const int &", "N": "const int &", "v_th": f"{ctype} &"} | reset | leak[kind]
