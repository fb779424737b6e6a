"""LIF: the fused CPU path against SpikingJelly's torch code, which stays the slow and obvious version."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, neuron, surrogate
from torch import Tensor

from sj_cka.neurons import NEURONS, FusedLIFNode, backends, fused, lif, lif_backend

SHAPE = (5, 3, 2, 4, 5)  # T, N, C, H, W
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}


@pytest.fixture(autouse=True)
def chunks_end_inside_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_CHUNK", 49)


def random_input(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.6 + torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def pair(**kwargs: Any) -> Iterator[neuron.LIFNode]:
    """SpikingJelly's node and the fused one."""
    kwargs = {"decay_input": False, "step_mode": "m", "surrogate_function": surrogate.Sigmoid(6.0)} | kwargs
    return (Node(**kwargs) for Node in (neuron.LIFNode, FusedLIFNode))


def relative_error(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def is_fused(spikes: Tensor) -> bool:
    return "_MultiStepLIF" in type(spikes.grad_fn).__name__


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [2.0, 1.25, 3.0])
@pytest.mark.parametrize("v_reset", [0.0, -0.3, None])
@pytest.mark.parametrize("decay_input", [False, True])
@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("surrogate_function", [surrogate.Sigmoid(6.0), surrogate.ATan(2.0)], ids=["sigmoid", "atan"])
@pytest.mark.parametrize("store_v_seq", [False, True])
def test_spikes_and_states_are_bit_equal_and_gradients_agree(
    store_v_seq: bool,
    surrogate_function: surrogate.SurrogateFunctionBase,
    detach_reset: bool,
    decay_input: bool,
    v_reset: float | None,
    tau: float,
    dtype: torch.dtype,
) -> None:
    x_seq = (2.0 if decay_input else 1.0) * random_input(dtype=dtype)
    grad_spikes, grad_v_seq, v0 = (random_input(dtype=dtype, seed=seed) for seed in (1, 2, 3))
    outputs, gradients = [], []
    for node in pair(
        tau=tau,
        decay_input=decay_input,
        v_reset=v_reset,
        detach_reset=detach_reset,
        surrogate_function=surrogate_function,
        store_v_seq=store_v_seq,
    ):
        x, v = x_seq.clone().requires_grad_(), v0[0].clone().requires_grad_()
        node.v = v
        spikes = node(x)
        assert is_fused(spikes) == isinstance(node, FusedLIFNode)
        loss = (spikes * grad_spikes).sum() + (node.v * grad_v_seq[-1]).sum()
        if store_v_seq:
            assert torch.equal(node.v_seq[-1], node.v)
            loss = loss + (node.v_seq * grad_v_seq).sum()
        outputs.append((spikes, node.v, node.v_seq if store_v_seq else node.v))
        gradients.append(torch.autograd.grad(loss, (x, v)))

    assert 0.1 < outputs[0][0].mean() < 0.6
    for slow, fast in zip(*outputs, strict=True):
        assert torch.equal(fast, slow)
        assert fast.dtype == slow.dtype == dtype
    for slow, fast in zip(*gradients, strict=True):
        assert relative_error(fast, slow) < TOLERANCE[dtype]


def test_a_million_neurons_over_ten_steps_spike_bit_equally() -> None:
    x_seq = random_input((10, 1_000_000))
    for tau in (2.0, 1.7):
        slow, fast = (node(x_seq) for node in pair(tau=tau))
        assert torch.equal(fast, slow)


def test_slow_dynamics_written_out_by_hand() -> None:
    # tau = 2: h = 0.75, 1.125 (spike), 0.75, 0.375 + 0.625 = 1 (spike: H(0) = 1), 0.5
    x_seq = torch.tensor([0.75, 0.75, 0.75, 0.625, 0.5])[:, None]
    node = lif()
    assert node(x_seq).flatten().tolist() == [0, 1, 0, 1, 0]
    assert node.v.tolist() == [0.5]


def test_gradient_written_out_by_hand() -> None:
    # One neuron, two steps, ATan(2), so g(d) = 1 / (1 + (pi d)^2); L = s[2] with h = 0.5, 0.75
    x = torch.tensor([[0.5], [0.5]], dtype=torch.float64, requires_grad=True)
    lif(surrogate="atan")(x)[1].sum().backward()
    g1, g2 = (1 / (1 + (math.pi * d) ** 2) for d in (-0.5, -0.25))
    assert x.grad.flatten().tolist() == pytest.approx([g2 / 2 * (1 - 0.5 * g1), g2], rel=1e-12)


@pytest.mark.parametrize("loss", ["spikes", "state"])
def test_a_loss_on_one_output_alone_has_the_right_gradient(loss: str) -> None:
    gradients = []
    for node in pair(tau=3.0):
        x = random_input(dtype=torch.float64).requires_grad_()
        spikes = node(x)
        ((spikes if loss == "spikes" else node.v) ** 2).sum().backward()
        gradients.append(x.grad)
    slow, fast = gradients
    assert relative_error(fast, slow) < 1e-10


def test_an_input_shown_at_every_step_is_read_without_copies_and_has_the_right_gradient() -> None:
    image = random_input((1, *SHAPE[1:]), dtype=torch.float64)
    steps = fused._chunks(image.expand(SHAPE), channels_last=False)[0]
    assert {step.data_ptr() for step in steps} == {image.data_ptr()}

    grad_spikes = random_input(dtype=torch.float64, seed=1)
    spikes, gradients = [], []
    for node, spread in zip(pair(), (lambda x: x.repeat(5, 1, 1, 1, 1), lambda x: x.expand(SHAPE)), strict=True):
        x = image.clone().requires_grad_()
        spikes.append(node(spread(x)))
        spikes[-1].backward(grad_spikes)
        gradients.append(x.grad)
    assert torch.equal(*spikes)
    assert relative_error(gradients[1], gradients[0]) < 1e-10


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.transpose(3, 4).contiguous().transpose(3, 4),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, SHAPE[:2]),
    ],
    ids=["batch first", "W before H", "every second value", "channels last"],
)
def test_the_order_in_memory_changes_nothing(arrange: Any) -> None:
    spikes, gradients = [], []
    grad_spikes = random_input(seed=1)
    for node in pair():
        node.v = random_input(SHAPE[1:], seed=2)
        x = arrange(random_input()).detach().requires_grad_()
        assert not x.is_contiguous()
        spikes.append(node(x))
        spikes[-1].backward(arrange(grad_spikes))
        gradients.append(x.grad)
    assert torch.equal(*spikes)
    assert relative_error(gradients[1], gradients[0]) < 1e-6


def test_channels_last_steps_stay_channels_last() -> None:
    x_seq = random_input().flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, SHAPE[:2])
    node = FusedLIFNode(step_mode="m")
    assert node(x_seq).flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert node.v.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(1, *SHAPE[1:]), (4,), (4, 1), (4, 0, 3)], ids=str)
def test_one_step_one_neuron_and_no_neuron_work(shape: tuple[int, ...]) -> None:
    results = []
    for node in pair():
        x = random_input(shape).requires_grad_()
        spikes = node(x)
        spikes.sum().backward()
        results.append((spikes, node.v, x.grad))
    for slow, fast in zip(*results, strict=True):
        assert fast.shape == slow.shape
        torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-9)


def test_no_steps_raise_as_in_spikingjelly() -> None:
    for node in pair():
        with pytest.raises((IndexError, RuntimeError)):
            node(torch.zeros(0, 3))


def test_two_calls_without_reset_equal_one_long_call() -> None:
    node = lif(tau=3.0)
    grad_spikes = random_input(dtype=torch.float64, seed=1)
    x = random_input(dtype=torch.float64).requires_grad_()
    spikes = node(x)
    (whole,) = torch.autograd.grad(spikes, x, grad_spikes)
    functional.reset_net(node)
    halves = torch.cat([node(x[:2]), node(x[2:])])
    (parts,) = torch.autograd.grad(halves, x, grad_spikes)
    assert torch.equal(halves, spikes)
    assert relative_error(parts, whole) < 1e-12


def test_a_state_of_another_shape_or_dtype_is_taken_as_spikingjelly_takes_it() -> None:
    for shape, dtype in ((SHAPE[1:], torch.float64), ((7,), torch.float32)):
        results = []
        for node in pair(v_reset=-0.1):
            node.v = random_input(shape, dtype, seed=4)
            results.append((node(random_input()), node.v))
        assert all(torch.equal(fast, slow) for slow, fast in zip(*results, strict=True))


def test_a_state_set_to_a_number_is_used() -> None:
    results = []
    for node in pair():
        node.v = 0.75
        results.append(node(random_input()))
    assert torch.equal(*results)
    assert not torch.equal(results[0], lif()(random_input()))


def test_without_gradients_the_spikes_are_the_same_and_nothing_is_saved() -> None:
    x = random_input().requires_grad_()
    spikes = lif()(x)
    with torch.no_grad():
        without = lif()(x)
    with torch.inference_mode():
        inference = lif()(x)
    assert is_fused(spikes)
    assert without.grad_fn is None
    assert lif()(x.detach()).grad_fn is None
    assert torch.equal(without, spikes)
    assert torch.equal(inference, spikes)


def test_neither_input_nor_state_is_written_to() -> None:
    x, v, grad = random_input().requires_grad_(), random_input(SHAPE[1:], seed=1), random_input(seed=2)
    copies = [tensor.detach().clone() for tensor in (x, v, grad)]
    for store_v_seq in (False, True):
        node = FusedLIFNode(step_mode="m", store_v_seq=store_v_seq)
        node.v = v
        node(x).backward(grad)
        assert all(torch.equal(tensor, before) for tensor, before in zip((x, v, grad), copies, strict=True))


def test_spikes_may_be_changed_in_place() -> None:
    results = []
    for node in pair():
        x = random_input(dtype=torch.float64).requires_grad_()
        spikes = node(x)
        spikes += x
        (spikes**2).sum().backward()
        results.append((spikes, x.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_a_second_backward_through_a_kept_graph_gives_the_same_gradient() -> None:
    x = random_input().requires_grad_()
    spikes = lif()(x)
    first, second = (torch.autograd.grad(spikes.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_second_derivative_raises() -> None:
    x = random_input().requires_grad_()
    (grad,) = torch.autograd.grad((lif()(x) ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_eval_mode_keeps_the_surrogate_gradient() -> None:
    gradients = []
    for training in (True, False):
        x = random_input().requires_grad_()
        lif().train(training)(x).sum().backward()
        gradients.append(x.grad)
    assert gradients[0].norm() > 0
    assert torch.equal(*gradients)


def test_a_copy_a_pickle_and_a_change_of_dtype_keep_node_and_state() -> None:
    x_seq = random_input()
    node = FusedLIFNode(tau=3.0, v_reset=None, step_mode="m", surrogate_function=surrogate.ATan(3.0))
    node(x_seq)
    following = copy.deepcopy(node)(x_seq)
    assert torch.equal(pickle.loads(pickle.dumps(node))(x_seq), following)
    node.to(torch.float64)
    assert node.v.dtype == torch.float64
    assert node(x_seq.double()).dtype == torch.float64


def test_spikingjellys_helpers_work_on_the_node() -> None:
    x_seq = random_input()
    net = torch.nn.Sequential(lif(), lif())
    first = net(x_seq)
    assert not torch.equal(net(x_seq), first)
    functional.reset_net(net)
    assert net[0].v == 0.0
    assert torch.equal(net(x_seq), first)

    functional.reset_net(net)
    functional.set_step_mode(net, "s")
    assert torch.equal(torch.stack([net(x) for x in x_seq]), first)

    node = FusedLIFNode(decay_input=False, step_mode="m", store_v_seq=True, surrogate_function=surrogate.Sigmoid(6.0))
    node(x_seq.requires_grad_())
    assert node.v.requires_grad
    functional.detach_net(node)
    assert not node.v.requires_grad
    functional.reset_net(node)
    assert node.v_seq is None

    outputs, _ = base.to_functional_forward(lif())((x_seq,), (0.0,))
    assert torch.equal(outputs[0], lif()(x_seq))


@pytest.mark.parametrize("case", ["surrogate", "subclass", "alpha", "not spiking", "dtype", "single step"])
def test_what_is_not_fused_is_spikingjellys_own(case: str) -> None:
    class Steep(surrogate.Sigmoid):
        pass

    g: surrogate.SurrogateFunctionBase = surrogate.Sigmoid(6.0)
    x, step_mode = random_input(), "m"
    if case == "surrogate":
        g = surrogate.SoftSign()
    elif case == "subclass":
        g = Steep(6.0)
    elif case == "alpha":
        g = surrogate.Sigmoid(torch.tensor(6.0))
    elif case == "not spiking":
        g = surrogate.Sigmoid(6.0, spiking=False)
    elif case == "dtype":
        x = x.to(torch.bfloat16)
    elif case == "single step":
        x, step_mode = x[0], "s"
    results = []
    for node in pair(surrogate_function=g, step_mode=step_mode):
        leaf = x.clone().requires_grad_()
        spikes = node(leaf)
        assert not is_fused(spikes)
        spikes.sum().backward()
        results.append((spikes, node.v, leaf.grad))
    assert all(torch.equal(fast, slow) for slow, fast in zip(*results, strict=True))


def test_torch_func_takes_spikingjellys_own_path() -> None:
    def rate(x_seq: Tensor) -> Tensor:
        return lif()(x_seq).mean()

    x = random_input(dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    rate(leaf).backward()
    assert relative_error(torch.func.grad(rate)(x), leaf.grad) < 1e-10


def test_torch_compile_takes_spikingjellys_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not is_fused(lif()(random_input(dtype=torch.float64).requires_grad_()))


def test_the_default_surrogate_is_the_tanh_of_the_papers_code() -> None:
    d = torch.linspace(-2, 2, 401, dtype=torch.float64)
    x = (1 + d).requires_grad_()
    lif()(x[None]).sum().backward()
    u = d.clone().requires_grad_()
    (0.5 + torch.tanh(3 * u) / (2 * math.tanh(9))).sum().backward()
    assert (x.grad - u.grad).abs().max() < 1e-6
    assert x.grad[200] == pytest.approx(1.5, rel=1e-12)


def test_every_neuron_of_the_table_is_a_multi_step_node_of_spikingjelly() -> None:
    for make in NEURONS.values():
        node = make()
        assert isinstance(node, neuron.BaseNode)
        assert node.step_mode == "m"
        assert isinstance(node.surrogate_function, surrogate.SurrogateFunctionBase)


def test_lif_passes_its_arguments_on() -> None:
    node = lif(tau=3, decay_input=True, v_threshold=0.5, v_reset=None, detach_reset=True, surrogate="atan", alpha=3)
    assert (node.tau, node.decay_input, node.v_threshold, node.v_reset) == (3.0, True, 0.5, None)
    assert node.detach_reset
    assert type(node.surrogate_function) is surrogate.ATan
    assert node.surrogate_function.alpha == 3.0
    assert lif().surrogate_function.alpha == 6.0
    assert lif(surrogate="atan").surrogate_function.alpha == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": 1.0}, r"tau > 1 .*got 1\.0"),
        ({"tau": math.nan}, "tau > 1 .*got nan"),
        ({"tau": math.inf}, "finite tau"),
        ({"alpha": 0.0}, r"alpha > 0; got 0\.0"),
        ({"alpha": math.inf}, "finite alpha"),
        ({"v_threshold": math.nan}, "finite v_threshold; got nan"),
        ({"v_reset": -math.inf}, "finite v_reset, or None .*got -inf"),
        ({"surrogate": "tanh"}, "sigmoid or atan; got 'tanh'"),
        ({"backend": "cuda"}, "auto.*cupy.*got 'cuda'"),
    ],
    ids=str,
)
def test_bad_values_are_refused_with_what_was_expected_and_what_came(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lif(**arguments)


def test_on_the_cpu_fused_runs_and_torch_can_be_asked_for() -> None:
    assert lif_backend().name == "fused"
    assert 'cupy" needs a CUDA device' in lif_backend(torch.device("cpu")).reason
    assert lif_backend("cpu", "torch") == ("torch", "asked for")
    assert type(lif()) is FusedLIFNode
    assert type(lif(backend="torch")) is neuron.LIFNode


@pytest.mark.parametrize("wish", ["cupy", "triton", "native"])
def test_a_cuda_backend_on_the_cpu_is_refused(wish: str) -> None:
    with pytest.raises(ValueError, match=f'backend "{wish}" needs a CUDA device; got device cpu'):
        lif_backend("cpu", wish)


def test_a_device_without_an_implementation_of_its_own_runs_torch() -> None:
    assert lif_backend("meta").name == "torch"


def test_a_cuda_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device cuda:0 asked for, but torch .* finds no CUDA device"):
        lif_backend("cuda:0")


@pytest.fixture
def release_candidate(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A machine with a GPU and SpikingJelly 2.0.0rc1; the set holds the importable kernel libraries."""
    libraries: set[str] = set()

    def check(name: str) -> None:
        if name not in {"torch", *libraries}:
            raise ImportError("not installed") from ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "node_chooses", lambda: True)
    monkeypatch.setattr(base, "check_backend_library", check, raising=False)
    return libraries


@pytest.mark.parametrize(
    ("libraries", "name"), [({"cupy", "triton"}, "cupy"), ({"triton"}, "triton"), (set(), "torch")], ids=str
)
def test_with_the_release_candidate_cuda_runs_cupy_then_triton_then_torch(
    release_candidate: set[str], libraries: set[str], name: str
) -> None:
    release_candidate |= libraries
    assert lif_backend("cuda").name == name
    if "cupy" not in libraries:
        assert "No module named 'cupy'" in lif_backend("cuda").reason
        with pytest.raises(ValueError, match=r"needs cupy, which cannot be imported.*got device cuda"):
            lif_backend("cuda", "cupy")
    assert lif_backend("cuda", "torch").name == "torch"
    with pytest.raises(ValueError, match=r'"native" needs SpikingJelly 2\.0\.0'):
        lif_backend("cuda", "native")
    with pytest.raises(ValueError, match='"fused" runs on the CPU; got device cuda'):
        lif_backend("cuda", "fused")


@pytest.mark.skipif(not backends.node_chooses(), reason="SpikingJelly 2.0.0 has no backend=")
def test_a_node_built_for_cuda_carries_the_backend_and_is_fused_on_the_cpu(release_candidate: set[str]) -> None:
    release_candidate |= {"cupy", "triton"}
    node = lif(device="cuda")
    assert (type(node), node.backend) == (FusedLIFNode, "cupy")
    assert lif(device="cuda", backend="triton").backend == "triton"
    assert lif(device="cuda", backend="torch").backend == "torch"
    assert torch.equal(node(random_input()), lif()(random_input()))


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with a GPU and SpikingJelly 2.0.0, which answers with the dictionary what it chose."""
    answer: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "node_chooses", lambda: False)
    monkeypatch.setattr(functional, "neuron_implementation", lambda kind, device: answer, raising=False)
    return answer


@pytest.mark.parametrize(("chosen", "name"), [("cuda", "native"), ("triton", "triton"), ("torch", "torch")])
def test_with_the_release_cuda_runs_what_spikingjelly_chose(release: dict[str, Any], chosen: str, name: str) -> None:
    release.update(implementation=chosen, unavailable={} if chosen == "cuda" else {"cuda": "was not built"})
    backend = lif_backend("cuda")
    assert backend.name == name
    assert '"cupy" needs SpikingJelly 2.0.0rc1' in backend.reason
    assert lif_backend("cuda", name).name == name
    assert ("cannot be loaded (was not built)" in backend.reason) == (chosen != "cuda")
    for other in {"native", "triton", "torch"} - {name}:
        with pytest.raises(ValueError, match=f'"{other}" (cannot be loaded|is not what SpikingJelly chose)'):
            lif_backend("cuda", other)
    node = lif(device="cuda")
    assert isinstance(node, FusedLIFNode) == (name != "torch")


def test_kernels_of_a_later_release_that_have_no_name_here_are_no_silent_torch(release: dict[str, Any]) -> None:
    release.update(implementation="cute", unavailable={})
    with pytest.raises(ValueError, match=r"is not what SpikingJelly chose \(cute"):
        lif_backend("cuda")
