"""Where samples and steps lie: every way in which networks lay them out, by value."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import record
from sj_cka.recording import plan_observation

T, N = 3, 6


def images(n=N, seed=0):
    return torch.randn(n, 2, 4, 5, generator=torch.Generator().manual_seed(seed))


def taps(model, batch=None, **options):
    found = plan_observation(model.eval(), images() if batch is None else batch, **options)
    return {tap.layer: tap for tap in found.taps}, found


class Folded(nn.Module):
    """Folds T and N into one axis, T-major or N-major, for a plain convolution."""

    def __init__(self, t_major):
        super().__init__()
        self.T, self.t_major = T, t_major
        self.conv = nn.Conv2d(2, 3, 3, bias=True)
        self.spike = neuron.IFNode(step_mode="m")

    def forward(self, x):
        drive = torch.arange(1, self.T + 1).float().reshape(-1, 1, 1, 1, 1)
        x = x.unsqueeze(0) * drive  # every step differs
        if self.t_major:
            y = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        else:
            y = self.conv(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (x.shape[1], x.shape[0])).transpose(0, 1)
        return self.spike(y)


@pytest.mark.parametrize("t_major", [True, False])
@pytest.mark.parametrize("n", [N, T])  # T equal to N as well
def test_a_fold_is_undone_in_the_order_in_which_it_was_made(t_major, n):
    net, x = Folded(t_major).eval(), images(n)
    with record(net) as features, torch.no_grad():
        net(x)
    expected = torch.stack([net.conv(x * t) for t in range(1, T + 1)])
    assert torch.allclose(features["conv"], expected, atol=1e-5)


class Windows(nn.Module):
    """Folds windows into the batch, before or behind the samples."""

    def __init__(self, samples_first):
        super().__init__()
        self.samples_first = samples_first
        self.proj = nn.Linear(10, 3)

    def forward(self, x):
        windows = x.flatten(1).unflatten(1, (4, 10))  # [N, 4, 10]
        if self.samples_first:
            return self.proj(windows.flatten(0, 1)).unflatten(0, (-1, 4)).flatten(1)
        return self.proj(windows.transpose(0, 1).flatten(0, 1)).unflatten(0, (4, -1)).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("samples_first", [True, False])
def test_windows_folded_into_the_batch_are_features(samples_first):
    net, x = nn.Sequential(Windows(samples_first), nn.Linear(12, 2)).eval(), images()
    with record(net, "0.proj") as features, torch.no_grad():
        net(x)
    expected = net[0].proj(x.flatten(1).unflatten(1, (4, 10)))
    assert features["0.proj"].shape[:2] == (1, N)
    assert torch.allclose(
        features["0.proj"][0].flatten(1).sort(1).values, expected.flatten(1).sort(1).values, atol=1e-6
    )


class WindowsInTime(nn.Module):
    """Folds T, N and windows, in that order, into one axis."""

    def __init__(self):
        super().__init__()
        self.T = T
        self.proj = nn.Linear(10, 3)
        self.spike = neuron.IFNode(step_mode="m")

    def forward(self, x):
        x = torch.stack([x * (t + 1) for t in range(self.T)])
        windows = x.flatten(2).unflatten(2, (4, 10))
        return self.spike(self.proj(windows.flatten(0, 2)).unflatten(0, windows.shape[:3]))


def test_steps_samples_and_windows_in_one_axis_are_told_apart():
    net, x = WindowsInTime().eval(), images()
    with record(net, "proj") as features, torch.no_grad():
        net(x)
    expected = torch.stack([net.proj((x * (t + 1)).flatten(1).unflatten(1, (4, 10))) for t in range(T)])
    assert features["proj"].shape[:2] == (T, N)
    assert torch.allclose(features["proj"].flatten(2), expected.flatten(2), atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)])
def test_as_many_windows_as_steps_are_told_apart_in_every_order(order):
    class Ordered(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.proj, self.spike = 4, nn.Linear(10, 3), neuron.IFNode(step_mode="m")

        def forward(self, x):
            steps = torch.stack([x * (t + 1) for t in range(self.T)])
            windows = steps.flatten(2).unflatten(2, (4, 10)).permute(*order, 3)  # of [T, N, windows, 10]
            self.proj(windows.flatten(0, 2))
            return self.spike(steps)

    net, x = Ordered().eval(), images()
    with record(net, "proj") as features, torch.no_grad():
        net(x)
    expected = torch.stack([net.proj((x * (t + 1)).flatten(1).unflatten(1, (4, 10))) for t in range(4)])
    assert torch.allclose(features["proj"], expected, atol=1e-5)


class SharedReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(40, 7), nn.Linear(7, 5), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.b(self.relu(self.a(x.flatten(1)))))


def test_a_module_used_twice_is_two_layers_in_the_order_of_execution():
    net, x = SharedReLU().eval(), images()
    with record(net, [nn.Linear, nn.ReLU]) as by_type, torch.no_grad():
        net(x)
    with record(net) as features, torch.no_grad():
        net(x)
    assert list(features) == ["a", "relu#0", "relu#1"]  # b is the last Linear
    assert list(by_type) == ["a", "b", "relu#0", "relu#1"]
    assert torch.equal(features["relu#1"][0], torch.relu(net.b(torch.relu(net.a(x.flatten(1))))))


def test_an_in_place_relu_does_not_change_what_was_seen_before_it():
    net, x = SharedReLU().eval(), images()
    with record(net) as features, torch.no_grad():
        net(x)
    assert torch.equal(features["a"][0], net.a(x.flatten(1)))
    assert features["a"].min() < 0


class Looped(nn.Module):
    """Single-step layers, looped over time inside forward; one of them used twice a step."""

    def __init__(self, steps=T):
        super().__init__()
        self.steps = steps  # not called T: the number of steps cannot be varied
        self.conv, self.mix, self.spike = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1), neuron.LIFNode()

    def forward(self, x):
        return torch.stack([self.mix(self.spike(self.mix(self.conv(x * (t + 1))))) for t in range(self.steps)])


def test_calls_are_steps_and_the_uses_within_a_step_are_layers():
    net, x = Looped().eval(), images()
    with record(net, ["conv", "mix"]) as features, torch.no_grad():
        net(x)
    first = torch.stack([net.mix(net.conv(x * (t + 1))) for t in range(T)])
    assert {k: v.shape[:2] for k, v in features.items()} == {"conv": (T, N), "mix#0": (T, N), "mix#1": (T, N)}
    assert torch.allclose(features["mix#0"], first, atol=1e-6)
    functional.reset_net(net)
    spikes = torch.stack([net.mix(net.spike(v)) for v in first])
    assert torch.allclose(features["mix#1"], spikes, atol=1e-6)


class Shared(nn.Module):
    """One linear layer, used twice by containers that each run all steps first."""

    def __init__(self):
        super().__init__()
        self.over_time = layer.MultiStepContainer(nn.Linear(40, 40))
        self.spike = neuron.LIFNode(step_mode="m")

    def forward(self, x):
        drive = torch.arange(1, T + 1).float().reshape(-1, 1, 1)
        return self.spike(self.over_time(self.over_time(x.flatten(1).unsqueeze(0) * drive)))


def test_uses_by_a_container_over_time_run_use_by_use_not_step_by_step():
    net, x = Shared().eval(), images()
    with record(net, "over_time.0") as features, torch.no_grad():
        net(x)
    linear = net.over_time[0]
    first = torch.stack([linear(x.flatten(1) * t) for t in range(1, T + 1)])
    assert list(features) == ["over_time.0#0", "over_time.0#1"]
    assert torch.allclose(features["over_time.0#0"], first, atol=1e-5)
    assert torch.allclose(features["over_time.0#1"], linear(first), atol=1e-5)


def test_a_user_s_own_loop_over_a_single_step_network_gives_one_step_a_call():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(40, 7), neuron.LIFNode(), nn.Linear(7, 2)).eval(), images()
    with record(net) as features, torch.no_grad():
        for _ in range(T):
            net(x)
    assert {k: v.shape[:2] for k, v in features.items()} == {"1": (T, N), "2": (T, N)}
    functional.reset_net(net)
    expected = torch.stack([net[2](net[1](x.flatten(1))) for _ in range(T)])
    assert torch.equal(features["2"], expected)


def test_several_batches_of_a_multi_step_network_are_joined_along_samples():
    net = nn.Sequential(layer.Flatten(step_mode="m"), layer.Linear(40, 7, step_mode="m"), neuron.LIFNode(step_mode="m"))
    net.eval()
    with record(net, "1") as features, torch.no_grad():
        for seed in (0, 1):
            functional.reset_net(net)
            net(images(seed=seed).repeat(T, 1, 1, 1, 1))
    assert features["1"].shape == (T, 2 * N, 7)
    assert torch.allclose(features["1"][0, N:], net[1](images(seed=1).flatten(1)), atol=1e-6)


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(10, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.flatten(1).unflatten(1, (4, 10)).transpose(0, 1))).mean(0))


def test_in_a_sequence_first_transformer_tokens_are_features_not_steps():
    net, x = SequenceFirst().eval(), images()
    with record(net, "embed") as features, torch.no_grad():
        net(x)
    expected = net.embed(x.flatten(1).unflatten(1, (4, 10)))
    assert features["embed"].shape[:2] == (1, N)
    assert torch.allclose(features["embed"][0].flatten(1), expected.flatten(1), atol=1e-6)


def test_containers_put_out_what_their_members_do_and_count_once():
    net = nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)),
        neuron.LIFNode(step_mode="m"),
        layer.MultiStepContainer(nn.Sequential(nn.Flatten(), nn.Linear(18, 4))),
        neuron.LIFNode(step_mode="m"),
    ).eval()
    found, _ = taps(net, T=T)
    assert list(found) == ["0.0", "0.1", "1", "2.0.0", "3"]
    assert found["0.0"].factors == (("T", 1), ("N", 1))
    assert found["2.0.0"].time == "calls"


def test_a_layer_before_time_begins_is_static():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.stem, self.spike = T, nn.Conv2d(2, 3, 3), neuron.LIFNode(step_mode="m")

        def forward(self, x):
            return self.spike(self.stem(x).unsqueeze(0).expand(self.T, -1, -1, -1, -1))

    found, made = taps(Stem())
    assert (found["stem"].time, found["spike"].time, made.T) == ("static", "axis", T)


@pytest.mark.parametrize("bound", ["weights", "nothing"])
def test_an_attribute_called_t_that_does_not_set_the_steps_does_no_harm(bound):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.bound = T, bound
            self.weights = nn.Parameter(torch.ones(T))
            self.conv, self.spike = nn.Conv2d(2, 3, 3), neuron.IFNode(step_mode="m")

        def forward(self, x):
            steps = torch.stack([self.weights[t] * x for t in range(self.T if self.bound == "weights" else T)])
            return self.spike(self.conv(steps.flatten(0, 1)).unflatten(0, steps.shape[:2]))

    net = Odd().eval()
    found, made = taps(net)
    assert made.T == T
    assert net.T == T
    assert found["conv"].factors == (("T", 1), ("N", 1))
    assert found["spike"].time_axis == 0


def test_the_same_size_of_time_and_of_the_map_does_not_confuse():
    net = nn.Sequential(layer.Conv2d(2, 3, 3, padding=1, step_mode="m"), neuron.LIFNode(step_mode="m")).eval()
    x = torch.randn(4, 2, 4, 4)
    found, _ = taps(net, x, T=4)
    assert (found["0"].axis, found["0"].time_axis) == (1, 0)


def test_an_output_without_samples_is_an_error_that_names_the_module():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Identity(), nn.Linear(40, 2)

        def forward(self, x):
            self.inner(x.mean(0))
            return self.last(x.flatten(1))

    with pytest.raises(ValueError, match=r"module 'inner' puts out \(2, 4, 5\) for 2 samples and \(2, 4, 5\) for 3"):
        taps(Mean(), layers="inner")


def test_a_loop_over_samples_is_an_error_that_names_the_module():
    class PerSample(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(40, 2)

        def forward(self, x):
            return torch.stack([self.fc(one.flatten()) for one in x])

    with pytest.raises(ValueError, match="module 'fc' was called 2 times on 2 samples and 3 times on 3"):
        taps(PerSample(), layers="fc")


def test_an_output_that_is_no_tensor_is_an_error_that_names_the_module():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.LSTM(10, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.rnn(x.flatten(1).unflatten(1, (4, 10)))[0][:, -1])

    with pytest.raises(
        TypeError,
        match=r"module 'rnn' puts out a tuple of \(tensor .*, tuple of 2\), expected a tensor: select=\{'rnn': 0\}",
    ):
        taps(Recurrent(), layers="rnn")


def test_a_layer_called_more_often_for_some_data_is_an_error_and_the_hooks_are_gone():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(40, 40)

        def forward(self, x):
            y = self.a(x.flatten(1))
            return self.a(y) if x.shape[0] > 3 else y

    net = Moody().eval()
    with (
        pytest.raises(RuntimeError, match="layer 'a' was called 2 times on this batch, 1 times in the probes"),
        record(net, "a"),
    ):
        net(images())
    assert not net.a._forward_hooks
    assert not net._forward_hooks


class TwiceAStep(nn.Module):
    """A ReLU used twice in each of two steps: as many uses as steps."""

    def __init__(self):
        super().__init__()
        self.T = 2
        self.block = nn.ModuleDict({"a": nn.Linear(40, 9), "b": nn.Linear(9, 9)})
        self.relu, self.spike = nn.ReLU(), neuron.LIFNode()

    def forward(self, x):
        out = []
        for t in range(self.T):
            y = self.relu(self.block["a"](x.flatten(1) * (t + 1)))
            out.append(self.spike(self.relu(self.block["b"](y))))
        return torch.stack(out)


def test_as_many_uses_as_steps_are_not_taken_for_each_other():
    net, x = TwiceAStep().eval(), images()
    with record(net, "relu") as features, torch.no_grad():
        net(x)
    first = torch.stack([torch.relu(net.block["a"](x.flatten(1) * (t + 1))) for t in range(2)])
    assert torch.allclose(features["relu#0"], first, atol=1e-6)
    assert torch.allclose(features["relu#1"], torch.relu(net.block["b"](first)), atol=1e-6)


@pytest.mark.parametrize("t_slowest", [True, False])
def test_steps_folded_into_the_features_are_told_by_their_order(t_slowest):
    class IntoFeatures(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.spike, self.fold = T, neuron.LIFNode(step_mode="m"), nn.Flatten()

        def forward(self, x):
            spikes = self.spike(torch.stack([x * (t + 1) for t in range(self.T)]).flatten(2))  # [T, N, D]
            return self.fold(spikes.permute(1, 0, 2) if t_slowest else spikes.permute(1, 2, 0))

    net, x = IntoFeatures().eval(), images()
    with record(net, ["spike", "fold"]) as features, torch.no_grad():
        net(x)
    assert torch.equal(features["fold"], features["spike"])


def test_a_length_out_of_proportion_to_the_steps_is_an_error():
    class OverTime(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.spike, self.over = 4, neuron.LIFNode(step_mode="m"), nn.Conv1d(40, 3, 2)

        def forward(self, x):
            spikes = self.spike(torch.stack([x * (t + 1) for t in range(self.T)]).flatten(2))
            return self.over(spikes.permute(1, 2, 0))

    with pytest.raises(ValueError, match=r"module 'over' puts out \(2, 3, 3\) for 4 steps and \(2, 3, 4\) for 5"):
        taps(OverTime(), layers="over")


def test_black_images_first_do_not_hide_the_order_of_a_fold():
    net, x = Folded(t_major=False).eval(), images(9)
    x[:5] = 0
    with record(net, "conv") as features, torch.no_grad():
        net(x)
    expected = torch.stack([net.conv(x * t) for t in range(1, T + 1)])
    assert torch.allclose(features["conv"], expected, atol=1e-5)


def test_a_random_fold_is_refused_rather_than_guessed():
    class Noisy(Folded):
        def forward(self, x):
            return super().forward(torch.rand_like(x))

    with pytest.raises(ValueError, match=r"module 'conv' folds samples .*draws random numbers"):
        taps(Noisy(t_major=False), layers="conv")


def test_nan_in_the_probes_hides_nothing():
    net, x = Folded(t_major=False).eval(), images()
    x[0, 0, 0, 0] = float("nan")
    found, _ = taps(net, x)
    assert found["conv"].factors == (("N", 1), ("T", 1))


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize(
    "name", ["ParametricLIFNode", "KLIFNode", "QIFNode", "EIFNode", "IzhikevichNode", "GatedLIFNode", "PSN"]
)
def test_every_kind_of_neuron_is_a_layer(name, mode):
    options = {"T": T} if name in ("PSN", "GatedLIFNode") else {}
    if name == "GatedLIFNode":
        options["inplane"] = 3
    if name in ("PSN", "GatedLIFNode") and mode == "s":
        pytest.skip("bound to its number of steps: it has no single-step mode of use here")
    made = getattr(neuron, name)(**options)
    functional.set_step_mode(made, mode)
    net = nn.Sequential(layer.Conv2d(2, 3, 3, step_mode=mode), made, layer.Conv2d(3, 2, 1, step_mode=mode)).eval()
    found, seen = taps(net, T=T)
    assert list(found) == ["0", "1", "2"]
    assert seen.T == T
    assert found["1"].time == ("axis" if mode == "m" else "calls")


def test_a_neuron_called_by_keyword_still_makes_the_time_axis():
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.spike = nn.Linear(40, 7), neuron.LIFNode(step_mode="m")

        def forward(self, x):
            return self.spike(x_seq=self.fc(x.flatten(-3)))

    found, seen = taps(ByKeyword(), layers=["fc", "spike"], T=T)
    assert seen.T == T
    assert seen.drive.mode == "repeat"
    assert found["spike"].time_axis == 0
