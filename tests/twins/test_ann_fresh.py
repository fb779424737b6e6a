"""Twins that start from newly drawn parameters."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model import parametric_lif_net, sew_resnet, spikformer, spiking_vgg
from torch import nn

from sj_cka.twins import ann_twin


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def plain() -> nn.Module:
    """Initialised by its layers alone."""
    return parametric_lif_net.CIFAR10Net(8, spiking_neuron=neuron.LIFNode)


def sew() -> nn.Module:
    return sew_resnet.SEWResNet(
        sew_resnet.BasicBlock, [1, 1, 1, 1], num_classes=5, cnf="ADD", spiking_neuron=neuron.PSN, T=4
    )


def small_spikformer() -> nn.Module:
    return spikformer.Spikformer(2, 3, 16, 12, patch_size=4, num_classes=5, embed_dims=32, num_heads=4, depths=1)


def small_vgg() -> nn.Module:
    net = spiking_vgg.SpikingVGG.make_layers([16, "M", 32], neuron=neuron.LIFNode)
    SelfInitialised.draw(net)
    return net


class SelfInitialised:
    """As SpikingVGG draws: Kaiming, by the fan of the output."""

    @staticmethod
    def draw(net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, layer.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.constant_(module.bias, 0)


class Token(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 6))
        self.fc, self.lif = layer.Linear(6, 40), neuron.LIFNode()

    def forward(self, x):
        return self.lif(self.fc(x + self.token))


def all_differ(twin: nn.Module, net: nn.Module) -> bool:
    weights = [name for name, p in twin.named_parameters() if p.ndim > 1]
    return bool(weights) and not any(torch.equal(twin.get_parameter(name), net.get_parameter(name)) for name in weights)


def spread(net: nn.Module, name: str) -> float:
    return float(net.get_parameter(name).detach().std())


def test_a_network_that_its_layers_initialise_is_drawn_anew_by_them():
    net = plain()
    net(torch.rand(4, 3, 32, 32))  # moves the running statistics
    before = {name: x.clone() for name, x in net.state_dict().items()}
    twin = ann_twin(net, init="fresh")
    assert all_differ(twin, net)
    assert not torch.equal(net.conv_fc[1].running_mean, torch.zeros(8))
    assert torch.equal(twin.conv_fc[1].running_mean, torch.zeros(8))
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    for name, p in twin.named_parameters():
        if p.ndim > 1:
            assert spread(twin, name) / spread(net, name) == pytest.approx(1, abs=0.2), name
    torch.manual_seed(1)
    once = ann_twin(net, init="fresh")
    torch.manual_seed(1)
    again = ann_twin(net, init="fresh")
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in once.named_parameters())


@pytest.mark.parametrize("seed", range(8))
def test_chance_alone_is_no_difference(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(
        layer.Conv2d(3, 16, 3), layer.BatchNorm2d(16), neuron.IFNode(), nn.Linear(2, 1), nn.Linear(3, 2)
    )
    assert all_differ(ann_twin(net, init="fresh"), net)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (sew, r"reset_parameters\(\) would draw 'conv1.weight' otherwise .* standard deviation of 0.04\d+ in place of"),
        (
            small_vgg,
            r"reset_parameters\(\) would draw '0.bias' otherwise .* standard deviation of 0.1\d+ in place of 0:",
        ),
        (
            small_spikformer,
            r"reset_parameters\(\) would draw 'patch_embed.* has an initialiser of its own, or was trained",
        ),
        (Token, r"no reset_parameters\(\) draws 'token': pass initialiser= .* or build="),
        (lambda: nn.Sequential(nn.MultiheadAttention(4, 2), neuron.IFNode()), "draws '0.in_proj_weight'"),
    ],
)
def test_without_its_initialiser_a_network_that_has_one_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        ann_twin(make(), init="fresh")


def test_a_trained_network_is_refused_too():
    net = plain()
    with torch.no_grad():
        net.conv_fc[1].weight += 0.1
    with pytest.raises(ValueError, match=r"'conv_fc.1.weight' otherwise .* where it sets constants"):
        ann_twin(net, init="fresh")
    with torch.no_grad():
        net.conv_fc[1].weight -= 0.1
        net.conv_fc[0].weight += 0.3
        net.conv_fc[1].weight.fill_(1)
    with pytest.raises(ValueError, match=r"'conv_fc.0.weight' otherwise .* with its mean shifted by -0\.[23]"):
        ann_twin(net, init="fresh")


def test_the_networks_own_initialiser():
    net = small_vgg()
    twin = ann_twin(net, init="fresh", initialiser=SelfInitialised.draw)
    assert all_differ(twin, net)
    assert not twin[0].bias.any()
    assert spread(twin, "3.weight") == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.1)
    one = spikformer.Spikformer._init_weights
    twin = ann_twin(small_spikformer(), init="fresh", initialiser=one)
    assert spread(twin, "blocks.0.mlp.fc1.0.weight") == pytest.approx(0.02, rel=0.1)


def test_an_initialiser_that_leaves_a_parameter_out_is_an_error():
    with pytest.raises(ValueError, match="expected an initialiser that draws every parameter, 'token' got no value"):
        ann_twin(Token(), init="fresh", initialiser=lambda net: net.fc.reset_parameters())
    twin = ann_twin(Token(), init="fresh", initialiser=lambda net: nn.init.normal_(net.token))
    assert twin.token.any()


def test_the_function_that_builds_the_network():
    net = sew()
    functional.set_step_mode(net, "m")  # after it was built
    net.layer1[0].sn1.weight.data += 1
    twin = ann_twin(net.eval(), init="fresh", build=sew)
    assert all_differ(twin, net)
    assert spread(twin, "conv1.weight") / spread(net, "conv1.weight") == pytest.approx(1, abs=0.1)
    assert twin(torch.rand(2, 3, 32, 24)).shape == (2, 5)
    assert not twin.training
    parametric = ann_twin(net, init="fresh", build=sew, activation=nn.PReLU)  # its weight is not PSN's
    assert parametric.sn1.weight.tolist() == [0.25]


def test_what_builds_another_network_is_an_error():
    with pytest.raises(ValueError, match=r"build to make the same network, 'conv_fc.0.weight' has shape \(8, .* \(4, "):
        ann_twin(parametric_lif_net.CIFAR10Net(4, spiking_neuron=neuron.LIFNode), init="fresh", build=plain)
    with pytest.raises(TypeError, match="expected build as a function that returns the spiking network, got int"):
        ann_twin(plain(), init="fresh", build=lambda: 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "new"}, 'expected init "same" or "fresh", got \'new\''),
        ({"build": plain}, 'pass init="fresh"'),
        ({"init": "fresh", "build": plain, "initialiser": SelfInitialised.draw}, "got both"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        ann_twin(plain(), **options)
