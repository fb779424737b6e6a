"""The artificial twins of the networks that SpikingJelly ships, and of the zoo here."""

from __future__ import annotations

import copy
import importlib
import inspect
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


def check(
    snn: nn.Module,
    x: torch.Tensor,
    given: torch.Tensor,
    by_hand: Callable[[], torch.Tensor],
    *,
    T: int | None = T,
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
    defined: float = 0.8,
    tolerance: float = 1e-5,
) -> None:
    """The twin of a network: names, shapes, output, pairs, and the original as it was before the twin was made.

    Args:
        snn: after a pass in training mode.
        x: what the twin is given, `[N, ...]`.
        given: what the network is given.
        by_hand: the same network with ReLU in place of the neurons.
        T: steps of a comparison.
        forward: how a comparison runs the two.
        defined: share of the pairs that has a CKA; untrained networks without batch normalisation spike little.
        tolerance: of the twin's output, relative to its largest value.
    """
    functional.reset_net(snn)
    before = snn(given).detach()  # the states hang on a graph, as after a step of training
    states = {name: module.v for name, module in snn.named_modules() if is_neuron(module) and hasattr(module, "v")}
    values = {name: v.clone() for name, v in states.items() if isinstance(v, torch.Tensor)}
    modes = [getattr(module, "step_mode", None) for module in snn.modules()]
    training = [module.training for module in snn.modules()]
    names = {name for name, _ in snn.named_modules()}
    weights = {name: value.clone() for name, value in snn.state_dict().items()}
    twin = ann_twin(snn)
    expected = by_hand()
    with torch.no_grad():
        assert torch.allclose(twin(x), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    assert twin(x).shape == expected.shape
    assert expected.abs().max() > 0
    assert all(snn.get_submodule(name).v is v for name, v in states.items())
    assert all(torch.equal(snn.get_submodule(name).v, v) for name, v in values.items())
    assert modes == [getattr(module, "step_mode", None) for module in snn.modules()]
    assert training == [module.training for module in snn.modules()]
    assert names == {name for name, _ in snn.named_modules()}
    assert all(torch.equal(value, weights[name]) for name, value in snn.state_dict().items())
    functional.reset_net(snn)
    with torch.no_grad():
        assert torch.equal(snn(given), before)

    inside = tuple(f"{name}." for name in neurons(snn))
    outside = {name for name in names if not name.startswith(inside)}
    assert {name for name, _ in twin.named_modules()} == outside
    shapes = {name: x.shape for name, x in snn.state_dict().items() if not name.startswith(inside)}
    assert {name: x.shape for name, x in twin.state_dict().items()} == shapes
    assert not any(is_neuron(module) for module in twin.modules())
    spiking = [name for name in neurons(snn) if "nonspiking" not in type(snn.get_submodule(name)).__name__.lower()]
    assert all(isinstance(twin.get_submodule(name), nn.ReLU) for name in spiking)

    functional.reset_net(snn)
    run = None if forward is None else lambda net, batch: forward(net, batch) if net is snn else net(batch)
    paired = compare(snn, twin, [x], T=T, forward=run, progress=False).paired()
    assert set(spiking) <= set(paired.index)
    assert paired.notna().mean() >= defined
    with torch.no_grad():
        functional.reset_net(snn)
        assert torch.equal(snn(given), before)


def as_hand(make: Callable[[], nn.Module], snn: nn.Module) -> nn.Module:
    """The network made anew, with the weights of another and ReLU in place of its neurons."""
    hand = make()
    hand.load_state_dict(snn.state_dict())
    for block in list(hand.modules()):
        for key, module in list(block.named_children()):
            if is_neuron(module):
                setattr(block, key, nn.ReLU())
    return hand.to(next(snn.parameters()).dtype).eval()


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
        by_hand = hand.eval()(x)
    check(snn, x, given, lambda: by_hand)


@pytest.mark.parametrize("name", OWN_STEPS)
def test_twins_of_networks_that_make_their_own_steps(name):
    make, keeps_steps, shape = OWN_STEPS[name]
    x = images(shape).double()  # attention without spikes multiplies three times what has no bound
    snn = once_trained(seeded(make).double(), x)
    with torch.no_grad():
        by_hand = as_hand(lambda: seeded(make), snn)(x)  # T steps, all equal
    assert by_hand.ndim == 2 + keeps_steps
    check(snn, x, x, lambda: by_hand.mean(0) if keeps_steps else by_hand)


def loud(net: nn.Module, factor: float) -> nn.Module:
    """A network without batch normalisation, with weights that let it spike, in evaluation mode."""
    with torch.no_grad():
        for p in net.parameters():
            p *= factor
    return net.eval()


def test_a_network_of_frames_that_averages_over_time():
    """`[T, N, 28]`, as the sequential Fashion-MNIST of SpikingJelly's examples is given."""
    snn = loud(seeded(PlainNet), 4)
    functional.set_step_mode(snn, "m")
    x, fc = images((28,)), snn.fc
    check(snn, x, x.expand(T, *x.shape), lambda: fc[2](fc[0](x).relu()).relu())


# name: the constructor, and whether the network takes steps
WHOLE: dict[str, tuple[Make, bool]] = {
    "spiking_vgg11_bn": (lambda: spiking_vgg11_bn(neuron.LIFNode), True),
    "spiking_resnet18": (lambda: spiking_resnet.spiking_resnet18(spiking_neuron=neuron.IFNode), True),
    "sew_resnet18": (lambda: sew_resnet.sew_resnet18(cnf="ADD", spiking_neuron=neuron.IFNode), True),
    # of two blocks in place of four: without spikes, attention multiplies three times what has no bound
    "spikformer": (
        lambda: spikformer.Spikformer(T, 3, 32, 32, patch_size=4, num_classes=10, embed_dims=64, num_heads=4, depths=2),
        False,
    ),
}


def spiking_vgg11_bn(kind: Make) -> nn.Module:
    """As the constructor gives it, its weights drawn once: those of the classifier are 120 million."""
    with torch.device("meta"):
        net = spiking_vgg.spiking_vgg11_bn(spiking_neuron=kind)
    net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    net._initialize_weights()
    return net


@pytest.mark.parametrize("name", WHOLE)
def test_twins_of_whole_networks_as_spikingjelly_constructs_them(name):
    make, takes_steps = WHOLE[name]
    x = images((3, 32, 32))[:8]
    snn = seeded(make)
    if takes_steps:
        functional.set_step_mode(snn, "m")
        given = x.expand(T, *x.shape)
    else:
        snn, x = snn.double(), x.double()
        given = x
    once_trained(snn, given)

    def by_hand() -> torch.Tensor:
        kept: list[tuple[nn.Module, str, nn.Module]] = []
        for block in list(snn.modules()):
            for key, module in list(block.named_children()):
                if is_neuron(module):
                    kept.append((block, key, module))
                    setattr(block, key, nn.ReLU())
        with torch.no_grad():
            y = snn(given[:1] if takes_steps else given)
        for block, key, module in kept:
            setattr(block, key, module)
        return y.mean(0)

    check(snn, x, given, by_hand, tolerance=1e-4)


def example(module: str, name: str) -> Callable[..., nn.Module]:
    """A network of SpikingJelly's examples, whose scripts need packages that it does not."""
    try:
        found = importlib.import_module(f"spikingjelly.activation_based.examples.{module}")
    except ImportError as error:
        pytest.skip(f"the example {module} needs a package that is not installed: {error}")
    kind: Callable[..., nn.Module] = getattr(found, name)
    return kind


@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_example_of_a_linear_layer_for_digits(mode):
    snn = seeded(lambda: example("lif_fc_mnist", "SNN")(2.0))
    functional.set_step_mode(snn, mode)
    x = 4 * images((1, 28, 28))
    check(
        snn.eval(), x, x if mode == "s" else x.expand(T, *x.shape), lambda: snn.layer[1](x.flatten(1)[None])[0].relu()
    )


def test_the_example_that_takes_samples_first():
    """`[N, T, C, H, W]`; the twin is given single frames."""
    kind = example("memopt.models", "CIFAR10DVSVGG")
    # SpikingJelly 2.0.0 chooses itself
    options = {"backend": "torch"} if "backend" in inspect.signature(kind).parameters else {}
    snn = seeded(lambda: kind(dropout=0.0, **options))
    x = images((2, 48, 48))[:4]
    given = x[:, None].repeat(1, 2, 1, 1, 1)
    once_trained(snn, given)
    hand = as_hand(lambda: kind(dropout=0.0, **options), snn)
    check(
        snn,
        x,
        given,
        lambda: hand(x[:, None])[0].detach(),
        T=None,
        forward=lambda net, batch: net(batch[:, None].repeat(1, 2, 1, 1, 1)),
        tolerance=1e-4,
    )


@pytest.mark.parametrize("decode", ["max-mem", "fr-mlp"])
def test_the_example_of_deep_q_learning(decode):
    kind = example("dsqn.utils.model", "DSQN")
    snn = loud(seeded(lambda: kind((2, 84, 84), 5, T=T, dec_type=decode)), 5)
    x = images((2, 84, 84))[:4]

    def by_hand() -> torch.Tensor:
        y = x
        for module in snn.network:
            if isinstance(module, neuron.LIFNode):
                y = y.relu()
            elif not is_neuron(module):
                y = module(y[None])[0]
        return (snn.decoder(y) if decode == "fr-mlp" else y).detach()

    check(snn, x, x, by_hand, defined=0.5)


def test_the_example_of_speech_commands_whose_steps_are_an_axis_of_the_input():
    net = example("speech_commands", "Net")
    snn = loud(seeded(net), 6)
    x = images((1, 7, 40))
    hand = as_hand(net, snn)
    expected = hand(x).detach()
    assert expected.shape == (N, 12)
    check(snn, x, x, lambda: expected, T=None, defined=0.5)


@pytest.mark.parametrize("decode", ["max-mem", "fr-mlp"])
def test_the_example_of_an_actor_of_populations(decode):
    make = example("ilc_san.ilc_san", "PopSpikeActor")
    snn = loud(seeded(lambda: make(3, 2, 4, 5, [16, 8], (-3, 3), 0.15, T, "pop-raw", decode, 1.0)), 2)
    x = images((3,))

    def by_hand() -> torch.Tensor:
        y = snn.encoder(x)[0]
        for module in snn.snn.hidden_layers:
            y = y.relu() if is_neuron(module) else module(y)
        read = snn.decoder.decoder if decode == "fr-mlp" else snn.decoder.decoder[0]
        y = nn.functional.conv1d(y.view(N, 2, 5), read.weight, read.bias, groups=2)
        return torch.tanh(y.view(N, 2)).detach()

    with pytest.warns(UserWarning, match=r"'encoder' is taken to hold T = 4 steps by the size of an axis alone"):
        check(snn, x, x, by_hand, defined=0.2)


def test_the_example_of_noisy_neurons():
    make = example("noisy_san.noisy_san", "NoisySpikeMLP")
    snn = seeded(lambda: make(6, 2, 5, [16, 8], T, 0.0, 0.5)).eval()
    x = images((6,))
    twin = ann_twin(snn)
    y = x
    for module in snn.hidden_layers:
        y = y.relu() if is_neuron(module) else module(y)
    assert torch.allclose(twin(x), y, atol=1e-6)
    assert list(neurons(snn)) == [name for name, module in twin.named_modules() if isinstance(module, nn.ReLU)]


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
