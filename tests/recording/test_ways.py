"""How samples are told from steps however a network is run, and steps from uses, in few runs."""

import random

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from sj_cka import compare
from sj_cka.recording import plan_observation
from sj_cka.recording.knobs import knobs, trials, turned

T, N = 4, 8
_COUNTED = [0]  # of runs, where nothing can set it back


def images(*shape, seed=0):
    return 2 * torch.randn(*(shape or (N, 2, 8, 8)), generator=torch.Generator().manual_seed(seed))


def taps(net, x, **options):
    return {tap.layer: tap for tap in plan_observation(net.eval(), x, **options).taps}


class Transposing(nn.Module):
    """Puts time first itself."""

    def __init__(self, kind=neuron.LIFNode):
        super().__init__()
        self.body = nn.Sequential(layer.Conv2d(2, 3, 3, step_mode="m"), kind(step_mode="m"))

    def forward(self, x):
        return self.body(x.transpose(0, 1)).mean(0)


@pytest.mark.parametrize("kind", [neuron.LIFNode, lambda step_mode: layer.SynapseFilter(step_mode=step_mode)])
def test_frames_are_given_to_a_network_that_transposes_them_itself_as_they_come(kind):
    net, frames = Transposing(kind).eval(), images(N, 6, 2, 8, 8)
    made = plan_observation(net, frames.transpose(0, 1), layout="NTCHW")
    assert (made.drive.mode, made.T) == ("turned frames", 6)
    assert plan_observation(net, frames).T == 6
    with pytest.raises(ValueError, match=r"multi-step \w+ 'body.1' takes the samples for time steps; it can as \[N, T"):
        plan_observation(net, frames, layout="TNCHW")
    with pytest.raises(ValueError, match=r"multi-step .* 'body.1' takes the samples"):
        plan_observation(net, frames, forward=lambda net, batch: net(batch.transpose(0, 1)))


def test_an_image_that_is_shown_several_times_is_no_batch_of_steps_either():
    with pytest.raises(ValueError, match=r"'body\.1' takes the samples for time steps"):
        plan_observation(Transposing().eval(), images(), T=T)


class Remembering(nn.Module):
    """A user's own multi-step module among SpikingJelly's, which cumulates along the first axis."""

    def forward(self, x_seq):
        return x_seq.cumsum(0)


def test_a_module_of_one_s_own_that_takes_samples_for_steps_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.own = nn.Linear(6, 5), Remembering()

        def forward(self, x):
            return self.own(self.fc(x))

    with pytest.raises(ValueError, match="module 'own' gives a sample other values where another stands before it"):
        plan_observation(Net().eval(), images(N, 6))
    net = nn.Sequential(layer.Linear(6, 5, step_mode="m"), neuron.IFNode(step_mode="m"), Remembering()).eval()
    assert plan_observation(net, images(N, 6), T=T).T == T
    with pytest.raises(ValueError, match="module 'own'"):
        plan_observation(Net().eval(), images(N, 6), layers="own", forward=lambda net, batch: net(batch))


def test_random_numbers_and_statistics_of_a_batch_are_not_taken_for_time():
    class Noisy(nn.Module):
        def __init__(self, draw):
            super().__init__()
            self.fc, self.spike, self.draw = nn.Linear(6, 5), nn.ReLU(), draw

        def forward(self, x):
            return self.spike(self.fc(x) * self.draw(x))

    for draw in (lambda x: torch.rand(len(x), 1), lambda x: torch.tensor([[random.random()] for _ in x])):
        assert list(taps(Noisy(draw), images(N, 6))) == ["spike"]
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.ReLU(), nn.Linear(5, 2))
    assert list(taps(net, images(N, 6))) == ["0", "1", "2"]


def test_a_fold_is_undone_where_samples_see_each_other():
    class Statistics(nn.Module):
        def __init__(self, n_major):
            super().__init__()
            self.T, self.n_major, self.bn = T, n_major, nn.BatchNorm1d(6, track_running_stats=False)
            self.spike = neuron.IFNode(step_mode="m")

        def forward(self, x):
            x = torch.stack([x * (t + 1) for t in range(self.T)])
            if self.n_major:
                y = self.bn(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (-1, self.T)).transpose(0, 1)
            else:
                y = self.bn(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.spike(y)

    for n_major in (True, False):
        kinds = "NT" if n_major else "TN"
        assert "".join(kind for kind, _ in taps(Statistics(n_major), images(N, 6))["bn"].factors) == kinds


class Lost(nn.Module):
    """Averages over the samples."""

    def forward(self, x):
        return x.flatten(1)[:, :2].mean(0) + torch.zeros(2)


class Pools(nn.Module):
    """One pool, and one ReLU between convolutions, is used as often as there are steps."""

    def __init__(self, how):
        super().__init__()
        self.how, self.spike = how, neuron.IFNode(step_mode="m")
        self.pool, self.relu = nn.AvgPool2d(1), nn.ReLU()
        self.convs = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(T))
        if how == "attribute":
            self.T = T

    def forward(self, x):
        steps = self.T if self.how == "attribute" else T
        for conv in self.convs:
            x = self.relu(conv(x))
        for _ in range(T):
            x = nn.functional.pad(self.pool(x), (0, self.how == "shapes"))
        x_seq = torch.stack([x * (t + 1) for t in range(steps)])
        if self.how == "steps":
            for _ in range(T):
                x_seq = self.pool(x_seq.flatten(0, 1)).unflatten(0, x_seq.shape[:2])
        return self.spike(x_seq)


@pytest.mark.parametrize("how", ["attribute", "shapes", "number"])
def test_uses_are_no_steps_because_there_are_as_many(how):
    made = plan_observation(Pools(how).eval(), images())
    found = {tap.layer: tap.time for tap in made.taps}
    assert made.T == T
    assert found["relu#3"] == "static"
    if how == "number":  # nothing tells them apart
        assert found["pool"] == "calls"
        assert made.notes[-1].endswith("calls of 'pool' are taken for T = 4 steps by their number alone")
    else:
        assert found["pool#3"] == "static"
        assert not made.notes


def test_calls_in_turn_with_a_neuron_need_no_note():
    class Looped(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.spike, self.relu = nn.Linear(6, 6), neuron.IFNode(), nn.ReLU()

        def forward(self, x):
            return torch.stack([self.relu(self.spike(self.relu(self.fc(x)))) for _ in range(T)])

    made = plan_observation(Looped().eval(), images(N, 6), layers="*")
    assert (made.T, made.notes) == (T, ())
    assert {tap.layer: tap.time for tap in made.taps} == dict.fromkeys(["fc", "relu#0", "spike", "relu#1"], "calls")


def test_members_of_containers_over_time_need_no_note():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = layer.MultiStepContainer(nn.Linear(6, 6), nn.ReLU())
            self.fold, self.spike = layer.SeqToANNContainer(nn.Linear(6, 6)), neuron.IFNode(step_mode="m")

        def forward(self, x):
            return self.spike(self.fold(self.body(torch.stack([x * (t + 1) for t in range(T)]))))

    made = plan_observation(Held().eval(), images(N, 6))
    assert [(tap.layer, tap.time) for tap in made.taps if tap.module.startswith("body")] == [
        ("body.0", "calls"),
        ("body.1", "calls"),
    ]
    assert made.notes == ()


class Many(nn.Module):
    """Many integers that equal its number of steps, none of which sets it."""

    def __init__(self):
        super().__init__()
        self.T = self.num_steps = self.k = self.heads = self.depth = self.rank = self.order = T
        self.fc, self.spike = nn.Linear(6, 6), neuron.IFNode()

    def forward(self, x):
        return torch.stack([self.spike(self.fc(x) * (t + 1)) for t in range(T)])


@pytest.mark.parametrize("make", [Many, Transposing, lambda: Pools("number"), lambda: Pools("attribute")])
def test_no_more_than_five_runs_over_few_samples_are_made(make):
    net, seen = make(), []
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    x = images(N, 6) if make is Many else images(N, T, 2, 8, 8) if make is Transposing else images()
    plan_observation(net.eval(), x)
    assert len(seen) <= 5
    assert max(seen) <= 3


def test_no_more_than_five_runs_are_made_of_a_network_without_neurons_either():
    net, seen = Many(), []
    net.spike = nn.ReLU()
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    assert plan_observation(net.eval(), images(N, 6), T=T).T == T
    assert len(seen) <= 5


def test_a_knob_is_put_back_whatever_happens():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.T, self.spike, self.config = T, neuron.IFNode(step_mode="m"), {"steps": T}

        def forward(self, x):
            if T != self.T:
                raise KeyboardInterrupt
            return self.spike(torch.stack([x] * self.T))

    net = Strict().eval()
    with pytest.raises(KeyboardInterrupt):
        plan_observation(net, images(N, 6))
    assert (net.T, net.config) == (T, {"steps": T})
    assert {knob.key for knob in knobs(net)} == {"T", "steps"}
    with turned(trials(net, T)[0], 9):
        assert (net.T, net.config) == (9, {"steps": 9})
    assert list(vars(net)) == list(vars(Strict()))


def test_modules_that_nobody_asked_for_never_stop_a_comparison():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.position = nn.Embedding(20, 6), nn.Embedding(5, 6)
            self.mask, self.pair, self.one = nn.Identity(), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            self.mask(torch.ones(5, 5).tril())
            h = self.pair(self.token(x) + self.position(torch.arange(5)))[0]
            return self.head(torch.stack([self.one(row) for row in h]).mean(1))

    net, ids = Text().eval(), torch.randint(20, (N, 5), generator=torch.Generator().manual_seed(0))
    made = plan_observation(net, ids)
    assert made.layers == ("token",)
    for name in ("position", "mask", "pair", "one"):
        assert any(f"module {name!r}" in note and "left out of the layers" in note for note in made.notes)
        with pytest.raises((ValueError, TypeError), match=f"module {name!r}"):
            plan_observation(net, ids, layers=["token", name])
    with pytest.raises(ValueError, match=r"network x .*module '\d' puts out"):  # none is left
        compare(nn.Sequential(Lost(), nn.Linear(2, 1)).eval(), loader=images(), progress=False)


def test_tokens_of_a_class_and_patches_are_features_however_many():
    class ViT(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.cls = nn.Conv2d(2, 6, 8, 4), nn.Parameter(torch.zeros(1, 1, 6))
            self.block, self.num_patches = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), T

        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            return self.block(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))

    net = ViT().eval()
    made = plan_observation(net, images(N, 2, 8, 16), T=T)  # 1 + 3 tokens
    assert (made.T, made.drive.T) == (1, None)
    assert {tap.time for tap in made.taps} == {"static"}


class Keeping(nn.Module):
    """A neuron that nobody sets back, its state in an attribute; or a count of batches where no one finds it."""

    def __init__(self, hidden):
        super().__init__()
        self.T, self.fc, self.lif = T, nn.Linear(6, 5), _Step(hidden)

    def forward(self, x):
        return torch.stack([self.lif(self.fc(x)) for _ in range(self.T)])


class _Step(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.v, self.hidden = 0.0, hidden

    def forward(self, x):
        if self.hidden:
            _COUNTED[0] += 1
            return x + _COUNTED[0] * torch.arange(x.shape[1])
        self.v = 0.9 * self.v + x
        return self.v


def test_state_that_nobody_sets_back_is_reset_where_it_lies_open_and_refused_where_not():
    net, x = Keeping(hidden=False).eval(), images(N, 6)
    found = compare(net, loader=[x, images(N, 6, seed=1)], layers=["lif"], progress=False)
    anew = compare(net, loader=[images(N, 6, seed=1), x], layers=["lif"], progress=False)
    assert found.data.sizes["step_x"] == T
    assert torch.allclose(torch.tensor(found.data.hsic_xx.values), torch.tensor(anew.data.hsic_xx.values), rtol=1e-12)
    assert net.lif.v == 0.0
    net(images(N + 1, 6))
    with pytest.raises(ValueError, match=rf"module 'lif' .+ holds 'v' of shape \({N + 1}, 5\): .* set it back first"):
        compare(net, loader=x, layers=["lif"], progress=False)
    with pytest.raises(ValueError, match=r"module 'lif' \(_Step\) .* keeps a state from one batch to the next"):
        plan_observation(Keeping(hidden=True).eval(), x, layers=["lif"])


@pytest.mark.parametrize("between", [False, True])
def test_a_multi_step_neuron_called_with_one_step_at_a_time_makes_steps_unless_it_is_used_twice_in_one(between):
    class Looped(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.spike, self.out = nn.Linear(6, 4), neuron.IFNode(step_mode="m"), nn.Linear(4, 4)

        def forward(self, x):
            y = self.fc(x)[None]
            steps = [self.spike(y)]
            steps += [self.spike(self.out(steps[0]) if between else y) for _ in range(1 if between else 3)]
            return torch.cat(steps)

    plan = plan_observation(Looped().eval(), torch.randn(5, 6), layers="spike")
    expected = (1, ["spike#0", "spike#1"]) if between else (4, ["spike"])
    assert (plan.T, [tap.layer for tap in plan.taps]) == expected
