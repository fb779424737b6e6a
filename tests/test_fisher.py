"""Fisher information: closed forms, a slow loop in float64, what it must not depend on, and what it is not."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_cka.fisher import empirical_fisher, fisher_information, information_centroid
from sj_cka.models import build

N, D, CLASSES, T = 5, 6, 4, 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax_layer(bias: bool = True) -> nn.Linear:
    net = nn.Linear(D, CLASSES, bias=bias)
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(random(*parameter.shape, seed=i))
    return net


def spiking(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Batch normalisation that has seen data, a neuron with a weight of its own, and one that is fed back to."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(D, 8),
        layer.BatchNorm1d(8),
        neuron.ParametricLIFNode(init_tau=2.0, step_mode="m"),
        layer.LinearRecurrentContainer(neuron.IFNode(), 8, 8, step_mode="m"),
        nn.Linear(8, CLASSES),
    )
    functional.set_step_mode(net[1], "m")
    net = net.to(dtype)
    with torch.no_grad():
        net(2 * random(T, 16, D).to(dtype))
    functional.reset_net(net)
    return net


def frames(n: int = N) -> Tensor:
    return 2 * random(T, n, D, seed=1).double()


def value(information: pd.DataFrame, layer: str, step: int = 1) -> float:
    (found,) = information[(information["layer"] == layer) & (information["step"] == step)]["fisher"]
    return float(found)


def wrong(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The square of a batch's mean gradient, which is no Fisher information."""
    net.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    return sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("bias", [True, False])
def test_of_a_softmax_layer_it_is_the_closed_form(bias: bool) -> None:
    net, x = softmax_layer(bias), random(N, D, seed=9)
    p = net(x).softmax(-1).detach()
    of_logits = (p * (torch.eye(CLASSES) - p.unsqueeze(1)).square().sum(-1)).sum(-1)
    expected = of_logits * (x.square().sum(-1) + bias)
    table = fisher_information(net, x)
    assert list(table["layer"]) == ["", "all"]
    assert list(table["parameters"]) == [CLASSES * (D + bias)] * 2
    assert list(table["fisher"]) == pytest.approx([float(expected.mean())] * 2, rel=1e-5)
    assert list(table["sem"]) == pytest.approx([float(expected.std()) / N**0.5] * 2, rel=1e-5)
    y = torch.tensor([0, 1, 2, 3, 0])
    of_labels = (nn.functional.one_hot(y, CLASSES) - p).square().sum(-1) * (x.square().sum(-1) + bias)
    assert value(empirical_fisher(net, x, y), "") == pytest.approx(float(of_labels.mean()), rel=1e-5)


def test_the_empirical_one_expected_over_the_own_probabilities_is_the_exact_one() -> None:
    net, x = spiking().eval(), frames(1)
    p = net(x).mean(0).softmax(-1).detach()[0]
    by_label = [value(empirical_fisher(net, x, torch.tensor([c]), axis=1), "all", T) for c in range(CLASSES)]
    expected = float(p @ torch.tensor(by_label).double())
    assert value(fisher_information(net, x, axis=1), "all", T) == pytest.approx(expected)


def test_it_equals_a_plain_loop_over_samples_steps_and_classes() -> None:
    net, x = spiking(), frames()
    table = fisher_information(net, x, axis=1)
    slow = copy.deepcopy(net)
    slow[1].eval()  # not the neurons, which have no surrogate gradient in evaluation
    expected: dict[tuple[str, int], float] = {}
    for t in range(1, T + 1):
        for n in range(N):
            for c in range(CLASSES):
                functional.reset_net(slow)
                slow.zero_grad()
                log_p = slow(x[:t, n : n + 1]).mean(0).log_softmax(-1)[0, c]  # later steps change nothing
                log_p.backward()
                for name, parameter in slow.named_parameters():
                    if parameter.grad is not None:
                        key = name.rpartition(".")[0], t
                        share = float(log_p.detach().exp() * parameter.grad.square().sum()) / N
                        expected[key] = expected.get(key, 0) + share
    assert {"0", "1", "2", "3.rc", "4"} == {layer for layer, _ in expected}
    found = {(row.layer, row.step): row.fisher for row in table.itertuples() if row.layer != "all"}
    assert found == pytest.approx(expected, rel=1e-9)
    assert value(table, "all", T) == pytest.approx(sum(v for (_, t), v in expected.items() if t == T))
    assert min(found.values()) > 0


def test_it_is_a_mean_over_samples_in_whatever_order_and_parts() -> None:
    net, x = spiking(), frames()
    whole = fisher_information(net, x, axis=1)["fisher"]
    assert fisher_information(net, x.flip(1), axis=1)["fisher"].to_list() == pytest.approx(whole.to_list())
    parts = [fisher_information(net, part, axis=1)["fisher"] * part.shape[1] / N for part in x.split(2, 1)]
    assert sum(parts).to_list() == pytest.approx(whole.to_list())


def test_the_square_of_a_batch_gradient_is_another_quantity() -> None:
    net, x = softmax_layer(), random(64, D, seed=9)
    y = torch.multinomial(net(x).softmax(-1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    right = value(empirical_fisher(net, x, y), "all")
    assert wrong(net, x[:1], y[:1]) == pytest.approx(value(empirical_fisher(net, x[:1], y[:1]), "all"), rel=1e-5)
    assert wrong(net, x, y) < right / 10


def test_images_are_shown_for_all_steps_and_artificial_networks_have_one() -> None:
    options = {"model": {"name": "mlp", "inputs": D, "hidden": [8]}, "in_channels": 1, "num_classes": CLASSES}
    images = random(2, 1, 2, 3).abs()
    snn = fisher_information(build("snn", T=T, **options), images)
    ann = fisher_information(build("ann", **options), images)
    assert sorted(set(snn["step"])) == [1, 2, 3]
    assert set(ann["step"]) == {1}
    assert list(ann["layer"]) == list(snn["layer"].unique()) == ["layer1.fc", "layer1.bn", "fc", "all"]


def test_a_network_is_left_as_it_was() -> None:
    net, x = spiking().train(), frames()
    net(x)  # it holds states
    net[4].weight.grad = torch.ones_like(net[4].weight)
    states, weights = held_of(net), copy.deepcopy(net.state_dict())
    with torch.inference_mode():
        first = fisher_information(net, x, axis=1)
    assert net.training
    assert torch.equal(net[4].weight.grad, torch.ones_like(net[4].weight))
    assert net[0].weight.grad is None
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert [torch.equal(a, b) for a, b in zip(held_of(net), states, strict=True)] == [True] * len(states)
    pd.testing.assert_frame_equal(fisher_information(net, x, axis=1), first)


def held_of(net: nn.Module) -> list[Tensor]:
    return [net[2].v.clone(), net[3].sub_module.v.clone(), net[3].y.clone()]


def test_of_a_network_that_sees_nothing_only_the_bias_behind_it_tells() -> None:
    net = nn.Sequential(nn.Linear(D, 8, bias=False), neuron.IFNode(step_mode="m"), nn.Linear(8, CLASSES))
    silent = torch.zeros(T, 2, D)
    table = fisher_information(net, silent, axis=1)
    assert (table[table["layer"] == "0"]["fisher"] == 0).all()
    assert (table[table["layer"] == "2"]["fisher"] > 0).all()
    no_bias = nn.Sequential(*net[:2], nn.Linear(8, CLASSES, bias=False))
    table = fisher_information(no_bias, silent, axis=1)
    assert (table["fisher"] == 0).all()
    assert information_centroid(table).isna().all()


def test_a_parameter_that_the_answer_does_not_hang_on_counts_0_and_a_frozen_one_is_left_out() -> None:
    net = softmax_layer()
    net.add_module("unused", nn.Linear(2, 2))
    table = fisher_information(net, random(2, D))
    assert list(table["layer"]) == ["", "unused", "all"]
    assert value(table, "unused") == 0
    net.weight.requires_grad_(False)
    table = fisher_information(net, random(2, D))
    assert list(table["parameters"]) == [CLASSES, 6, CLASSES + 6]


def test_a_sure_network_has_little_information_but_not_none() -> None:
    net = softmax_layer()
    with torch.no_grad():
        net.bias[0] += 40  # in float32 its probability is 1
    found = value(fisher_information(net, random(N, D)), "all")
    assert 1e-20 < found < 1e-12


def test_a_centroid_is_the_mean_step() -> None:
    table = pd.DataFrame({"layer": ["b"] * 3 + ["a"] * 3, "step": [1, 2, 3] * 2, "fisher": [1.0, 1, 1, 0, 0, 5]})
    assert information_centroid(table).to_dict() == {"b": 2.0, "a": 3.0}
    assert list(information_centroid(table).index) == ["b", "a"]


class Named(nn.Module):
    """A network with a layer of the name that stands for all."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(D, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.all(x)


@pytest.mark.parametrize(
    ("net", "x", "message"),
    [
        (nn.Linear(D, 2), torch.zeros(0, D), "expected one sample or more"),
        (nn.Flatten(), torch.zeros(2, D), "expected a network with parameters that require gradients"),
        (Named(), torch.zeros(2, D), "expected no layer named 'all'"),
        (nn.Conv1d(D, 2, 1), torch.zeros(2, D, 5), r"expected logits .* got shape \(1, 2, 5\)"),
        (nn.Linear(D, 2), torch.full((2, D), torch.nan), "expected finite logits, got NaN or infinity for sample 0"),
    ],
)
def test_what_has_no_information_is_told(net: nn.Module, x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fisher_information(net, x)


class Detached(nn.Linear):
    """Its answer has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


def test_an_answer_without_gradients_is_told() -> None:
    with pytest.raises(ValueError, match="expected logits with gradients by the parameters"):
        fisher_information(Detached(D, 2), torch.zeros(2, D))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"expected a label for each of 2 samples, got labels of shape \(3,\)"),
        (torch.tensor([0, CLASSES]), f"expected labels from 0 to {CLASSES - 1}, classes of the network, got {CLASSES}"),
    ],
)
def test_wrong_labels_are_told(y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        empirical_fisher(softmax_layer(), random(2, D), y)
