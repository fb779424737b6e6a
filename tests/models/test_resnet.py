"""The ResNet of the paper: counts, shortcuts, options. What holds for every network of the table is in test_zoo.py."""

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from sj_cka.models import MODELS, build
from sj_cka.plugins import OptionError, UnknownName
from sj_cka.recording import plan_observation

SMALL = {"resnet": {"name": "resnet", "depth": 8}}


def small(name, kind, T=3, seed=0, **changes):
    return build(kind, SMALL[name] | changes, in_channels=1, num_classes=5, T=T, seed=seed)


def images(n=4):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def reset(net):
    functional.reset_net(net)
    return net


def count(**options):
    with torch.device("meta"):
        net = MODELS["resnet"](nn.ReLU, T=None, in_channels=3, num_classes=10, **options)
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 272_474), (38, 564_122), (56, 855_770), (110, 1_730_714), (164, 2_605_658)]
)
def test_parameters_by_depth_are_the_paper_s(depth, parameters):
    assert count(depth=depth) == parameters


@pytest.mark.parametrize(
    ("width", "parameters"), [(1, 272_474), (2, 1_084_586), (4, 4_327_754), (8, 17_289_866), (16, 69_117_194)]
)
def test_parameters_by_width_are_the_paper_s(width, parameters):
    assert count(width=width) == parameters


@pytest.mark.parametrize("depth", [20, 56])
def test_the_spiking_network_has_the_parameters_of_its_twin(depth):
    snn = build("snn", {"name": "resnet", "depth": depth}, in_channels=3, num_classes=10)
    assert sum(p.numel() for p in snn.parameters()) == {20: 272_474, 56: 855_770}[depth]


@pytest.mark.parametrize(("depth", "layers"), [(20, 73), (38, 136), (56, 199)])
def test_the_default_layers_are_as_many_as_the_paper_compares(depth, layers):
    net = build("ann", {"name": "resnet", "depth": depth}, in_channels=1, num_classes=5).eval()
    assert len(plan_observation(net, images()).layers) == layers


def test_without_shortcuts_there_is_no_downsampling_and_a_block_puts_out_its_last_convolution():
    net = build("ann", {"name": "resnet", "depth": 8, "residual": []}, in_channels=1, num_classes=5).eval()
    layers = plan_observation(net, images()).layers
    assert not [name for name in layers if "downsample" in name]
    assert "layer2.0" not in layers
    assert "layer2.0.conv2" in layers


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_residual_names_the_stages_that_keep_their_shortcuts(stage):
    net = build("ann", {"name": "resnet", "depth": 8, "residual": [stage]}, in_channels=1, num_classes=5)
    kept = [s for s in (1, 2, 3) if getattr(net, f"layer{s}")[0].residual]
    assert kept == [stage]
    assert (net.layer3[0].downsample is not None) == (stage == 3)


def test_the_identity_shortcut_carries_what_is_not_rectified():
    net = small("resnet", "ann").eval()
    seen = {}
    net.layer1[0].conv2.register_forward_hook(lambda m, a, out: seen.update(conv=out))
    net.layer1[0].register_forward_hook(lambda m, a, out: seen.update(block=out, x=a[0]))
    with torch.no_grad():
        net(images())
    assert torch.equal(seen["block"], seen["conv"] + seen["x"])
    assert seen["x"].min() < 0


def test_the_layers_before_the_first_neuron_run_once_not_for_every_step():
    net, sizes = small("resnet", "snn").eval(), {}
    net.conv1.register_forward_hook(lambda m, a, out: sizes.update(conv1=len(out)))
    net.layer1[0].conv1.register_forward_hook(lambda m, a, out: sizes.update(later=len(out)))
    with torch.no_grad():
        net(images())
    assert sizes == {"conv1": 1, "later": 3}


def test_equal_seeds_give_both_kinds_equal_weights():
    snn, ann = small("resnet", "snn", seed=7), small("resnet", "ann", seed=7)
    assert all(torch.equal(p, q) for p, q in zip(snn.parameters(), ann.parameters(), strict=True))


def test_the_neuron_is_the_paper_s_by_default():
    lif = next(m for m in small("resnet", "snn").modules() if isinstance(m, neuron.LIFNode))
    assert (lif.tau, lif.v_threshold, lif.v_reset, lif.decay_input, lif.detach_reset) == (2.0, 1.0, 0.0, False, False)
    assert type(lif.surrogate_function).__name__ == "Sigmoid"
    assert lif.surrogate_function.alpha == 6.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 21}, r"depth: expected 6 k \+ 2 from 8 .*, got 21; nearest: 20, 26"),
        ({"depth": 2}, "got 2; nearest: 8"),
        ({"width": 0}, "width: expected a whole factor from 1, got 0"),
        ({"residual": [1, 4]}, r"residual: expected stages out of 1, 2, 3, each once, got \[1, 4\]"),
        ({"residual": [1, 1]}, "each once"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(OptionError, match=message) as error:
        small("resnet", "ann", **options)
    assert error.value.option == next(iter(options))


def test_no_time_step_at_all_is_refused():
    with pytest.raises(OptionError, match="T: expected at least one time step, a whole number of them, got 0"):
        small("resnet", "snn", T=0)


def test_input_of_another_rank_is_refused():
    with pytest.raises(ValueError, match=r"images \[N, C, H, W\] or frames \[T, N, C, H, W\], got shape \(4, 64\)"):
        small("resnet", "snn")(torch.zeros(4, 64))


def test_an_unknown_model_names_close_ones():
    with pytest.raises(UnknownName, match="unknown model 'resnt'; did you mean 'resnet'"):
        build("snn", {"name": "resnt"}, in_channels=1, num_classes=2)
