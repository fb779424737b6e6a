"""What a training computes is what the slow definition of its rule says, which shares no way back with it."""

import itertools

import pytest
import torch
from lively import T, batch, gradients, network, of_each_step, off, random
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from sj_cka.training.credit.alignment import per_step
from sj_cka.training.credit.definition import by_definition
from sj_cka.training.credit.rule import Rule

EXACT = 1e-10
SPACES = ["backprop", "feedback_alignment", "direct_feedback_alignment", "symmetric", "local_error"]
TIMES = ["bptt", "truncated", "presynaptic_trace", "eligibility_trace", "none"]
NEURONS = {
    "soft": {},
    "hard": {"v_reset": 0.0},
    "undetached": {"detach_reset": False},
    "hard and undetached": {"v_reset": 0.1, "detach_reset": False},
    "current_lif": {"name": "current_lif"},
    "input decays": {"decay_input": True, "v_threshold": 0.2},
    "if": {"name": "if"},
}


def rule_of(space, time):
    feedback = "symmetric" if space == "symmetric" else "random"
    space = "direct_feedback_alignment" if space == "symmetric" else space
    return Rule(space, time, 3 if time == "truncated" else None, feedback)


def check(rule, net, x, y):
    found = gradients(rule, net, x, y)
    expected = by_definition(rule, net, x, y, per_step)
    assert max(off(found, expected).values()) < EXACT


# a handful, in which every value of every column stands with each of some others; all of them under --full
HANDFUL = [
    ("mlp", "backprop", "presynaptic_trace", False, "hard"),
    ("mlp", "backprop", "eligibility_trace", True, "hard and undetached"),
    ("mlp", "feedback_alignment", "truncated", "elementwise", "current_lif"),
    ("mlp", "feedback_alignment", "eligibility_trace", "elementwise", "undetached"),
    ("mlp", "direct_feedback_alignment", "none", True, "input decays"),
    ("mlp", "symmetric", "eligibility_trace", True, "current_lif"),
    ("mlp", "local_error", "presynaptic_trace", True, "if"),
    ("mlp", "local_error", "bptt", "elementwise", "soft"),
    ("convnet", "backprop", "truncated", True, "soft"),
    ("convnet", "feedback_alignment", "presynaptic_trace", "elementwise", "current_lif"),
    ("convnet", "direct_feedback_alignment", "eligibility_trace", True, "hard"),
    ("convnet", "symmetric", "bptt", "elementwise", "undetached"),
    ("convnet", "local_error", "eligibility_trace", "elementwise", "input decays"),
    ("convnet", "local_error", "none", False, "hard and undetached"),
]
ALL = itertools.product(["mlp", "convnet"], SPACES, TIMES, [False, True, "elementwise"], NEURONS)


@pytest.mark.sampled(len(HANDFUL))
@pytest.mark.parametrize(
    ("model", "space", "time", "recurrent", "neurons"), [*HANDFUL, *(one for one in ALL if one not in HANDFUL)]
)
def test_a_rule_computes_its_definition(model, space, time, recurrent, neurons):
    net, (x, y) = network(model, NEURONS[neurons], recurrent=recurrent), batch(model)
    check(rule_of(space, time), net, x, y)


@pytest.mark.parametrize("time", [time for time in TIMES if time != "presynaptic_trace"])
@pytest.mark.parametrize("space", ["backprop", "local_error"])
def test_neurons_that_learn_have_the_gradients_of_their_definition(space, time):
    net, (x, y) = network(neuron={"name": "plif"}, recurrent=True), batch()
    w = net.layer1.lif.w
    check(rule_of(space, time), net, x, y)
    assert net.layer1.lif.w is w


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("model", "space", "time"),
    [
        ("mlp", "backprop", "presynaptic_trace"),
        ("mlp", "symmetric", "none"),
        ("convnet", "feedback_alignment", "truncated"),
        ("convnet", "local_error", "presynaptic_trace"),
        *itertools.product(["mlp", "convnet"], SPACES, [t for t in TIMES if t != "eligibility_trace"]),
    ],
)
def test_a_rule_computes_its_definition_through_normalisation_in_evaluation(model, space, time):
    net, (x, y) = network(model, norm="step", recurrent=True), batch(model)
    with torch.no_grad():
        for i, (name, buffer) in enumerate(net.named_buffers()):
            if name.endswith("running_var"):
                buffer.copy_(0.5 + random(*buffer.shape, seed=i) ** 2)
            elif name.endswith("running_mean"):
                buffer.copy_(0.2 * random(*buffer.shape, seed=i))
    check(rule_of(space, time), net, x, y)


class Added(nn.Module):
    """Spikes of two layers added (as SEW-ResNet does), none of whose layers feeds two places."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.fc3, self.fc = nn.Linear(12, 9), nn.Linear(9, 9), nn.Linear(9, 8), nn.Linear(8, 4)
        self.lif1, self.lif2, self.lif3 = (
            neuron.LIFNode(v_threshold=0.2, v_reset=None, step_mode="m", surrogate_function=surrogate.ATan())
            for _ in range(3)
        )

    def forward(self, x):
        s = self.lif1(self.fc1(x))
        return self.fc(self.lif3(self.fc3(s + self.lif2(self.fc2(s)))))


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("space", SPACES)
def test_a_rule_computes_its_definition_where_spikes_are_added(space, time):
    check(rule_of(space, time), Added().double(), *batch())


@pytest.mark.parametrize("only", [0, 4, T - 1])
@pytest.mark.parametrize(
    "rule",
    [
        Rule(),
        Rule("feedback_alignment"),
        Rule("direct_feedback_alignment", "eligibility_trace"),
        Rule("local_error", "presynaptic_trace"),
        Rule(time="truncated", k=3),
    ],
)
def test_the_loss_of_one_step_alone_is_defined_too(rule, only):
    net, (x, y) = network(recurrent="elementwise"), batch()
    parts = gradients_of_one(rule, net, x, y, only)
    expected = by_definition(rule, net, x, y, per_step, only=only)
    for name, gradient in expected.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-9, atol=1e-14)
    assert expected["layer2.fc.weight"].any()


def gradients_of_one(rule, net, x, y, only):
    net.zero_grad(set_to_none=True)
    for module in net.modules():
        getattr(module, "reset", lambda: None)()
    rule(net, x, y, forward=net, loss=of_each_step, scale=lambda value: value, only=only)
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


def test_losses_of_single_steps_add_up():
    net, (x, y) = network(), batch()
    for rule in (Rule("local_error"), Rule("direct_feedback_alignment", "eligibility_trace"), Rule(time="none")):
        whole = gradients(rule, net, x, y)
        parts = [gradients_of_one(rule, net, x, y, t) for t in range(T)]
        total = {name: torch.stack([part[name] for part in parts]).sum(0) for name in whole}
        assert max(off(total, whole).values()) < EXACT


def test_the_definition_leaves_the_network_as_it_was():
    net, (x, y) = network(recurrent=True), batch()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net(x)
    potential = net.layer1.lif.v.detach().clone()
    by_definition(Rule("local_error", "presynaptic_trace"), net, x, y, per_step)
    assert torch.equal(net.layer1.lif.v, potential)
    assert net.layer1.lif.v_threshold == 0.4
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("rule", [Rule(), Rule("feedback_alignment"), Rule("local_error", "presynaptic_trace")])
def test_a_weight_that_two_layers_share_has_the_sum_of_both(rule):
    net, (x, y) = network(hidden=(11, 11, 11)), batch()
    net.layer3.fc.weight = net.layer2.fc.weight
    check(rule, net, x, y)


class Gained(nn.Module):
    """A parameter of its own between the calls of its layers."""

    def __init__(self):
        super().__init__()
        self.net, self.gain = network(), nn.Parameter(torch.ones(9, dtype=torch.float64))

    def forward(self, x):
        net = self.net
        return net.fc(net.layer2.lif(self.gain * net.layer2.fc(net.layer1.lif(net.layer1.fc(x)))))


def test_a_parameter_between_calls_has_no_definition():
    with pytest.raises(ValueError, match="expected parameters that their module uses by itself, 'gain' of '' is used"):
        by_definition(Rule(), Gained(), *batch(), per_step)
