"""The neuron with a synaptic current, against numbers by hand, a plain loop and SpikingJelly's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import base, functional, neuron
from torch import Tensor

from sj_cka.models import build
from sj_cka.neurons import FusedCurrentLIFNode, current_lif, lif
from sj_cka.neurons.current import CurrentLIFNode
from sj_cka.plugins import OptionError
from sj_cka.recording import reset_states
from sj_cka.twins import ann_twin

T, N, D = 6, 3, 4


def drive(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return 0.4 + torch.randn(T, N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_loop(node: Any, x_seq: Tensor, v: Tensor, current: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes `[T, N, D]`, the last v and the last current, of the equations as they stand."""
    spikes = []
    for x in x_seq:
        current = (1 - 1 / node.tau_syn) * current + x
        h = (1 - 1 / node.tau) * v + current
        spike = node.surrogate_function(h - node.v_threshold)
        v = h - (spike.detach() if node.detach_reset else spike) * node.v_threshold
        spikes.append(spike)
    return torch.stack(spikes), v, current


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_current_potential_and_spikes_written_out_by_hand(backend: Any) -> None:
    # I = .5, .75, 1.375, .6875;  h = .5, 1, 1.375, .875: a spike at H(0) = 1, and .375 left of 1.375
    node = current_lif(backend=backend)
    node.store_v_seq = True
    x_seq = torch.tensor([0.5, 0.5, 1.0, 0.0])[:, None]
    assert node(x_seq).flatten().tolist() == [0, 1, 1, 0]
    assert node.v_seq.flatten().tolist() == [0.5, 0.0, 0.375, 0.875]
    assert node.current.tolist() == [0.6875]


def test_the_time_constants_are_those_of_current_and_membrane() -> None:
    node = current_lif(tau_syn=4.0, tau=5.0, v_threshold=9.0).double()
    node(torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64))
    assert node.current.item() == pytest.approx(0.75**2)
    assert node.v.item() == pytest.approx(0.8**2 + 0.8 * 0.75 + 0.75**2)


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize("detach_reset", [False, True])
def test_gradients_are_those_of_a_plain_loop_in_float64(detach_reset: bool, backend: Any) -> None:
    node = current_lif(tau_syn=3.0, tau=1.7, v_threshold=0.9, detach_reset=detach_reset, backend=backend)
    start = [torch.randn(N, D, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (1, 2)]
    weights = [drive(seed=3), drive(seed=4)[0], drive(seed=5)[0]]
    results = []
    for run in ("node", "loop"):
        leaves = [x.clone().requires_grad_() for x in (drive(), *start)]
        x_seq, v, current = leaves
        if run == "node":
            node.v, node.current = v, current
            outputs = node(x_seq), node.v, node.current
        else:
            outputs = by_loop(node, x_seq, v, current)
        loss = sum((w * y).sum() for w, y in zip(weights, outputs, strict=True))
        results.append((outputs, torch.autograd.grad(loss, leaves)))  # type: ignore[arg-type]
    (got, got_grads), (expected, grads) = results
    assert torch.equal(got[0], expected[0])
    assert 0.1 < got[0].mean() < 0.9
    for y, reference in zip((*got, *got_grads), (*expected, *grads), strict=True):
        torch.testing.assert_close(y, reference, rtol=1e-10, atol=1e-12)
    assert all(grad.abs().min() > 0 for grad in grads[1:])


def test_it_spikes_as_spikingjellys_cubalif() -> None:
    node, other = current_lif(), neuron.CUBALIFNode(c_decay=0.5, v_decay=0.5, v_threshold=1.0, v_reset=None)
    other.step_mode = "m"
    assert torch.equal(node(drive()), other(drive()))
    assert torch.equal(node.current, other.c)
    assert torch.equal(node.v, other.v)


def test_a_current_that_hardly_lasts_leaves_a_lif_with_soft_reset() -> None:
    node, other = current_lif(tau_syn=1 + 1e-12), lif(v_reset=None)
    assert torch.equal(node(drive()), other(drive()))
    assert not torch.equal(current_lif()(drive()), lif(v_reset=None)(drive()))


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_chunks_of_steps_and_single_steps_equal_the_whole_to_the_bit_and_a_reset_forgets(backend: Any) -> None:
    node, x_seq = current_lif(tau_syn=3.0, tau=1.7, backend=backend), drive(torch.float32)
    whole = node(x_seq)
    ends = node.v, node.current
    assert not torch.equal(node(x_seq), whole)  # both states were kept
    functional.reset_net(node)
    assert (node.v, node.current) == (0.0, 0.0)
    assert torch.equal(torch.cat([node(x_seq[:1]), node(x_seq[1:4]), node(x_seq[4:])]), whole)
    reset_states(node)
    node.step_mode = "s"
    assert torch.equal(torch.stack([node(x) for x in x_seq]), whole)
    assert all(torch.equal(a, b) for a, b in zip((node.v, node.current), ends, strict=True))


def test_gradients_flow_through_both_states_from_call_to_call_until_they_are_detached() -> None:
    node = current_lif()
    x = drive().requires_grad_()
    whole = torch.autograd.grad(node(x)[-1].sum(), x)[0]
    functional.reset_net(node)
    node(x[:4])
    parts = torch.autograd.grad(node(x[4:])[-1].sum(), x)[0]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    assert whole[0].abs().sum() > 0
    node(x[:4])
    functional.detach_net(node)
    assert torch.autograd.grad(node(x[4:])[-1].sum(), x)[0][:4].abs().sum() == 0


def test_spikingjellys_functional_form_has_both_states() -> None:
    for make in (FusedCurrentLIFNode, CurrentLIFNode):
        node = make(tau_syn=3.0, step_mode="m")
        expected = node(drive())
        ends = node.v, node.current
        functional.reset_net(node)
        [spikes], states = base.to_functional_forward(node)((drive(),), (0.0, 0.0))
        assert torch.equal(spikes, expected)
        assert all(torch.equal(a, b) for a, b in zip(states, ends, strict=True))
        node.step_mode = "s"
        states = (0.0, 0.0)
        for x, spike in zip(drive(), expected, strict=True):
            [spikes], states = base.to_functional_forward(node)((x,), states)
            assert torch.equal(spikes, spike)


def test_a_kept_current_is_copied_and_cast_and_one_of_another_batch_is_forgotten() -> None:
    node = current_lif()
    node(drive(torch.float32))
    assert torch.equal(copy.deepcopy(node)(drive(torch.float32)), node(drive(torch.float32)))
    assert node.double().current.dtype == torch.float64
    smaller = drive()[:, :2]
    assert torch.equal(node(smaller), current_lif()(smaller))


@pytest.mark.parametrize("option", ["tau_syn", "tau"])
def test_a_time_constant_out_of_range_is_named(option: str) -> None:
    make: Callable[..., Any] = current_lif
    with pytest.raises(OptionError, match=rf"^{option}: expected a finite {option} > 1 .*got 1\.0") as caught:
        make(**{option: 1.0})
    assert caught.value.option == option


def test_a_network_of_it_has_an_artificial_twin() -> None:
    model = {"name": "mlp", "inputs": D, "hidden": [5]}
    snn, ann = (
        build(kind, model, in_channels=1, num_classes=2, neuron={"name": "current_lif", "tau_syn": 3.0}).eval()
        for kind in ("snn", "ann")
    )
    assert (snn.layer1.lif.tau_syn, snn.layer1.lif.v_reset) == (3.0, None)
    x = drive(torch.float32)[0]
    torch.testing.assert_close(ann_twin(snn)(x), ann(x))
