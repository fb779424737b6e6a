"""Traces of inputs and of synapses, by hand and beside autograd."""

import pytest
import torch
from lively import random
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka.models.recurrence import Elementwise
from sj_cka.neurons import NEURONS, current_lif, if_, lif
from sj_cka.training.credit.traces import Eligibility, Filter, Step, decays


def test_a_filter_by_hand():
    filtered = Filter([0.5])
    assert [(float(x), one) for x, one in map(filtered, torch.tensor([4.0, 0.0, 2.0]))] == [
        (4.0, 1.0),
        (2.0, 1.5),
        (3.0, 1.75),
    ]


def test_two_filters_are_one_behind_the_other():
    both, first, second = Filter([0.5, 0.25]), Filter([0.5]), Filter([0.25])
    for x in random(6, 3):
        expected, _ = second(first(x)[0])
        assert torch.equal(both(x)[0], expected)
    assert Filter([])(torch.tensor(3.0)) == (3.0, 1.0)
    ones = Filter([0.5, 0.25])
    assert all(x == one for x, one in (ones(1.0) for _ in range(6)))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (lif(tau=4.0), (0.75,)),
        (lif(tau=4.0, backend="torch"), (0.75,)),
        (lif(tau=4.0, decay_input=True), (0.75,)),
        (neuron.LIFNode(tau=2.0), (0.5,)),
        (if_(), (1.0,)),
        (neuron.IFNode(), (1.0,)),
        (current_lif(tau_syn=2.0, tau=4.0), (0.5, 0.75)),
        (current_lif(tau_syn=2.0, tau=4.0, backend="torch"), (0.5, 0.75)),
    ],
)
def test_decays_are_those_of_the_neurons(node, expected):
    assert decays(node) == expected
    # what an input of 1 leaves in the potential of neurons that never spike, over what it is at first
    node.v_threshold, node.v_reset, node.step_mode, node.store_v_seq = 1e9, None, "m", True
    node.train()
    x = torch.zeros(6, 1, 1, dtype=torch.float64)
    x[0] = 1
    node(x)
    response, trace = node.v_seq.flatten(), Filter(expected)
    by_filter = torch.stack([trace(x_t)[0] for x_t in x]).flatten()
    torch.testing.assert_close(by_filter, response / response[0], rtol=1e-12, atol=1e-14)


class OwnStep(neuron.LIFNode):
    def single_step_forward(self, x):
        return super().single_step_forward(x.relu())


class OwnSteps(neuron.LIFNode):
    def multi_step_forward(self, x_seq):
        return super().multi_step_forward(x_seq.relu())


class OwnForward(neuron.LIFNode):
    def forward(self, x):
        return super().forward(x.cumsum(0))


class OwnName(neuron.LIFNode):
    pass


def test_decays_of_neurons_with_a_step_of_their_own_are_not_known():
    for node in (
        OwnStep(),
        OwnSteps(),
        OwnForward(),
        neuron.OTTTLIFNode(),
        neuron.SLTTLIFNode(),
        neuron.ParametricLIFNode(),
        neuron.QIFNode(),
        nn.ReLU(),
    ):
        assert decays(node) is None
    assert decays(OwnName(tau=4.0)) == (0.75,)


def test_all_neurons_of_the_table_but_the_one_that_learns_its_leak_are_known():
    assert {name for name, make in NEURONS.items() if decays(make()) is None} == {"plif"}


LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "conv": (lambda: layer.Conv2d(2, 3, 3, padding=1), (3, 2, 5, 4)),
    "conv, strided": (lambda: layer.Conv2d(2, 3, (3, 2), stride=2, dilation=(1, 2)), (3, 2, 7, 6)),
    "conv, same": (lambda: layer.Conv2d(2, 3, 3, padding="same"), (3, 2, 5, 4)),
    "elementwise": (lambda: Elementwise(4, 0), (3, 4)),
    "elementwise, images": (lambda: Elementwise(2, 2), (3, 2, 5, 4)),
}


@pytest.mark.parametrize(
    "make_neurons", [lambda: lif(v_reset=None), lambda: lif(v_reset=0.0), current_lif], ids=["soft", "hard", "current"]
)
@pytest.mark.parametrize("name", LAYERS)
def test_eligibilities_are_derivatives_of_states_by_weights(name, make_neurons):
    """Sum over synapses of what they left in the states, weighed by errors of these: autograd's, through all steps."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    weights = make().double()
    node, T = make_neurons(), 5
    node.v_threshold, node.step_mode = 0.3, "s"
    if isinstance(weights, Elementwise):
        weights.weight.data *= 10
    x = random(T, *shape)
    parameters = dict(weights.named_parameters())

    def states():
        return [z for z in node._memories.values() if isinstance(z, torch.Tensor)]

    spikes = sum(node(weights(x_t)) for x_t in x)
    assert 0 < spikes.detach().mean() < T
    errors = [random(*z.shape, seed=i) for i, z in enumerate(states())]
    expected = torch.autograd.grad(states(), list(parameters.values()), errors)

    functional.reset_net(node)
    eligibilities = {p: Eligibility(weights, p) for p in parameters}
    before: list[torch.Tensor] = []
    for x_t in x:
        given = weights(x_t)
        node(given)
        after = states()
        rows = [torch.autograd.grad(z.sum(), [given, *before], retain_graph=True, allow_unused=True) for z in after]
        for one in eligibilities.values():
            one.add(Step(before, [row[1:] for row in rows], [row[0] for row in rows]), x_t)
        for key, z in node._memories.items():
            if isinstance(z, torch.Tensor):
                node._memories[key] = z.detach().requires_grad_()
        before = states()
    for z, error in zip(before, errors, strict=True):
        z.grad = error
    weights.zero_grad()
    nothing = Step(before, [[None] * len(before)] * len(before), [torch.zeros_like(z) for z in before])
    for (p, one), gradient in zip(eligibilities.items(), expected, strict=True):
        one.add(nothing, x[0])
        assert gradient.any()
        torch.testing.assert_close(parameters[p].grad, gradient, rtol=1e-10, atol=1e-12)


def test_an_eligibility_by_hand():
    """One LIF neuron of decay 1/2 and soft detached reset: e[t] = e[t-1] / 2 + x[t]."""
    weights = nn.Linear(2, 1, bias=False).double()
    one = Eligibility(weights, "weight")
    half, unit = torch.full((1, 1), 0.5), torch.ones(1, 1)
    one.add(Step([], [[]], [unit]), torch.tensor([[4.0, 0.0]]))
    assert one.states[0].flatten().tolist() == [4.0, 0.0]
    v = torch.zeros(1, 1)
    one.add(Step([v], [[half]], [unit]), torch.tensor([[0.0, 1.0]]))
    assert one.states[0].flatten().tolist() == [2.0, 1.0]
    assert weights.weight.grad is None, "no error has come to the state before"
    v.grad = torch.full((1, 1), 3.0)
    one.add(Step([v], [[half]], [unit]), torch.tensor([[0.0, 0.0]]))
    assert weights.weight.grad.flatten().tolist() == [6.0, 3.0]
