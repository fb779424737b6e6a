"""Operations of a network: hand numbers, SpikingJelly's counters where they agree, and every network of the table."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from loguru import logger
from spikingjelly.activation_based import neuron
from spikingjelly.activation_based.op_counter import DispatchCounterMode, MACCounter, SynOpCounter
from torch import Tensor, nn
from torch.nn import functional as f

from sj_cka.energy import ASSUMPTION, cost
from sj_cka.models import MODELS, build
from sj_cka.recording import is_neuron, preserved, reset_states
from sj_cka.twins import ann_twin, converted_snn

# the smallest of each kind, and the height and width of an image that it can see
ZOO: dict[str, tuple[dict[str, Any], int, int]] = {
    "resnet": ({"depth": 8}, 8, 6),
    "resnet_imagenet": ({"depth": 18, "width": 0.125}, 20, 18),
    "vgg": ({"depth": 5, "width": 0.125}, 8, 10),
    "convnet": ({"channels": [6, 8]}, 5, 6),
    "mlp": ({"inputs": 60, "hidden": [20, 15]}, 5, 6),
    "sew_resnet": ({"depth": 18}, 16, 18),
    "spikformer": ({"dim": 16, "heads": 2, "depth": 1}, 8, 12),
}
CASES = pytest.mark.parametrize("name", ZOO)
T = 3


def network(name: str, kind: Any, T: int = T) -> nn.Module:
    """A network whose batch normalisation fits its images, so that every layer spikes."""
    net = build(kind, {"name": name, **ZOO[name][0]}, in_channels=2, num_classes=4, T=T)
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        net.train()(images(name, 16))
    reset_states(net)
    return net


def images(name: str, n: int = 5) -> Tensor:
    return 2 * torch.randn(n, 2, *ZOO[name][1:], generator=torch.Generator().manual_seed(n))


def spikes(*shape: int, rate: float = 0.5) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < rate).float()


def behind_spikes(*modules: nn.Module) -> nn.Sequential:
    """Modules that get an image of zeros and ones as spikes."""
    return nn.Sequential(neuron.IFNode(), *modules)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Of(nn.Module):
    """A function as a network, behind one neuron or several."""

    def __init__(self, function: Any, neurons: int = 1, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.neurons = nn.ModuleList(neuron.IFNode() for _ in range(neurons))
        self.own = nn.ModuleDict(modules)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(*(node(part) for node, part in zip(self.neurons, x.unbind(1), strict=True)), self)
        return out


def theirs(net: nn.Module, x: Tensor) -> tuple[float, float]:
    """Operations per image, as SpikingJelly counts them."""
    synops, macs = SynOpCounter(), MACCounter(extra_ignore_modules=[nn.modules.batchnorm._BatchNorm])
    with preserved(net), torch.no_grad(), DispatchCounterMode([synops, macs]):
        reset_states(net.eval())
        net(x)
    return synops.get_total() / len(x), macs.get_total() / len(x)


def test_a_spike_in_front_of_a_linear_layer_costs_an_accumulation_for_each_output() -> None:
    x = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]])
    found = cost(behind_spikes(nn.Linear(4, 5)), x)
    assert found.synops == pytest.approx((3 + 1) * 5 / 3)
    assert found.macs == 0
    assert found.energy_nj == pytest.approx(found.synops * 0.9e-3)
    assert found.parameters == 4 * 5 + 5
    assert "0.9 pJ" in ASSUMPTION
    assert "4.6 pJ" in ASSUMPTION


@pytest.mark.parametrize(("row", "column", "reached"), [(0, 0, 2 * 2), (3, 4, 2 * 2), (0, 2, 2 * 3), (1, 1, 3 * 3)])
def test_a_spike_at_the_border_reaches_fewer_places(row: int, column: int, reached: int) -> None:
    x = torch.zeros(1, 2, 4, 5)
    x[0, 1, row, column] = 1
    assert cost(behind_spikes(nn.Conv2d(2, 7, 3, padding=1)), x).synops == reached * 7


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (5, 7)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(2, 1), bias=False), (6, 7)),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), (5, 4)),
        (nn.Conv2d(4, 4, 3, padding="same", groups=4), (5, 4)),
        (nn.Conv1d(4, 6, 4, padding=2), (7,)),
        (nn.Conv3d(4, 2, 2, padding=1), (3, 4, 2)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (3, 4)),
        (nn.ConvTranspose1d(4, 6, 4, dilation=2), (5,)),
    ],
)
def test_convolutions_count_what_ones_in_place_of_their_weights_sum_up(conv: Any, size: tuple[int, ...]) -> None:
    x = spikes(3, 4, *size)
    ones = type(conv)(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=False,
        **({"output_padding": conv.output_padding} if conv.transposed else {}),
    )
    nn.init.ones_(ones.weight)
    with torch.no_grad():
        assert cost(behind_spikes(conv), x).synops == pytest.approx(ones(x).sum().item() / 3)
        assert cost(conv, x).macs == pytest.approx(ones(torch.ones_like(x)).sum().item() / 3)
    assert cost(behind_spikes(conv), x).macs == cost(conv, x).synops == 0
    assert cost(behind_spikes(conv), x).synops == pytest.approx(theirs(behind_spikes(conv), x)[0])


def test_a_dense_convolution_costs_the_formula_but_for_the_zeros_of_padding() -> None:
    x = torch.randn(2, 3, 8, 8)
    bare, padded = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3, padding=1)
    assert cost(bare, x).macs == 3 * 5 * 9 * 6 * 6 == theirs(bare, x)[1]
    assert cost(padded, x).macs == 3 * 5 * 22 * 22
    assert theirs(padded, x)[1] / cost(padded, x).macs == pytest.approx(1.19, abs=0.005)
    assert cost(bare, x).energy_nj == pytest.approx(cost(bare, x).macs * 4.6e-3)
    small = torch.randn(2, 3, 2, 2)
    assert theirs(padded, small)[1] / cost(padded, small).macs == 2.25


@pytest.mark.parametrize("module", [nn.Linear(12, 5), nn.Conv1d(12, 5, 3, padding=1)])
def test_spikes_at_a_rate_cost_that_share_of_the_macs(module: nn.Module) -> None:
    x = torch.zeros(4, 12) if isinstance(module, nn.Linear) else torch.zeros(4, 12, 6)
    x[:, :3] = 1
    snn, ann = cost(behind_spikes(module), x), cost(nn.Sequential(nn.ReLU(), module), x)
    assert snn.synops / ann.macs == 3 / 12
    assert snn.energy_nj / ann.energy_nj == pytest.approx(3 / 12 * 0.9 / 4.6)


@pytest.mark.parametrize(("name", "first"), [("resnet_imagenet", "conv1"), ("mlp", "layer1.fc")])
def test_neurons_that_always_fire_cost_the_operations_of_the_twin_at_every_step(name: str, first: str) -> None:
    snn, ann, x = network(name, "snn"), network(name, "ann"), images(name)
    for module in snn.modules():
        if is_neuron(module):
            module.v_threshold = -1e6  # type: ignore[assignment]
    dense = cost(ann, x).macs
    stem = cost(ann.get_submodule(first), x.flatten(1) if name == "mlp" else x).macs
    assert cost(snn, x)[:2] == (T * (dense - stem), stem)


@pytest.mark.parametrize("name", ["resnet", "convnet", "mlp", "spikformer"])
def test_what_lies_before_the_first_neuron_runs_once_for_all_steps(name: str) -> None:
    x, dense = images(name), set()
    for steps in (1, 4):
        dense.add(cost(network(name, "snn", steps), x).macs)
    assert len(dense) == 1
    assert 0 < dense.pop() < cost(network(name, "ann"), x).macs


def test_spikes_add_up_over_the_steps() -> None:
    class Steps(nn.Module):
        def __init__(self, T: int) -> None:
            super().__init__()
            self.T, self.fire, self.fc = T, neuron.IFNode(step_mode="m"), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.fire(x.expand(self.T, *x.shape)))
            return out

    x = spikes(3, 6)
    assert cost(Steps(5), x).synops == pytest.approx(5 * x.sum().item() * 4 / 3)


def test_pooled_spikes_cost_an_accumulation_each() -> None:
    x = spikes(2, 3, 4, 6)
    conv = nn.Conv2d(3, 5, 1)
    for pool in (nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((2, 3))):
        found = cost(behind_spikes(pool, conv), x)
        assert found.synops == pytest.approx(x.sum().item() * 5 / 2)
        assert found.macs == 0
    chosen = nn.functional.max_pool2d(x, 2)
    assert cost(behind_spikes(nn.MaxPool2d(2), conv), x).synops == chosen.sum().item() * 5 / 2
    padded = nn.functional.avg_pool2d(x, 2, padding=1, count_include_pad=True) * 4
    assert cost(behind_spikes(nn.AvgPool2d(2, padding=1), conv), x).synops == padded.sum().item() * 5 / 2


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(3), nn.AvgPool2d(2, padding=1, count_include_pad=False)])
def test_means_over_unequal_windows_are_multiplied_where_they_are_not_0(pool: nn.Module) -> None:
    x = spikes(2, 3, 4, 6, rate=0.1)
    found = cost(behind_spikes(pool, nn.Conv2d(3, 5, 1)), x)
    assert found.synops == 0
    assert found.macs == pool(x).count_nonzero().item() * 5 / 2


def written_step_by_step(a: Tensor, into: Tensor) -> Tensor:
    for part, source in zip(into.unbind(1), a.unbind(1), strict=True):
        part.copy_(source)
    return into


# what networks do to spikes [N, 4, 4, 6] in front of a convolution of 1 x 1, and the spikes that are then worth
WAYS: dict[str, tuple[Any, Any]] = {
    "as they are": (lambda a: a, lambda a: a),
    "adaptive pooling to one": (lambda a: f.adaptive_avg_pool2d(a, 1), lambda a: a),
    "adaptive pooling to several": (lambda a: f.adaptive_avg_pool2d(a, (2, 3)), lambda a: a),
    "adaptive pooling in 3d": (lambda a: f.adaptive_avg_pool3d(a[:, :, None], 1)[:, :, 0], lambda a: a),
    "adaptive pooling in 1d": (lambda a: f.adaptive_avg_pool1d(a.flatten(2), 1)[..., None], lambda a: a),
    "adaptive maximum": (lambda a: f.adaptive_max_pool2d(a, 1), lambda a: a.amax((2, 3))),
    "average": (lambda a: f.avg_pool2d(a, 2), lambda a: a),
    "average in 1d": (lambda a: f.avg_pool1d(a.flatten(2), 2)[..., None], lambda a: a),
    "maximum": (lambda a: f.max_pool2d(a, 2), lambda a: f.max_pool2d(a, 2)),
    "maximum along an axis": (lambda a: a.max(3, keepdim=True).values, lambda a: a.amax(3)),
    "mean": (lambda a: a.mean((2, 3), keepdim=True), lambda a: a),
    "sum": (lambda a: a.sum(-1, keepdim=True), lambda a: a),
    "sum so far": (lambda a: a.cumsum(3), lambda a: a.cumsum(3)),
    "expanded": (lambda a: f.adaptive_avg_pool2d(a, 1).expand(-1, -1, 2, 3), lambda a: 6 * a),
    "permuted": (lambda a: a.permute(0, 1, 3, 2).contiguous(), lambda a: a),
    "permuted in place": (lambda a: a.clone().transpose_(2, 3).unsqueeze_(0).squeeze_(0), lambda a: a),
    "reshaped": (lambda a: a.permute(0, 2, 3, 1).reshape(len(a), 4, -1)[..., None], lambda a: a),
    "flattened": (lambda a: a.flatten(2).unflatten(2, (6, 4)), lambda a: a),
    "other layout": (lambda a: a.contiguous(memory_format=torch.channels_last), lambda a: a),
    "rolled and flipped": (lambda a: a.roll(1, 2).flip(3), lambda a: a),
    "chosen channels": (lambda a: a[:, [3, 2, 1, 1]], lambda a: a[:, [3, 2, 1, 1]]),
    "shuffled channels": (lambda a: f.channel_shuffle(a, 2), lambda a: a),
    "shuffled pixels": (lambda a: f.pixel_unshuffle(f.pixel_shuffle(a, 2), 2), lambda a: a),
    "patches": (lambda a: f.unfold(a, 2, stride=2).reshape(len(a), 4, -1, 1), lambda a: a),
    "nearest pixels": (lambda a: f.interpolate(a, scale_factor=2), lambda a: 4 * a),
    "reflected border": (lambda a: f.pad(a, (1, 1, 0, 0), "reflect"), lambda a: f.pad(a, (1, 1, 0, 0), "reflect")),
    "circular border": (lambda a: f.pad(a, (1, 1, 0, 0), "circular"), lambda a: f.pad(a, (1, 1, 0, 0), "circular")),
    "masked": (lambda a: a.masked_fill(torch.eye(4, 6) > 0, 0.0), lambda a: a * (torch.eye(4, 6) == 0)),
    "partly cleared": (lambda a: cleared(a.clone()), lambda a: a[:, :2]),
    "written into zeros": (lambda a: written_step_by_step(a, torch.zeros(a.shape)), lambda a: a),
    "written into new memory": (lambda a: written_step_by_step(a, torch.empty_like(a)), lambda a: a),
    "added to zeros": (lambda a: torch.zeros_like(a).add_(a), lambda a: a),
    "zeros beside": (lambda a: torch.cat([a[:, :2], torch.zeros_like(a[:, 2:])], 1), lambda a: a[:, :2]),
    "concatenated": (lambda a: torch.cat([a, a.flip(2)], 2), lambda a: 2 * a),
    "residual": (lambda a: a + f.max_pool2d(a, 3, 1, 1), lambda a: a + f.max_pool2d(a, 3, 1, 1)),
    "residual in place": (lambda a: a.clone().add_(a.flip(2)), lambda a: 2 * a),
    "negative": (lambda a: -a, lambda a: a),
}


def cleared(a: Tensor) -> Tensor:
    a[:, 2:] = 0
    return a


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same images `[N, C, H, W]`, otherwise in memory."""
    N, C, H, W = x.shape
    wide = torch.full((N, C + 2, 2 * H, W + 3), 7.0)
    wide[:, 1:-1, ::2, 2:-1] = x
    return {
        "channels-last": x.contiguous(memory_format=torch.channels_last),
        "sliced": wide[:, 1:-1, ::2, 2:-1],
        "permuted": x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    }


@pytest.mark.parametrize("way", WAYS)
def test_spikes_cost_an_accumulation_each_however_they_lie_in_memory(way: str) -> None:
    function, count = WAYS[way]
    net, x = behind_spikes(Apply(function), nn.Conv2d(4, 5, 1)), spikes(3, 4, 4, 6)
    found = cost(net, x)
    assert (found.synops, found.macs) == (pytest.approx(count(x).sum().item() * 5 / 3), 0)
    for name, images in layouts(x).items():
        assert cost(net, images) == found, name
    for image in (x[:1].expand(3, -1, -1, -1), x[:, :, :1, :1].expand(-1, -1, 4, 6)):
        assert cost(net, image) == cost(net, image.contiguous())
    assert cost(net.to(memory_format=torch.channels_last), layouts(x)["channels-last"]) == found
    assert cost(net, x, batch_size=1) == found


@CASES
def test_every_network_costs_the_same_in_every_layout(name: str) -> None:
    net, x = network(name, "snn"), images(name, 2)
    found = cost(net, x)
    for layout, same in layouts(x).items():
        other = cost(net, same)
        assert other.macs == found.macs, layout
        assert other.synops == pytest.approx(found.synops, rel=0.01), layout  # convolutions round otherwise there


def test_a_factor_for_every_image_is_no_constant_even_where_there_is_one_image() -> None:
    gate = Of(lambda a, net: net.own.fc(a * a.mean((1, 2, 3), keepdim=True).sigmoid()), fc=nn.Linear(6, 3))
    x = spikes(4, 1, 2, 2, 6)
    assert cost(gate, x) == cost(gate, x, batch_size=1)
    assert cost(gate, x)[:2] == (0, x.sum().item() * 3 / 4)


@pytest.mark.parametrize("function", [lambda a: unseen(torch.zeros(a.shape)) + a, lambda a: unseen(a.new_zeros(4, 6))])
def test_memory_that_something_unseen_wrote_into_is_dense(function: Any) -> None:
    assert cost(Of(lambda a, net: net.own.fc(function(a)), fc=nn.Linear(6, 3)), spikes(4, 1, 6))[:2] == (0, 6 * 3)


def unseen(x: Tensor) -> Tensor:
    x.numpy()[:] = 0.5
    return x


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda a, b: a + b, lambda a, b: a + b),
        (lambda a, b: a.add_(b), lambda a, b: a + b),
        (lambda a, b: a * b, lambda a, b: a * b),
        (lambda a, b: a * (1.0 - b), lambda a, b: a * (1 - b)),
        (lambda a, b: torch.cat([a, b])[: len(a)], lambda a, b: a),
        (lambda a, b: torch.stack([a, b]).sum(0) / 2, lambda a, b: a + b),
        (lambda a, b: (a * 0.3 + b * 0.3).relu().clone(), lambda a, b: a + b),
        (lambda a, b: torch.nn.functional.pad(a, (1, 1))[:, 1:-1], lambda a, b: a),
        (lambda a, b: a.double().mul_(-2.5).float().mul_(0.1), lambda a, b: a),
    ],
)
def test_connected_and_scaled_spikes_are_spikes(function: Any, count: Any) -> None:
    x = spikes(4, 2, 6)
    found = cost(Of(lambda a, b, net: net.own.fc(function(a, b)), 2, fc=nn.Linear(6, 3)), x)
    assert found.synops == pytest.approx(count(x[:, 0], x[:, 1]).sum().item() * 3 / 4)
    assert found.macs == 0


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda a, b: a + 0.7 * b, lambda a, b: a + b),
        (lambda a, b: a * torch.arange(1.0, 7), lambda a, b: a),
        (lambda a, b: torch.cat([a, 2 * b])[: len(a)], lambda a, b: a),
    ],
)
def test_spikes_of_unlike_worth_are_multiplied_where_they_are_not_0(function: Any, count: Any) -> None:
    x = spikes(4, 2, 6)
    found = cost(Of(lambda a, b, net: net.own.fc(function(a, b)), 2, fc=nn.Linear(6, 3)), x)
    assert found.synops == 0
    assert found.macs == count(x[:, 0], x[:, 1]).count_nonzero().item() * 3 / 4


@pytest.mark.parametrize("function", [lambda a: a + 1, lambda a: a.sigmoid(), lambda a: a.mul_(0).add_(1)])
def test_what_else_is_made_of_spikes_is_dense(function: Any) -> None:
    found = cost(Of(lambda a, net: net.own.fc(function(a)), fc=nn.Linear(6, 3)), spikes(4, 1, 6))
    assert found[:2] == (0, 6 * 3)


@pytest.mark.parametrize("write", [lambda part: part.fill_(0.5), lambda part: part.mul_(0.5)])
def test_writing_into_a_part_of_spikes_makes_them_dense(write: Any) -> None:
    def function(a: Tensor, net: Any) -> Tensor:
        write(a[:, :2])
        out: Tensor = net.own.fc(a)
        return out

    assert cost(Of(function, fc=nn.Linear(6, 3)), spikes(4, 1, 6))[:2] == (0, 6 * 3)


def test_where_spikes_meet_spikes_each_pair_is_accumulated() -> None:
    x = spikes(2, 3, 4, 5)
    q, k, v = x.unbind(1)
    found = cost(Of(lambda q, k, v, net: (q @ k.transpose(-2, -1) * 0.25) @ v, 3), x)
    met = q @ k.transpose(-2, -1)
    pairs = met.sum() + ((met != 0).float() @ v).sum()
    assert found.synops == pairs.item() / 2
    assert found.macs == 0


def test_a_silent_relu_and_a_binary_image_are_no_spikes() -> None:
    fc = nn.Linear(6, 3)
    nn.init.constant_(fc.bias, -1e6)
    net = nn.Sequential(fc, nn.ReLU(), nn.Linear(3, 2))
    assert cost(net, spikes(4, 6))[:2] == (0, 6 * 3 + 3 * 2)


def test_a_neuron_that_puts_out_its_potential_does_not_spike() -> None:
    class Potential(neuron.IFNode):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            v: Tensor = self.v
            return v

    net = nn.Sequential(Potential(), nn.Linear(6, 3))
    assert cost(net, 0.3 * spikes(4, 6))[:2] == (0, 6 * 3)


@pytest.mark.parametrize("mode", ["max", "99.9%"])
def test_the_spikes_of_a_converted_network_count_whatever_their_scale(mode: str) -> None:
    ann = build("ann", {"name": "convnet", "channels": [6, 8]}, in_channels=2, num_classes=4)
    x, counts = images("convnet"), {}
    snn = converted_snn(ann, [x], 4, mode=mode)
    assert snn.stage1.get_submodule("0.lif").scales.item() not in (0, 1)  # type: ignore[operator, union-attr]
    with torch.no_grad():
        for name in ("stage1.0.lif", "stage2.0.lif"):
            snn.get_submodule(name).register_forward_hook(
                lambda module, args, out, name=name: counts.update({name: out.detach().clone()})
            )
        reset_states(snn)
        snn(x)
    first, second = (counts[name].flatten(0, 1) for name in counts)
    pooled = nn.functional.avg_pool2d(first, 2) * 4
    ones = torch.ones(8, 6, 3, 3)
    behind_first = nn.functional.conv2d(pooled, ones, padding=1).sum().item()
    inside = nn.functional.avg_pool2d(second, 2).sum().item() * 4  # 2 x 3 is pooled to 1 x 1
    found = cost(snn, x)
    assert found.synops == pytest.approx((behind_first + inside * 4) / len(x))
    assert found.macs == 4 * cost(ann.stage1.get_submodule("0.conv"), x).macs  # type: ignore[operator, union-attr]


@CASES
@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_every_network_costs_something_and_the_batches_make_no_difference(name: str, kind: str) -> None:
    assert set(ZOO) == set(MODELS)
    net, x = network(name, kind), images(name)
    found = cost(net, x)
    assert all(math.isfinite(value) and value > 0 for value in (found.macs, found.energy_nj, found.parameters))
    assert (found.synops > 0) == (kind == "snn")
    assert found.energy_nj == pytest.approx((4.6 * found.macs + 0.9 * found.synops) / 1000)
    assert cost(net, x, batch_size=2) == found
    singly = [cost(net, image) for image in x.split(1)]
    assert sum(one.synops for one in singly) / len(x) == pytest.approx(found.synops)
    assert {one.macs for one in singly} == {found.macs}


@pytest.mark.parametrize("name", ["resnet_imagenet", "mlp", "sew_resnet"])
def test_synops_are_those_of_spikingjelly_where_spikes_are_0_and_1(name: str) -> None:
    net, x = network(name, "snn"), images(name)
    if name != "sew_resnet":
        assert cost(net, x).synops == pytest.approx(theirs(net, x)[0])
    else:  # it takes sums of spikes for dense
        assert cost(net, x).synops > theirs(net, x)[0] > 0
        assert theirs(net, x)[1] > cost(net, x).macs


@pytest.mark.parametrize("make", [neuron.LIFNode, neuron.ParametricLIFNode])
def test_it_counts_spikingjellys_own_neurons_in_loops_over_steps(make: Any) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif, self.fc2 = nn.Linear(6, 8), make(), nn.Linear(8, 3)
            nn.init.constant_(self.fc1.weight, 2.0)  # of ones, SpikingJelly would take them for spikes

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.fc2(self.lif(self.fc1(x))) for _ in range(T)])

    net, x = Loop(), torch.linspace(0, 0.6, 24).reshape(4, 6)
    assert cost(net, x)[:2] == theirs(net, x)
    assert cost(net, x).synops > 0


def test_the_probes_of_a_twin_are_not_counted() -> None:
    snn, x = network("resnet", "snn"), images("resnet")
    assert cost(ann_twin(snn), x) == cost(network("resnet", "ann"), x)


def test_a_transformer_is_counted_without_its_fused_kernels() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    projections, attention, mlp = 5 * 4 * 8 * 8, 2 * 5 * 5 * 8, 5 * 2 * 8 * 16
    assert cost(layer, torch.randn(3, 5, 8)).macs == projections + attention + mlp
    assert torch.backends.mha.get_fastpath_enabled()


def test_it_counts_the_same_in_inference_mode() -> None:
    net, x = network("convnet", "snn"), images("convnet")
    expected = cost(net, x)
    with torch.inference_mode():
        assert cost(net, x.clone()) == expected


def test_the_network_is_left_as_it_was_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    net, x = network("resnet", "snn"), images("resnet")
    with torch.no_grad():
        net.train()(x)
    net.get_submodule("layer1").eval()
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    states = {name: module.v.clone() for name, module in net.named_modules() if is_neuron(module)}
    training = [module.training for module in net.modules()]
    hooks = [dict(module._forward_hooks) for module in net.modules()]
    random = torch.get_rng_state()
    logger.enable("spikingjelly")
    try:
        cost(net, x[:3], batch_size=2)
        with pytest.raises(RuntimeError):
            cost(net, x[:, :1])
    finally:
        logger.disable("spikingjelly")  # as SpikingJelly has it
    assert [module.training for module in net.modules()] == training
    assert [dict(module._forward_hooks) for module in net.modules()] == hooks
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in net.named_buffers())
    assert all(torch.equal(net.get_submodule(name).v, v) for name, v in states.items())  # type: ignore[arg-type]
    assert not any(parameter.grad is not None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("net", "x", "batch_size", "message"),
    [
        (nn.Linear(2, 3), torch.zeros(0, 2), 4, r"expected one image or more .* got images of shape \(0, 2\)"),
        (nn.Linear(2, 3), torch.zeros(4, 2), 0, "a batch size from 1, .* batch size 0"),
        (Of(lambda a, net: a @ torch.ones(2)), torch.zeros(4, 1, 2), 4, "aten.mv.default cannot be counted"),
        (nn.LSTM(2, 3), torch.zeros(4, 1, 2), 4, "aten.mkldnn_rnn_layer.default cannot be counted"),
    ],
)
def test_what_cannot_be_counted_is_refused(net: nn.Module, x: Tensor, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(net, x, batch_size=batch_size)


def test_recordings_lie_on_the_second_axis_and_count_each_by_itself() -> None:
    net = build("snn", {"name": "convnet", "channels": [4, 6]}, in_channels=2, num_classes=5, T=3)
    frames = torch.randint(0, 4, (3, 7, 2, 6, 5), generator=torch.Generator().manual_seed(0)).float()
    together = cost(net, frames, axis=1, batch_size=3)
    alone = [cost(net, frames[:, n : n + 1], axis=1) for n in range(7)]
    assert together.synops == pytest.approx(sum(c.synops for c in alone) / 7)
    assert together.macs == pytest.approx(sum(c.macs for c in alone) / 7)
    # frames are dense to the first convolution, at every step
    inside = 6 * 5 * 9 - 2 * (6 + 5) * 3 + 4
    assert together.macs == 3 * 2 * 4 * inside
