"""Modules that put out several tensors: which of them is the layer's."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_cka import record
from sj_cka.recording import plan_observation, select_for

T, N, L = 3, 6, 4


def tokens(*shape, seed=0):
    return torch.randn(*(shape or (N, L, 10)), generator=torch.Generator().manual_seed(seed))


def recorded(net, x, layers=None, **options):
    with record(net.eval(), layers, **options) as features, torch.no_grad():
        net(x)
    return features


Pair = namedtuple("Pair", "first second")


@dataclass
class Output:
    hidden: Tensor
    state: Tensor


class Both(dict):
    """Read by key or by index, as the outputs of language models are."""

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class Puts(nn.Module):
    """Puts its input and twice it out in a container of one kind."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x, 2 * x)


class Net(nn.Module):
    """A linear layer, then modules that put out several tensors, of which the network goes on with the first."""

    def __init__(self, **modules):
        super().__init__()
        self.fc, self.last = nn.Linear(10, 8), nn.Linear(8, 2)
        self.several = nn.ModuleDict(modules)

    def forward(self, x):
        y = self.fc(x)
        for module in self.several.values():
            out = module(y, y, y) if isinstance(module, nn.MultiheadAttention) else module(y)
            y = next(iter(out.values())) if isinstance(out, dict) else out.hidden if isinstance(out, Output) else out[0]
        return self.last(y)


@pytest.mark.parametrize(
    ("make", "choice"),
    [
        (lambda a, b: (a, b), 1),
        (lambda a, b: (a, b), -1),
        (lambda a, b: [a, b], 1),
        (lambda a, b: {"a": a, "b": b}, "b"),
        (lambda a, b: Both(a=a, b=b), "b"),
        (lambda a, b: Both(a=a, b=b), 1),
        (Pair, "second"),
        (Pair, 1),
        (Output, "state"),
        (Output, lambda out: out.state),
        (lambda a, b: ((a, [b]), None), lambda out: out[0][1][0]),
    ],
)
def test_an_index_a_key_an_attribute_or_a_function_picks_the_tensor(make, choice):
    class First(nn.Module):
        def forward(self, out):
            while not isinstance(out, Tensor):
                out = out.hidden if isinstance(out, Output) else out["a"] if isinstance(out, dict) else out[0]
            return out

    net, x = nn.Sequential(nn.Linear(10, 8), Puts(make), First()), tokens()
    features = recorded(net, x, select={"1": choice})
    assert list(features) == ["1"]  # the linear layer is the last, and First passes on a tensor of it
    assert torch.allclose(features["1"][0], 2 * net[0](x), atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_default_layers_where_select_names_them(kind):
    net, x = Net(rnn=kind(8, 8, batch_first=True)), tokens()
    features = recorded(net, x, select={"several.rnn": 0})
    assert list(features) == ["fc", "several.rnn"]
    by_hand, hidden = net.several["rnn"](net.fc(x))
    assert torch.allclose(features["several.rnn"][0], by_hand, atol=1e-6)
    state = recorded(net, x, select={"several.rnn": lambda out: out[1][0] if kind is nn.LSTM else out[1]})
    assert torch.allclose(state["several.rnn"][0, :, 0], hidden[0][0] if kind is nn.LSTM else hidden[0], atol=1e-6)


def test_attention_gives_what_it_attends_to_or_its_weights():
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), tokens()
    net = Net(attention=attention)
    y = net.fc(x)
    expected, weights = attention(y, y, y)
    assert torch.allclose(recorded(net, x, select={"*.attention": 0})["several.attention"][0], expected, atol=1e-6)
    found = recorded(net, x, "several.attention", select={"*.attention": 1})
    assert torch.allclose(found["several.attention"][0], weights, atol=1e-6)


def test_a_sequence_first_lstm_has_its_samples_on_the_second_axis():
    rnn, x = nn.LSTM(10, 8), tokens(L, N, 10)

    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = rnn

        def forward(self, x):
            return self.rnn(x.transpose(0, 1))[0].sum(0)

    found = recorded(Flipped(), x.transpose(0, 1), "rnn", select={"rnn": 0})
    assert torch.allclose(found["rnn"][0], rnn(x)[0].transpose(0, 1), atol=1e-6)


def test_a_name_goes_before_a_glob_and_a_glob_leaves_tensors_as_they_are():
    net, x = Net(a=Puts(Pair), b=Puts(Pair), c=nn.Sequential(nn.Tanh(), Puts(Pair))), tokens()
    features = recorded(net, x, ["several.*", "fc"], select={"*": 0, "several.b": 1})
    y = net.fc(x)
    assert torch.equal(features["fc"][0], y)
    assert torch.equal(features["several.a"][0], y)
    assert torch.equal(features["several.b"][0], 2 * y)
    assert torch.equal(features["several.c.0"][0], y.tanh())


def test_one_function_may_pick_for_all_modules_by_their_name():
    net, x = Net(a=Puts(Pair), b=Puts(Pair)), tokens()
    names = []

    def pick(name, output):
        names.append(name)
        return output if isinstance(output, Tensor) else output[name == "several.b"]

    features = recorded(net, x, ["fc", "several.a", "several.b"], select=pick)
    y = net.fc(x)
    assert torch.equal(features["several.a"][0], y)
    assert torch.equal(features["several.b"][0], 2 * y)
    assert {"fc", "several.a", "several.b"} <= set(names)


class Steps(nn.Module):
    """A module with two outputs in a network of time: called once a step, on all steps, or on steps folded into N."""

    def __init__(self, how):
        super().__init__()
        self.T, self.how = T, how
        self.cell, self.spike = nn.Sequential(nn.Linear(10, 5), Puts(Pair)), neuron.LIFNode(step_mode="m")

    def forward(self, x):
        x_seq = torch.stack([x * (t + 1) for t in range(self.T)])
        if self.how == "loop":
            return self.spike(torch.stack([self.cell(one).second for one in x_seq]))
        if self.how == "function":
            return self.spike(functional.seq_to_ann_forward(x_seq, self.cell)[1])
        return self.spike(self.cell(x_seq).second)


@pytest.mark.parametrize("how", ["loop", "function", "whole"])
def test_what_is_picked_may_hold_steps_in_every_way(how):
    net, x = Steps(how), tokens(N, 10)
    features = recorded(net, x, "cell.1", select={"cell.1": "second" if how != "function" else 1})
    expected = torch.stack([2 * net.cell[0](x * (t + 1)) for t in range(T)])
    assert torch.allclose(features["cell.1"], expected, atol=1e-5)


def test_a_block_that_hands_on_what_a_member_put_out_may_be_named_and_counts_once():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(10, 8)

        def forward(self, x):
            return self.fc(x), None

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.last = Block(), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.block(x)[0])

    assert list(recorded(Blocks(), tokens(), select={"block": 0})) == ["block.fc"]
    assert list(recorded(Blocks(), tokens(), "block", select={"block": 0})) == ["block"]


def test_without_select_the_error_names_what_the_module_holds_and_how_to_pick():
    with pytest.raises(
        TypeError,
        match=r"module 'several.rnn' puts out a tuple of \(tensor \[2, 4, 8\], tensor \[1, 2, 8\]\), expected a "
        r"tensor: select=\{'several.rnn': 0\}",
    ):
        plan_observation(Net(rnn=nn.GRU(8, 8, batch_first=True)).eval(), tokens(), layers="several.rnn")
    with pytest.raises(
        TypeError, match=r"a dict with 'a': tensor .*, 'x': int, expected .* select=\{'several.d': 'a'\} picks"
    ):
        plan_observation(Net(d=Puts(lambda a, b: {"a": a, "x": 1})).eval(), tokens(), layers="several.d")
    with pytest.raises(TypeError, match=r"puts out a Output, expected a tensor: select=\{'several.o': lambda output"):
        plan_observation(Net(o=Puts(Output)).eval(), tokens(), layers="several.o")


def test_a_tuple_that_nobody_asked_for_is_left_out_with_a_note_of_how_to_pick():
    made = plan_observation(Net(rnn=nn.GRU(8, 8, batch_first=True)).eval(), tokens())
    assert "several.rnn" not in made.layers
    assert len(made.notes) == 1
    assert "left out of the layers" in made.notes[0]
    assert "select={'several.rnn': 0}" in made.notes[0]


@pytest.mark.parametrize(
    ("select", "error", "message"),
    [
        ({"several.q": 0}, ValueError, "select: 'several.q' matches none of the layers; did you mean 'several.p'"),
        ({"x.*": 0}, ValueError, r"select: 'x.\*' matches none of the layers"),
        ({"several.p": 2}, ValueError, r"expected an index of what module 'several.p' puts out, a Pair .*, got 2"),
        ({"several.p": "third"}, ValueError, r"expected a key or attribute of .* Pair with first: tensor.*got 'third'"),
        ({"several.p": "count"}, TypeError, "'count' of what module 'several.p' puts out is a builtin"),
        ({"several.p": lambda out: out[5]}, ValueError, "function for module 'several.p' raised IndexError"),
        ({"several.p": lambda out: list(out)}, TypeError, "function for module 'several.p' gave a list of"),
        (lambda name, out: out, TypeError, "function for module 'several.p' gave a Pair with first"),
        (
            {"several.p": 0, "fc": 0},
            TypeError,
            r"several tensors of module 'fc' to pick 0 from, got a tensor \[2, 4, 8\]",
        ),
        ({"several.p": None}, TypeError, "an index, a key or a function of its output, got 'several.p': None"),
        ({"several.p": True}, TypeError, "an index, a key or a function of its output, got 'several.p': True"),
        (0, TypeError, "expected select as .* got int"),
    ],
)
def test_a_select_that_does_not_fit_is_an_error_that_says_what_came(select, error, message):
    net, x = Net(p=Puts(Pair)).eval(), tokens()
    with pytest.raises(error, match=message):
        plan_observation(net, x, layers=["fc", "several.p"], select=select)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_selector_that_fails_on_a_module_that_is_no_layer_does_no_harm():
    net, x = Net(p=Puts(Pair)), tokens()
    assert list(recorded(net, x, "fc", select=lambda name, out: out if name == "fc" else 1 / 0)) == ["fc"]


def test_of_a_select_for_several_networks_each_takes_its_part():
    net = Net(p=Puts(Pair))
    assert select_for(net, {"several.*": 0, "rnn": 1, "fc": 2}) == {"several.*": 0, "fc": 2}
    assert select_for(net, None) is None
    assert select_for(net, max) is max


def test_a_layer_inside_a_container_with_time_last_is_seen_whole():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.over = layer.TLastSeqToANNContainer(nn.Linear(10, 5), nn.Tanh())
            self.each = layer.TLastMultiStepContainer(nn.Sigmoid())
            self.T, self.spike = T, neuron.LIFNode(step_mode="m")

        def forward(self, x):
            x_seq = torch.stack([x * (t + 1) for t in range(self.T)], -1)
            return self.spike(self.each(self.over(x_seq)).movedim(-1, 0))

    net, x = Last(), tokens(N, 10)
    features = recorded(net, x)
    assert list(features) == ["over.1", "each.0", "spike"]  # the linear layer is the last
    assert torch.allclose(
        features["over.1"], torch.stack([net.over[0](x * (t + 1)).tanh() for t in range(T)]), atol=1e-5
    )
