"""The compiled passes of the fused nodes, against the same passes run operation by operation."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor
from torch._dynamo.utils import counters

from sj_cka.neurons import NEURONS, SURROGATES, compiling, if_, lif, plif
from sj_cka.neurons.surrogates import gradient_of, make_surrogate
from sj_cka.recording.wrappers import uncompiled

SHAPE = (3, 4, 2, 4, 5)  # T, N, C, H, W
# torch's own, where it imports its compiler
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture
def compiler() -> None:
    why_not = compiling.why_not()
    if why_not is not None:
        pytest.skip(f"torch.compile makes no kernel here: {why_not}")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "why_not", lambda: "InvalidCxxCompiler: none found")


def random_input(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.6 + torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def relative_error(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).norm() / y.double().norm())


def pair(make: Callable[..., neuron.BaseNode] = lif, **options: Any) -> Iterator[neuron.BaseNode]:
    """A fused node as it is, and compiled."""
    return (make(compiled=compiled, **options) for compiled in (False, True))


def outputs_and_gradients(node: neuron.BaseNode, x_seq: Tensor, *also: str) -> tuple[list[Tensor], list[Tensor]]:
    """Spikes and states, and the gradients of input and w and, where it starts "from v", of that v; of a loss on the
    spikes and, "loss on v", on the last state or all that are stored."""
    functional.reset_net(node)
    x = x_seq.detach().requires_grad_()
    leaves = [x, *node.parameters()]
    if "from v" in also:
        node.v = random_input(tuple(x.shape[1:]), x.dtype, seed=3).requires_grad_()
        leaves.append(node.v)
    spikes = node(x)
    assert "_MultiStep" in type(spikes.grad_fn).__name__
    loss = (spikes * random_input(tuple(x.shape), x.dtype, seed=1)).sum()
    states = node.v_seq if node.store_v_seq else node.v
    if "loss on v" in also:
        loss = loss + (states * random_input(tuple(states.shape), x.dtype, seed=2)).sum()
    return [spikes, node.v, states], list(torch.autograd.grad(loss, leaves))


def assert_equal(nodes: Iterable[neuron.BaseNode], x_seq: Tensor, *also: str) -> None:
    (slow, slow_grads), (fast, fast_grads) = (outputs_and_gradients(node, x_seq, *also) for node in nodes)
    assert 0.1 < slow[0].mean() < 0.8
    for got, expected in zip(fast, slow, strict=True):
        assert torch.equal(got, expected)
        assert got.stride() == expected.stride()
    for got, expected in zip(fast_grads, slow_grads, strict=True):
        assert got.dtype == expected.dtype
        # both add up float32 for w, in another order
        tolerance = 1e-5 if got.ndim == 0 and got.dtype == torch.float32 else TOLERANCE[x_seq.dtype]
        assert relative_error(got, expected) < tolerance


@pytest.mark.parametrize(
    ("make", "options", "also"),
    [
        (lif, {"tau": 1.7, "v_reset": -0.3}, ["from v", "loss on v", "store_v_seq"]),
        (lif, {"tau": 1.7, "decay_input": True, "v_reset": None, "detach_reset": True}, ["loss on v"]),
        (if_, {"v_reset": None, "v_threshold": 0.9}, ["from v", "float64"]),
        (if_, {"v_reset": -0.3, "detach_reset": True}, ["loss on v", "store_v_seq", "float64"]),
        (plif, {"init_tau": 1.7}, ["loss on v", "float64"]),
        (plif, {"init_tau": 1.7, "decay_input": True, "v_reset": -0.3}, ["from v", "store_v_seq"]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("compiler")
def test_spikes_and_states_are_bit_equal_and_gradients_agree(
    make: Callable[..., neuron.BaseNode], options: dict[str, Any], also: list[str]
) -> None:
    dtype = torch.float64 if "float64" in also else torch.float32
    nodes = [node.to(dtype) for node in pair(make, **options)]
    for node in nodes:
        node.store_v_seq = "store_v_seq" in also
    assert_equal(nodes, random_input(dtype=dtype) * (2 if "decay_input" in options else 1), *also)


@functools.cache
def slopes() -> dict[str, tuple[Tensor, Tensor]]:
    """past + into g(d) of every surrogate, as it is and compiled, all in one kernel."""
    gradients = {name: gradient_of(make_surrogate(name)) for name in SURROGATES}
    edges = torch.tensor([0.0, 0.2, 0.5, 1.0, -0.2, -0.5, -1.0])
    d = torch.cat([torch.linspace(-3, 3, 1001), edges])
    past, into = (torch.randn(len(d), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    def every(past: Tensor, into: Tensor, d: Tensor) -> list[Tensor]:
        outs = [torch.empty_like(d) for _ in gradients]
        for gradient, out in zip(gradients.values(), outs, strict=True):
            assert gradient is not None
            gradient(past, into, d.clone(), out)
        return outs

    both = zip(every(past, into, d), compiling.run(every, (past, into, d)), strict=True)
    return dict(zip(gradients, both, strict=True))


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.usefixtures("compiler")
def test_the_gradient_of_every_surrogate_agrees(name: str) -> None:
    expected, got = slopes()[name]
    assert relative_error(got, expected) < 1e-6


@pytest.mark.parametrize(("make", "options"), [(lif, {}), (lif, {"tau": 1.7}), (plif, {"decay_input": True})], ids=str)
@pytest.mark.usefixtures("compiler")
def test_a_million_neurons_spike_bit_equally_and_their_gradients_agree(
    make: Callable[..., neuron.BaseNode], options: dict[str, Any]
) -> None:
    assert_equal(pair(make, **options), random_input((3, 1_000_003)) * (2 if "decay_input" in options else 1))


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.transpose(3, 4).contiguous().transpose(3, 4),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, SHAPE[:2]),
        lambda x: x[:1].expand(SHAPE),
        lambda x: x[:, :2],
    ],
    ids=["batch first", "W before H", "every second value", "channels last", "one image at every step", "short batch"],
)
@pytest.mark.usefixtures("compiler")
def test_the_order_in_memory_changes_nothing(arrange: Callable[[Tensor], Tensor]) -> None:
    assert_equal(pair(), arrange(random_input()))


@pytest.mark.usefixtures("compiler")
def test_another_number_of_neurons_compiles_nothing_new() -> None:
    node = lif(compiled=True, tau=2.5)
    compiled = []
    for shape in (SHAPE, (3, 2, *SHAPE[2:]), (3, 700), (3, 3), (3, 2)):
        before = counters["stats"]["unique_graphs"]
        outputs_and_gradients(node, random_input(shape))
        compiled.append(counters["stats"]["unique_graphs"] - before)
    assert compiled == [2, 0, 0, 0, 0]  # forward and backward


@pytest.mark.usefixtures("compiler")
def test_kernels_stay_compiled_where_networks_are_to_run_as_they_are_written() -> None:
    node, x_seq = lif(compiled=True, v_threshold=0.77), random_input()
    before = counters["stats"]["unique_graphs"]
    with uncompiled(), torch.no_grad():
        node(x_seq)
    assert counters["stats"]["unique_graphs"] > before


@pytest.mark.usefixtures("compiler")
def test_without_gradients_and_with_a_loss_on_the_state_alone_it_is_the_same() -> None:
    x = random_input()
    plain, node = pair()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(copy.deepcopy(node)(x), copy.deepcopy(plain)(x))
    gradients = []
    for each in (node, plain):
        leaf = x.clone().requires_grad_()
        each(leaf)
        (each.v**2).sum().backward()
        gradients.append(leaf.grad)
    assert relative_error(*gradients) < 1e-6


@pytest.mark.usefixtures("no_compiler")
def test_what_is_not_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("compiled")

    monkeypatch.setattr(compiling, "run", run)
    plain, node = lif(), lif()
    node.compiled = True
    for x in (random_input(dtype=torch.bfloat16), random_input((4, 1)), random_input((4, 0)), random_input((33, 2))):
        for each in (plain, node):
            functional.reset_net(each)
        assert torch.equal(node(x), plain(x))
    functional.reset_net(node)
    with pytest.raises(AssertionError, match="compiled"):
        node(random_input((32, 2)))


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_wish_is_refused(name: str) -> None:
    assert not NEURONS[name]().compiled
    with pytest.raises(ValueError, match=r"expected a C\+\+ compiler .*; got InvalidCxxCompiler: none found; install"):
        NEURONS[name](compiled=True)


@pytest.mark.usefixtures("no_compiler")
def test_another_backend_than_fused_is_refused() -> None:
    with pytest.raises(ValueError, match=r'expected backend "fused" for compiled=True.*got "torch" on device cpu'):
        lif(backend="torch", compiled=True)


def test_what_keeps_torch_compile_from_working_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> NoReturn:
        raise RuntimeError("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(compiling, "_compile", broken)
    assert compiling.why_not.__wrapped__() == "RuntimeError: No working C++ compiler found"
    monkeypatch.setattr(compiling, "_compile", lambda function, samples: lambda x: [x])
    assert compiling.why_not.__wrapped__() == "a kernel that adds wrongly"
