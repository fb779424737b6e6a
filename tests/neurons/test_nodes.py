"""The fused CPU nodes against SpikingJelly's torch code, which stays the slow and obvious version."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, neuron, surrogate
from torch import Tensor

from sj_cka.neurons import SURROGATES, FusedIFNode, FusedLIFNode, FusedPLIFNode, chunks, if_, lif, plif
from sj_cka.neurons.backends import unfused
from sj_cka.neurons.surrogates import make_surrogate

SHAPE = (5, 3, 2, 4, 5)  # T, N, C, H, W
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10, torch.bfloat16: 2e-2}
NODES: dict[str, tuple[type[neuron.BaseNode], type[neuron.BaseNode]]] = {
    "lif": (neuron.LIFNode, FusedLIFNode),
    "if": (neuron.IFNode, FusedIFNode),
    "plif": (neuron.ParametricLIFNode, FusedPLIFNode),
}


@pytest.fixture(autouse=True)
def chunks_end_inside_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_CHUNK", 49)


def random_input(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.6 + torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def pair(kind: str = "lif", **kwargs: Any) -> Iterator[neuron.BaseNode]:
    """SpikingJelly's node and the fused one."""
    leak = {} if kind == "if" else {"decay_input": False}
    kwargs = leak | {"step_mode": "m", "surrogate_function": surrogate.Sigmoid(6.0)} | kwargs
    return (Node(**kwargs) for Node in NODES[kind])


def relative_error(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).norm() / y.double().norm())


def is_fused(spikes: Tensor) -> bool:
    return "_MultiStep" in type(spikes.grad_fn).__name__


def outputs_and_gradients(node: neuron.BaseNode, dtype: torch.dtype, scale: float) -> tuple[list[Tensor], Tensor]:
    """Spikes and states of a node that starts from a random v, and the gradients of input, v and w, one after the
    other, of a loss on all of them."""
    node.to(dtype)
    x, v = (scale * random_input(dtype=dtype)).requires_grad_(), random_input(SHAPE[1:], dtype, seed=3).requires_grad_()
    grad_spikes, grad_v_seq = (random_input(dtype=dtype, seed=seed) for seed in (1, 2))
    node.v = v
    spikes = node(x)
    assert is_fused(spikes) == (type(node) in (FusedLIFNode, FusedIFNode, FusedPLIFNode))
    loss = (spikes * grad_spikes).sum() + (node.v * grad_v_seq[-1]).sum()
    outputs = [spikes, node.v]
    if node.store_v_seq:
        loss = loss + (node.v_seq * grad_v_seq).sum()
        outputs.append(node.v_seq)
        assert torch.equal(node.v_seq[-1], node.v)
    gradients = torch.autograd.grad(loss, (x, v, *node.parameters()))
    assert all(gradient.dtype == dtype for gradient in gradients)
    return outputs, torch.cat([gradient.flatten() for gradient in gradients])


def leaks(kind: str) -> list[dict[str, Any]]:
    key = {"lif": "tau", "plif": "init_tau", "if": None}[kind]
    return [{}] if key is None else [{key: tau, "decay_input": d} for tau in (2.0, 1.7) for d in (False, True)]


def assert_equal(kind: str, dtype: torch.dtype, **kwargs: Any) -> None:
    scale = 2.0 if kwargs.get("decay_input") else 1.0
    (slow, slow_grad), (fast, fast_grad) = (outputs_and_gradients(node, dtype, scale) for node in pair(kind, **kwargs))
    assert 0.1 < slow[0].double().mean() < 0.8
    for expected, got in zip(slow, fast, strict=True):
        assert got.dtype == expected.dtype == dtype
        assert torch.equal(got, expected), (kind, kwargs)
    assert relative_error(fast_grad, slow_grad) < TOLERANCE[dtype], (kind, kwargs)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("v_reset", [0.0, -0.3, None])
@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("store_v_seq", [False, True])
def test_spikes_and_states_are_bit_equal_and_gradients_agree(
    store_v_seq: bool, detach_reset: bool, v_reset: float | None, kind: str, dtype: torch.dtype
) -> None:
    for leak, v_threshold, g in itertools.product(leaks(kind), (1.0, 0.9), ("sigmoid", "atan")):
        assert_equal(
            kind,
            dtype,
            v_threshold=v_threshold,
            v_reset=v_reset,
            detach_reset=detach_reset,
            store_v_seq=store_v_seq,
            surrogate_function=make_surrogate(g),
            **leak,
        )


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_agrees_in_every_kind_of_neuron(name: str, kind: str, dtype: torch.dtype) -> None:
    for leak, v_reset, detach_reset in itertools.product(leaks(kind), (0.0, None), (False, True)):
        assert_equal(
            kind,
            dtype,
            v_reset=v_reset,
            detach_reset=detach_reset,
            surrogate_function=make_surrogate(name),
            store_v_seq=True,
            **leak,
        )


@pytest.mark.parametrize("kind", NODES)
def test_a_million_neurons_over_ten_steps_spike_bit_equally(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_CHUNK", 65_536)
    x_seq = random_input((10, 1_000_000))
    for leak in leaks(kind):
        with torch.no_grad():
            slow, fast = (node(x_seq) for node in pair(kind, **leak))
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("decay_input", [False, True])
@pytest.mark.parametrize("v", [0.0, 0.4])
def test_the_gradient_of_a_learnt_time_constant_is_that_of_finite_differences_where_nothing_spikes(
    v: float, decay_input: bool
) -> None:
    # without spikes the last v is a polynomial of q = sigma(w)
    def last_v(w: float) -> tuple[Tensor, Tensor]:
        node = FusedPLIFNode(decay_input=decay_input, v_threshold=9.0, step_mode="m").double()
        node.w.data.fill_(w)
        node.v = v
        spikes = node(torch.tensor([[0.3, 0.1], [0.2, 0.4], [0.1, 0.3]], dtype=torch.float64))
        assert not spikes.any()
        return node.v.sum(), node.w

    value, w = last_v(0.5)
    value.backward()
    step = 1e-5
    difference = (last_v(0.5 + step)[0] - last_v(0.5 - step)[0]) / (2 * step)
    assert w.grad.item() == pytest.approx(difference.item(), rel=1e-8)


@pytest.mark.parametrize("decay_input", [False, True])
def test_a_bfloat16_input_with_a_float32_time_constant_is_taken_as_spikingjelly_takes_it(decay_input: bool) -> None:
    results = []
    for node in pair("plif", init_tau=1.7, decay_input=decay_input):
        spikes = node(2 * random_input(dtype=torch.bfloat16))
        (spikes.sum() + node.v.sum()).backward()
        assert is_fused(spikes) == isinstance(node, FusedPLIFNode)
        assert node.w.grad.dtype == torch.float32
        results.append((spikes, node.w.grad))
    assert torch.equal(results[1][0], results[0][0])
    assert relative_error(results[1][1], results[0][1]) < 2e-2


def test_training_a_plif_moves_its_time_constant_as_spikingjelly_does() -> None:
    taus = []
    for make in NODES["plif"]:
        node = make(init_tau=2.0, decay_input=False, step_mode="m")
        optimiser = torch.optim.SGD(node.parameters(), lr=1.0)
        for _ in range(3):
            functional.reset_net(node)
            optimiser.zero_grad()
            (node(random_input()).mean() - 0.1).square().backward()
            optimiser.step()
        taus.append(node.w.sigmoid().item())
    assert taus[0] > 0.5001  # a faster leak for fewer spikes
    assert taus[1] == pytest.approx(taus[0], rel=1e-6)


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
    steps = chunks.chunks(image.expand(SHAPE), channels_last=False)[0]
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
@pytest.mark.parametrize("kind", NODES)
def test_the_order_in_memory_changes_nothing(kind: str, arrange: Any) -> None:
    spikes, gradients = [], []
    grad_spikes = random_input(seed=1)
    for node in pair(kind, **({"decay_input": True} if kind == "plif" else {})):
        node.v = random_input(SHAPE[1:], seed=2)
        x = arrange(random_input()).detach().requires_grad_()
        assert not x.is_contiguous()
        spikes.append(node(x))
        spikes[-1].backward(arrange(grad_spikes))
        gradients.append(torch.cat([leaf.grad.flatten() for leaf in (x, *node.parameters())]))
    assert torch.equal(*spikes)
    assert relative_error(gradients[1], gradients[0]) < 1e-6


def test_channels_last_steps_stay_channels_last() -> None:
    x_seq = random_input().flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, SHAPE[:2])
    node = FusedLIFNode(step_mode="m")
    assert node(x_seq).flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert node.v.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("shape", [(1, *SHAPE[1:]), (4,), (4, 1), (4, 0, 3)], ids=str)
def test_one_step_one_neuron_and_no_neuron_work(shape: tuple[int, ...], kind: str) -> None:
    results = []
    for node in pair(kind):
        x = random_input(shape).requires_grad_()
        spikes = node(x)
        spikes.sum().backward()
        results.append((spikes, node.v, x.grad, *(parameter.grad for parameter in node.parameters())))
    for slow, fast in zip(*results, strict=True):
        assert fast.shape == slow.shape
        torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-7)


def test_no_steps_raise_as_in_spikingjelly() -> None:
    for node in pair():
        with pytest.raises((IndexError, RuntimeError)):
            node(torch.zeros(0, 3))


@pytest.mark.parametrize("node", [lif(tau=3.0), if_(), plif(init_tau=3.0)], ids=lambda node: type(node).__name__)
def test_two_calls_without_reset_equal_one_long_call(node: neuron.BaseNode) -> None:
    node.double()
    grad_spikes = random_input(dtype=torch.float64, seed=1)
    x = random_input(dtype=torch.float64).requires_grad_()
    leaves = (x, *node.parameters())
    spikes = node(x)
    whole = torch.autograd.grad(spikes, leaves, grad_spikes)
    functional.reset_net(node)
    halves = torch.cat([node(x[:2]), node(x[2:])])
    parts = torch.autograd.grad(halves, leaves, grad_spikes)
    assert torch.equal(halves, spikes)
    assert all(relative_error(part, one) < 1e-12 for part, one in zip(parts, whole, strict=True))


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
        g = surrogate.MultiLevelSpikeCount(1)
    elif case == "subclass":
        g = Steep(6.0)
    elif case == "alpha":
        g = surrogate.Sigmoid(torch.tensor(6.0))
    elif case == "not spiking":
        g = surrogate.Sigmoid(6.0, spiking=False)
    elif case == "dtype":
        x = x.to(torch.float16)
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


def test_what_the_doctor_says_is_left_to_spikingjelly_is_all_that_is() -> None:
    found = unfused()
    kinds = {
        name: kind
        for name, kind in vars(surrogate).items()
        if isinstance(kind, type) and issubclass(kind, surrogate.SurrogateFunctionBase) and "Base" not in name
    }
    for name, kind in kinds.items():
        g = kind(1) if name == "MultiLevelSpikeCount" else kind()
        node = FusedLIFNode(decay_input=False, step_mode="m", surrogate_function=g)
        x = 1 + torch.rand(1, 4, 5)  # PoissonPass takes probabilities, here above the threshold
        assert is_fused(node(x.requires_grad_())) == (name not in found["surrogates"]), name
    assert {"EIFNode", "OTTTLIFNode", "KLIFNode"} <= set(found["neurons"])
    assert not {"LIFNode", "IFNode", "ParametricLIFNode", "CurrentLIFNode", "BaseNode"} & set(found["neurons"])
    assert len(found["calls"]) == 4


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
