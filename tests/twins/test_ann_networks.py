"""The artificial twins of the networks that SpikingJelly ships, and of the zoo here."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.examples.conv_fashion_mnist import CSNN
from spikingjelly.activation_based.examples.rsnn_sequential_fmnist import PlainNet
from spikingjelly.activation_based.model import (
    maxformer,
    ms_resnet,
    parametric_lif_net,
    qkformer,
    sew_resnet,
    spike_driven_transformer,
    spikformer,
    spiking_resnet,
    spiking_vgg,
    spiking_vggws_ottt,
)
from torch import nn

from sj_cka import compare
from sj_cka.models import build
from sj_cka.recording import is_neuron, neurons
from sj_cka.twins import ann_twin

T, N = 4, 12
Make = Callable[[], nn.Module]


def vgg(kind: Make) -> nn.Module:
    """Its classifier alone has 120 million parameters: it is made without memory, and given a smaller one."""
    with torch.device("meta"):
        net = spiking_vgg.SpikingVGG([8, "M", 16, "M"], batch_norm=True, spiking_neuron=kind)
        net.classifier = nn.Sequential(layer.Linear(16 * 49, 32), kind(), layer.Dropout(), layer.Linear(32, 5))
    net.to_empty(device="cpu")
    net.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    net._initialize_weights()
    return net


def ottt(kind: Make) -> nn.Module:
    return spiking_vggws_ottt.OTTTSpikingVGG([8, "M", 512], num_classes=5, spiking_neuron=kind)


def sew(block: type[nn.Module]) -> Callable[[Make], nn.Module]:
    return lambda kind: sew_resnet.SEWResNet(block, [1, 1, 1, 1], num_classes=5, cnf="ADD", spiking_neuron=kind)


def spiking(kind: Make) -> nn.Module:
    return spiking_resnet.SpikingResNet(spiking_resnet.BasicBlock, [1, 1, 1, 1], num_classes=5, spiking_neuron=kind)


# name: the network made of a neuron, the neuron, the shape of an image (H != W where the network allows it)
GIVEN_A_NEURON: dict[str, tuple[Callable[[Make], nn.Module], Make, tuple[int, ...]]] = {
    "spiking_vgg": (vgg, neuron.LIFNode, (3, 16, 12)),
    "ottt_vgg": (ottt, neuron.OTTTLIFNode, (3, 16, 12)),
    "sew_basic": (sew(sew_resnet.BasicBlock), neuron.IFNode, (3, 32, 24)),
    "sew_bottleneck": (sew(sew_resnet.Bottleneck), neuron.ParametricLIFNode, (3, 32, 24)),
    "spiking_resnet": (spiking, neuron.LIFNode, (3, 32, 24)),
    "mnist": (lambda kind: parametric_lif_net.MNISTNet(16, spiking_neuron=kind), neuron.IFNode, (1, 28, 28)),
    "cifar10": (lambda kind: parametric_lif_net.CIFAR10Net(8, spiking_neuron=kind), neuron.KLIFNode, (3, 32, 32)),
    "gesture": (lambda kind: parametric_lif_net.DVSGestureNet(4, spiking_neuron=kind), neuron.IFNode, (2, 128, 128)),
}
# name: the network, which makes its own steps, whether its output is an axis of them, the shape of an image
OWN_STEPS: dict[str, tuple[Make, bool, tuple[int, ...]]] = {
    "spikformer": (
        lambda: spikformer.Spikformer(T, 3, 16, 12, patch_size=4, num_classes=5, embed_dims=32, num_heads=4, depths=1),
        True,
        (3, 16, 12),
    ),
    "ms_resnet": (
        lambda: ms_resnet.MSResNet(T, num_classes=5, layers=(1, 1, 1, 1), stage_channels=(8, 16, 16, 32)),
        False,
        (3, 32, 24),
    ),
    "maxformer": (
        lambda: maxformer.MaxFormer(T, num_classes=5, embed_dims=64, depths=(1, 1, 1)),
        False,
        (3, 32, 24),
    ),
    "qkformer": (
        lambda: qkformer.QKFormer(T, num_classes=5, embed_dims=64, num_heads=(1, 2, 4), depths=(1, 1, 1)),
        False,
        (3, 32, 24),
    ),
    "spike_driven": (
        lambda: spike_driven_transformer.SpikeDrivenTransformer(T, num_classes=5, embed_dims=64, num_heads=4, depths=1),
        False,
        (3, 32, 24),
    ),
    "csnn": (lambda: CSNN(T, 4), False, (1, 28, 28)),
}


def images(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(N, *shape, generator=torch.Generator().manual_seed(1))


def once_trained(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """A network after one pass in training mode that sets the statistics of its BN: before it, nothing spikes."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    net.train()(x)
    return net.eval()


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def check(snn: nn.Module, x: torch.Tensor, given: torch.Tensor, by_hand: torch.Tensor) -> None:
    """The twin of a network that still has its states: names, shapes, output, the pairs, and the original as it was."""
    states = {name: module.v for name, module in snn.named_modules() if is_neuron(module) and hasattr(module, "v")}
    modes = [getattr(module, "step_mode", None) for module in snn.modules()]
    names = {name for name, _ in snn.named_modules()}
    twin = ann_twin(snn)
    with torch.no_grad():
        assert torch.allclose(twin(x), by_hand, rtol=1e-5, atol=1e-5 * float(by_hand.abs().max()))
    assert by_hand.abs().max() > 0
    assert all(snn.get_submodule(name).v is v for name, v in states.items())
    assert modes == [getattr(module, "step_mode", None) for module in snn.modules()]
    assert names == {name for name, _ in snn.named_modules()}

    inside = tuple(f"{name}." for name in neurons(snn))
    outside = {name for name in names if not name.startswith(inside)}
    assert {name for name, _ in twin.named_modules()} == outside
    shapes = {name: x.shape for name, x in snn.state_dict().items() if not name.startswith(inside)}
    assert {name: x.shape for name, x in twin.state_dict().items()} == shapes
    assert not any(is_neuron(module) for module in twin.modules())
    assert all(isinstance(twin.get_submodule(name), nn.ReLU) for name in neurons(snn))

    functional.reset_net(snn)
    with torch.no_grad():
        before = snn(given)
    functional.reset_net(snn)
    paired = compare(snn, twin, [x], T=T, progress=False).paired()
    assert set(neurons(snn)) <= set(paired.index)
    assert paired.notna().mean() >= 0.8
    with torch.no_grad():
        assert torch.equal(snn(given), before)


# OTTT's neurons have no multi-step mode
@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name in GIVEN_A_NEURON for mode in "sm" if (name, mode) != ("ottt_vgg", "m")]
)
def test_twins_of_networks_that_are_given_a_neuron(name, mode):
    make, kind, shape = GIVEN_A_NEURON[name]
    x = images(shape)
    snn = seeded(lambda: make(kind))
    functional.set_step_mode(snn, mode)
    given = x if mode == "s" else x.expand(T, *x.shape)
    once_trained(snn, given)
    hand = make(nn.ReLU)  # single-step layers, and never a time step
    hand.load_state_dict({key: value for key, value in snn.state_dict().items() if key in hand.state_dict()})
    with torch.no_grad():
        check(snn, x, given, hand.eval()(x))


@pytest.mark.parametrize("name", OWN_STEPS)
def test_twins_of_networks_that_make_their_own_steps(name):
    make, keeps_steps, shape = OWN_STEPS[name]
    x = images(shape).double()  # attention without spikes multiplies three times what has no bound
    snn = once_trained(seeded(make).double(), x)
    hand = seeded(make).double().eval()
    hand.load_state_dict(snn.state_dict())
    for block in list(hand.modules()):
        for key, module in list(block.named_children()):
            if isinstance(module, neuron.BaseNode):
                setattr(block, key, nn.ReLU())
    with torch.no_grad():
        by_hand = hand(x)  # T steps, all equal
    assert by_hand.ndim == 2 + keeps_steps
    check(snn, x, x, by_hand.mean(0) if keeps_steps else by_hand)


def test_a_network_of_frames_that_averages_over_time():
    """`[T, N, 28]`, as the sequential Fashion-MNIST of SpikingJelly's examples is given."""
    snn = seeded(PlainNet)
    functional.set_step_mode(snn, "m")
    x = images((28,))
    fc = snn.fc
    with torch.no_grad():
        by_hand = fc[2](fc[0](x).relu()).relu()
        assert torch.allclose(ann_twin(snn)(x), by_hand, atol=1e-6)
    assert by_hand.max() > 0


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("frames", [False, True])
def test_the_twin_of_the_zoo_is_its_own_ann(frames, train):
    options = {"name": "resnet", "depth": 8}
    snn = build("snn", options, in_channels=2, num_classes=5, T=T, seed=3)
    ann = build("ann", options, in_channels=2, num_classes=5, seed=3)
    twin = ann_twin(snn).train(train)
    x = torch.rand((T, N, 2, 8, 6) if frames else (N, 2, 8, 6), generator=torch.Generator().manual_seed(1))
    expected = ann.train(train)(x)
    assert torch.allclose(twin(x), expected, atol=1e-5)
    assert twin(x).shape == expected.shape
    twin(x).sum().backward()
    expected.sum().backward()
    for name, p in ann.named_parameters():
        assert torch.allclose(twin.get_parameter(name).grad, p.grad, rtol=1e-3, atol=1e-3), name
    assert snn.T == T
    assert copy.deepcopy(twin).T == T


def test_frames_are_compared_step_by_step():
    snn = build("snn", {"name": "resnet", "depth": 8}, in_channels=2, num_classes=5, T=T)
    frames = torch.rand(T, N, 2, 8, 6, generator=torch.Generator().manual_seed(1)) * 3
    once_trained(snn, frames)
    ann = build("ann", {"name": "resnet", "depth": 8}, in_channels=2, num_classes=5)
    ann.load_state_dict(snn.state_dict())
    twins, by_hand = (
        compare(snn, y, [frames], layout="TNCHW", progress=False).paired() for y in (ann_twin(snn), ann.eval())
    )
    assert list(twins.index) == list(by_hand.index)
    assert abs(twins - by_hand).max() < 1e-6
