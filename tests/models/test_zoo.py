"""Every network of the table, spiking and artificial, by the same tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

from sj_cka import compare
from sj_cka.models import MODELS, NetworkKind, build
from sj_cka.neurons import lif
from sj_cka.plugins import OptionError
from sj_cka.recording import is_neuron, reset_states
from sj_cka.training import calibrate
from sj_cka.twins import ann_twin

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
T, N, CLASSES = 3, 6, 4


def network(name: str, kind: Any, *, seed: int = 0, T: int = T, ann_input: Any = "steps", **changes: Any) -> nn.Module:
    model = {"name": name, **ZOO[name][0], **changes}
    return build(kind, model, in_channels=2, num_classes=CLASSES, T=T, seed=seed, ann_input=ann_input)


def images(name: str, n: int = N, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, 2, *ZOO[name][1:], generator=torch.Generator().manual_seed(seed))


def calibrated(name: str, kind: Any) -> nn.Module:
    net = network(name, kind)
    calibrate(net, images(name, 16))
    return net.eval()


def run(net: nn.Module, x: Tensor) -> Tensor:
    reset_states(net)
    logits: Tensor = net(x)
    return logits


def test_the_table_is_tested_whole() -> None:
    assert set(ZOO) == set(MODELS)


@CASES
def test_images_and_frames_give_logits_of_every_step(name: str) -> None:
    snn, ann, x = network(name, "snn").eval(), network(name, "ann").eval(), images(name)
    frames = torch.stack([images(name, seed=seed) for seed in range(5)])
    with torch.no_grad():
        assert run(snn, x).shape == (T, N, CLASSES)
        assert run(snn, frames).shape == (5, N, CLASSES)
        assert run(ann, x).shape == (N, CLASSES)
        assert run(ann, frames).shape == (5, N, CLASSES)
        torch.testing.assert_close(run(ann, frames)[3], run(ann, frames[3]), rtol=1e-4, atol=1e-5)


@CASES
def test_an_image_is_the_same_frame_at_every_step(name: str) -> None:
    snn, x = calibrated(name, "snn"), images(name)
    with torch.no_grad():
        shown, given = run(snn, x), run(snn, x.repeat(T, *[1] * x.ndim))
    assert shown.abs().sum() > 0
    torch.testing.assert_close(shown, given, rtol=1e-4, atol=1e-5)


@CASES
def test_a_step_does_not_see_those_behind_it(name: str) -> None:
    snn = calibrated(name, "snn")
    frames = torch.stack([images(name, seed=seed) for seed in range(3)])
    changed = frames.clone()
    changed[2] = images(name, seed=9)
    with torch.no_grad():
        before, after = run(snn, frames), run(snn, changed)
    torch.testing.assert_close(before[:2], after[:2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before[2], after[2])


@CASES
def test_both_kinds_have_equal_names_shapes_and_weights_of_a_seed(name: str) -> None:
    snn, ann = network(name, "snn"), network(name, "ann")
    assert [n for n, m in snn.named_modules() if not _inside_neuron(snn, n)] == [
        n for n, m in ann.named_modules() if not _inside_neuron(snn, n)
    ]
    assert {k: v.shape for k, v in snn.state_dict().items()} == {k: v.shape for k, v in ann.state_dict().items()}
    assert all(torch.equal(v, ann.state_dict()[k]) for k, v in snn.state_dict().items())
    neurons = [n for n, m in snn.named_modules() if is_neuron(m)]
    assert neurons
    assert {type(ann.get_submodule(n)) for n in neurons} <= {nn.ReLU}
    assert not any(getattr(m, "inplace", False) for m in ann.modules())
    assert not any(is_neuron(m) for m in ann.modules())


def _inside_neuron(snn: nn.Module, name: str) -> bool:
    parts = name.split(".")
    return any(is_neuron(snn.get_submodule(".".join(parts[:i]))) for i in range(1, len(parts)))


@CASES
def test_the_artificial_one_is_the_twin_of_the_spiking_one(name: str) -> None:
    snn, ann, x = network(name, "snn").eval(), network(name, "ann").eval(), images(name)
    with torch.no_grad():
        torch.testing.assert_close(ann_twin(snn)(x), ann(x), rtol=1e-4, atol=1e-5)


@CASES
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    for kind in ("snn", "ann"):
        net = network(name, kind).train()
        scores = run(net, images(name, 16))
        loss = nn.functional.cross_entropy(scores.mean(0) if kind == "snn" else scores, torch.arange(16) % CLASSES)
        loss.backward()
        without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []


@CASES
def test_a_reset_forgets_and_without_one_the_state_stays(name: str) -> None:
    snn, x = calibrated(name, "snn"), images(name)
    with torch.no_grad():
        first, again = run(snn, x), run(snn, x)
        kept = snn(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, kept)


@CASES
def test_a_seed_gives_one_network_and_another_seed_another_and_no_other_random_number_moves(name: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (network(name, "snn", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    weights = [key for key, value in first.items() if value.ndim > 1]
    assert all(not torch.equal(first[key], other[key]) for key in weights)


@CASES
def test_every_neuron_layer_of_the_twins_pairs(name: str) -> None:
    snn, ann, x = calibrated(name, "snn"), calibrated(name, "ann"), images(name, 16)
    result = compare(snn, ann, [x], progress=False)
    neurons = [n for n, m in snn.named_modules() if is_neuron(m)]
    paired = result.paired()
    assert set(neurons) <= set(paired.index)
    assert paired[neurons].notna().mean() >= 0.8
    assert result.data.sizes["step_x"] == T


@CASES
def test_another_neuron_and_no_steps_and_other_input_are_taken_or_refused(name: str) -> None:
    net = build("snn", {"name": name, **ZOO[name][0]}, in_channels=2, num_classes=CLASSES, neuron={"name": "plif"})
    assert any(key.endswith(".w") for key in net.state_dict())
    with pytest.raises(OptionError, match=r"^T: expected at least one time step, .*got 0"):
        network(name, "snn", T=0)
    with pytest.raises(ValueError, match=r"expected .*got shape"):
        network(name, "ann")(torch.zeros(2, 2, 2, 2, 2, 2))


@pytest.mark.parametrize(
    ("model", "in_channels", "classes", "parameters"),
    [
        ({"name": "vgg", "depth": 11}, 3, 10, 9_228_362),
        ({"name": "convnet"}, 3, 10, 5_466),
        ({"name": "convnet", "recurrent": True}, 3, 10, 16_986),
        ({"name": "mlp", "inputs": 64}, 1, 10, 85_514),
        ({"name": "mlp", "inputs": 64, "recurrent": True}, 1, 10, 216_586),
        ({"name": "resnet_imagenet", "depth": 18}, 3, 1000, 11_689_512),
        ({"name": "sew_resnet", "depth": 18}, 3, 1000, 11_689_512),
        ({"name": "spikformer"}, 3, 10, 9_310_906),
    ],
)
def test_parameters_are_those_that_the_docstrings_state(
    model: Mapping[str, Any], in_channels: int, classes: int, parameters: int
) -> None:
    for kind in ("snn", "ann"):
        net = build(kind, model, in_channels=in_channels, num_classes=classes)  # type: ignore[arg-type]
        assert sum(p.numel() for p in net.parameters()) == parameters
    assert f"{parameters:,}" in " ".join(str(MODELS[model["name"]].__doc__).split())


@pytest.mark.parametrize(("depth", "convolutions"), [(5, 4), (9, 8), (11, 8), (13, 10), (16, 13)])
def test_vgg_has_the_convolutions_of_its_configuration(depth: int, convolutions: int) -> None:
    net = build("ann", {"name": "vgg", "depth": depth, "width": 1 / 64}, in_channels=1, num_classes=3)
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == convolutions
    assert max(m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)) == (4 if depth == 5 else 8)


def test_an_image_of_8_pixels_bears_three_poolings() -> None:
    x = torch.randn(2, 1, 8, 8)
    for pools, size in ((3, 1), (2, 2)):
        net = build("ann", {"name": "vgg", "width": 0.125, "pools": pools}, in_channels=1, num_classes=3).eval()
        seen: list[Tensor] = []
        with net.avgpool.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0])):
            net(x)
        assert seen[0].shape[-2:] == (size, size)
    with pytest.raises(ValueError, match="halved 5 times, got 8 x 8; set pools to at most 3"):
        build("ann", {"name": "vgg", "width": 0.125}, in_channels=1, num_classes=3)(x)


def test_a_neuron_sees_a_shown_image_at_every_step_and_what_lies_before_it_sees_it_once() -> None:
    for name, (first, neuron) in {
        "vgg": ("stage1.0.conv", "stage1.0.lif"),
        "resnet_imagenet": ("conv1", "lif1"),
        "mlp": ("layer1.fc", "layer1.lif"),
        "sew_resnet": ("conv1", "sn1"),
        "spikformer": ("patch_embed.stages.0.conv_bn", "patch_embed.stages.0.neuron"),
    }.items():
        snn, steps = network(name, "snn").eval(), {}
        for which in (first, neuron):
            snn.get_submodule(which).register_forward_hook(
                lambda module, args, out, which=which, steps=steps: steps.update({which: len(out)})
            )
        with torch.no_grad():
            run(snn, images(name))
        assert steps == {first: 1, neuron: T}, name


@pytest.mark.parametrize(
    ("model", "option"),
    [
        ({"name": "resnet_imagenet", "depth": 20}, "depth"),
        ({"name": "resnet_imagenet", "width": 0.01}, "width"),
        ({"name": "vgg", "depth": 12}, "depth"),
        ({"name": "vgg", "width": 0}, "width"),
        ({"name": "vgg", "pools": 6}, "pools"),
        ({"name": "convnet", "channels": []}, "channels"),
        ({"name": "convnet", "pools": -1}, "pools"),
        ({"name": "mlp", "inputs": 0}, "inputs"),
        ({"name": "mlp", "hidden": [3, 0]}, "hidden"),
        ({"name": "sew_resnet", "depth": 19}, "depth"),
        ({"name": "sew_resnet", "connect": "OR"}, "connect"),
        ({"name": "spikformer", "patch": 8}, "patch"),
        ({"name": "spikformer", "dim": 10}, "dim"),
        ({"name": "spikformer", "heads": 5}, "heads"),
        ({"name": "spikformer", "depth": 0}, "depth"),
        ({"name": "spikformer", "mlp_ratio": 0.0}, "mlp_ratio"),
        ({"name": "resnet", "width": 1.5}, "width"),
        ({"name": "resnet", "width": float("nan")}, "width"),
        ({"name": "resnet", "depth": 20.0}, "depth"),
        ({"name": "resnet", "depth": True}, "depth"),
        ({"name": "resnet", "residual": None}, "residual"),
        ({"name": "resnet", "residual": [1.0]}, "residual"),
        ({"name": "resnet", "residual": "12"}, "residual"),
        ({"name": "resnet_imagenet", "width": float("inf")}, "width"),
        ({"name": "resnet_imagenet", "width": "2"}, "width"),
        ({"name": "resnet_imagenet", "depth": 18.0}, "depth"),
        ({"name": "vgg", "width": float("inf")}, "width"),
        ({"name": "vgg", "width": float("nan")}, "width"),
        ({"name": "vgg", "pools": 2.5}, "pools"),
        ({"name": "vgg", "depth": [11]}, "depth"),
        ({"name": "convnet", "channels": 6}, "channels"),
        ({"name": "convnet", "channels": [6, 8.0]}, "channels"),
        ({"name": "mlp", "hidden": 64}, "hidden"),
        ({"name": "mlp", "hidden": []}, "hidden"),
        ({"name": "mlp", "inputs": 60.0}, "inputs"),
        ({"name": "sew_resnet", "depth": None}, "depth"),
        ({"name": "sew_resnet", "connect": ["ADD"]}, "connect"),
        ({"name": "spikformer", "dim": 16.0}, "dim"),
        ({"name": "spikformer", "mlp_ratio": "4"}, "mlp_ratio"),
    ],
)
@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_an_option_out_of_range_is_named(kind: NetworkKind, model: dict[str, Any], option: str) -> None:
    got = re.escape(repr(model[option]))
    with pytest.raises(OptionError, match=f"^{option}: expected .*, got {got}(; nearest|$)") as caught:
        build(kind, model, in_channels=1, num_classes=3)
    assert caught.value.option == option


@CASES
@pytest.mark.parametrize(
    ("option", "value"),
    [("in_channels", 0), ("in_channels", 1.0), ("num_classes", 0), ("num_classes", None), ("T", None), ("T", 2.5)],
)
def test_the_shape_of_the_data_and_the_steps_are_whole_numbers(name: str, option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"^{option}: expected .*, got {value}$"):
        build("snn", {"name": name, **ZOO[name][0]}, **{"in_channels": 2, "num_classes": 3, "T": 2} | {option: value})


def test_a_twin_has_no_steps_and_another_kind_is_none() -> None:
    options = {"name": "mlp", "inputs": 4}
    assert build("ann", options, in_channels=1, num_classes=3, T=None)(torch.zeros(2, 4)).shape == (2, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='expected kind "snn" or "ann", got \'SNN\''):
        build("SNN", options, in_channels=1, num_classes=3)  # type: ignore[arg-type]


def test_options_of_a_neuron_without_a_name_are_those_of_lif() -> None:
    net = build("snn", {"name": "mlp", "inputs": 4}, in_channels=1, num_classes=3, neuron={"tau": 4.0})
    assert isinstance(net.layer1.lif, sj_neuron.LIFNode)
    assert net.layer1.lif.tau == 4.0


def test_sew_resnet_connects_as_asked() -> None:
    x = images("sew_resnet")
    networks = [network("sew_resnet", "ann", connect=how) for how in ("ADD", "AND")]
    with pytest.warns(UserWarning, match=r"'layer1.0' and 7 more: IAND, x \(1 - y\), is a logical connection") as said:
        networks.append(network("sew_resnet", "ann", connect="IAND"))
    snn = network("sew_resnet", "snn", connect="IAND")  # of spikes it is logic
    with pytest.warns(UserWarning, match="IAND") as of_twin:
        ann_twin(snn)
    assert [str(one.message) for one in said] == [str(one.message) for one in of_twin]
    assert said[0].filename == of_twin[0].filename == __file__
    outputs = [run(net.eval(), x) for net in networks]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_spikformer_spikes_as_with_half_a_threshold_in_its_attention() -> None:
    snn, x = calibrated("spikformer", "snn"), images("spikformer")
    [block] = snn.blocks
    own, half = block.attn.attn_lif, lif(v_threshold=0.5)
    given: list[Tensor] = []
    with own.register_forward_pre_hook(lambda module, args: given.append(args[0])):
        run(snn, x)
    assert isinstance(own, sj_neuron.BaseNode)
    reset_states(own)
    assert torch.equal(own(given[0]), half(given[0] / 2))


# frames of recordings


@CASES
def test_an_artificial_network_sees_each_frame_alone_or_the_sum_of_all(name: str) -> None:
    frames = torch.stack([images(name, seed=seed) for seed in range(T)])
    alone, summed = (network(name, "ann", ann_input=how).eval() for how in ("steps", "sum"))
    assert summed.state_dict().keys() == alone.state_dict().keys()
    summed.load_state_dict(alone.state_dict())
    assert torch.allclose(run(alone, frames), torch.stack([run(alone, frame) for frame in frames]), atol=1e-5)
    assert torch.equal(run(summed, frames), run(alone, frames.sum(0)))
    assert torch.equal(run(summed, frames[0]), run(alone, frames[0]))


@CASES
def test_what_an_artificial_network_sees_does_not_concern_the_spiking_one(name: str) -> None:
    frames = torch.stack([images(name, seed=seed) for seed in range(T)])
    a, b = (run(network(name, "snn", ann_input=how).eval(), frames) for how in ("steps", "sum"))
    assert a.shape == (T, N, CLASSES)
    assert torch.equal(a, b)


def test_another_way_to_see_frames_is_refused() -> None:
    with pytest.raises(ValueError, match='expected ann_input "steps" or "sum", got \'mean\''):
        network("convnet", "ann", ann_input="mean")
