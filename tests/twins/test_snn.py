"""The spiking twin: by value against loops over steps, and as `compare` sees it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from torch.nn import functional as F

from sj_cka import cka, compare, record
from sj_cka.models import build
from sj_cka.neurons import lif
from sj_cka.recording import reset_states
from sj_cka.training import calibrate
from sj_cka.twins import ann_twin, snn_twin
from sj_cka.twins.uses import Uses


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


class Calls(nn.Module):
    """An activation by a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.relu, self.function = nn.Linear(4, 4), nn.ReLU(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.function(self.fc(x)))


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


@torch.no_grad()
def test_vgg11_of_torchvision_becomes_spiking_as_a_whole() -> None:
    """With its classifier of 120 million weights, against a loop over steps."""
    torch.manual_seed(0)
    ann = torchvision.models.vgg11(num_classes=3)
    ann.eval()
    snn, x = snn_twin(ann, 2, lambda: neuron.IFNode(step_mode="m", v_threshold=0.1)), images(2, 3, (32, 32))
    uses = [name for name, module in snn.named_modules() if isinstance(module, Uses)]
    assert uses == [name for name, module in ann.named_modules() if isinstance(module, nn.ReLU)]
    assert len(uses) == 10
    nodes = {name: neuron.IFNode(step_mode="s", v_threshold=0.1) for name in uses}
    by_hand = []
    for _ in range(2):
        y = x
        for name, module in ann.features.named_children():
            y = nodes.get(f"features.{name}", module)(y)
        y = ann.avgpool(y).flatten(1)
        for name, module in ann.classifier.named_children():
            y = nodes.get(f"classifier.{name}", module)(y)
        by_hand.append(y)
    assert not torch.equal(by_hand[0], by_hand[1])
    torch.testing.assert_close(snn(x), torch.stack(by_hand), rtol=1e-4, atol=1e-4)


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


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        name: getattr(F, name)
        for name in ("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish")
    },
    **{name: getattr(F, name) for name in ("softplus", "hardtanh", "rrelu")},
    **{
        f"{name}_": getattr(F, f"{name}_")
        for name in ("relu", "leaky_relu", "elu", "celu", "selu", "hardtanh", "rrelu")
    },
    "prelu": lambda x: F.prelu(x, torch.ones(1)),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "threshold_": lambda x: F.threshold_(x, 0.0, 0.0),
    "torch.threshold": lambda x: torch.threshold(x, 0.0, 0.0),
    "tanh": torch.tanh,
    "Tensor.tanh": lambda x: x.tanh(),
    "Tensor.tanh_": lambda x: x.tanh_(),
    "Tensor.relu": lambda x: x.relu(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_that_is_called_as_a_function_is_refused(name: str) -> None:
    word = name.rpartition(".")[2].strip("_")
    with pytest.raises(ValueError, match=f"the forward calls _?{word}_? as a function"):
        snn_twin(Calls(FUNCTIONS[name]), 2)


@pytest.mark.parametrize("gate", [torch.sigmoid, lambda x: torch.softmax(x, 1), F.sigmoid, lambda x: x.sigmoid()])
def test_a_gate_stays_as_it_is(gate: Callable[[Tensor], Tensor]) -> None:
    net = Calls(gate)
    expected = lif(backend="torch")(gate(net.fc(torch.ones(3, 4))).expand(2, -1, -1))
    torch.testing.assert_close(snn_twin(net, 2)(torch.ones(3, 4)), expected)


def test_a_factory_that_gives_one_neuron_for_all_uses_is_refused() -> None:
    one = neuron.LIFNode(step_mode="m")
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ValueError, match=r"a new neuron for every use, .* got the same LIFNode again"):
        snn_twin(net, 2, lambda: one)
    with pytest.raises(ValueError, match="a new neuron for every use"):  # two uses of one activation
        snn_twin(shared(), 2, lambda: one)


class Spiking(nn.Module):
    """A feed-forward network of SpikingJelly's layers, with a container in it."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.conv, self.bn, self.sn1 = layer.Conv2d(1, 3, 3, padding=1), layer.BatchNorm2d(3), neuron.LIFNode()
        self.block = layer.SeqToANNContainer(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.loop = layer.MultiStepContainer(nn.Conv2d(3, 3, 3, padding=1), neuron.IFNode())
        self.sn2, self.flat, self.fc = neuron.IFNode(), layer.Flatten(), layer.Linear(60, 2)
        functional.set_step_mode(self, mode)
        if mode == "s":
            self.block, self.loop = nn.Sequential(*self.block), nn.Sequential(*self.loop)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flat(self.sn2(self.block(self.loop(self.sn1(self.bn(self.conv(x))))))))


class Averages(Spiking):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze(0).repeat(4, 1, 1, 1, 1)).mean(0)


def spiking(kind: type[Spiking], mode: str) -> Spiking:
    torch.manual_seed(0)
    net = kind(mode)
    x = images(16) if mode == "s" or kind is Averages else images(16).expand(4, -1, -1, -1, -1)
    net.train()(x)
    reset_states(net)
    return net.eval()


def fires() -> nn.Module:
    return neuron.LIFNode(step_mode="m", v_threshold=0.1, decay_input=False)


def plain(net: Spiking) -> nn.Module:
    """The same layers without a time step."""
    parts = (net.conv, net.bn, nn.ReLU(), *(net.loop[0], nn.ReLU()), *net.block, nn.ReLU(), net.flat, net.fc)
    ann = copy.deepcopy(nn.Sequential(*parts))
    functional.set_step_mode(ann, "s")
    return ann.eval()


@torch.no_grad()
@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_artificial_twin_of_a_spiking_network_becomes_spiking_again(mode: str, called: bool) -> None:
    net, x = spiking(Spiking, mode), images()
    twin = ann_twin(net)
    if called:
        twin(x)
    again, direct = snn_twin(twin, 3, fires), snn_twin(plain(net), 3, fires)
    assert list(again.state_dict()) == list(twin.state_dict())
    torch.testing.assert_close(again(x), direct(x))
    reset_states(again)
    reset_states(direct)
    frames = torch.stack([x, 2 * x, 0.5 * x])
    torch.testing.assert_close(again(frames), direct(frames))
    assert direct(frames).std(0).sum() > 0
    reset_states(again)
    result = compare(again, twin, [x], progress=False)
    assert {"sn1", "loop.1", "sn2"} <= set(result.paired().index)
    assert result.data.sizes["step_x"] == 3


def test_a_twin_whose_forward_makes_steps_of_its_own_is_refused_in_its_first_call() -> None:
    snn = snn_twin(ann_twin(spiking(Averages, "m")), 3)
    with pytest.raises(ValueError, match="expected a network without steps of its own, one of its activations sees 4"):
        snn(images())


@torch.no_grad()
@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_artificial_twin_of_a_spiking_twin_is_the_network_that_it_was_made_of(mode: str) -> None:
    net, x = spiking(Spiking, mode), images()
    twin = ann_twin(net)
    snn = snn_twin(twin, 3)
    snn(x)
    back = ann_twin(snn)
    torch.testing.assert_close(back(x), twin(x))
    assert [name for name, _ in back.named_modules()] == [name for name, _ in twin.named_modules()]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in back.modules())
    torch.testing.assert_close(snn_twin(back, 3, fires)(x), snn_twin(twin, 3, fires)(x))


@torch.no_grad()
def test_the_artificial_twin_of_a_network_that_uses_a_neuron_twice_uses_an_activation_twice() -> None:
    ann, x = shared(), images()
    snn = snn_twin(ann, 4)
    back = ann_twin(snn)
    torch.testing.assert_close(back(x), ann(x))
    assert isinstance(back.relu, nn.ReLU)
    result = compare(snn, back, [images(16)], progress=False)
    assert {"relu#0", "relu#1"} <= set(result.paired().index)


def test_input_of_another_shape_is_refused() -> None:
    snn = snn_twin(shared(), 3)
    with pytest.raises(ValueError, match=r"or \[T, N, ...\] with T = 3, got shape \(2, 6, 1, 4, 5\)"):
        snn(images().expand(2, -1, -1, -1, -1))
