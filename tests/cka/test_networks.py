"""compare on every way in which networks lay out samples and steps, against features worked out by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import compare

T, N = 3, 10


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lif(x_seq):
    """Spikes of SpikingJelly's LIF neuron as it is made by default: tau 2, decaying input, threshold 1, reset to 0."""
    v, spikes = torch.zeros_like(x_seq[0]), []
    for x in x_seq:
        v = v + (x - v) / 2.0
        spikes.append((v >= 1).to(x))
        v = v * (1 - spikes[-1])
    return torch.stack(spikes)


def over_time(function, x_seq):
    return torch.stack([function(x) for x in x_seq])


def ramp(x, steps=T):
    """Every step another multiple of the input, so that steps cannot be taken for each other."""
    return torch.stack([x * (t + 1) for t in range(steps)])


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


@pytest.fixture
def agrees(trace_matrix):
    """Whether compare finds, for every layer and step, the CKA of features `{layer: [T or 1, N, ...]}`."""

    @torch.no_grad()
    def check(net, x, by_hand, layers=None, **options):
        result = compare(
            net, loader=[x], layers=list(by_hand) if layers is None else layers or None, progress=False, **options
        )
        assert list(result.layers_x) == list(by_hand)
        steps = int(result.data.sizes["step_x"])
        assert steps == max(len(X) for X in by_hand.values())
        full = [X.detach().expand(steps, *X.shape[1:]).flatten(2) for X in by_hand.values()]
        concatenated = [X.transpose(0, 1).flatten(1).numpy() for X in full]
        expected = trace_matrix(concatenated, concatenated)
        assert np.isfinite(expected).all()  # else the reference says nothing
        assert np.abs(result.matrix().to_numpy() - expected).max() < 1e-6
        if result.data.attrs.get("without_steps"):
            return
        for name, X in zip(by_hand, full, strict=True):
            expected = trace_matrix(list(X.numpy()), list(X.numpy()))
            found = result.steps(name).to_numpy()
            assert np.array_equal(np.isnan(found), np.isnan(expected)), name
            assert np.nanmax(np.abs(found - expected)) < 1e-6, name

    return check


class Folds(nn.Module):
    """Plain layers on [T * N, ...]: by SpikingJelly's function, or by hand, T-major or N-major."""

    def __init__(self, how, steps):
        super().__init__()
        self.how, self.T = how, steps
        self.conv, self.norm, self.spike = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), neuron.LIFNode(step_mode="m")
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x):
        x_seq = ramp(x, self.T)
        if self.how == "seq_to_ann_forward":
            return self.spike(functional.seq_to_ann_forward(x_seq, [self.conv, self.norm]))
        if self.how == "T-major":
            return self.spike(self.norm(self.conv(x_seq.flatten(0, 1))).unflatten(0, x_seq.shape[:2]))
        y = self.norm(self.conv(x_seq.transpose(0, 1).flatten(0, 1)))
        return self.spike(y.unflatten(0, (x.shape[0], self.T)).transpose(0, 1))


@pytest.mark.parametrize("steps", [T, N])  # as many steps as samples, too
@pytest.mark.parametrize("how", ["seq_to_ann_forward", "T-major", "N-major"])
def test_steps_folded_into_the_batch(agrees, how, steps):
    net, x = seeded(lambda: Folds(how, steps)), numbers(N, 2, 4, 5)
    conv = over_time(net.conv, ramp(x, steps))
    norm = over_time(net.norm, conv)
    agrees(net, x, {"conv": conv, "norm": norm, "spike": lif(norm)})


@pytest.mark.parametrize("steps", [T, N])
@pytest.mark.parametrize("layout", ["TNCHW", "NTCHW"])
def test_multi_step_modules_on_frames(agrees, layout, steps):
    net = seeded(
        lambda: nn.Sequential(
            layer.Conv2d(2, 3, 3, step_mode="m"),
            neuron.LIFNode(step_mode="m"),
            layer.Flatten(step_mode="m"),
            layer.Linear(18, 7, step_mode="m"),
        )
    )
    frames = 3 * numbers(steps, N, 2, 4, 5)
    conv = over_time(lambda x: nn.functional.conv2d(x, net[0].weight, net[0].bias), frames)
    linear = lif(conv).flatten(2) @ net[3].weight.T + net[3].bias
    by_hand = {"0": conv, "1": lif(conv), "3": linear}
    agrees(net, frames if layout == "TNCHW" else frames.transpose(0, 1), by_hand, layout=layout)


@pytest.mark.parametrize("steps", [T, N])
def test_members_of_containers_over_time(agrees, steps):
    net = seeded(
        lambda: nn.Sequential(
            layer.SeqToANNContainer(nn.Flatten(), nn.Linear(40, 8)),
            neuron.LIFNode(step_mode="m"),
            layer.MultiStepContainer(nn.Sequential(nn.Linear(8, 6), nn.Tanh())),
            layer.StepModeContainer(True, "m", nn.Linear(6, 5)),
        )
    )
    frames = 3 * numbers(steps, N, 2, 4, 5)
    first = frames.flatten(2) @ net[0][1].weight.T + net[0][1].bias
    second = lif(first) @ net[2][0][0].weight.T + net[2][0][0].bias
    last = second.tanh() @ net[3][0].weight.T + net[3][0].bias
    by_hand = {"0.1": first, "1": lif(first), "2.0.0": second, "2.0.1": second.tanh(), "2": second.tanh(), "3.0": last}
    agrees(net, frames, by_hand, layout="TNCHW")


def single_step():
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(40, 8), neuron.LIFNode(), nn.Linear(8, 6), nn.Tanh()))
    nn.init.normal_(net[1].weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return net


def test_a_single_step_network_that_the_caller_loops_over_time(agrees):
    net, x = single_step(), numbers(N, 2, 4, 5)
    linear = ramp(x).flatten(2) @ net[1].weight.T + net[1].bias
    last = lif(linear) @ net[3].weight.T + net[3].bias
    by_hand = {"1": linear, "2": lif(linear), "3": last, "4": last.tanh()}
    agrees(net, x, by_hand, forward=lambda m, batch: [m(batch * (t + 1)) for t in range(T)], T=T)


def test_a_single_step_network_is_called_once_for_each_step(agrees):
    net, x = single_step(), numbers(N, 2, 4, 5)
    linear = x.repeat(T, 1, 1, 1, 1).flatten(2) @ net[1].weight.T + net[1].bias
    agrees(net, x, {"1": linear, "2": lif(linear)}, T=T)


class Loop(nn.Module):
    """Time is a loop inside forward; one linear layer and one ReLU are used twice in every step."""

    def __init__(self, attribute):
        super().__init__()
        setattr(self, attribute, T)
        self.attribute = attribute
        self.fc, self.relu, self.spike = nn.Linear(40, 40), nn.ReLU(), neuron.LIFNode()

    def forward(self, x):
        out = []
        for t in range(getattr(self, self.attribute)):
            y = self.relu(self.fc(x.flatten(1) * (t + 1)))
            out.append(self.spike(3 * self.relu(self.fc(y))))
        return torch.stack(out)


@pytest.mark.parametrize("attribute", ["T", "length"])  # steps that can be varied, and that cannot
def test_a_module_used_twice_in_every_turn_of_a_loop_over_time(agrees, attribute):
    net, x = seeded(lambda: Loop(attribute)), numbers(N, 2, 4, 5)
    a = ramp(x).flatten(2) @ net.fc.weight.T + net.fc.bias
    b = a.relu() @ net.fc.weight.T + net.fc.bias
    by_hand = {"fc#0": a, "relu#0": a.relu(), "fc#1": b, "relu#1": b.relu(), "spike": lif(3 * b.relu())}
    agrees(net, x, by_hand, layers="*")


@pytest.mark.parametrize("attribute", ["T", "length"])  # steps that can be varied, and that cannot
def test_as_many_steps_as_samples_in_a_loop_inside_forward(agrees, attribute):
    net, x = seeded(lambda: Loop(attribute)), numbers(N, 2, 4, 5)
    setattr(net, attribute, N)
    a = ramp(x, N).flatten(2) @ net.fc.weight.T + net.fc.bias
    b = a.relu() @ net.fc.weight.T + net.fc.bias
    by_hand = {"fc#0": a, "relu#0": a.relu(), "fc#1": b, "relu#1": b.relu(), "spike": lif(3 * b.relu())}
    agrees(net, x, by_hand, layers="*")


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_spiking_network_over_several_batches_starts_each_of_them_at_rest(mode, trace_hsic):
    net = seeded(lambda: nn.Sequential(layer.Linear(6, 9), neuron.LIFNode(), layer.Linear(9, 8), neuron.LIFNode()))
    functional.set_step_mode(net, mode)
    for linear in (net[0], net[2]):
        nn.init.normal_(linear.weight, std=1.5, generator=torch.Generator().manual_seed(1))
    net, parts = net.double(), numbers(30, 6).double().split([10, 12, 8])
    names, sums = ["0", "1", "2", "3"], np.zeros((4, 4))
    for x in parts:
        first = x.repeat(T, 1, 1) @ net[0].weight.T + net[0].bias
        second = lif(first) @ net[2].weight.T + net[2].bias
        seen = [X.detach().transpose(0, 1).flatten(1).numpy() for X in (first, lif(first), second, lif(second))]
        K = [X @ X.T for X in seen]
        sums += len(x) * np.array([[trace_hsic(a, b) for b in K] for a in K])
    expected = sums / np.sqrt(np.outer(np.diag(sums), np.diag(sums)))
    found = compare(net, loader=parts, T=T, layers=names, progress=False)
    assert np.abs(found.matrix().to_numpy() - expected).max() <= 1e-9


def test_a_neuron_used_twice_in_a_step_makes_no_steps_of_its_own(agrees):
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.spike = nn.Linear(40, 6), nn.Linear(6, 6), neuron.LIFNode()

        def forward(self, x):
            return self.spike(5 * self.b(self.spike(3 * self.a(x.flatten(1)))))

    net, x = seeded(Reused), numbers(N, 2, 4, 5)
    a = x.flatten(1) @ net.a.weight.T + net.a.bias
    v, values = torch.zeros(N, 6), {"a": [], "spike#0": [], "b": [], "spike#1": []}
    for _ in range(2):  # as many steps as uses
        v = v + (3 * a - v) / 2.0
        first = (v >= 1).float()
        v = v * (1 - first)
        b = first @ net.b.weight.T + net.b.bias
        v = v + (5 * b - v) / 2.0
        second = (v >= 1).float()
        v = v * (1 - second)
        for name, value in zip(values, (a, first, b, second), strict=True):
            values[name].append(value)
    agrees(net, x, {name: torch.stack(steps) for name, steps in values.items()}, layers="*", T=2)


@pytest.mark.parametrize("by_caller", [True, False])
def test_a_plain_network_sees_one_frame_after_the_other(agrees, by_caller):
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4)))
    frames = numbers(T, N, 2, 4, 5)
    conv = over_time(lambda x: nn.functional.conv2d(x, net[0].weight, net[0].bias), frames)
    by_hand = {"0": conv, "1": conv.relu(), "3": conv.relu().flatten(2) @ net[3].weight.T + net[3].bias}
    own = {"forward": lambda m, batch: [m(frame) for frame in batch]} if by_caller else {}
    agrees(net, frames, by_hand, layout="TNCHW", **own)


def test_a_neuron_of_one_s_own_that_the_caller_loops_over_time(agrees):
    class Mine(nn.Module):
        def reset(self):
            self.v = 0.0

        def forward(self, x):
            self.v = self.v + x
            return torch.tanh(self.v)

    net, x = seeded(lambda: nn.Sequential(nn.Linear(6, 5), Mine())), numbers(N, 6)
    first = ramp(x) @ net[0].weight.T + net[0].bias
    agrees(
        net,
        x,
        {"0": first, "1": first.cumsum(0).tanh()},
        forward=lambda m, batch: [m(batch * (t + 1)) for t in range(T)],
    )


class Twice(nn.Module):
    """A plain network that uses a layer and an activation twice, the activation in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc, self.relu = nn.Conv2d(2, 3, 3), nn.Linear(18, 18), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.fc(self.stem(x).flatten(1)))
        return self.relu(self.fc(y))


def test_a_plain_network_that_uses_a_layer_twice(agrees):
    net, x = seeded(Twice), numbers(N, 2, 4, 5)
    stem = nn.functional.conv2d(x, net.stem.weight, net.stem.bias)
    a = stem.flatten(1) @ net.fc.weight.T + net.fc.bias
    b = a.relu() @ net.fc.weight.T + net.fc.bias
    by_hand = {"stem": stem, "fc#0": a, "relu#0": a.relu(), "fc#1": b, "relu#1": b.relu()}
    agrees(net, x, {name: X[None] for name, X in by_hand.items()}, layers="*")


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_linear_recurrent_container(agrees, mode):
    net = seeded(
        lambda: nn.Sequential(
            layer.Linear(6, 4, step_mode=mode),
            layer.LinearRecurrentContainer(nn.Sequential(nn.Linear(4, 5), neuron.LIFNode()), 4, 5, step_mode=mode),
        )
    )
    rc, (fc, _) = net[1].rc, net[1].sub_module
    x = 5 * numbers(N, 6)
    first = x @ net[0].weight.T + net[0].bias
    v = y = torch.zeros(N, 5)
    steps = {"0": [], "1.rc": [], "1.sub_module.0": [], "1.sub_module.1": []}
    for _ in range(T):
        joined = torch.cat([first, y], 1) @ rc.weight.T + rc.bias
        inner = joined @ fc.weight.T + fc.bias
        v = v + (inner - v) / 2.0
        y = (v >= 1).float()
        v = v * (1 - y)
        for name, value in zip(steps, (first, joined, inner, y), strict=True):
            steps[name].append(value)
    agrees(net, x, {name: torch.stack(values) for name, values in steps.items()}, T=T)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_an_element_wise_recurrent_container(agrees, mode):
    net = seeded(
        lambda: nn.Sequential(
            layer.Linear(6, 4, step_mode=mode),
            layer.ElementWiseRecurrentContainer(neuron.LIFNode(), lambda y, x: x - 0.5 * y, step_mode=mode),
            layer.Linear(4, 3, step_mode=mode),
        )
    )
    x = 5 * numbers(N, 6)
    first = x @ net[0].weight.T + net[0].bias
    v = y = torch.zeros(N, 4)
    spikes = []
    for _ in range(T):
        v = v + (first - 0.5 * y - v) / 2.0
        y = (v >= 1).float()
        v = v * (1 - y)
        spikes.append(y)
    spikes = torch.stack(spikes)
    last = spikes @ net[2].weight.T + net[2].bias
    by_hand = {"0": first.expand(T, N, 4), "1.sub_module": spikes, "1": spikes, "2": last}
    agrees(net, x, by_hand, T=T)


def test_spiking_self_attention(agrees):
    C, L, heads = 8, 24, 2
    net = seeded(lambda: layer.SpikingSelfAttention(C, heads))
    (conv, norm), (proj, proj_norm) = net.qkv_conv_bn, net.proj_conv_bn
    for bn in (norm, proj_norm):
        nn.init.constant_(bn.weight, 8.0)
        nn.init.normal_(bn.bias, mean=1.0, generator=torch.Generator().manual_seed(2))
    frames = (numbers(T, N, C, L) > 0).float()

    def normed(bn, x):  # untrained statistics: mean 0, variance 1
        return x / (1 + bn.eps) ** 0.5 * bn.weight[:, None] + bn.bias[:, None]

    y = torch.einsum("oc,tncl->tnol", conv.weight[..., 0], frames)
    qkv = lif(normed(norm, y))
    q, k, v = qkv.unflatten(2, (3, heads, C // heads)).unbind(2)  # [T, N, heads, C / heads, L]
    attention = torch.einsum("tnhcl,tnhdl,tnhdm->tnhcm", v, k, q) * 0.125
    attended = lif(attention * 2)  # its threshold is 0.5; with v and x twice as large it is 1
    projected = torch.einsum("oc,tncl->tnol", proj.weight[..., 0], attended.flatten(2, 3))
    by_hand = {
        "qkv_conv_bn.0": y,
        "qkv_conv_bn.1": normed(norm, y),
        "qkv_lif": qkv,
        "attn_lif": attended,
        "proj_conv_bn.0": projected,
        "proj_lif": lif(normed(proj_norm, projected)),
    }
    agrees(net, frames, by_hand, layout="TNCHW")


class Windows(nn.Module):
    """Four windows of every image on the axis of the samples, before or behind them, in a network of time or not."""

    def __init__(self, samples_first, steps):
        super().__init__()
        self.samples_first, self.T = samples_first, steps
        self.proj = nn.Linear(10, 3)
        if steps:
            self.spike = neuron.LIFNode(step_mode="m")

    def forward(self, x):
        windows = x.flatten(1).unflatten(1, (4, 10))
        if self.T:
            windows = ramp(windows, self.T)
            y = self.proj(windows.flatten(0, 2) if self.samples_first else windows.transpose(1, 2).flatten(0, 2))
            order = (self.T, len(x), 4) if self.samples_first else (self.T, 4, len(x))
            return self.spike(y.unflatten(0, order).flatten(2) if self.samples_first else y.unflatten(0, order))
        return self.proj(windows.flatten(0, 1) if self.samples_first else windows.transpose(0, 1).flatten(0, 1))


@pytest.mark.parametrize("steps", [0, T, 4])  # as many steps as windows, too
@pytest.mark.parametrize("samples_first", [True, False])
def test_windows_folded_into_the_batch_are_features(agrees, samples_first, steps):
    net, x = seeded(lambda: Windows(samples_first, steps)), numbers(N, 2, 4, 5)
    windows = x.flatten(1).unflatten(1, (4, 10))
    agrees(net, x, {"proj": (ramp(windows, steps) if steps else windows[None]) @ net.proj.weight.T + net.proj.bias})


@pytest.mark.parametrize("samples_first", [True, False])
@pytest.mark.parametrize("steps", [T, 4])
def test_windows_folded_into_the_samples_beside_an_axis_of_time(agrees, steps, samples_first):
    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.spike = steps, neuron.LIFNode(step_mode="m")
            self.proj = layer.Linear(10, 3, step_mode="m")

        def forward(self, x):
            windows = ramp(x.flatten(1).unflatten(1, (4, 10)), self.T)
            return self.spike(self.proj((windows if samples_first else windows.transpose(1, 2)).flatten(1, 2)))

    net, x = seeded(Apart), numbers(N, 2, 4, 5)
    proj = ramp(x.flatten(1).unflatten(1, (4, 10)), steps) @ net.proj.weight.T + net.proj.bias
    agrees(net, x, {"proj": proj, "spike": lif(proj)})


class SequenceFirst(nn.Module):
    """A transformer on [L, N, E], its tokens the rows of an image."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(10, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        tokens = x.flatten(1).unflatten(1, (4, 10)).transpose(0, 1)
        return self.head(self.encoder(self.embed(tokens)).mean(0))


@pytest.mark.parametrize("n", [N, 4])  # as many samples as tokens, too
def test_a_sequence_first_transformer(agrees, n):
    net, x = seeded(SequenceFirst), numbers(n, 2, 4, 5)
    encoder, attention = net.encoder, net.encoder.self_attn
    embedded = x.flatten(1).unflatten(1, (4, 10)) @ net.embed.weight.T + net.embed.bias  # [N, L, E]
    q, k, v = (embedded @ attention.in_proj_weight.T + attention.in_proj_bias).unflatten(2, (3, 2, 4)).unbind(2)
    weights = (torch.einsum("nlhd,nmhd->nhlm", q, k) / 2).softmax(-1)
    attended = torch.einsum("nhlm,nmhd->nlhd", weights, v).flatten(2)
    attended = attended @ attention.out_proj.weight.T + attention.out_proj.bias
    normed = nn.functional.layer_norm(embedded + attended, (8,))
    hidden = normed @ encoder.linear1.weight.T + encoder.linear1.bias
    out = hidden.relu() @ encoder.linear2.weight.T + encoder.linear2.bias
    out_normed = nn.functional.layer_norm(normed + out, (8,))
    by_hand = {
        "embed": embedded,
        "encoder.norm1": normed,
        "encoder.linear1": hidden,
        "encoder.linear2": out,
        "encoder": out_normed,
        "head": out_normed.mean(1) @ net.head.weight.T + net.head.bias,
    }
    agrees(net, x, {name: X[None] for name, X in by_hand.items()})


class Stem(nn.Module):
    """A stem computed once, before time begins; its output lasts for every step."""

    def __init__(self, steps):
        super().__init__()
        self.T = steps
        self.stem, self.spike = nn.Linear(40, 6), neuron.LIFNode(step_mode="m")

    def forward(self, x):
        return self.spike(ramp(3 * self.stem(x.flatten(1)), self.T))


@pytest.mark.parametrize("steps", [T, N])
def test_a_layer_that_is_computed_once_counts_at_every_step(agrees, steps):
    net, x = seeded(lambda: Stem(steps)), numbers(N, 2, 4, 5)
    stem = (x.flatten(1) @ net.stem.weight.T + net.stem.bias)[None]
    agrees(net, x, {"stem": stem, "spike": lif(ramp(3 * stem[0], steps))})


def test_steps_last(agrees):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.T = T
            self.fold = layer.TLastSeqToANNContainer(nn.Conv2d(2, 3, 3))
            self.each = layer.TLastMultiStepContainer(nn.Conv2d(3, 2, 1))
            self.spike = neuron.LIFNode(step_mode="m")

        def forward(self, x):
            return self.spike(self.each(self.fold(ramp(x, self.T).movedim(0, -1))).movedim(-1, 0))

    net, x = seeded(Last), numbers(N, 2, 4, 5)
    first = over_time(net.fold[0], ramp(x))
    second = over_time(net.each[0], first)
    by_hand = {"fold.0": first, "fold": first, "each.0": second, "each": second, "spike": lif(second)}
    agrees(net, x, by_hand)


def test_a_spiking_network_against_a_plain_one(trace_matrix):
    snn, ann, x = seeded(lambda: Folds("N-major", T)), seeded(Twice), numbers(N, 2, 4, 5)
    result = compare(snn, ann, [x], layers={"x": ["spike", "conv"], "y": ["relu", "stem"]}, progress=False)
    with torch.no_grad():
        conv = over_time(snn.conv, ramp(x))
        stem = ann.stem(x)
        a = ann.fc(stem.flatten(1)).relu()
        ys = [X.flatten(1).numpy() for X in (a, ann.fc(a).relu(), stem)]
        xs = [X.flatten(2) for X in (lif(over_time(snn.norm, conv)), conv)]
    assert list(result.layers_x) == ["spike", "conv"]
    assert list(result.layers_y) == ["relu#0", "relu#1", "stem"]
    expected = trace_matrix([X.transpose(0, 1).flatten(1).numpy() for X in xs], ys)
    assert np.abs(result.matrix().to_numpy() - expected).max() < 1e-6
    for step in range(T):
        expected = trace_matrix([X[step].numpy() for X in xs], ys)
        assert np.abs(result.matrix(step + 1).to_numpy() - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("layer2.0.norm", ["layer2.0.norm"]),
        (["layer2.*.fc", "stem"], ["layer2.0.fc", "layer2.1.fc", "stem"]),
        (["*.1.*", "layer1.?.fc"], ["layer1.1.fc", "layer1.1.norm", "layer2.1.fc", "layer2.1.norm", "layer1.0.fc"]),
        ([nn.LayerNorm, nn.Linear], None),
        (lambda name, module: isinstance(module, nn.Linear) and "2" in name, ["layer2.0.fc", "layer2.1.fc"]),
    ],
)
def test_layers_keep_the_order_asked_for_and_their_own_values(agrees, layers, expected):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(40, 40), nn.LayerNorm(40)

        def forward(self, x):
            return self.norm(self.fc(x)) + x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer2 = nn.Sequential(Block(), Block())  # made in another order than called
            self.layer1 = nn.Sequential(Block(), Block())
            self.stem = nn.Linear(40, 40)

        def forward(self, x):
            return self.layer2(self.layer1(self.stem(x.flatten(1))))

    net, x = seeded(Net), numbers(N, 2, 4, 5)
    with torch.no_grad():
        y = net.stem(x.flatten(1))
        values = {"stem": y}
        for name in ("layer1.0", "layer1.1", "layer2.0", "layer2.1"):
            block = net.get_submodule(name)
            values[f"{name}.fc"] = block.fc(y)
            values[f"{name}.norm"] = nn.functional.layer_norm(values[f"{name}.fc"], (40,))
            y = values[f"{name}.norm"] + y
    if expected is None:  # every norm, then every linear layer, each in the order of the calls
        expected = [k for k in values if "norm" in k] + [k for k in values if "norm" not in k]
    agrees(net, x, {name: values[name][None] for name in expected}, layers=layers)


def test_tokens_by_number_have_samples_and_shared_positions_have_none(agrees):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.position, self.head = nn.Embedding(20, 6), nn.Embedding(5, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head((self.token(x) + self.position(torch.arange(5))).mean(1))

    net, x = seeded(Text), torch.randint(20, (N, 5), generator=torch.Generator().manual_seed(0))
    reason = r"module 'position' puts out \(5, 6\) for 2 samples and \(5, 6\) for 3"
    agrees(net, x, {"token": net.token.weight[x][None]})
    with pytest.warns(UserWarning, match=rf"network x \(Text\): left out .*{reason}"):
        agrees(net, x, {"token": net.token.weight[x][None]}, layers=False)
    with pytest.raises(ValueError, match=rf"network x \(Text\): {reason}"):
        compare(net, loader=[x], layers=["token", "position"], progress=False)


def test_a_loop_over_samples_is_an_error_that_names_the_layer():
    class PerSample(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Linear(40, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(torch.stack([self.inner(one.flatten()) for one in x]))

    net = PerSample().eval()
    with pytest.raises(ValueError, match="module 'inner' was called 2 times on 2 samples and 3 times on 3"):
        compare(net, loader=[numbers(N, 2, 4, 5)], progress=False)
    assert not any(module._forward_hooks for module in net.modules())


def test_modules_that_put_out_tuples_and_dicts(agrees):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 6)

        def forward(self, x):
            return {"logits": self.fc(x), "logarithms": self.fc(x).log_softmax(-1)}

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.heads, self.last = nn.GRU(10, 8, batch_first=True), Heads(), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(self.heads(self.rnn(x.flatten(1).unflatten(1, (4, 10)))[0])["logits"])

    net, x = seeded(Sequence), numbers(N, 2, 4, 5)
    rnn, h, states = net.rnn, torch.zeros(N, 8), []
    for token in x.flatten(1).unflatten(1, (4, 10)).unbind(1):
        reset, update, new = (token @ rnn.weight_ih_l0.T + rnn.bias_ih_l0).chunk(3, 1)
        from_reset, from_update, from_new = (h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0).chunk(3, 1)
        z = (update + from_update).sigmoid()
        h = (1 - z) * (new + (reset + from_reset).sigmoid() * from_new).tanh() + z * h
        states.append(h)
    states = torch.stack(states, 1)
    logarithms = (states @ net.heads.fc.weight.T + net.heads.fc.bias).log_softmax(-1)
    by_hand = {"heads": logarithms[None], "rnn": states[None]}
    agrees(net, x, by_hand, select={"rnn": 0, "heads": "logarithms"})
    agrees(net, x, by_hand, select=lambda name, out: out[0] if name == "rnn" else out["logarithms"])


@pytest.mark.parametrize(
    ("error", "at", "raised"),  # in a probe of 2, of 3, of 2 on a step more; in the pass on the first batch, the second
    [(KeyboardInterrupt, at, KeyboardInterrupt) for at in (1, 2, 3, 4, 5)]
    + [(ZeroDivisionError, 1, ValueError), (ZeroDivisionError, 4, ZeroDivisionError), (OSError, 5, RuntimeError)],
)
@pytest.mark.parametrize("observe", ["output", "membrane"])
def test_whatever_stops_a_comparison_the_network_is_as_before(error, at, raised, observe):
    calls: Counter[str] = Counter()  # an attribute would be put back

    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.norm, self.spike = T, nn.BatchNorm1d(40), neuron.LIFNode(step_mode="m")
            self.at = 0

        def forward(self, x):
            spikes = self.spike(ramp(self.norm(x.flatten(1) + torch.rand(())), self.T))
            calls["all"] += 1
            if calls["all"] == self.at:
                raise error
            return spikes

    net, x = Fails().train(), numbers(2 * N, 2, 4, 5)
    net(x)
    calls["all"], net.at = 0, at
    state, buffers = net.spike.v, {k: v.clone() for k, v in net.state_dict().items()}
    kept, random = state.clone(), torch.random.get_rng_state()
    with pytest.raises(raised):
        compare(net, loader=x.split(N), observe=observe, progress=False, allow_train=True)
    assert calls["all"] == at or raised is ValueError  # a probe that fails is tried again, on the whole batch too
    assert net.T == T
    assert net.spike.v is state
    assert torch.equal(state, kept)
    assert not net.spike.store_v_seq
    assert net.spike.v_seq is None
    assert all(module.training for module in net.modules())
    assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(("at", "raised"), [(2, KeyboardInterrupt), (4, KeyboardInterrupt), (5, RuntimeError)])
@pytest.mark.parametrize("observe", ["output", "membrane"])
def test_whatever_stops_the_second_of_two_networks_both_are_as_before(at, raised, observe):
    calls: Counter[nn.Module] = Counter()

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.norm, self.spike = T, nn.BatchNorm1d(40), neuron.LIFNode(step_mode="m")
            self.at = 0

        def forward(self, x):
            spikes = self.spike(ramp(self.norm(x.flatten(1) + torch.rand(())), self.T))
            calls[self] += 1
            if calls[self] == self.at:
                raise KeyboardInterrupt if self.at < 5 else OSError
            return spikes

    pair, x = [Counts().train() for _ in range(2)], numbers(2 * N, 2, 4, 5)
    for net in pair:
        net(x)
        calls[net] = 0
    pair[1].at = at
    states, random = [net.spike.v for net in pair], torch.random.get_rng_state()
    kept = [state.clone() for state in states]
    buffers = [{k: v.clone() for k, v in net.state_dict().items()} for net in pair]
    with pytest.raises(raised):
        compare(*pair, x.split(N), observe=observe, progress=False, allow_train=True)
    assert calls[pair[0]] >= 3  # the first had been run, and changed, by then
    assert calls[pair[1]] == at
    for net, state, values, saved in zip(pair, states, kept, buffers, strict=True):
        assert net.spike.v is state
        assert torch.equal(state, values)
        assert not net.spike.store_v_seq
        assert all(module.training for module in net.modules())
        assert all(torch.equal(v, saved[k]) for k, v in net.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.equal(torch.random.get_rng_state(), random)
