"""Conversion: against SpikingJelly's own converter, and towards the artificial network as steps are added."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.ann2snn import Converter, RateCodingRecipe
from torch import Tensor, nn

from sj_cka import compare
from sj_cka.models import build
from sj_cka.recording import reset_states
from sj_cka.training import DeviceLoader, Settings, accuracy, train
from sj_cka.twins import ann_twin, converted_snn


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = load_digits()
    x = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)
    y = torch.tensor(data.target)
    return x[:800], y[:800], x[800:1100], y[800:1100]


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(128, 10)),
    )
    net(digits()[0][:100])  # the statistics of batch normalisation
    return net.eval()


class Shared(nn.Module):
    """A ReLU that is used twice, at other scales."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.relu = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 10), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.relu(5 * self.fc2(self.relu(self.fc1(x.flatten(1))))))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    x, y, *_ = digits()
    net = build("ann", {"name": "resnet", "depth": 8}, in_channels=1, num_classes=10, seed=0)
    settings = Settings(epochs=4)
    train(net, DeviceLoader(x, y, batch_size=settings.batch_size, seed=0, classes=10), settings, seed=0)
    return net.eval()


def batches(x: Tensor, size: int = 100) -> list[Tensor]:
    return [x[i : i + size] for i in range(0, len(x), size)]


@pytest.mark.parametrize("mode", ["max", "99.9%", 0.8])
def test_it_is_the_conversion_of_spikingjelly_step_by_step(mode: str | float) -> None:
    ann, x = plain(), digits()[0]
    theirs = Converter(RateCodingRecipe(batches(x), mode="Max" if mode == "max" else mode, fuse_flag=False)).convert(
        copy.deepcopy(ann)
    )
    ours = converted_snn(ann, batches(x), 12, mode=mode)
    reset_states(theirs)
    with torch.no_grad():
        expected = torch.stack([theirs(x[:50]) for _ in range(12)])
        torch.testing.assert_close(ours(x[:50]), expected)


def test_every_use_of_a_relu_has_its_own_threshold() -> None:
    torch.manual_seed(0)
    ann, x = Shared().eval(), digits()[0]
    snn = converted_snn(ann, [x], 4, mode="max")
    with torch.no_grad():
        first = ann.fc1(x.flatten(1)).relu()
        second = (5 * ann.fc2(first)).relu()
    assert snn.relu.scales.tolist() == pytest.approx([float(first.max()), float(second.max())])


def test_the_longer_it_is_shown_the_more_accurate_it_is(trained: nn.Module) -> None:
    x, _, x_test, y_test = (part[:150] for part in digits())
    own = accuracy(trained, x_test, y_test)
    assert own > 0.85
    found, errors = [], []
    with torch.no_grad():
        target = trained(x_test)
        for T in (4, 32, 128):
            snn = converted_snn(trained, batches(x), T)
            found.append(accuracy(snn, x_test, y_test))
            reset_states(snn)
            errors.append(float((snn(x_test).mean(0) - target).norm() / target.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert found[2] >= own - 0.01


def test_its_layers_and_blocks_pair_with_those_of_the_network_and_are_alike(trained: nn.Module) -> None:
    x, _, x_test, _ = digits()
    snn = converted_snn(trained, batches(x), 32)
    result = compare(snn, trained, [x_test[:128]], progress=False)
    assert list(result.layers_x) == list(result.layers_y)
    assert {"conv1", "layer1.0.bn1", "layer1.0.lif1", "layer2.0", "layer2.0.downsample.pool"} <= set(result.layers_x)
    assert result.paired().min() > 0.8
    assert result.paired()["conv1"] == pytest.approx(1, abs=1e-6)
    rates = result.activity.query("side == 'x'")
    assert {"layer1.0.lif1", "lif"} <= set(rates["layer"])
    assert 0 < rates["rate"].max() < 1


def test_hooks_see_spikes_and_the_layers_behind_them_their_scale(trained: nn.Module) -> None:
    x = digits()[0]
    snn = converted_snn(trained, batches(x), 8)
    seen: dict[str, Tensor] = {}
    node = snn.get_submodule("layer1.0.lif1")
    with node.register_forward_hook(lambda module, args, out: seen.update(spikes=out)):
        conv = snn.get_submodule("layer1.0.conv1")
        with conv.register_forward_pre_hook(lambda module, args: seen.update(behind=args[0])):
            snn(x[:10])
    assert set(seen["spikes"].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(seen["behind"], seen["spikes"].flatten(0, 1) * node.scales[0])


def test_weights_and_thresholds_are_loaded_into_a_conversion_without_batches(trained: nn.Module) -> None:
    x = digits()[0]
    snn = converted_snn(trained, batches(x), 8)
    again = converted_snn(trained, None, 8)
    assert again.get_submodule("lif").scales.tolist() == [1.0]
    again.load_state_dict(snn.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x[:20]), snn(x[:20]))


def test_the_network_is_left_as_it_was_and_nothing_is_said(
    trained: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    x = digits()[0]
    ann = copy.deepcopy(trained).train()
    before = copy.deepcopy(ann.state_dict())
    first, second = (converted_snn(ann, batches(x), 4) for _ in range(2))
    assert ann.training
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    assert not any(module._forward_hooks for module in ann.modules())
    assert torch.equal(first(x[:5]), second(x[:5]))
    assert capsys.readouterr() == ("", "")


@torch.no_grad()
@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_artificial_twin_of_a_spiking_network_is_converted(mode: str) -> None:
    """As the same layers without a time step are, and the conversion's own twin is the network again."""
    torch.manual_seed(0)
    snn = nn.Sequential(
        *(layer.Conv2d(1, 6, 3, padding=1), layer.BatchNorm2d(6), neuron.LIFNode(), layer.AvgPool2d(2)),
        *(layer.Conv2d(6, 8, 3, padding=1), neuron.IFNode(), layer.Flatten(), layer.Linear(128, 10)),
    )
    functional.set_step_mode(snn, mode)
    x = digits()[0]
    snn.train()(x[:100] if mode == "s" else x[None, :100])
    twin, ann = ann_twin(snn).eval(), plain()
    ann.load_state_dict(snn.state_dict())
    ours, expected = (converted_snn(net, batches(x), 12) for net in (twin, ann))
    assert [own.scales.tolist() for own in ours if hasattr(own, "scales")] == [
        own.scales.tolist() for own in expected if hasattr(own, "scales")
    ]
    torch.testing.assert_close(ours(x[:50]), expected(x[:50]))
    assert ours(x[:50]).std() > 0
    torch.testing.assert_close(ann_twin(ours)(x[:50]), ann(x[:50]), rtol=1e-4, atol=1e-5)


class OnlyNaN(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * float("nan"))


FC = (nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("net", "loader", "options", "message"),
    [
        (nn.Sequential(*FC), [], {}, "loader: expected at least one batch"),
        (nn.Sequential(*FC), ["x"], {}, "loader: expected batches that are a tensor or start with one, got str"),
        (nn.Sequential(*FC), [torch.rand(3, 64)], {"T": 0}, "expected T, the number of time steps"),
        (nn.Sequential(*FC), [torch.rand(3, 64)], {"mode": "most"}, 'expected mode "max", a percentile'),
        (nn.Sequential(*FC), [torch.rand(3, 64)], {"mode": 2.0}, 'expected mode "max", a percentile'),
        (OnlyNaN(*FC), [torch.rand(3, 64)], {}, "'1' puts out NaN or infinite values on a batch"),
        (nn.Sequential(nn.Linear(64, 2)), [torch.rand(3, 64)], {}, "its forward uses none"),
        (nn.Sequential(FC[0], nn.GELU(), FC[2]), [torch.rand(3, 64)], {}, "expected ReLU alone, '1' is a GELU"),
        (nn.Sequential(nn.ReLU(), nn.Linear(64, 2)), [-torch.rand(3, 64)], {}, "'0' puts out nothing above 0"),
    ],
)
def test_bad_input_is_refused(net: nn.Module, loader: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        converted_snn(net, loader, **{"T": 4} | options)
    assert not any(module._forward_hooks for module in net.modules())


def test_batches_with_labels_are_taken_and_no_warning_comes() -> None:
    ann, (x, y, *_) = plain(), digits()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labelled = converted_snn(ann, zip(batches(x), batches(y), strict=True), 4)
    bare = converted_snn(ann, batches(x), 4)
    assert torch.equal(labelled.state_dict()["2.scales"], bare.state_dict()["2.scales"])
