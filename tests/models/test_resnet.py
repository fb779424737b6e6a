"""The ResNet of the paper: counts, shortcuts, options. What holds for every network of the table is in test_zoo.py."""

import pytest
import torch
import torch.nn.functional as F
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


ORDERS = pytest.mark.parametrize("order", ["preact", "released"])


@ORDERS
@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 272_474), (38, 564_122), (56, 855_770), (110, 1_730_714), (164, 2_605_658)]
)
def test_parameters_by_depth_are_the_paper_s(depth, parameters, order):
    assert count(depth=depth, order=order) == parameters


@ORDERS
@pytest.mark.parametrize(
    ("width", "parameters"), [(1, 272_474), (2, 1_084_586), (4, 4_327_754), (8, 17_289_866), (16, 69_117_194)]
)
def test_parameters_by_width_are_the_paper_s(width, parameters, order):
    assert count(width=width, order=order) == parameters


@pytest.mark.parametrize("depth", [20, 56])
def test_the_spiking_network_has_the_parameters_of_its_twin(depth):
    snn = build("snn", {"name": "resnet", "depth": depth}, in_channels=3, num_classes=10)
    assert sum(p.numel() for p in snn.parameters()) == {20: 272_474, 56: 855_770}[depth]


def layers_of(**options):
    net = build("ann", {"name": "resnet"} | options, in_channels=1, num_classes=5).eval()
    return plan_observation(net, images()).layers


@ORDERS
@pytest.mark.parametrize(("depth", "layers"), [(20, 73), (38, 136), (56, 199), (110, 388), (164, 577)])
def test_the_default_layers_are_as_many_as_the_paper_compares(depth, layers, order):
    assert len(layers_of(depth=depth, order=order)) == layers


@ORDERS
def test_without_shortcuts_a_block_s_output_is_counted_once(order):
    # code that counts it again, after the tensor that it is, has 9 more
    assert len(layers_of(depth=20, order=order, residual=[])) == 67 - 9


LAYERS = {
    "preact": ("conv1", ["bn1", "lif1", "conv1", "bn2", "lif2", "conv2", "shortcut"], "bn lif avgpool"),
    "released": ("conv1 bn1", ["lif1", "shortcut", "conv1", "bn1", "lif2", "conv2", "bn2"], "lif avgpool"),
}


@pytest.mark.parametrize("residual", [[1, 2, 3], []])
@ORDERS
def test_layers_come_in_the_order_in_which_they_run(order, residual):
    first, block, last = LAYERS[order]
    expected = first.split()
    for stage in (1, 2, 3):
        for name in block:
            within = [name] if name != "shortcut" else []
            if name == "shortcut" and residual and stage > 1:
                within = ["downsample.pool", "downsample.conv", "downsample.bn"]
            expected += [f"layer{stage}.0.{layer}" for layer in within]
        expected += [f"layer{stage}.0"] if residual else []
    assert list(layers_of(depth=8, order=order, residual=residual)) == expected + last.split()


@ORDERS
def test_the_layers_of_twins_have_equal_names(order):
    snn, ann = (plan_observation(small("resnet", kind, order=order).eval(), images()) for kind in ("snn", "ann"))
    assert snn.layers == ann.layers
    assert (snn.T, ann.T) == (3, 1)


@pytest.mark.parametrize("residual", [[1, 2, 3], [2], []])
@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_the_released_order_computes_what_its_formula_says(kind, residual):
    net = build(
        kind,
        {"name": "resnet", "depth": 14, "order": "released", "residual": residual},
        in_channels=1,
        num_classes=5,
        T=3,
    ).eval()
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # no two alike, so that none can stand for another
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                values.data.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    expected = released_by_hand(net.state_dict(), images(), 3 if kind == "snn" else None, residual)
    with torch.no_grad():
        found = net(images())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.std(-2).max() > 1e-3, found.std(-2).max()


def released_by_hand(weights, x, T, residual):
    """The network with BN behind its convolutions from formulas: `[T, N, classes]`, or `[N, classes]` without T."""

    def conv(name, x, **options):
        return F.conv2d(x, weights[f"{name}.weight"], **options)

    def bn(name, x):
        scale, shift, mean, var = (
            weights[f"{name}.{part}"].view(-1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def fire(x):
        if T is None:
            return x.clamp(min=0)
        spikes, u = [], 0
        for step in x.chunk(T):
            u = u / 2 + step
            spikes.append((u >= 1).float())
            u = u * (1 - spikes[-1])
        return torch.cat(spikes)

    x = bn("bn1", conv("conv1", x.repeat(T or 1, 1, 1, 1), padding=1))
    for stage in (1, 2, 3):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            before, a = x, fire(x)
            x = bn(f"{name}.bn1", conv(f"{name}.conv1", a, padding=1, stride=stride))
            x = bn(f"{name}.bn2", conv(f"{name}.conv2", fire(x), padding=1))
            if stage in residual and stride == 1:
                x = x + before
            elif stage in residual:
                pooled = a.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
                x = x + bn(f"{name}.downsample.bn", conv(f"{name}.downsample.conv", pooled))
    logits = fire(x).mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    return logits if T is None else logits.unflatten(0, (T, -1))


def test_the_order_is_no_part_of_what_is_named_where_it_is_the_default():
    from sj_cka.recipe.choices import MODEL

    given = {"name": "resnet", "order": "preact"}
    assert MODEL.without_defaults(given) == {"name": "resnet"}
    assert MODEL.without_defaults(given | {"order": "released"}) == given | {"order": "released"}
    both = [small("resnet", "ann", **({} if order is None else {"order": order})) for order in (None, "preact")]
    assert all(torch.equal(p, q) for p, q in zip(*(net.parameters() for net in both), strict=True))


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


@ORDERS
def test_the_layers_before_the_first_neuron_run_once_not_for_every_step(order):
    net, sizes = small("resnet", "snn", order=order).eval(), {}
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
        ({"order": "postact"}, "order: expected one of preact, released, got 'postact'"),
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
