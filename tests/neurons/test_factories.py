"""Neurons by name, as a recipe asks for them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate

from sj_cka.neurons import NEURONS, SURROGATES, FusedIFNode, FusedLIFNode, FusedPLIFNode, backends, if_, lif, plif
from sj_cka.neurons.current import SynapticCurrent


def test_the_default_surrogate_is_the_tanh_of_the_papers_code() -> None:
    d = torch.linspace(-2, 2, 401, dtype=torch.float64)
    x = (1 + d).requires_grad_()
    lif()(x[None]).sum().backward()
    u = d.clone().requires_grad_()
    (0.5 + torch.tanh(3 * u) / (2 * math.tanh(9))).sum().backward()
    assert (x.grad - u.grad).abs().max() < 1e-6
    assert x.grad[200] == pytest.approx(1.5, rel=1e-12)


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_of_the_table_is_a_fused_multi_step_node_of_spikingjelly(name: str) -> None:
    node = NEURONS[name]()
    kind = backends.NODES[name]  # type: ignore[index]
    assert issubclass(kind, neuron.BaseNode)
    assert isinstance(node, SynapticCurrent if name == "current_lif" else kind)
    assert type(node).__module__ == FusedLIFNode.__module__
    assert type(NEURONS[name](backend="torch")) is kind
    assert node.step_mode == "m"
    assert type(node.surrogate_function) is surrogate.Sigmoid


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("v_reset", [-0.2, None])
def test_every_neuron_passes_the_options_on_that_all_have(name: str, v_reset: float | None) -> None:
    reset = {} if name == "current_lif" else {"v_reset": v_reset}  # which always has a soft one
    node = NEURONS[name](v_threshold=0.5, **reset, detach_reset=True, surrogate="erf", alpha=3)
    assert (node.v_threshold, node.v_reset, node.detach_reset) == (0.5, reset.get("v_reset"), True)
    assert type(node.surrogate_function) is surrogate.Erf
    assert node.surrogate_function.alpha == 3.0


def test_the_leak_of_lif_and_plif_is_passed_on() -> None:
    node = lif(tau=3, decay_input=True)
    assert (type(node), node.tau, node.decay_input) == (FusedLIFNode, 3.0, True)
    assert not lif().decay_input
    node = plif(init_tau=3, decay_input=True)
    assert (type(node), node.decay_input) == (FusedPLIFNode, True)
    assert node.w.sigmoid().item() == pytest.approx(1 / 3)
    assert [name for name, _ in node.named_parameters()] == ["w"]
    assert not plif().decay_input
    assert type(if_()) is FusedIFNode


def test_a_neuron_without_a_leak_adds_up_and_one_with_it_forgets() -> None:
    x_seq = torch.full((4, 1), 0.375)
    assert if_()(x_seq).flatten().tolist() == [0, 0, 1, 0]  # h = 0.375, 0.75, 1.125, 0.375
    assert lif()(x_seq).sum() == 0  # h < 0.75
    assert torch.equal(plif()(x_seq), lif()(x_seq))


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_can_be_asked_for_by_every_neuron(name: str) -> None:
    for make in NEURONS.values():
        x = torch.full((3, 1), 0.9, requires_grad=True)
        node = make(surrogate=name)
        assert type(node.surrogate_function) is SURROGATES[name].kind
        node(x).sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": 1.0}, r"tau > 1 .*got 1\.0"),
        ({"tau": math.nan}, "tau > 1 .*got nan"),
        ({"tau": math.inf}, "finite tau"),
        ({"alpha": 0.0}, r"alpha > 0 .*got 0\.0"),
        ({"alpha": math.inf}, "finite alpha"),
        ({"v_threshold": math.nan}, "finite v_threshold, got nan"),
        ({"v_reset": -math.inf}, "finite v_reset, or None .*got -inf"),
        ({"surrogate": "q_pseudo_spike", "alpha": 1.0}, r"alpha > 1 .*got 1\.0"),
        ({"surrogate": "log_tailed_relu", "alpha": -0.1}, r"alpha >= 0 .*got -0\.1"),
        ({"surrogate": "leaky_k_relu", "alpha": 2.0}, "no alpha, since surrogate 'leaky_k_relu' has none, got 2"),
        ({"surrogate": "tanh"}, "sigmoid, atan, .*got 'tanh'"),
        ({"backend": "cuda"}, "auto.*cupy.*got 'cuda'"),
    ],
    ids=str,
)
def test_bad_values_are_refused_with_what_was_expected_and_what_came(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lif(**arguments)


def test_a_bad_time_constant_of_plif_is_named_as_its_option() -> None:
    with pytest.raises(ValueError, match=r"init_tau > 1 .*got 1\.0"):
        plif(init_tau=1.0)
