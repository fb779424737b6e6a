"""compare on networks whose neurons, and loops over time, are not SpikingJelly's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from sj_cka import CKA, compare, record

T, N, D = 4, 12, 9


def numbers(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Leaky(nn.Module):
    """State is passed, as in snnTorch and norse."""

    def forward(self, x, v):
        v = 0.9 * v + x
        spikes = (v > 1).float()
        return spikes, v - spikes


class Hidden(nn.Module):
    """State is an attribute, set back by the network."""

    def __init__(self):
        super().__init__()
        self.mem = 0.0

    def forward(self, x):
        spikes, self.mem = Leaky()(x, self.mem)
        return spikes


class OverAxis(nn.Module):
    """Takes all steps at once, along an axis."""

    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, x):
        return over_time(x.movedim(self.axis, 0)).movedim(0, self.axis)


def over_time(x_seq):
    v, out = 0.0, []
    for x in x_seq:
        spikes, v = Leaky()(x, v)
        out.append(spikes)
    return torch.stack(out)


class Base(nn.Module):
    def __init__(self, neuron_of=Leaky):
        super().__init__()
        self.fc1, self.lif1, self.fc2, self.lif2 = nn.Linear(D, 20), neuron_of(), nn.Linear(20, 20), neuron_of()
        for fc, seed in ((self.fc1, 1), (self.fc2, 2)):
            fc.weight.data = numbers(*fc.weight.shape, seed=seed) / 3
        self.eval()

    def steps(self):
        return self.T

    def forward(self, x):
        v1 = v2 = 0.0
        out = []
        for _ in range(self.steps()):
            spikes, v1 = self.lif1(self.fc1(x), v1)
            spikes, v2 = self.lif2(self.fc2(spikes), v2)
            out.append(spikes)
        return torch.stack(out, 1)


class Attribute(Base):
    def __init__(self):
        super().__init__()
        self.T = T


class Configured(Base):
    def __init__(self):
        super().__init__()
        self.cfg = SimpleNamespace(snn=SimpleNamespace(num_steps=T), heads=T)

    def steps(self):
        return self.cfg.snn.num_steps


class InDict(Base):
    def __init__(self):
        super().__init__()
        self.config = {"timesteps": np.int64(T), "name": "x"}

    def steps(self):
        return self.config["timesteps"]


class OfClass(Base):
    T = T


class Derived(Base):
    def __init__(self):
        super().__init__()
        self._num_steps = T

    @property
    def T(self):  # noqa: N802
        return self._num_steps


class Otherwise(Base):
    """Of another name, beside widths of the same value."""

    def __init__(self):
        super().__init__()
        self.in_width, self.repeats = T, T

    def forward(self, x):
        return super().forward(x).unflatten(2, (self.in_width, -1))

    def steps(self):
        return self.repeats


class Stateful(Base):
    def __init__(self):
        super().__init__(Hidden)
        self.num_steps = T

    def forward(self, x):
        self.lif1.mem = self.lif2.mem = 0.0
        return torch.stack([self.lif2(self.fc2(self.lif1(self.fc1(x)))) for _ in range(self.num_steps)])


class Axis(Base):
    def __init__(self, axis):
        super().__init__(lambda: OverAxis(axis))
        self.axis, self.T = axis, T

    def forward(self, x):
        x = torch.stack([x] * self.T, self.axis)
        return self.lif2(self.fc2(self.lif1(self.fc1(x)))).mean(self.axis)


class Frames(Base):
    """Takes frames, along an axis of its own."""

    def __init__(self, axis):
        super().__init__(lambda: OverAxis(axis))

    def forward(self, x):
        return self.lif2(self.fc2(self.lif1(self.fc1(x.flatten(2)))))


class HardCoded(Base):
    def steps(self):
        return T


def by_hand(net, x_seq):
    """{layer: [T, N, units]}"""
    with torch.no_grad():
        first = over_time(net.fc1(x_seq))
        return {"lif1": first, "lif2": over_time(net.fc2(first))}


@pytest.fixture
def agrees(trace_matrix):
    def check(net, x, hand, **options):
        found = compare(
            net, loader=[x], observe=("output", "rate"), into=CKA(permutations={"steps": 1}), progress=False, **options
        )
        assert found.data.sizes["step_x"] == T
        of = {
            "output": [X.transpose(0, 1).flatten(1) for X in hand.values()],
            "rate": [X.mean(0) for X in hand.values()],
        }
        for matrix, features in ((found.matrix(), of["output"]), (found.matrix("rate"), of["rate"])):
            features = [X.numpy() for X in features]
            assert np.abs(matrix.to_numpy() - trace_matrix(features, features)).max() < 1e-6
        for name, X in hand.items():
            expected = trace_matrix(list(X.numpy()), list(X.numpy()))
            assert np.nanmax(np.abs(found.steps(name).to_numpy() - expected)) < 1e-6
        assert found.dynamics().loc[list(hand), "null"].notna().all()

    return check


STYLES = {
    "an attribute T": (Attribute, {}),
    "a configuration": (Configured, {}),
    "a dict": (InDict, {}),
    "a class": (OfClass, {}),
    "a property": (Derived, {}),
    "another name, and T": (Otherwise, {"T": T}),
    "state as an attribute": (Stateful, {}),
    "samples first": (lambda: Axis(1), {}),
    "time first": (lambda: Axis(0), {"T": T}),
    "time last but one": (lambda: Axis(-1 - 1), {}),
}


@pytest.mark.sampled
@pytest.mark.parametrize("style", STYLES)
def test_steps_are_what_the_network_s_own_number_of_steps_sets(agrees, style):
    make, options = STYLES[style]
    net, x = make(), numbers(N, D)
    if style == "time last but one":
        x = x.unsqueeze(1).expand(N, 2, D).contiguous()
        x[:, 1] *= 0.7
        net.axis = net.lif1.axis = net.lif2.axis = 2
    first = by_hand(net, torch.stack([x] * T))
    tensors = [(n, m) for n, m in net.named_modules() if n in ("lif1", "lif2")]
    select = {"lif*": 0} if isinstance(tensors[0][1], Leaky) else None
    agrees(net, x, first, layers=["lif1", "lif2"], select=select, **options)
    for holder, key in ((net, "T"), (net, "repeats"), (net, "in_width"), (net, "num_steps"), (net, "_num_steps")):
        assert getattr(holder, key, T) == T
    if style == "a configuration":
        assert (net.cfg.snn.num_steps, net.cfg.heads) == (T, T)
    if style == "a class":
        assert "T" not in vars(net)
    with pytest.raises(ValueError, match=r"makes 4 time steps of its own, T = 7 was asked for: pass T=4|shows no time"):
        compare(net, loader=x, T=7, layers=["lif1"], select={"lif*": 0} if select else None, progress=False)


def test_a_record_of_such_a_network_has_its_steps():
    net, x = Attribute(), numbers(N, D)
    with record(net, ["lif1", "lif2"], select={"lif*": 0}) as features, torch.no_grad():
        net(x)
    for name, X in by_hand(net, torch.stack([x] * T)).items():
        assert torch.equal(features[name], X)


def test_where_nothing_sets_the_steps_their_number_is_told_by_calls_in_a_note(agrees):
    net, x = HardCoded(), numbers(N, D)
    options = {"layers": ["lif1", "lif2"], "select": {"lif*": 0}}
    with pytest.warns(
        UserWarning, match=r"the calls of 'lif1', 'lif2' are taken for T = 4 steps by their number alone"
    ):
        agrees(net, x, by_hand(net, torch.stack([x] * T)), T=T, **options)
    uses = compare(net, loader=x, progress=False, **options)
    assert uses.layers_x == [f"lif{i}#{use}" for i in (1, 2) for use in range(T)]


@pytest.mark.parametrize(
    "options",
    [
        {"observe": "rate"},
        {"into": lambda: CKA(permutations={"steps": 1})},
        {"T": 3},
        {"T": {"y": 4}},
        {"T": {"x": 4, "y": 4}},
    ],
)
def test_what_needs_steps_says_so_where_there_are_none(options):
    net, x = nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), numbers(N, D)
    with pytest.raises(
        ValueError, match=r"network [xy] \(Sequential\) shows no time steps, which .* needs?: .*pass that as T="
    ):
        compare(
            net,
            net,
            loader=x,
            progress=False,
            **{name: value() if callable(value) else value for name, value in options.items()},
        )
    found = compare(net, loader=x, T=1, progress=False)
    assert found.steps("1").shape == (1, 1)  # one step, as asked
    found = compare(net, loader=x, progress=False)
    for ask in (lambda: found.steps("1"), lambda: found.steps("1", layer_y="0"), found.dynamics):
        with pytest.raises(ValueError, match=r"expected networks with time steps, got x \(Sequential\)"):
            ask()


def test_one_number_of_steps_is_for_whichever_network_makes_steps(trace_cka):
    spiking = nn.Sequential(nn.Linear(D, 5), neuron.IFNode(), nn.Linear(5, 3)).eval()
    plain, x = nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), numbers(N, D)
    found = compare(spiking, plain, x, T=T, observe=("output", "rate"), progress=False)
    assert (found.data.sizes["step_x"], found.data.sizes["step_y"]) == (T, 1)
    with pytest.raises(ValueError, match=r"y .* shows no time steps"):
        compare(spiking, plain, x, T={"x": T, "y": T}, progress=False)


@pytest.mark.sampled
@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("steps", [T, N])  # as many as samples, too
def test_frames_are_given_as_the_network_keeps_samples_apart(axis, steps, trace_cka):
    net, frames = Frames(axis), numbers(steps, N, 3, D // 3)
    hand = [X.transpose(0, 1).flatten(1).numpy() for X in by_hand(net, frames.flatten(2)).values()]
    names = ["lif1", "lif2"]
    found = compare(net, loader=[frames.transpose(0, 1)], layout="NTCHW", layers=names, progress=False)
    assert (found.data.sizes["step_x"], found.data.sizes["sample"]) == (steps, N)
    assert found.matrix().loc["lif1", "lif2"] == pytest.approx(trace_cka(*hand), abs=1e-6)
    both = (
        {"layout": "TNCHW", "forward": lambda net, batch: net(batch.transpose(0, 1))} if axis else {"layout": "TNCHW"}
    )
    again = compare(net, loader=[frames], layers=names, progress=False, **both)
    assert again.matrix().loc["lif1", "lif2"] == pytest.approx(trace_cka(*hand), abs=1e-6)
    if axis:
        with pytest.raises(ValueError, match=r'layout=\'TNCHW\' says of .* it can as \[N, T, ...\].*layout="NTCHW"'):
            compare(net, loader=[frames], layout="TNCHW", layers=names, progress=False)


def test_frames_of_unsaid_layout_are_not_taken_for_samples():
    net, frames = Frames(0), numbers(N, T, 3, D // 3)
    with pytest.raises(ValueError, match=r"module 'lif\d' .* takes the samples for time steps.*layout=\"NTCHW\""):
        compare(net, loader=[frames], progress=False)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_recurrent_layer_keeps_samples_apart_in_either_layout(batch_first, trace_cka):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.norm = nn.GRU(D, 6, batch_first=batch_first), nn.LayerNorm(6)

        def forward(self, x):
            return self.norm(self.rnn(x)[0]).square()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Recurrent().eval()
    frames = numbers(T, N, D)
    with torch.no_grad():
        states = net.rnn(frames.transpose(0, 1) if batch_first else frames)[0]
    states = states if batch_first else states.transpose(0, 1)
    found = compare(
        net, loader=[frames.transpose(0, 1)], layout="NTCHW", layers=["rnn", "norm"], select={"rnn": 0}, progress=False
    )
    expected = trace_cka(states.flatten(1).numpy(), net.norm(states).flatten(1).detach().numpy())
    assert found.matrix().loc["rnn", "norm"] == pytest.approx(expected, abs=1e-6)
    assert found.data.sizes["step_x"] == T


class Open(nn.Module):
    """State lies in a buffer or an attribute, is begun anew only for another shape, and reset by nobody: snnTorch's."""

    def __init__(self, buffer):
        super().__init__()
        self.mem = None
        if buffer:
            del self.mem
            self.register_buffer("mem", torch.zeros(0), persistent=False)

    def forward(self, x):
        mem = self.mem if self.mem is not None and self.mem.shape == x.shape else torch.zeros_like(x)
        spikes, self.mem = Leaky()(x, mem)
        return spikes


class OneStep(Base):
    def __init__(self, buffer=True):
        super().__init__(lambda: Open(buffer))

    def forward(self, x):
        return self.lif2(self.fc2(self.lif1(self.fc1(x))))


@pytest.mark.sampled
@pytest.mark.parametrize("buffer", [True, False])
@pytest.mark.parametrize("how", ["images", "TNCHW", "NTCHW"])
def test_state_of_the_batch_before_is_set_back_and_frames_come_one_by_one(how, buffer, trace_matrix):
    net, frames = OneStep(buffer), [numbers(T, N, D, seed=seed) for seed in (3, 4)]
    if how == "images":
        loader, frames = [x[0] for x in frames], [x[:1].expand(T, -1, -1) for x in frames]
        options = {"T": T, "forward": lambda net, batch: [net(batch) for _ in range(T)]}
    else:
        loader = frames if how == "TNCHW" else [x.transpose(0, 1) for x in frames]
        options = {"layout": how}
    for x, sample in zip(loader, frames, strict=True):
        hand = [X.transpose(0, 1).flatten(1).numpy() for X in by_hand(net, sample).values()]
        found = compare(net, loader=[loader[0], x], layers=["lif1", "lif2"], progress=False, **options)
        alone = compare(net, loader=[x], layers=["lif1", "lif2"], progress=False, **options)
        assert np.abs(alone.matrix().to_numpy() - trace_matrix(hand, hand)).max() < 1e-6
        assert found.data.sizes["step_x"] == T
    swapped = compare(net, loader=loader[::-1], layers=["lif1", "lif2"], progress=False, **options)
    assert np.abs(found.matrix().to_numpy() - swapped.matrix().to_numpy()).max() < 1e-6


@pytest.mark.parametrize("buffer", [True, False])
def test_state_that_an_earlier_run_left_behind_is_refused_by_name(buffer):
    net, x = OneStep(buffer), numbers(N, D)
    net(x)
    with pytest.raises(ValueError, match=rf"module 'lif1' \(Open\) holds 'mem' of shape \({N}, 20\), a state from a"):
        compare(net, loader=x, T=2, forward=lambda net, batch: [net(batch), net(batch)], progress=False)


def test_what_a_module_stores_but_never_reads_is_no_state():
    class Stores(nn.Linear):
        def forward(self, x):
            self.map = super().forward(x).softmax(-1)
            return self.map

    net, x = nn.Sequential(Stores(D, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), numbers(N, D)
    net(x)
    assert compare(net, loader=x, progress=False).layers_x == ["0", "1"]


def test_heads_are_no_steps_because_there_are_as_many():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.qk, self.drop = T, nn.Linear(D, 2 * 60), nn.Dropout()

        def forward(self, x):
            q, k = self.qk(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            return self.drop((q @ k.transpose(-1, -2)).softmax(-1)).mean((1, 2))

    spiking = nn.Sequential(nn.Flatten(), nn.Linear(5 * D, 5), neuron.IFNode(), nn.Linear(5, 3)).eval()
    found = compare(spiking, Attention().eval(), numbers(N, 5, D), T=T, progress=False)
    assert (found.data.sizes["step_x"], found.data.sizes["step_y"]) == (T, 1)


class Slow(nn.Module):
    """Takes so many steps, along an axis, to its first spike that three samples for steps show none."""

    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, x):
        v, out = torch.zeros_like(x.select(self.axis, 0)), []
        for step in x.unbind(self.axis):
            v = v + 0.05 * step.abs()
            out.append((v > 0.5).float())
        return torch.stack(out, self.axis)


def test_neurons_silent_over_as_many_steps_as_the_probes_have_samples_are_heard_on_noise(trace_cka):
    nets = [nn.Sequential(Slow(axis), nn.Linear(D, 5), nn.ReLU()).eval() for axis in (0, 1)]
    frames = numbers(24, N, D).tanh()
    with torch.no_grad():
        spikes = nets[0][0](frames)
    assert spikes.any()
    assert not spikes[:3].any()
    with pytest.raises(ValueError, match=r"module '0' gives a sample other values where another stands before it"):
        compare(nets[0], loader=[frames], progress=False)
    with pytest.raises(ValueError, match=r"'TNCHW' says of .* module '0' gives a sample other values.*\"NTCHW\""):
        compare(nets[1], loader=[frames], layout="TNCHW", progress=False)
    for net in nets:
        found = compare(net, loader=[frames.transpose(0, 1)], layout="NTCHW", layers=["0", "2"], progress=False)
        with torch.no_grad():
            hand = [X.transpose(0, 1).flatten(1).numpy() for X in (spikes, net[1:](spikes))]
        assert found.data.sizes["step_x"] == 24
        assert found.matrix().loc["0", "2"] == pytest.approx(trace_cka(*hand), abs=1e-6)
