"""The spiking twin: by value against loops over steps, and as `compare` sees it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torchvision
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from sj_cka import cka, compare, record
from sj_cka.models import build
from sj_cka.neurons import lif
from sj_cka.recording import reset_states
from sj_cka.training import calibrate
from sj_cka.twins import snn_twin


class Shared(nn.Module):
    """A block that uses one in-place ReLU twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.bn, self.relu, self.fc = nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Linear(60, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv1(x)))
        x = self.relu(self.conv2(x) + x)
        return self.fc(x.flatten(1))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.fc(x))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x) if x.sum() > 0 else x


def images(n: int = 6, channels: int = 1, size: tuple[int, int] = (4, 5)) -> Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(0)) * 3


def shared() -> Shared:
    torch.manual_seed(0)
    return Shared().eval()


def test_every_use_has_a_neuron_of_its_own() -> None:
    ann = shared()
    snn, x = snn_twin(ann, 4), images()
    first, second = lif(backend="torch"), lif(backend="torch")
    a = first(ann.bn(ann.conv1(x)).expand(4, -1, -1, -1, -1))
    b = second(torch.stack([ann.conv2(one) + one for one in a]))
    expected = torch.stack([ann.fc(one.flatten(1)) for one in b])
    assert a.sum() > 0
    assert b.sum() > 0
    torch.testing.assert_close(snn(x), expected)
    reset_states(snn)
    torch.testing.assert_close(snn(x.expand(4, -1, -1, -1, -1)), expected)


def test_frames_are_steps_and_states_last_until_a_reset() -> None:
    ann, frames = shared(), torch.stack([images() * scale for scale in (0.2, 1.0, 0.5)])
    snn = snn_twin(ann, 3)
    one_by_one = [snn_twin(ann, 1) for _ in range(2)]
    logits = snn(frames)
    kept = torch.cat([one_by_one[0](frame) for frame in frames])
    torch.testing.assert_close(kept, logits)
    fresh = []
    for frame in frames:
        reset_states(one_by_one[1])
        fresh.append(one_by_one[1](frame))
    assert not torch.allclose(torch.cat(fresh), logits)


def test_batch_normalisation_is_over_all_steps_in_training() -> None:
    ann = shared().train()
    snn, frames = snn_twin(ann, 2), torch.stack([images(), images() * 0.3])
    snn(frames)
    merged = ann.conv1(frames.flatten(0, 1))
    expected = 0.9 * torch.zeros(3) + 0.1 * merged.mean((0, 2, 3))
    torch.testing.assert_close(snn.bn.running_mean, expected)


def test_weights_are_those_of_the_network_which_stays_as_it_is() -> None:
    ann = shared()
    before = copy.deepcopy(ann.state_dict())
    snn = snn_twin(ann, 2, {"name": "lif", "tau": 4.0})
    assert isinstance(ann.relu, nn.ReLU)
    assert not ann._forward_hooks
    assert not ann._forward_pre_hooks
    assert list(snn.state_dict()) == list(ann.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(snn.state_dict().values(), before.values(), strict=True))
    snn.conv1.weight.data.zero_()
    assert torch.equal(ann.conv1.weight, before["conv1.weight"])
    assert [own.tau for own in snn.relu.uses] == [4.0, 4.0]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_and_a_pickle_give_the_same(how: Any) -> None:
    snn = snn_twin(shared(), 3)
    again = how(snn)
    assert torch.equal(again(images()), snn(images()))


def test_gradients_reach_every_parameter() -> None:
    snn = snn_twin(shared().train(), 4, {"name": "plif"})
    snn(images()).mean(0).square().sum().backward()
    names = [name for name, parameter in snn.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert set(names) <= {"conv1.bias"}  # batch normalisation takes it out
    assert "relu.uses.1.w" in dict(snn.named_parameters())


@pytest.mark.parametrize("kind", ["resnet18", "vgg11_bn"])
def test_torchvisions_networks_become_spiking_and_pair_layer_by_layer(kind: str) -> None:
    torch.manual_seed(0)
    options = {"num_classes": 5} if kind == "resnet18" else {"num_classes": 5, "dropout": 0.0}
    ann = getattr(torchvision.models, kind)(**options)
    if kind == "vgg11_bn":  # its classifier alone has 120 million weights
        ann.avgpool, ann.classifier = (
            nn.AdaptiveAvgPool2d(1),
            nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 5)),
        )
    x = images(12, 3, (32, 32))
    calibrate(ann, x)
    snn = snn_twin(ann.eval(), 3, lambda: neuron.LIFNode(step_mode="m", v_threshold=0.3, decay_input=False))
    calibrate(snn, x)
    result = compare(snn.eval(), ann, [x], progress=False)
    assert list(result.layers_x) == list(result.layers_y)
    if kind == "resnet18":
        assert {"relu", "layer1.0.relu#0", "layer1.0.relu#1", "layer4.1.relu#1", "layer4.1.bn2"} <= set(result.layers_x)
    neurons = [layer for layer in result.layers_x if "relu" in layer or "features" in layer]
    assert result.paired()[neurons].notna().mean() > 0.8
    with record(snn, list(dict.fromkeys(name.partition("#")[0] for name in neurons))[:3]) as features:
        reset_states(snn)
        snn(x)
    assert {tuple(X.shape[:2]) for X in features.values()} == {(3, 12)}


@torch.no_grad()
def test_the_first_layers_cka_is_that_of_the_features_worked_out_by_hand() -> None:
    ann, x = shared(), images(16)
    result = compare(snn_twin(ann, 4), ann, [x], progress=False)
    spikes = lif(backend="torch")(ann.bn(ann.conv1(x)).expand(4, -1, -1, -1, -1))
    own = spikes.transpose(0, 1).flatten(1)
    assert result.matrix().loc["relu#0", "relu#0"] == pytest.approx(cka(own, ann.bn(ann.conv1(x)).relu().flatten(1)))
    assert result.data.sizes["step_x"] == 4


@torch.no_grad()
def test_the_membrane_of_each_use_is_observed() -> None:
    ann, x = shared(), images(16)
    snn = snn_twin(ann, 4)
    alone = compare(snn, loader=[x], observe="membrane", progress=False)
    assert [layer for layer in alone.layers_x if "relu" in layer] == ["relu#0", "relu#1"]
    first = lif(backend="torch")
    first.store_v_seq = True
    first(ann.bn(ann.conv1(x)).expand(4, -1, -1, -1, -1))
    by_hand = cka(first.v_seq[0].flatten(1), first.v_seq[2].flatten(1))
    assert alone.steps("relu#0").loc[1, 3] == pytest.approx(by_hand, abs=1e-6)
    assert not snn.relu.store_v_seq


@pytest.mark.parametrize("name", ["resnet", "vgg", "convnet"])
def test_the_zoos_artificial_networks_become_spiking(name: str) -> None:
    options = {"resnet": {"depth": 8}, "vgg": {"depth": 5, "width": 0.125}, "convnet": {}}[name]
    model, x = {"name": name, **options}, images(8, 1, (8, 8))
    ann = build("ann", model, in_channels=1, num_classes=3, seed=1).eval()
    snn = snn_twin(ann, 4)
    own = build("snn", model, in_channels=1, num_classes=3, T=4).eval()
    own.load_state_dict(ann.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(snn(x), own(x), rtol=1e-4, atol=1e-5)


def test_an_activation_of_another_kind_is_one_if_it_is_named() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match="its forward uses none"):
        snn_twin(net, 2)
    assert snn_twin(net, 2, activations=(nn.Sigmoid,))(torch.ones(3, 4)).shape == (2, 3, 2)


@pytest.mark.parametrize(
    ("net", "T", "neuron", "message"),
    [
        (nn.Sequential(nn.ReLU()), 0, "lif", "expected T, the number of time steps, as an integer from 1, got 0"),
        (nn.Sequential(nn.ReLU()), True, "lif", "as an integer from 1, got True"),
        (nn.Sequential(nn.Linear(2, 2)), 2, "lif", "in Sequential, its forward uses none"),
        (nn.Sequential(nn.LSTM(2, 2)), 2, "lif", "expected a feed-forward network, '0' is a LSTM"),
        (nn.Sequential(nn.MultiheadAttention(2, 1)), 2, "lif", "'0' is a MultiheadAttention"),
        (nn.Sequential(nn.ReLU()), 2, "liff", "unknown neuron 'liff'; did you mean 'lif'"),
        (nn.Sequential(nn.ReLU()), 2, nn.ReLU, "expected a neuron of SpikingJelly in multi-step mode"),
        (nn.Sequential(nn.ReLU()), 2, neuron.LIFNode, "in multi-step mode .*, got LIFNode"),
        (Functional(), 2, "lif", "the forward calls relu as a function"),
        (Branching(), 2, "lif", "torch.fx cannot follow that of Branching"),
    ],
)
def test_bad_input_is_refused(net: nn.Module, T: int, neuron: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        snn_twin(net, T, neuron)


def test_input_of_another_shape_is_refused() -> None:
    snn = snn_twin(shared(), 3)
    with pytest.raises(ValueError, match=r"or \[T, N, ...\] with T = 3, got shape \(2, 6, 1, 4, 5\)"):
        snn(images().expand(2, -1, -1, -1, -1))
