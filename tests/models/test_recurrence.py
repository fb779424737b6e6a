"""Layers that feed their spikes back, and their twins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

from sj_cka import compare
from sj_cka.cka import Space
from sj_cka.energy import cost
from sj_cka.models import NetworkKind, build
from sj_cka.models.recurrence import Recurrence, Unfed
from sj_cka.plugins import OptionError
from sj_cka.recording import is_neuron, plan_observation, record, reset_states
from sj_cka.training import calibrate
from sj_cka.twins import ann_twin

T, N, CLASSES = 5, 12, 4
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "inputs": 60, "hidden": [20, 15]},
    "convnet": {"name": "convnet", "channels": [6, 8]},
}
FIRST = {"mlp": "layer1", "convnet": "stage1.0"}
CASES = pytest.mark.parametrize("name", MODELS)
HOW = pytest.mark.parametrize("recurrent", [True, "elementwise"])
NEURON = pytest.mark.parametrize("neuron", ["lif", "current_lif"])


def network(name: str, kind: NetworkKind = "snn", *, neuron: str = "lif", seed: int = 0, **options: Any) -> nn.Module:
    given: Mapping[str, Any] = MODELS[name] | options
    return build(kind, given, in_channels=2, num_classes=CLASSES, T=T, seed=seed, neuron={"name": neuron})


def images(n: int = N) -> Tensor:
    return 2 * torch.randn(n, 2, 6, 5, generator=torch.Generator().manual_seed(0))


def frames() -> Tensor:
    return 2 * torch.randn(T, N, 2, 6, 5, generator=torch.Generator().manual_seed(1))


def recurrences(net: nn.Module) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, Recurrence | Unfed)]


def outcome(net: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, the spikes of every layer, and the gradients of a loss."""
    spikes: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda m, args, out, name=name: spikes.setdefault(name, []).append(out.detach()))
        for name, module in net.named_modules()
        if is_neuron(module)
    ]
    net.zero_grad()
    reset_states(net)
    logits = net(x)
    nn.functional.cross_entropy(logits.mean(0), torch.arange(x.shape[-4]) % CLASSES).backward()
    for hook in hooks:
        hook.remove()
    gradients = {key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}
    return logits.detach(), {name: torch.cat(steps) for name, steps in spikes.items()}, gradients


@CASES
@HOW
@NEURON
@pytest.mark.parametrize("given", ["images", "frames"])
def test_without_weight_on_what_comes_back_it_is_the_feed_forward_network_to_the_bit(
    name: str, recurrent: Any, neuron: str, given: str
) -> None:
    x = images() if given == "images" else frames()
    net, plain = network(name, neuron=neuron, recurrent=recurrent), network(name, neuron=neuron)
    moved = outcome(net, x)[0]
    for recurrence in recurrences(net):
        nn.init.zeros_(recurrence.v.weight)
    net.load_state_dict(plain.state_dict(), strict=False)  # the statistics of the run before
    logits, spikes, gradients = outcome(net, x)
    expected, spikes_of_plain, gradients_of_plain = outcome(plain, x)
    assert torch.equal(logits, expected)
    assert not torch.equal(moved, expected)
    assert spikes.keys() == spikes_of_plain.keys()
    for layer, seen in spikes.items():
        assert torch.equal(seen, spikes_of_plain[layer])
        assert seen.any()
    assert all(torch.equal(gradients[key], gradient) for key, gradient in gradients_of_plain.items())
    backward = [key for key in gradients if ".recurrent." in key]
    assert len(backward) == 2
    assert all(gradients[key].any() for key in backward)


@CASES
@HOW
def test_the_weights_that_a_seed_gives_are_those_of_the_feed_forward_network(name: str, recurrent: Any) -> None:
    plain, net, other = network(name), network(name, recurrent=recurrent), network(name, recurrent=recurrent, seed=1)
    shared, all_of = plain.state_dict(), net.state_dict()
    assert all(torch.equal(all_of[key], value) for key, value in shared.items())
    added = sorted(all_of.keys() - shared.keys())
    assert added == [f"{FIRST[name].replace('1', str(i), 1)}.recurrent.v.weight" for i in (1, 2)]
    assert not any(torch.equal(all_of[key], other.state_dict()[key]) for key in added)


def test_the_first_recurrent_weights_have_the_shapes_and_the_spread_that_are_stated() -> None:
    expected: dict[tuple[str, Any], tuple[type[nn.Module], tuple[int, ...], float]] = {
        ("mlp", True): (sj_layer.Linear, (200, 200), 1 / math.sqrt(200)),
        ("mlp", "elementwise"): (nn.Module, (200,), 0.1),
        ("convnet", True): (sj_layer.Conv2d, (200, 200, 3, 3), 1 / math.sqrt(9 * 200)),
        ("convnet", "elementwise"): (nn.Module, (200, 1, 1), 0.1),
    }
    for (name, recurrent), (kind, shape, bound) in expected.items():
        sizes = {"hidden": [200]} if name == "mlp" else {"channels": [200]}
        [recurrence] = recurrences(network(name, recurrent=recurrent, **sizes))
        assert isinstance(recurrence.v, kind)
        assert recurrence.v.weight.shape == shape
        assert 0.9 * bound < recurrence.v.weight.abs().max() <= bound
        assert [key for key, _ in recurrence.named_parameters()] == ["v.weight"]


def test_spikes_come_back_one_step_later_written_out_by_hand() -> None:
    # IF neurons of threshold 1, two of them; V takes the spike of the first to the second, and weakens it itself
    node = build("snn", MODELS["mlp"], in_channels=2, num_classes=2, neuron={"name": "if", "v_reset": None}).layer1.lif
    recurrence = Recurrence(sj_layer.Linear(2, 2, bias=False, step_mode="m"))
    recurrence.v.weight.data = torch.tensor([[-0.5, 0.0], [0.75, 0.0]])
    x_seq = torch.tensor([[1.0, 0.25], [0.75, 0.0], [1.0, 0.0]])[:, None]
    # h: (1, .25), (.75 - .5, .25 + .75) = (.25, 1), (.25 + 1, 0) as the first was silent
    assert recurrence.over_time(node, x_seq)[:, 0].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert recurrence.spikes.tolist() == [[[1, 0]]]


@CASES
@HOW
@NEURON
def test_chunks_of_steps_equal_the_whole_to_the_bit_and_a_reset_forgets(name: str, recurrent: Any, neuron: str) -> None:
    net, x = network(name, neuron=neuron, recurrent=recurrent), frames()
    calibrate(net, images(24))
    net.eval()
    with torch.no_grad():
        whole = net(x)
        assert not torch.equal(net(x), whole)
        functional.reset_net(net)
        assert all(recurrence.spikes is None for recurrence in recurrences(net))
        assert torch.equal(torch.cat([net(x[:1]), net(x[1:3]), net(x[3:])]), whole)
        reset_states(net)
        net(x)
        for module in recurrences(net):
            module.reset()
        assert not torch.equal(net(x), whole)  # the neurons kept theirs
        smaller = net(x[:, :5])
        reset_states(net)
        assert torch.equal(net(x[:, :5]), smaller)


@pytest.mark.parametrize("compiled", [False, True])
def test_detaching_the_memories_cuts_the_gradient_between_chunks(compiled: bool) -> None:
    from sj_cka.neurons import compiling

    if compiled and compiling.why_not() is not None:
        pytest.skip("torch.compile makes no kernel here")
    neuron = {"name": "if", "backend": "fused", "compiled": compiled}
    net = build("snn", MODELS["mlp"] | {"recurrent": True, "norm": "none"}, in_channels=2, num_classes=2, neuron=neuron)
    x = frames().requires_grad_()
    reached = []
    for detached in (False, True):
        reset_states(net)
        net(x[:3])
        if detached:
            functional.detach_net(net)
        reached.append(bool(torch.autograd.grad(net(x[3:]).sum(), x)[0][:3].any()))
    assert reached == [True, False]


# twins


@CASES
@HOW
def test_an_artificial_network_keeps_the_weights_and_feeds_nothing_back(name: str, recurrent: Any) -> None:
    snn, ann = (network(name, kind, recurrent=recurrent).eval() for kind in ("snn", "ann"))
    plain, made, x = network(name, "ann").eval(), ann_twin(snn), images()
    for twin in (ann, made):
        assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in snn.state_dict().items()}
        assert all(torch.equal(value, snn.state_dict()[key]) for key, value in twin.state_dict().items())
        assert torch.allclose(twin(x), plain(x), atol=1e-6)
        assert torch.allclose(twin(frames()), plain(frames()), atol=1e-6)
        assert not any(isinstance(module, Recurrence) for module in twin.modules())
    assert made.get_parameter(f"{FIRST[name]}.recurrent.v.weight") is not snn.get_parameter(
        f"{FIRST[name]}.recurrent.v.weight"
    )
    ann(x).sum().backward()
    assert all(recurrence.v.weight.grad is None for recurrence in recurrences(ann))


@CASES
@HOW
def test_a_fresh_twin_draws_the_recurrent_weights_too(name: str, recurrent: Any) -> None:
    snn = network(name, recurrent=recurrent, norm="step")
    key = f"{FIRST[name]}.recurrent.v.weight"
    twin = ann_twin(snn, "fresh", build=lambda: network(name, recurrent=recurrent, norm="step", seed=3))
    assert torch.equal(twin.get_parameter(key), network(name, recurrent=recurrent, seed=3).get_parameter(key))


def test_spikingjellys_own_containers_stay_refused() -> None:
    net = nn.Sequential(sj_layer.LinearRecurrentContainer(sj_neuron.IFNode(), 4, 4))
    with pytest.raises(ValueError, match="feeds its output back into the next step"):
        ann_twin(net)


@CASES
@HOW
@NEURON
@pytest.mark.parametrize("built", [False, True])
def test_the_neurons_pair_over_all_steps(name: str, recurrent: Any, neuron: str, built: bool) -> None:
    snn, x = network(name, neuron=neuron, recurrent=recurrent, norm="none").eval(), images(16)
    twin = network(name, "ann", recurrent=recurrent, norm="none").eval() if built else ann_twin(snn)
    neurons = [key for key, module in snn.named_modules() if is_neuron(module)]
    result = compare(snn, twin, [x], observe=("output", "membrane"), progress=False)
    assert result.data.sizes["step_x"] == T
    assert result.data.sizes["step_y"] == 1
    assert result.paired()[neurons].notna().all()
    assert list(result.matrix(time="membrane").index) == neurons
    layers = [str(name) for name in result.data.layer_x.values]
    first = FIRST[name]
    assert layers[layers.index(f"{first}.lif") - 2 :][:3] == [
        f"{first}.{at}" for at in ("recurrent.v", "recurrent", "lif")
    ]
    assert first not in layers
    undefined = {(row.layer, row.step) for row in result.undefined.itertuples()}
    assert (f"{first}.recurrent.v", 1) in undefined  # nothing has come back yet
    assert (f"{first}.recurrent.v", 2) not in undefined


def test_maps_of_a_recurrent_layer_are_averaged_over_space_and_have_their_channels_as_units() -> None:
    snn, plain = network("convnet", recurrent=True, norm="none").eval(), network("convnet", norm="none").eval()
    layers = ["stage1.0.lif", "stage2.0.lif"]
    taps = [plan_observation(net, images(), layers=layers).taps for net in (snn, plain)]
    for ours, those in zip(*taps, strict=True):
        assert (ours.maps, ours.units, ours.width) == (those.maps, those.units, those.width)
    assert [(tap.maps, tap.units) for tap in taps[0]] == [(True, 6), (True, 8)]
    averaged = compare(snn, snn, [images()], layers=layers, space=Space(spatial="mean"), progress=False)
    assert averaged.paired().notna().all()


def test_a_recorded_layer_and_its_potential_have_all_steps() -> None:
    snn, x = network("mlp", recurrent=True, norm="none").eval(), images()
    with record(snn, layers=["layer1.recurrent", "layer1.lif"]) as recorded:
        snn(x)
    assert recorded["layer1.lif"].shape == (T, N, 20)
    drive, spikes = recorded["layer1.recurrent"], recorded["layer1.lif"]
    fc, v = snn.layer1.fc, snn.layer1.recurrent.v.weight
    with torch.no_grad():
        expected = fc(x.flatten(1)[None]) + torch.cat([torch.zeros(1, N, 20), spikes[:-1]]) @ v.T
    torch.testing.assert_close(drive, expected)


def test_what_comes_back_costs_an_accumulation_for_each_spike_and_weight() -> None:
    for recurrent, per_spike in ((True, 20 + 4), ("elementwise", 4)):
        snn, x = network("mlp", recurrent=recurrent, hidden=[20], norm="none").eval(), images()
        with record(snn, layers="layer1.lif") as recorded:
            snn(x)
        spikes = recorded["layer1.lif"]
        expected = per_spike * spikes.sum() - (spikes[-1].sum() * 20 if recurrent is True else 0)
        counted = cost(snn, x)
        assert counted.synops == pytest.approx(float(expected) / N)
        assert counted.macs == 60 * 20
        assert expected > 0


@CASES
@pytest.mark.parametrize("value", [None, 1, "dense", []])
def test_another_recurrence_is_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=r'^recurrent: expected true, false or "elementwise", got '):
        network(name, recurrent=value)
