"""Fixed matrices: the same for a seed and a layer, whatever the weights do; and products of weights."""

import itertools

import pytest
import torch
from lively import CLASSES, batch, gradients, network, off, random
from torch import nn

from sj_cka.models import build
from sj_cka.training.credit import assignment
from sj_cka.training.credit.feedback import from_logits, in_place_of_weight, local_readout, transposed_paths
from sj_cka.training.credit.rule import Rule

NAMES = {
    "feedback_alignment": "in_place_of_weight",
    "direct_feedback_alignment": "from_logits",
    "local_error": "local_readout",
}


@pytest.fixture
def taken(monkeypatch):
    """Matrices that rules take, by name of the function and of the layer: one list for all steps of a training."""
    made = {}

    def spy(function, real):
        def drawn(seed, name, *others):
            made.setdefault((function, name), []).append(real(seed, name, *others).clone())
            return real(seed, name, *others)

        return drawn

    for function in NAMES.values():
        monkeypatch.setattr(assignment, function, spy(function, getattr(assignment, function)))
    return made


@pytest.mark.parametrize("time", ["bptt", "none"])
@pytest.mark.parametrize("space", NAMES)
def test_matrices_stay_while_weights_move(space, time, taken):
    net, (x, y) = network(), batch()
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(3):
        gradients(Rule(space, time), net, x, y)
        optimiser.step()
    assert all(not torch.equal(weights[name], p) for name, p in net.named_parameters())
    assert {function for function, _ in taken} == {NAMES[space]}
    for found in taken.values():
        assert len(found) >= 3
        assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("space", NAMES)
def test_matrices_are_others_for_another_seed_or_layer(space, taken):
    net, (x, y) = network(hidden=[9, 9, 9]), batch()
    for seed in (0, 1):
        gradients(Rule(space, seed=seed), net, x, y)
    square = [pair for found in taken.values() for pair in found[:2] if pair.shape in ((9, 9), (CLASSES, 9))]
    assert len(square) >= 6
    for one, other in itertools.combinations([m for m in square if m.shape == square[0].shape], 2):
        assert abs(float((one * other).sum() / (one.norm() * other.norm()))) < 0.6


@pytest.mark.parametrize(
    "drawn",
    [
        lambda seed, name: in_place_of_weight(seed, name, random(40, 50)),
        lambda seed, name: from_logits(seed, name, 40, 50, random(1)),
        lambda seed, name: local_readout(seed, name, 40, 50, random(1)),
    ],
)
def test_matrices_are_normal_of_variance_one_over_what_comes_in_and_theirs_alone(drawn):
    first = drawn(0, "a")
    assert torch.equal(first, drawn(0, "a"))
    assert not torch.equal(first, drawn(1, "a"))
    assert not torch.equal(first, drawn(0, "b"))
    assert first.var() == pytest.approx(1 / 50, rel=0.1)
    assert first.mean().abs() < 0.02
    state = torch.random.get_rng_state()
    drawn(2, "c")
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_three_kinds_of_matrices_are_not_one():
    made = [
        in_place_of_weight(0, "a", random(4, 5)),
        from_logits(0, "a", 4, 5, random(1)),
        local_readout(0, "a", 4, 5, random(1)),
    ]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(made, 2))


def test_matrices_in_single_precision_are_those_in_double_rounded():
    double = in_place_of_weight(0, "a", random(4, 5))
    assert torch.equal(in_place_of_weight(0, "a", random(4, 5).float()), double.float())


def test_convolutions_have_kernels_of_the_variance_of_their_fan_in():
    assert in_place_of_weight(0, "a", random(64, 32, 3, 3)).var() == pytest.approx(1 / (32 * 9), rel=0.1)


def test_transposed_paths_of_an_mlp_are_products_of_its_weights():
    net, (x, _) = network(hidden=[7, 6, 5]), batch()
    found = transposed_paths(net, neurons_of(net), lambda: net(x[:1, :1]))
    W = {name: net.get_parameter(f"{name}.weight").detach() for name in ("layer2.fc", "layer3.fc", "fc")}
    expected = {
        "layer1.lif": W["fc"] @ W["layer3.fc"] @ W["layer2.fc"],
        "layer2.lif": W["fc"] @ W["layer3.fc"],
        "layer3.lif": W["fc"],
    }
    assert list(found) == list(expected)
    for name, matrix in expected.items():
        torch.testing.assert_close(found[name], matrix, rtol=1e-12, atol=1e-14)


def neurons_of(net):
    return {name: m for name, m in net.named_modules() if name.endswith("lif")}


@pytest.mark.parametrize("recurrent", [False, True])
def test_transposed_paths_of_a_convnet_with_pooling_are_jacobians(recurrent):
    net, (x, _) = network("convnet", recurrent=recurrent), batch("convnet")
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = transposed_paths(net, neurons_of(net), lambda: net(x[:1, :1]))

    def behind(spikes):
        pooled = nn.functional.avg_pool2d(spikes, 2)
        conv = net.get_submodule("stage2.0.conv")
        return readout(nn.functional.conv2d(pooled, conv.weight, conv.bias, padding=1))

    def readout(spikes):
        return net.fc.weight @ spikes.mean((2, 3))[0] + net.fc.bias

    first = torch.autograd.functional.jacobian(behind, random(1, 4, 6, 4)).flatten(1)
    second = torch.autograd.functional.jacobian(readout, random(1, 6, 3, 2)).flatten(1)
    torch.testing.assert_close(found["stage1.0.lif"], first, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found["stage2.0.lif"], second, rtol=1e-12, atol=1e-14)
    assert first.norm() > 0.01
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert all(one.v == 0.0 for one in neurons_of(net).values())


def test_transposed_paths_follow_the_weights_of_an_artificial_network_of_images():
    ann = build("ann", {"name": "mlp", "inputs": 12, "hidden": (8, 7)}, in_channels=3, num_classes=4).double().eval()
    y = torch.arange(5) % 4
    one = gradients(Rule("direct_feedback_alignment", feedback="symmetric"), ann, random(5, 3, 2, 2), y, loss=of_image)
    last = gradients(Rule(), ann, random(5, 3, 2, 2), y, loss=of_image)
    torch.testing.assert_close(one["layer2.fc.weight"], last["layer2.fc.weight"])
    assert not torch.allclose(one["layer1.fc.weight"], last["layer1.fc.weight"], rtol=0.01)


def of_image(logits, y):
    return nn.functional.cross_entropy(logits, y)


def test_symmetric_feedback_is_of_the_weights_as_they_are_at_the_time():
    net, (x, y) = network(hidden=[9]), batch()
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    first = net.fc.weight.detach().clone()
    for _ in range(3):
        found = gradients(Rule("direct_feedback_alignment", "none", feedback="symmetric"), net, x, y)
        expected = gradients(Rule(time="none"), net, x, y)
        assert max(off(found, expected).values()) < 1e-12
        optimiser.step()
    assert (net.fc.weight - first).norm() > 0.1 * first.norm()
