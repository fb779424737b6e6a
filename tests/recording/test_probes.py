"""What the probes cost, what they fall back on, and what they say of a layer besides its axes."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import record
from sj_cka.recording import plan_observation

T, N = 3, 6


def images(n=N, seed=0):
    return torch.randn(n, 2, 4, 5, generator=torch.Generator().manual_seed(seed))


def taps(net, x, **options):
    return {tap.layer: tap for tap in plan_observation(net.eval(), x, **options).taps}


def multi_step():
    return nn.Sequential(
        layer.Conv2d(2, 3, 3, step_mode="m"), neuron.LIFNode(step_mode="m"), layer.Conv2d(3, 2, 1, step_mode="m")
    )


def single_step():
    return nn.Sequential(nn.Conv2d(2, 3, 3), neuron.LIFNode(), nn.Conv2d(3, 2, 1))


class Own(nn.Module):
    """Makes its own steps, T of them, each another multiple of the image."""

    def __init__(self, body, fold=None):
        super().__init__()
        self.T, self.body, self.fold, self.spike = T, body, fold, neuron.LIFNode(step_mode="m")

    def forward(self, x):
        x_seq = torch.stack([x * (t + 1) for t in range(self.T)])
        if self.fold == "N-major":
            y = self.body(x_seq.transpose(0, 1).flatten(0, 1)).unflatten(0, (len(x), self.T)).transpose(0, 1)
        else:
            y = self.body(x_seq.flatten(0, 1)).unflatten(0, x_seq.shape[:2])
        return self.spike(y)


@pytest.mark.parametrize(
    ("net", "options", "runs"),
    [
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), {}, 2),  # 2 and 3 samples
        (Own(nn.Conv2d(2, 3, 3)), {}, 3),  # and a step more
        (multi_step(), {"layout": "TNCHW"}, 3),
        (multi_step(), {"T": T}, 1 + 3),  # the batch as it is, which raises; then shown T times
        (single_step(), {"T": T}, 2 + 3 * T + 1),  # the batch as it is makes one step; then called T times
        (single_step(), {"layout": "TNCHW"}, 2 + 3 * T + 1),  # all frames at once raise, both ways; then one by one
    ],
)
def test_every_probe_is_run_once(net, options, runs):
    x = images() if "layout" not in options else torch.stack([images(seed=t) for t in range(T)])
    calls = []
    net.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
    plan_observation(net.eval(), x, **options)
    assert len(calls) == runs


@pytest.mark.parametrize("dark", [0.0, 0.3])
def test_the_order_of_a_fold_is_found_by_noise_where_all_images_are_alike(dark):
    x = torch.full((N, 2, 4, 5), dark)
    net = Own(nn.Conv2d(2, 3, 3), "N-major")
    assert taps(net, x)["body"].factors == (("N", 1), ("T", 1))
    assert taps(Own(nn.Conv2d(2, 3, 3), "T-major"), x)["body"].factors == (("T", 1), ("N", 1))


def test_the_order_of_a_fold_of_silent_layers_is_found_by_noise():
    class Quiet(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.spike, self.fold = T, neuron.IFNode(step_mode="m", v_threshold=2.0), nn.Identity()

        def forward(self, x):
            spikes = self.spike(torch.stack([x * (t + 1) for t in range(self.T)]))
            return self.fold(spikes.transpose(0, 1).flatten(0, 1) * 1)

    x = 0.001 * images()
    net = Quiet().eval()
    with torch.no_grad():
        assert not net(x).any()
    functional.reset_net(net)
    assert taps(net, x)["fold"].factors == (("N", 1), ("T", 1))


def test_where_noise_tells_nothing_either_the_other_layers_are_followed():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.live, self.dead = T, nn.Linear(40, 5), nn.Identity()
            self.spike = neuron.IFNode(step_mode="m")

        def forward(self, x):
            x_seq = torch.stack([x.flatten(1) * (t + 1) for t in range(self.T)])
            y = self.live(x_seq.transpose(0, 1).flatten(0, 1))
            self.dead(0 * y)
            return self.spike(y.unflatten(0, (len(x), self.T)).transpose(0, 1))

    found = taps(Dead(), images(), layers=["live", "dead"])
    assert found["live"].factors == found["dead"].factors == (("N", 1), ("T", 1))


def test_uses_in_one_loop_after_the_other_are_told_apart_by_noise():
    class Loops(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.fc, self.spike = T, nn.Linear(40, 40, bias=False), neuron.IFNode(step_mode="m")

        def forward(self, x):
            first = [self.fc(x.flatten(1) * (t + 1)) for t in range(self.T)]
            return self.spike(torch.stack([self.fc(y) for y in first]))

    black = taps(Loops(), torch.zeros(N, 2, 4, 5), layers="fc")
    assert {name: tap.step_first for name, tap in black.items()} == {"fc#0": False, "fc#1": False}


def test_a_network_that_stumbles_over_noise_is_planned_without():
    class Picky(Own):
        def forward(self, x):
            if x.abs().max() > 0.5:
                raise ArithmeticError
            return super().forward(x)

    assert taps(Picky(nn.Conv2d(2, 3, 3)), torch.zeros(N, 2, 4, 5))["body"].factors == (("T", 1), ("N", 1))


def test_noise_leaves_random_state_and_images_alone():
    net, x = Own(nn.Conv2d(2, 3, 3)).eval(), torch.zeros(N, 2, 4, 5)
    random = torch.random.get_rng_state()
    plan_observation(net, x)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not x.any()


def test_layers_before_the_first_neuron_are_steady_and_those_behind_it_are_not():
    found = taps(multi_step(), 3 * images(), T=T)
    assert [tap.steady for tap in found.values()] == [True, False, False]
    assert [tap.neuron for tap in found.values()] == [False, True, False]
    assert not any(tap.steady for tap in taps(multi_step(), 3 * images(), T=1).values())  # one step is no repetition


def test_frames_that_differ_layers_called_once_a_step_and_infinite_ones_are_not_steady():
    frames = torch.stack([images(seed=t) for t in range(T)])
    assert not taps(multi_step(), frames, layout="TNCHW")["0"].steady
    assert taps(multi_step(), images().expand(T, -1, -1, -1, -1), layout="TNCHW")["0"].steady
    assert not taps(single_step(), images(), T=T)["0"].steady
    assert not taps(multi_step(), images() * float("nan"), T=T)["0"].steady


class Shapes(nn.Module):
    """Outputs of many shapes; `layers` gives one of each."""

    def __init__(self):
        super().__init__()
        self.T, self.spike = T, neuron.IFNode(step_mode="m")
        names = (
            "image",
            "flat",
            "steps",
            "folded",
            "n_second",
            "tokens",
            "windows",
            "volume",
            "t_third",
            "t_last",
            "parts",
        )
        self.seen = nn.ModuleDict({name: nn.Identity() for name in names})

    def forward(self, x):
        x_seq = torch.stack([x * (t + 1) for t in range(self.T)])  # [T, N, C, H, W]
        for name, value in {
            "image": x,
            "flat": x.flatten(1),
            "steps": x_seq,
            "folded": x_seq.flatten(0, 1),
            "n_second": x_seq.flatten(3).permute(2, 1, 3, 0).flatten(2),
            "tokens": x_seq.flatten(3),
            "windows": x.unflatten(2, (2, 2)).transpose(1, 2).flatten(0, 1),
            "volume": x_seq.unsqueeze(2),
            "t_third": x_seq.permute(1, 2, 0, 3, 4),
            "t_last": x_seq.movedim(0, -1),
            "parts": x.unflatten(2, (2, 2)).movedim(2, 0),
        }.items():
            self.seen[name](value * 1)
        return self.spike(x_seq)


def test_maps_are_what_has_space_behind_the_channels_and_width_counts_the_features():
    found = taps(Shapes(), images())
    maps = {name.removeprefix("seen."): tap.maps for name, tap in found.items() if name != "spike"}
    assert maps == {
        "image": True,
        "flat": False,
        "steps": True,
        "folded": True,
        "n_second": False,
        "tokens": False,
        "windows": False,
        "volume": True,
        "t_third": True,
        "t_last": True,
        "parts": False,
    }
    assert {tap.width for tap in found.values()} == {2 * 4 * 5}


def test_what_is_called_maps_averages_over_space_to_one_number_a_channel():
    net, x = Shapes().eval(), images()
    found = taps(net, x)
    with record(net) as features, torch.no_grad():
        net(x)
    means = torch.stack([x.mean((2, 3)) * (t + 1) for t in range(T)])
    for name in ("image", "steps", "folded", "t_third", "t_last"):
        assert found[f"seen.{name}"].maps
        assert torch.allclose(features[f"seen.{name}"].mean((3, 4)), means[: len(features[f"seen.{name}"])], atol=1e-5)


class Bound(nn.Module):
    """A network whose number of steps is no attribute."""

    def __init__(self, conv, folds):
        super().__init__()
        self.folds, self.conv, self.spike = folds, conv, neuron.LIFNode(step_mode="m")

    def forward(self, x):
        x_seq = torch.stack([x * (t + 1) for t in range(T)])
        if self.folds:
            return self.spike(self.conv(x_seq.flatten(0, 1)).unflatten(0, x_seq.shape[:2]))
        return self.spike(self.conv(x_seq))


@pytest.mark.parametrize(
    ("net", "noted"),
    [
        (Bound(nn.Conv2d(2, 3, 3), folds=True), True),
        (Bound(layer.SeqToANNContainer(nn.Conv2d(2, 3, 3)), folds=False), False),
        (Bound(nn.Sequential(layer.Conv2d(2, 3, 3, step_mode="m")), folds=False), False),
        (Bound(nn.Sequential(layer.Conv2d(2, 3, 3, step_mode="m"), nn.ReLU()), folds=False), True),
        (Own(nn.Conv2d(2, 3, 3)), False),  # its steps can be varied
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), False),  # it has none
    ],
)
def test_steps_told_by_size_alone_are_noted(net, noted):
    assert len(plan_observation(net.eval(), images()).notes) == noted


def test_the_note_names_the_layers():
    assert plan_observation(Bound(nn.Conv2d(2, 3, 3), folds=True).eval(), images()).notes == (
        "the network's number of steps could not be varied, so that 'conv' is taken to hold T = 3 steps by the size of "
        "an axis alone",
    )
    net = Bound(nn.Sequential(*[nn.Conv2d(2, 2, 1) for _ in range(5)]), folds=True)
    assert (
        "so that 'conv.0', 'conv.1', 'conv.2' and 2 more are taken" in plan_observation(net.eval(), images()).notes[0]
    )


def test_a_neuron_that_knows_no_single_steps_is_taken_for_multi_step_without_being_told():
    net = nn.Sequential(layer.Flatten(step_mode="m"), layer.Linear(40, 5, step_mode="m"), neuron.PSN(T)).eval()
    made = plan_observation(net, images(), T=T)
    assert (made.drive.mode, made.T) == ("repeat", T)
    assert made.taps[-1].time_axis == 0
