"""Whatever code a network brings along, compare and record leave it, and what it is given, as they were, to the bit."""

import dataclasses
import random
import types
from collections import deque

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sj_cka import compare, record
from sj_cka.recording import StateError, reset_states


class RedrawnByReset(nn.Linear):
    """As agents have it: reset() draws new weights."""

    def reset(self):
        self.reset_parameters()


class ResetToZero(RedrawnByReset):
    def reset(self):
        self.weight.data = torch.zeros(1)
        self.bias.requires_grad_(False)
        self.weight.grad = None


class Frees(nn.Linear):
    """Gives the memory of its weights back in evaluation mode, for others of its own."""

    def train(self, mode=True):
        super().train(mode)
        if not mode:
            self.weight.untyped_storage().resize_(0)
            self.weight = nn.Parameter(torch.ones(6, 6))
        return self


class HeadMadeAnew(nn.Module):
    """A classifier's head whose reset() makes another layer, by default of no classes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def reset(self, classes=1):
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        return self.fc(x)


class HeadForClasses(HeadMadeAnew):
    def reset(self, classes):
        raise AssertionError("cannot be called without arguments")


class ResetsStatistics(nn.BatchNorm1d):
    def __init__(self):
        super().__init__(6)
        self.running_mean += 1

    def reset(self):
        self.reset_running_stats()


class Normalises(nn.Module):
    """Statistics in buffers of its own, that a pass in evaluation mode does not change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((6,), 0.5))

    def reset(self):
        self.mean.zero_()

    def forward(self, x):
        return x - self.mean


class Leaks(nn.Module):
    """A neuron of one's own that keeps its state in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("v", torch.zeros(()))

    def reset(self):
        self.v = torch.zeros(())

    def forward(self, x):
        self.v = self.v * 0.5 + x
        return (self.v > 0.3).to(x)


class Gated(nn.Module):
    """A gate called reset, which is a module."""

    def __init__(self):
        super().__init__()
        self.reset, self.update = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.reset(x).sigmoid() * self.update(x).tanh()


class LowRank(nn.Linear):
    """Merges low-rank weights when it leaves training mode, and takes them out again."""

    def __init__(self):
        super().__init__(6, 6)
        self.weight.requires_grad_(False)
        self.a, self.merged = nn.Parameter(torch.randn(6, 6) * 0.1), False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -self.a if mode else self.a
            self.merged = not mode
        return self

    def forward(self, x):
        y = super().forward(x)
        return y if self.merged else y + x @ self.a.T


class MergedForGood(LowRank):
    """The same without a way back."""

    def train(self, mode=True):
        return super().train(mode) if not mode else nn.Linear.train(self, mode)

    def eval(self):
        self.requires_grad_(False)
        return super().eval()


class Fuses(nn.Module):
    """Puts one layer in the place of its branches in evaluation mode, in half the precision and back."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def train(self, mode=True):
        super().train(mode)
        if not mode and hasattr(self, "a"):
            fused = nn.Linear(6, 6)
            fused.weight.data = self.a.weight.data + self.b.weight.data
            fused.bias.data = self.a.bias.data + self.b.bias.data
            self.half().float()
            del self.a, self.b
            self.fused = fused
        return self

    def forward(self, x):
        return self.fused(x) if hasattr(self, "fused") else self.a(x) + self.b(x)


class Binarised(nn.Linear):
    """Binary weights, made in the forward pass from others that hang on the parameter."""

    def forward(self, x):
        if not hasattr(self.weight, "real"):
            self.weight.real = self.weight.data.clone()
        self.weight.data = self.weight.real.sign()
        return super().forward(x)


class Decays(nn.Linear):
    def forward(self, x):
        self.weight.data.mul_(0.5)
        return super().forward(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def reset(self):
        self.b.weight = nn.Parameter(self.a.weight.detach() * 2)

    def forward(self, x):
        return self.b(self.a(x).relu())


class Embeds(nn.Module):
    """An embedding that renorms the rows that it reads."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(4, 6, max_norm=0.1)

    def forward(self, x):
        return x + self.rows((x[:, 0] > 0).long())


@dataclasses.dataclass
class Memory:
    v: object = None


class Remembers(nn.Module):
    """State in plain attributes of every kind, not one of which reset() is told of."""

    def __init__(self):
        super().__init__()
        self.mem, self._hidden, self.calls = torch.zeros(6), None, 0
        self.past, self.by_name, self.last = [], {"v": torch.zeros(6)}, deque(maxlen=3)
        self.array, self.object, self.names = np.zeros(6), Memory(torch.zeros(6)), types.SimpleNamespace(n=[0])
        self.torch, self.numpy = torch.Generator().manual_seed(3), np.random.default_rng(3)
        self.python = random.Random(3)

    def forward(self, x):
        self.mem += x.mean(0)
        self._hidden = x[0].clone()
        self.calls += 1
        self.past.append(self.mem.clone())
        self.by_name["v"].add_(1)
        self.by_name[self.calls] = x[0]
        self.last.append(self.calls)
        self.array += 1
        self.object.v += 1
        self.names.n.append(self.calls)
        noise = torch.rand(6, generator=self.torch) + self.numpy.random() + self.python.random()
        return x + 0.001 * noise.float()


def frozen():
    return nn.Sequential(nn.BatchNorm1d(6).eval(), nn.Dropout(0.5))


def compiled():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    return torch.compile(net, backend="eager")


def compiled_inside():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    net[0].compile(backend="eager")
    return net


MEMBERS = {
    "reset draws weights": lambda: RedrawnByReset(6, 6),
    "train() merges": LowRank,
    "eval() merges for good": MergedForGood,
    "train() fuses": Fuses,
    "reset gives other memory, flags and no gradient": lambda: ResetToZero(6, 6),
    "reset makes a layer anew": HeadMadeAnew,
    "reset with arguments": HeadForClasses,
    "reset of statistics": ResetsStatistics,
    "reset of statistics of its own": Normalises,
    "reset of a state in a buffer": Leaks,
    "a gate called reset": Gated,
    "reset unties weights": Tied,
    "forward binarises weights": lambda: Binarised(6, 6),
    "an embedding with max_norm": Embeds,
    "state in plain attributes": Remembers,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
    "modes that differ": frozen,
    "a spiking neuron": lambda: nn.Sequential(nn.Linear(6, 6), neuron.ParametricLIFNode()),
    "DataParallel": lambda: nn.DataParallel(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))),
    "an averaged model": lambda: AveragedModel(nn.Linear(6, 6)),
    "compiled": compiled,
    "a compiled member": compiled_inside,
}


def made(member):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), MEMBERS[member](), nn.Tanh(), nn.Linear(6, 2))
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    return net


def bits(value, seen=None):
    """All that an object is, in a form that == compares to the bit."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        held = (value.dtype, tuple(value.shape), value.requires_grad, value.detach().numpy().tobytes())
        grad = None if value.grad is None else value.grad.numpy().tobytes()
        return (*held, grad, {key: bits(x, seen) for key, x in vars(value).items() if "dynamo" not in key})
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, dict):
        return {key: bits(x, seen) for key, x in value.items()}
    if isinstance(value, list | tuple | deque):
        return [bits(x, seen) for x in value]
    if isinstance(value, nn.Module | Memory | types.SimpleNamespace):
        if id(value) in seen:
            return "again"
        seen.add(id(value))
        return type(value).__name__, {key: bits(x, seen) for key, x in vars(value).items() if "dynamo" not in key}
    return value if isinstance(value, int | float | str | bool | set | None) else type(value).__name__


def identities(net):
    return {name: id(x) for name, x in [*net.named_modules(), *net.named_parameters(), *net.named_buffers()]}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.filterwarnings("ignore")
def test_compare_leaves_everything_equal_to_the_bit(member):
    net, x = made(member).train(), torch.randn(16, 6)
    given, before, known, drawn = x.clone(), bits(net), identities(net), torch.get_rng_state()
    T = 2 if member == "a spiking neuron" else None
    compare(net, loader=[x[:8], x[8:]], T=T, allow_train=True, progress=False)
    assert bits(net) == before
    assert identities(net) == known
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_network_whose_weights_change_from_call_to_call_is_refused_and_left_as_it_was():
    net = nn.Sequential(nn.Linear(6, 6), Decays(6, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    x = torch.randn(16, 6)
    before = bits(net)
    with pytest.raises(ValueError, match=r"module '1' \(Decays\) puts out other values .* keeps a state"):
        compare(net, loader=[x], progress=False)
    assert bits(net) == before
    with pytest.raises(ValueError, match="keeps a state"), record(net, layout="NCHW"):
        net(x)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_record_leaves_what_the_call_alone_would_leave(member, mode):
    nets, x = [made(member).train(mode) for _ in range(2)], torch.randn(8, 6)
    given, outputs, drawn = x.clone(), [], torch.get_rng_state()
    torch.manual_seed(1)
    outputs.append(nets[0](x))
    torch.manual_seed(1)
    with record(nets[1], layout="NCHW"):
        outputs.append(nets[1](x))
    torch.set_rng_state(drawn)
    assert torch.equal(*outputs)
    assert bits(nets[1]) == bits(nets[0])
    assert torch.equal(x, given)


def test_a_reset_of_one_s_own_puts_states_to_rest_before_every_batch():
    class Spikes(nn.Module):
        def forward(self, x):
            return (x > 0.3).to(x)

    net, x = nn.Sequential(nn.Linear(6, 6), Leaks()).eval(), torch.rand(16, 6)
    with torch.no_grad():
        net(x)
    stateless = compare(nn.Sequential(net[0], Spikes()).eval(), loader=x.split(8), layers="1", progress=False)
    found = compare(net, loader=x.split(8), layers="1", progress=False)
    assert np.array_equal(found.data.hsic_xx, stateless.data.hsic_xx)


def test_a_normalisation_keeps_what_it_has_learnt_while_it_is_compared():
    class Shifts(nn.Module):
        def forward(self, x):
            return x - 0.5

    net, x = nn.Sequential(Normalises(), nn.Linear(6, 9), nn.ReLU()).eval(), torch.randn(16, 6)
    stateless = compare(nn.Sequential(Shifts(), *net[1:]).eval(), loader=x.split(8), layers="2", progress=False)
    found = compare(net, loader=x.split(8), layers="2", progress=False)
    assert np.array_equal(found.data.hsic_xx, stateless.data.hsic_xx)


@pytest.mark.parametrize("run", [lambda net, x: compare(net, loader=x, progress=False), reset_states])
def test_a_reset_that_fails_is_named_and_not_blamed_on_the_network(run):
    class Fails(nn.Linear):
        def reset(self):
            raise KeyError("v")

    net = nn.Sequential(nn.ReLU(), Fails(6, 6)).eval()
    with pytest.raises(StateError, match=r"reset\(\) of module '1' \(Fails\) raised KeyError: 'v'"):
        run(net, torch.randn(8, 6)) if run is not reset_states else run(net)


def test_a_reset_that_begins_to_change_weights_cannot_be_undone_and_is_named():
    class Turns(nn.Linear):
        calls = 0

        def reset(self):
            Turns.calls += 1
            if Turns.calls > 2:
                with torch.no_grad():
                    self.weight.zero_()

    net = nn.Sequential(Turns(6, 6)).eval()
    reset_states(net)
    reset_states(net)
    with pytest.raises(StateError, match=r"reset\(\) of module '0' \(Turns\) changed its parameters"):
        reset_states(net)


def test_weights_whose_memory_was_freed_are_given_other_memory():
    net = nn.Sequential(nn.Linear(6, 6), Frees(6, 6))
    weight, values = net[1].weight, net[1].weight.detach().clone()
    compare(net, loader=torch.randn(8, 6), layers="0", allow_train=True, progress=False)
    assert net[1].weight is weight
    assert torch.equal(weight, values)


def test_weights_that_were_not_touched_are_not_written_to():
    net = made("train() merges").train()
    out = net(torch.randn(8, 6)).sum()
    compare(net, loader=torch.randn(8, 6), allow_train=True, progress=False)
    out.backward()  # would raise if a saved weight had another version
    assert net[0].weight.grad is not None


def test_a_comparison_in_one_s_own_inference_mode_sees_the_same_layers():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True)).eval()
    x = torch.rand(9, 6)
    outside = compare(net, loader=x, progress=False).matrix()
    with torch.inference_mode():
        inside = compare(net, loader=x.clone(), progress=False).matrix()

    class Infers(nn.Sequential):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    itself = compare(Infers(*net).eval(), loader=x, progress=False).matrix()
    for found in (inside, itself):
        assert list(found.index) == list(outside.index)
        assert np.array_equal(found.values, outside.values)
