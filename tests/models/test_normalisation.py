"""Normalisation over all steps, step by step, and none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sj_cka.data import digits
from sj_cka.models import NetworkKind, build
from sj_cka.plugins import OptionError
from sj_cka.recording import is_neuron, reset_states
from sj_cka.twins import ann_twin

T, N = 4, 7
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "inputs": 60, "hidden": [20, 15]},
    "convnet": {"name": "convnet", "channels": [6, 8]},
}
CASES = pytest.mark.parametrize("name", MODELS)


def network(name: str, kind: NetworkKind = "snn", **options: Any) -> nn.Module:
    return build(kind, MODELS[name] | options, in_channels=2, num_classes=3, T=T)


def frames() -> Tensor:
    return 2 * torch.randn(T, N, 2, 6, 5, generator=torch.Generator().manual_seed(1))


def norms(net: nn.Module) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


@CASES
def test_each_step_is_normalised_over_its_samples_alone(name: str) -> None:
    net, x, seen = network(name, norm="step").train(), frames(), list[Tensor]()
    x[1] *= 10
    norms(net)[0].register_forward_hook(lambda module, args, out: seen.append(out))
    net(x)
    over = [1, *range(3, seen[0].ndim)]
    assert seen[0].mean(over).abs().max() < 1e-5
    assert (seen[0].var(over, correction=0) - 1).abs().max() < 1e-3
    batch, merged = network(name).train(), list[Tensor]()
    norms(batch)[0].register_forward_hook(lambda module, args, out: merged.append(out))
    batch(x)
    assert merged[0].mean(over).abs().max() > 0.01


@CASES
def test_step_by_step_in_training_equals_running_at_once_to_the_bit(name: str) -> None:
    x = frames()
    runs: list[tuple[nn.Module, Tensor, dict[str, Tensor]]] = []
    for norm, chunks in (("step", [x]), ("step", x.split(1)), ("batch", [x]), ("batch", x.split(1))):
        net, seen = network(name, norm=norm).train(), dict[str, list[Tensor]]()
        for key, module in net.named_modules():
            if key.endswith((".bn", ".lif")):
                module.register_forward_hook(
                    lambda m, args, out, key=key, seen=seen: seen.setdefault(key, []).append(out)
                )
        logits = torch.cat([net(chunk) for chunk in chunks])
        runs.append((net, logits, {key: torch.cat(steps) for key, steps in seen.items()}))
    (whole, logits, seen), (parts, of_parts, seen_of_parts), *batch = runs
    assert len(seen) == 4
    assert all(torch.equal(seen_of_parts[key], values) for key, values in seen.items())
    torch.testing.assert_close(of_parts, logits)  # a matrix product rounds otherwise on other numbers of rows
    for a, b in zip(norms(whole), norms(parts), strict=True):
        assert torch.equal(a.running_mean, b.running_mean)
        assert torch.equal(a.running_var, b.running_var)
        assert a.num_batches_tracked == b.num_batches_tracked == T
    assert not torch.allclose(batch[0][1], batch[1][1])


@CASES
def test_in_evaluation_it_is_the_usual_normalisation(name: str) -> None:
    net, batch, x = network(name, norm="step"), network(name), frames()
    net(x)
    batch.load_state_dict(net.state_dict())
    logits = []
    for one in (net.eval(), batch.eval()):
        reset_states(one)
        logits.append(one(x))
    assert torch.equal(*logits)


@CASES
def test_running_statistics_follow_the_steps_in_turn(name: str) -> None:
    net, x = network(name, norm="step").train(), frames()
    first = norms(net)[0]
    given = list[Tensor]()
    first.register_forward_pre_hook(lambda module, args: given.append(args[0].detach()))
    net(x)
    mean = torch.zeros_like(first.running_mean)
    for step in given[0]:
        mean = 0.9 * mean + 0.1 * step.mean([0, *range(2, step.ndim)])
    torch.testing.assert_close(first.running_mean, mean)
    shown = network(name, norm="step").train()
    shown(x[0])  # a layer that a shown image passes once has one step
    assert [norm.num_batches_tracked.item() for norm in norms(shown)] == [1, T]


@CASES
@pytest.mark.parametrize("norm", ["batch", "step"])
def test_all_weights_of_a_normalised_network_are_those_of_its_seed(name: str, norm: str) -> None:
    plain, net = network(name).state_dict(), network(name, norm=norm).state_dict()
    assert plain.keys() == net.keys()
    assert all(torch.equal(plain[key], net[key]) for key in plain)


@CASES
def test_without_normalisation_a_layer_has_a_bias_and_weights_of_variance_2_by_fan_in(name: str) -> None:
    sizes = {"hidden": [300]} if name == "mlp" else {"channels": [300]}
    net = network(name, norm="none", **sizes)
    assert not norms(net)
    first = net.get_submodule("layer1.fc" if name == "mlp" else "stage1.0.conv")
    fan_in = 60 if name == "mlp" else 2 * 9
    assert not first.bias.any()
    assert first.weight.var().item() == pytest.approx(2 / fan_in, rel=0.1)
    assert first.weight.abs().max() > 2.5 * (2 / fan_in) ** 0.5  # normal, not uniform


@CASES
@pytest.mark.parametrize("norm", ["step", "none"])
def test_twins_have_the_same(name: str, norm: str) -> None:
    snn, ann, x = network(name, norm=norm).eval(), network(name, "ann", norm=norm).eval(), frames()[0]
    assert list(snn.state_dict()) == list(ann.state_dict())
    assert all(torch.equal(value, ann.state_dict()[key]) for key, value in snn.state_dict().items())
    torch.testing.assert_close(ann_twin(snn)(x), ann(x))
    assert network(name, "ann", norm=norm).train()(x).shape == (N, 3)


@pytest.mark.parametrize("neuron", ["lif", "current_lif"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_every_hidden_layer_fires_from_the_start_without_normalisation(neuron: str, recurrent: bool) -> None:
    model = {"name": "mlp", "inputs": 64, "hidden": [256, 256], "norm": "none", "recurrent": recurrent}
    data = digits()
    x = data.as_input(data.x_train[:128])
    net = build("snn", model, in_channels=1, num_classes=10, T=8, neuron={"name": neuron, "tau": 2.0}).eval()
    rates: dict[str, list[float]] = {}
    for name, module in net.named_modules():
        if is_neuron(module):
            module.register_forward_hook(
                lambda module, args, out, name=name: rates.setdefault(name, []).append(out.mean().item())
            )
    with torch.no_grad():
        net(x)
    assert sorted(rates) == ["layer1.lif", "layer2.lif"]
    assert all(0.02 < sum(rate) / len(rate) < 0.4 for rate in rates.values())


@CASES
@pytest.mark.parametrize("norm", ["layer", None, True, []])
def test_another_normalisation_is_refused(name: str, norm: Any) -> None:
    with pytest.raises(OptionError, match=r"^norm: expected one of batch, step, none, got "):
        network(name, norm=norm)
