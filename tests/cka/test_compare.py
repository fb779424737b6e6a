"""compare: any two networks, by value against a float64 reference."""

import numpy as np
import pytest
import torch
import torchvision
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spikformer, spiking_vgg
from torch import nn

from sj_cka import ComparisonStopped, compare, record
from sj_cka.models import build
from sj_cka.training import calibrate

T = 4


def images(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def concatenated(X, steps):
    """[n, steps * D] of features [T, N, ...]; a static layer is repeated."""
    X = X.expand(steps, *X.shape[1:])
    return X.flatten(2).transpose(0, 1).flatten(1).numpy()


@pytest.fixture(scope="module")
def resnet20():
    """Random-weight ResNet-20 SNN and ANN after one training-mode pass, and 64 images."""
    x = images(64, 3, 32, 32)
    pair = {}
    for kind in ("snn", "ann"):
        net = build(kind, {"name": "resnet", "depth": 20}, in_channels=3, num_classes=10, T=T, seed=1)
        calibrate(net, x, batch_size=64)
        pair[kind] = net.eval()
    return pair["snn"], pair["ann"], x


def test_resnet20_agrees_with_the_trace_formula_on_every_pair(resnet20, trace_matrix):
    snn, ann, x = resnet20
    result = compare(snn, ann, [x], progress=False)
    assert dict(result.data.cka.sizes) == {"layer_x": 73, "step_x": 4, "layer_y": 73, "step_y": 1}
    recorded = []
    for net in (snn, ann):
        functional.reset_net(net)
        with record(net) as features, torch.no_grad():
            net(x)
        recorded.append(features)
    xs, ys = recorded
    sides = [[concatenated(X, steps) for X in side.values()] for side, steps in ((xs, T), (ys, 1))]
    expected = trace_matrix(*sides)
    found = result.matrix().to_numpy()
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.isfinite(found).mean() >= 0.95
    assert np.nanmax(np.abs(found - expected)) <= 1e-6
    # a single step of a few layers, and step against step
    names = ["layer1.0.lif1", "layer2.1.conv2", "layer3.2", "lif"]
    for t in (1, 4):
        expected = trace_matrix(
            [xs[name][t - 1].flatten(1).numpy() for name in names], [ys[name][0].flatten(1).numpy() for name in names]
        )
        assert np.nanmax(np.abs(result.matrix(t).loc[names, names].to_numpy() - expected)) <= 1e-6
    steps = [xs["layer3.2"][t].flatten(1).numpy() for t in range(T)]
    assert np.abs(result.steps("layer3.2").to_numpy() - trace_matrix(steps, steps)).max() <= 1e-6


def test_features_shifted_by_a_thousand_times_their_std_change_nothing_beyond_1e5(resnet20, trace_matrix):
    snn, ann, x = resnet20

    class Shifted(nn.Module):
        def __init__(self, net, by):
            super().__init__()
            self.net, self.shift, self.by, self.T = net, nn.Identity(), by, net.T

        def forward(self, x):
            features = {}
            handle = self.net.layer2[1].register_forward_hook(lambda m, a, out: features.update(out=out))
            self.net(x)
            handle.remove()
            return self.shift(features["out"] + self.by)

    plain = compare(Shifted(snn, 0.0).eval(), ann, [x], layers={"x": "shift", "y": "layer2.1"}, progress=False)
    functional.reset_net(snn)
    with record(snn, "layer2.1") as features, torch.no_grad():
        snn(x)
    by = 1000 * float(features["layer2.1"].std())
    moved = compare(Shifted(snn, by).eval(), ann, [x], layers={"x": "shift", "y": "layer2.1"}, progress=False)
    # what float32 itself loses when the offset is added is no error of ours: the reference sees the same numbers
    with record(ann, "layer2.1") as other, torch.no_grad():
        ann(x)
    held = features["layer2.1"] + by
    expected = trace_matrix([concatenated(held, T)], [concatenated(other["layer2.1"], 1)])[0, 0]
    assert moved.matrix().iloc[0, 0] == pytest.approx(expected, abs=1e-6)
    assert moved.matrix().iloc[0, 0] == pytest.approx(plain.matrix().iloc[0, 0], abs=1e-5)


def container_net():
    return nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)),
        neuron.LIFNode(step_mode="m"),
        layer.SeqToANNContainer(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)),
        neuron.LIFNode(step_mode="m"),
    )


class LoopedOverTime(nn.Module):
    """The same network, single-step, looped over time inside forward."""

    def __init__(self, net):
        super().__init__()
        self.T = T
        self.body = nn.Sequential(net[0][0], net[0][1], neuron.LIFNode(), net[2][0], net[2][1], neuron.LIFNode())

    def forward(self, x):
        return torch.stack([self.body(x) for _ in range(self.T)])


@pytest.fixture
def containers():
    x = images(24, 1, 6, 6)
    net = container_net().train()
    for norm in (net[0][1], net[2][1]):
        norm.momentum = None
    with torch.no_grad():
        net(x.repeat(T, 1, 1, 1, 1))
    functional.reset_net(net)
    net.eval()
    # by hand, single steps of SpikingJelly's neuron on plain torch layers
    first, second = neuron.LIFNode(), neuron.LIFNode()
    steps = {"0.0": [], "0.1": [], "1": [], "2.0": [], "2.1": [], "3": []}
    with torch.no_grad():
        for _ in range(T):
            y = x
            for name, module in (
                ("0.0", net[0][0]),
                ("0.1", net[0][1]),
                ("1", first),
                ("2.0", net[2][0]),
                ("2.1", net[2][1]),
                ("3", second),
            ):
                y = module(y)
                steps[name].append(y.clone())
    return net, x, {name: torch.stack(values) for name, values in steps.items()}


@pytest.mark.parametrize("looped", [False, True])
def test_layers_in_containers_and_a_network_looped_over_time_agree_step_against_step(containers, trace_matrix, looped):
    net, x, by_hand = containers
    model = LoopedOverTime(net).eval() if looped else net
    result = compare(model, model, [x], T=T, progress=False)
    assert len(result.layers_x) == 6
    for name, found_name in zip(by_hand, result.layers_x, strict=True):
        X = by_hand[name].flatten(2).numpy()
        found = result.steps(found_name).to_numpy()
        expected = trace_matrix(list(X), list(X))
        assert np.array_equal(np.isnan(found), np.isnan(expected)), name
        assert np.nanmax(np.abs(found - expected)) <= 1e-6, name
    concat = [concatenated(X, T) for X in by_hand.values()]
    assert np.nanmax(np.abs(result.matrix().to_numpy() - trace_matrix(concat, concat))) <= 1e-6


def test_a_network_called_by_the_user_step_by_step_is_called_for_every_step(containers):
    net, x, _ = containers
    single = LoopedOverTime(net).body.eval()
    looped = compare(LoopedOverTime(net).eval(), loader=[x], progress=False)
    result = compare(single, loader=[x], T=T, progress=False)
    assert np.array_equal(result.data.cka, looped.data.cka, equal_nan=True)


def test_block_sums_of_a_float64_network_equal_the_concatenated_cka_to_1e9(containers, trace_matrix):
    net, x, _ = containers
    net, x = net.double(), x.double()
    functional.reset_net(net)
    with record(net) as features, torch.no_grad():
        net(x.repeat(T, 1, 1, 1, 1))
    functional.reset_net(net)
    concat = [concatenated(X, T) for X in features.values()]
    found = compare(net, loader=[x], T=T, progress=False).matrix().to_numpy()
    assert np.nanmax(np.abs(found - trace_matrix(concat, concat))) <= 1e-9


def test_minibatches_are_weighted_by_their_samples_and_a_short_last_one_is_left_out_by_name(containers):
    net, x, _ = containers
    with pytest.warns(UserWarning, match="batch 2 holds 2 samples and is left out"):
        result = compare(net, loader=[x[:12], x[12:20], x[20:22]], T=T, progress=False)
    assert int(result.data.n) == 20
    assert result.data.attrs["batches_left_out"] == "[2]"
    plain = compare(net, loader=[x[:12], x[12:20]], T=T, progress=False)
    assert np.array_equal(result.data.cka, plain.data.cka, equal_nan=True)


def test_a_one_shot_generator_is_used_from_its_first_batch(containers):
    net, x, _ = containers
    once = compare(net, loader=(part for part in x.split(8)), T=T, progress=False)
    assert int(once.data.n) == 24
    assert np.array_equal(once.data.cka, compare(net, loader=x.split(8), T=T, progress=False).data.cka, equal_nan=True)


@pytest.mark.parametrize("layout", ["TNCHW", "NTCHW"])
def test_frames_are_given_as_they_are_and_a_single_step_network_sees_one_a_call(containers, trace_matrix, layout):
    net, _, _ = containers
    frames = torch.stack([images(24, 1, 6, 6, seed=t) for t in range(T)])
    given = frames if layout == "TNCHW" else frames.transpose(0, 1)
    multi = compare(net, loader=[given], layout=layout, progress=False)
    single = compare(LoopedOverTime(net).body.eval(), loader=[given], layout=layout, progress=False)
    functional.reset_net(net)
    with record(net) as features, torch.no_grad():
        net(frames)
    functional.reset_net(net)
    assert multi.data.sizes["step_x"] == single.data.sizes["step_x"] == T
    assert np.nanmax(np.abs(multi.data.cka.values - single.data.cka.values)) < 1e-6
    assert features["0.0"].shape[:2] == (T, 24)
    expected = trace_matrix(
        [X.flatten(1).numpy() for X in features["0.0"]], [X.flatten(1).numpy() for X in features["0.0"]]
    )
    assert np.abs(multi.steps("0.0").to_numpy() - expected).max() < 1e-6


def test_a_caller_s_forward_overrules_everything(containers):
    net, x, _ = containers
    result = compare(
        net, loader=[{"image": x}], forward=lambda m, b: m(b["image"].repeat(T, 1, 1, 1, 1)), progress=False
    )
    assert np.array_equal(result.data.cka, compare(net, loader=[x], T=T, progress=False).data.cka, equal_nan=True)


def sj(name):
    options = {"spiking_neuron": neuron.LIFNode, "surrogate_function": surrogate.ATan(), "tau": 2.0, "num_classes": 10}
    if name == "spiking_vgg11_bn":
        return spiking_vgg.spiking_vgg11_bn(**options)
    if name == "sew_resnet18":
        return sew_resnet.sew_resnet18(cnf="ADD", **options)
    return spikformer.Spikformer(
        T=T, img_size_h=32, img_size_w=32, num_classes=10, embed_dims=64, num_heads=4, depths=1
    )


@pytest.mark.parametrize(
    ("name", "mode", "count", "some"),
    [
        ("spiking_vgg11_bn", "s", 34, ["features.0", "features.28", "classifier.4"]),
        ("spiking_vgg11_bn", "m", 34, ["features.0", "features.28", "classifier.4"]),
        ("sew_resnet18", "m", 70, ["conv1", "sn1", "layer1.0.sn2", "layer1.0", "layer4.1", "avgpool"]),
        ("spikformer", "m", 34, ["patch_embed.stages.0.neuron", "patch_embed", "blocks.0.attn.attn_lif", "blocks.0"]),
    ],
)
def test_spikingjelly_s_own_networks_run_unchanged_against_torchvision_s_resnet18(name, mode, count, some):
    snn = sj(name)
    if name != "spikformer":
        functional.set_step_mode(snn, mode)
    snn.eval()
    ann = torchvision.models.resnet18(num_classes=10).eval()
    x = images(8, 3, 32, 32)
    before = {k: v.clone() for k, v in snn.state_dict().items()}
    result = compare(snn, ann, [(x, torch.zeros(8))], T=T, progress=False)
    assert result.data.sizes["step_x"] == T
    assert result.data.sizes["step_y"] == 1
    assert len(result.layers_x) == count
    assert [layer_ for layer_ in result.layers_x if layer_ in some] == some
    assert result.layers_y[:7] == [
        "conv1",
        "bn1",
        "relu",
        "maxpool",
        "layer1.0.conv1",
        "layer1.0.bn1",
        "layer1.0.relu#0",
    ]
    assert result.layers_y.index("layer1.0.bn2") < result.layers_y.index("layer1.0.relu#1")
    assert "fc" not in result.layers_y
    assert len(result.layers_y) == 59
    assert result.matrix().loc[result.layers_x[0]].notna().all()
    assert all(torch.equal(v, before[k]) for k, v in snn.state_dict().items())
    assert all(not m._forward_hooks for net in (snn, ann) for m in net.modules())


def test_an_ann_against_itself_is_one_on_the_diagonal():
    ann = torchvision.models.resnet18(num_classes=10).eval()
    result = compare(ann, loader=[images(8, 3, 32, 32)], progress=False)
    assert np.allclose(np.diag(result.matrix()), 1, atol=1e-9)
    assert np.allclose(result.matrix(), result.matrix().T, atol=1e-12)


def test_the_same_network_with_other_layers_on_either_side():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    result = compare(net, loader=images(8, 3), layers={"x": "0", "y": "1"}, progress=False)
    assert (result.layers_x, result.layers_y) == (["0"], ["1"])


def test_silent_and_constant_layers_are_named_with_step():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.T = 2
            self.dead, self.flat = nn.Identity(), nn.Identity()
            self.live = neuron.LIFNode(step_mode="m")

        def forward(self, x):
            self.dead(0 * x)
            self.flat(0 * x - 65)
            return self.live(x.expand(self.T, *x.shape) * 3)

    result = compare(Odd().eval(), loader=[images(8, 5)], progress=False)
    named = {(row.layer, row.step, row.reason) for row in result.undefined.itertuples() if row.side == "x"}
    assert {("dead", 1, "silent"), ("dead", 2, "silent"), ("flat", 1, "constant")} <= named


def test_states_buffers_and_random_state_are_left_as_they_were(containers):
    net, x, _ = containers
    with torch.no_grad():
        net(x.repeat(T, 1, 1, 1, 1))
    state, random = net[1].v.clone(), torch.random.get_rng_state()
    buffers = {k: v.clone() for k, v in net.state_dict().items()}
    compare(net, loader=[x], T=T, progress=False)
    assert torch.equal(net[1].v, state)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items())
    assert all(not m._forward_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: compare(net, loader=[x]), "pass T=, how often the input is to be shown"),
        (lambda net, x: compare(net, loader=[x], T=0), "an integer from 1, got 0"),
        (lambda net, x: compare(net), "compare needs loader="),
        (lambda net, x: compare(net, loader=[], T=2), "the loader gave no batch"),
        (lambda net, x: compare(net, loader=[x[:3]], T=2), "batches of at least 4 samples, got none"),
        (lambda net, x: compare(net, loader=[x], T=2, batches=0), "batches to be at least 1, got 0"),
        (lambda net, x: compare(net, loader=[x], T=2, layers="nothing"), "network x .*'nothing' matches no module"),
        (
            lambda net, x: compare(net, loader=[x], T=2, layout="CHWN"),
            "layout to be one of NCHW, TNCHW, NTCHW, got 'CHWN'",
        ),
        (
            lambda net, x: compare(net, loader=[x], T=2, observe="spikes"),
            "one or several of output, membrane, rate, latency, got 'spikes'",
        ),
        (lambda net, x: compare(net.train(), loader=[x], T=2), r"network x is in training mode.*Call x.eval\(\) first"),
        (lambda net, x: compare(LoopedOverTime(net).eval(), loader=[x], T=7), "makes 4 time steps of its own, T = 7"),
    ],
)
@pytest.mark.filterwarnings("ignore:batch 0 holds 3 samples")
def test_bad_input_gets_one_clear_message(containers, call, message):
    net, x, _ = containers
    with pytest.raises(ValueError, match=message):
        call(net, x)
    assert all(not m._forward_hooks for m in net.modules())


def test_plain_layers_before_a_multi_step_neuron_are_told_from_time():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), neuron.LIFNode(step_mode="m")).eval()
    with pytest.raises(ValueError, match=r"takes the samples for time steps.*one step mode"):
        compare(net, loader=[images(8, 1, 6, 6)], T=T, progress=False)


def test_a_batch_that_holds_no_tensor_first_is_refused():
    with pytest.raises(TypeError, match="got dict of dict; say how to run the network"):
        compare(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), loader=[{"x": images(8, 3)}])


@pytest.mark.parametrize("at", ["0.1", "2"])
def test_a_part_in_training_mode_is_refused_by_name(containers, at):
    net, x, _ = containers
    expected = compare(net, loader=[x], T=T, progress=False)
    net.get_submodule(at).train()
    kind = type(net.get_submodule(at)).__name__
    with pytest.raises(ValueError, match=rf"module '{at}' \({kind}\) of network y is in training mode.*y\.eval\(\)"):
        compare(nn.ReLU().eval(), net, [x], T=T, progress=False)
    found = compare(net, loader=[x], T=T, progress=False, allow_train=True)
    assert np.array_equal(found.data.cka, expected.data.cka, equal_nan=True)
    assert net.get_submodule(at).training
    assert not net.training


def test_a_network_in_training_mode_may_be_allowed_and_stays_in_it(containers):
    net, x, _ = containers
    expected = compare(net, loader=[x], T=T, progress=False)
    net.train()
    result = compare(net, loader=[x], T=T, progress=False, allow_train=True)
    assert net.training
    assert np.array_equal(result.data.cka, expected.data.cka, equal_nan=True)


def test_the_first_batch_that_is_large_enough_is_probed(containers):
    net, x, _ = containers
    with pytest.warns(UserWarning, match="batch 0 holds 1 samples and is left out"):
        result = compare(net, loader=[x[:1], x[1:20]], T=T, progress=False)
    assert int(result.data.n) == 19


def test_other_numbers_of_frames_in_a_later_batch_are_refused(containers):
    net, x, _ = containers
    frames = x.repeat(T, 1, 1, 1, 1)
    with pytest.raises(ComparisonStopped, match="expected 4 frames in every batch, as in the first, got 3"):
        compare(net, loader=[frames, frames[:3]], layout="TNCHW", progress=False)
    assert all(not m._forward_hooks for m in net.modules())


def test_any_integer_says_how_many_steps(containers):
    net, x, _ = containers
    expected = compare(net, loader=[x], T=T, progress=False)
    for steps in (np.int64(T), {"x": np.int32(T), "y": np.uint8(T)}):
        found = compare(net, loader=[x], T=steps, progress=False)
        assert np.array_equal(found.data.cka, expected.data.cka, equal_nan=True)
    with pytest.raises(ValueError, match=r"an integer from 1, got .*4\.0"):
        compare(net, loader=[x], T=np.float64(4), progress=False)


def test_a_layer_of_complex_numbers_is_named():
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x)

    net = nn.Sequential(nn.ReLU(), Fourier()).eval()
    with pytest.raises(TypeError, match=r"layer '1': expected real features, got torch\.complex64.*choose layers="):
        compare(net, loader=images(8, 6), layers=["0", "1"], progress=False)
    with pytest.warns(UserWarning, match="complex numbers are left out: '1'; select= can take their modulus"):
        assert compare(net, loader=images(8, 6), progress=False).layers_x == ["0"]
    modulus = compare(net, loader=images(8, 6), select={"1": lambda output: output.abs()}, progress=False)
    assert modulus.layers_x == ["0", "1"]


def test_a_result_s_own_labels_choose_the_same_layers_again():
    net = torchvision.models.resnet18(num_classes=10).eval()
    first = compare(net, loader=[images(8, 3, 32, 32)], layers="layer1.*", progress=False)
    assert "layer1.0.relu#1" in first.layers_x
    again = compare(net, loader=[images(8, 3, 32, 32)], layers=first.layers_x, progress=False)
    assert np.array_equal(again.data.cka, first.data.cka)
    assert again.layers_x == first.layers_x
    one = compare(net, loader=[images(8, 3, 32, 32)], layers="layer1.0.relu#1", progress=False)
    assert one.data.hsic_xx.values.item() == first.data.hsic_xx.sel(layer_x="layer1.0.relu#1").item()


def test_a_relu_twin_that_keeps_multi_step_layers_is_shown_the_image(containers):
    _, x, _ = containers
    twin = nn.Sequential(layer.Conv2d(1, 4, 3, step_mode="m"), nn.ReLU(), layer.Conv2d(4, 4, 3, step_mode="m")).eval()
    result = compare(twin, loader=[x], T=T, progress=False)
    assert result.data.sizes["step_x"] == T
    assert np.allclose(result.steps("1"), 1)


def test_an_ann_that_cannot_take_the_images_says_why():
    with pytest.raises(
        ValueError, match=r"network x \(Sequential\): it does not run on the batch: RuntimeError: .*shapes"
    ):
        compare(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), loader=images(8, 4), progress=False)


def test_a_batch_may_hold_more_than_samples(containers):
    net, x, _ = containers
    batch = {"image": x, "scale": torch.ones(3), "label": torch.zeros(24)}
    result = compare(
        net,
        loader=[batch],
        forward=lambda m, b: m(b["image"].repeat(T, 1, 1, 1, 1) * b["scale"][0]),
        progress=False,
    )
    assert np.array_equal(result.data.cka, compare(net, loader=[x], T=T, progress=False).data.cka, equal_nan=True)
