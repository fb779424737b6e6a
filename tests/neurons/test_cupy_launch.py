"""SpikingJelly's CuPy kernels as they are launched here, without a GPU: g++ compiles their source for the CPU."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly import configure
from spikingjelly.activation_based import neuron
from torch import Tensor

from sj_cka.neurons import cupy_launch
from sj_cka.neurons.cupy_launch import Neuron, multi_step
from sj_cka.neurons.surrogates import make_surrogate

pytestmark = [
    pytest.mark.skipif(version("spikingjelly") != cupy_launch.RELEASE, reason="only this release has CuPy kernels"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
]

# One thread a block: the threads of a kernel run one after the other here, so that none can wait for another.
HEADER = """
#include <cmath>
#define __global__
#define __shared__ static
#define __syncthreads()
struct Place { int x; };
static Place blockIdx, threadIdx, blockDim;
static void atomicAdd(float *sum, float x) { *sum += x; }
"""


class OnCpu:
    """Stands in for cupy.RawKernel: compiles the source with g++ and takes the same arguments."""

    def __init__(self, code: str, name: str, folder: Path) -> None:
        signature = re.search(rf"void {name}\((.*?)\)", code, re.DOTALL)
        assert signature is not None
        self.parameters = [part.strip() for part in signature[1].split(",")]
        given = []
        for i, parameter in enumerate(self.parameters):
            kind = parameter.rsplit(" ", 1)[0].rstrip("&* ")
            given.append(f"{'' if '*' in parameter else '*'}({kind} *)args[{i}]")
        run = (
            'extern "C" void run(int grid, int block, void **args) { blockDim.x = block; '
            "for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++) "
            "for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++) "
            f"{name}({', '.join(given)}); }}"
        )
        (folder / "cuda_fp16.h").write_text("")
        source, library = folder / f"{len(list(folder.iterdir()))}.cpp", folder / f"{len(list(folder.iterdir()))}.so"
        source.write_text(HEADER + code + run)
        options = ["-O1", "-shared", "-fPIC", "-ffp-contract=off", "-w", f"-I{folder}"]
        subprocess.run(["g++", *options, str(source), "-o", str(library)], check=True)
        self.run = ctypes.CDLL(str(library)).run

    def __call__(self, grid: tuple[int], block: tuple[int], args: tuple[int, ...], *, stream: Any) -> None:
        assert len(args) == len(self.parameters)
        self.run(*grid, *block, (ctypes.c_void_p * len(args))(*args))


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels run on the CPU; the list holds the stream of each launch."""
    launched: list[str] = []
    monkeypatch.setattr(configure, "cuda_threads", 1)
    monkeypatch.setattr(cupy_launch, "_raw_kernel", lambda code, name: OnCpu(code, name, tmp_path))
    monkeypatch.setattr(cupy_launch, "_stream", lambda device: launched.append(str(device)) or launched[-1])
    cupy_launch._kernels.cache_clear()
    yield launched
    cupy_launch._kernels.cache_clear()


def node_of(kind: str, n: Neuron) -> neuron.BaseNode:
    own: dict[str, Any] = {"v_threshold": n.v_threshold, "v_reset": n.v_reset, "detach_reset": n.detach_reset}
    own |= {"surrogate_function": n.surrogate, "step_mode": "m", "store_v_seq": True}
    if kind == "if":
        return neuron.IFNode(**own)
    made = {"lif": neuron.LIFNode, "plif": neuron.ParametricLIFNode}[kind]
    return made(2.0, n.decay_input, **own)


def ran(n: Neuron, x: Tensor, v: Tensor | float, *, kernels: bool) -> list[Tensor]:
    """Spikes, potentials and gradients by the kernels, or by SpikingJelly's torch code."""
    node = node_of(n.kind, n).to(x.dtype)
    x_seq = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    v0 = v.detach().clone().requires_grad_() if isinstance(v, Tensor) else v
    if kernels:
        spikes, v_seq = multi_step(x_seq, v0, node.w.sigmoid() if n.kind == "plif" else None, n)
    else:
        node.v = v0
        spikes, v_seq = node(x_seq), node.v_seq
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    ((spikes * weights).sum() + (v_seq * weights.flip(0)).sum()).backward()
    gradients = [x_seq.grad, *([v0.grad] if isinstance(v0, Tensor) else []), *(p.grad for p in node.parameters())]
    return [spikes, v_seq, *gradients]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("v_reset", [0.0, -0.25, None], ids=str)
@pytest.mark.parametrize("detach_reset", [False, True], ids=["reset", "detached"])
@pytest.mark.parametrize("decay_input", [False, True], ids=["kept", "decays"])
@pytest.mark.parametrize("kind", ["plif", "lif", "if"])
def test_kernels_spike_and_fall_as_the_torch_code_does(
    streams: list[str], kind: str, decay_input: bool, detach_reset: bool, v_reset: float | None
) -> None:
    leak = 0.5 if kind == "lif" else None
    n = Neuron(kind, leak, decay_input, 1.0, v_reset, detach_reset, make_surrogate("sigmoid", 6.0))
    x = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0)) * (3 if decay_input else 1.5)
    v = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1))
    spikes, v_seq, *grads = ran(n, x, v, kernels=True)
    right, right_v, *right_grads = ran(n, x, v, kernels=False)
    assert 0.1 < right.mean() < 0.9
    assert torch.equal(spikes, right)
    torch.testing.assert_close(v_seq, right_v, rtol=2e-7, atol=2e-7)
    assert len(grads) == 2 + (kind == "plif")
    for own, theirs in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1.5e-6, atol=1.5e-6)
    assert len(streams) == 2


@pytest.mark.parametrize("surrogate", ["sigmoid", "atan"])
def test_gradients_are_as_near_to_float64_as_those_of_the_torch_code(streams: list[str], surrogate: str) -> None:
    n = Neuron("lif", 0.5, False, 1.0, 0.0, False, make_surrogate(surrogate, None))
    x = torch.randn(4, 2, 40, generator=torch.Generator().manual_seed(2))
    spikes, _, own = ran(n, x, 0.0, kernels=True)
    right_spikes, _, right = ran(n, x.double(), 0.0, kernels=False)
    assert torch.equal(spikes, right_spikes.float())
    _, _, theirs = ran(n, x, 0.0, kernels=False)
    assert 0 < (own - right).norm() <= 1.5 * (theirs - right).norm() <= 5e-7 * right.norm()


def test_channels_last_steps_stay_so_and_other_orders_are_copied(streams: list[str]) -> None:
    n = Neuron("lif", 0.5, False, 1.0, 0.0, False, make_surrogate("sigmoid", 6.0))
    x = torch.randn(4, 2, 3, 5, 4, generator=torch.Generator().manual_seed(3)) * 1.5
    plain, v_seq = multi_step(x, 0.0, None, n)
    last = x.movedim(2, -1).contiguous().movedim(-1, 2)
    spikes, _ = multi_step(last, 0.0, None, n)
    assert spikes.stride() == last.stride() != plain.stride()
    assert torch.equal(spikes, plain)
    assert torch.equal(multi_step(x.transpose(3, 4).contiguous().transpose(3, 4), 0.0, None, n)[0], plain)
    shown = x[:1].expand(4, -1, -1, -1, -1)
    assert torch.equal(multi_step(shown, 0.0, None, n)[0], multi_step(shown.contiguous(), 0.0, None, n)[0])
    assert torch.equal(multi_step(x[2:], v_seq[1], None, n)[0], plain[2:])


def test_gradients_in_another_memory_order_are_brought_into_that_of_the_steps(streams: list[str]) -> None:
    n = Neuron("lif", 0.5, False, 1.0, 0.0, False, make_surrogate("sigmoid", 6.0))
    x = torch.randn(3, 2, 3, 5, 4, generator=torch.Generator().manual_seed(4))
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    grads = []
    for order in (torch.contiguous_format, torch.channels_last):
        own = x.flatten(0, 1).contiguous(memory_format=order).view(x.shape).requires_grad_()
        multi_step(own, 0.0, None, n)[0].backward(weights)
        assert own.grad is not None
        grads.append(own.grad)
    assert torch.equal(*grads)
    assert grads[0].any()


def test_a_second_call_makes_no_constants_and_asks_for_the_stream_again(
    streams: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    n = Neuron("lif", 0.5, False, 1.0, 0.0, False, make_surrogate("sigmoid", 6.0))

    def call() -> None:
        x = torch.rand(4, 2, 24, requires_grad=True)
        multi_step(x, 0.0, None, n)[0].sum().backward()

    call()

    def none_more(*_: Any) -> Tensor:
        raise AssertionError("a constant was made")

    monkeypatch.setattr(cupy_launch, "_kept", none_more)
    call()
    assert len(streams) == 4


@pytest.mark.parametrize("half", [False, True], ids=["float", "half2"])
def test_parameters_are_those_that_this_release_sorts(half: bool) -> None:
    ctype = "half2" if half else "float"
    for kind in ("if", "lif", "plif"):
        for hard in (True, False):
            parameters = cupy_launch._forward_parameters(kind, hard, ctype)
            assert set(parameters) >= {"N", "numel", "x_seq", "v_v_seq", "h_seq", "spike_seq", "v_th"}


def test_kernels_with_other_parameters_are_left_to_spikingjelly(
    streams: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ("lif", False, True, False, "const float grad_s_to_h = 1.0f;", "float")
    assert cupy_launch._kernels(*key) is not None
    cupy_launch._kernels.cache_clear()
    monkeypatch.setattr(cupy_launch, "_constants", lambda kind, hard, ctype: {"numel": "const int &"})
    assert cupy_launch._kernels(*key) is None
    cupy_launch._kernels.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(cupy_launch, "version", lambda package: "2.0.1")
    assert cupy_launch._kernels(*key) is None


def test_what_the_kernels_cannot_take_is_not_launched() -> None:
    n = Neuron("lif", 0.5, False, 1.0, 0.0, False, make_surrogate("sigmoid", 6.0))

    class OnCuda(Tensor):
        is_cuda = True  # type: ignore[assignment]

    def on_cuda(x: Tensor) -> Tensor:
        return x.as_subclass(OnCuda)

    assert not cupy_launch.launches(torch.zeros(4, 2, 3), n)
    assert not cupy_launch.launches(on_cuda(torch.zeros(4, 2, 3, dtype=torch.float64)), n)
    assert not cupy_launch.launches(on_cuda(torch.zeros(4, 0, 3)), n)
    assert not cupy_launch.launches(on_cuda(torch.zeros(4, 1, 3, dtype=torch.float16)), n)
