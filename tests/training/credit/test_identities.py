"""Where theory says that two learning rules are one, in float64 at T = 8; and, beside each, where they are not."""

import functools
import itertools

import pytest
import torch
from lively import (
    CLASSES,
    N,
    T,
    batch,
    cosine,
    gradients,
    network,
    of_each_step,
    of_mean_logits,
    off,
    random,
)
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from sj_cka.training.credit import assignment
from sj_cka.training.credit.rule import Rule
from sj_cka.training.learning_rules import rule_of

EXACT, OTHER = 1e-12, 0.01
BPTT = Rule()
FA = "feedback_alignment"
DFA = "direct_feedback_alignment"
TRACE, ELIGIBILITY = "presynaptic_trace", "eligibility_trace"
ONE_HIDDEN = {"mlp": {"hidden": [13]}, "convnet": {"channels": [4]}}


def equal(found, expected):
    return max(off(found, expected).values()) < EXACT


def hidden(found):
    """Gradients of all layers but the readout."""
    return {name: g for name, g in found.items() if not name.startswith("fc.")}


def all_differ(found, expected):
    return min(off(hidden(found), hidden(expected)).values()) > OTHER


# in space


@pytest.mark.parametrize("time", ["bptt", TRACE, ELIGIBILITY, "none"])
@pytest.mark.parametrize("recurrent", [False, True, "elementwise"])
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_feedback_alignment_by_the_transposed_weights_is_backpropagation(model, recurrent, time, monkeypatch):
    net, (x, y) = network(model, recurrent=recurrent), batch(model)
    expected = gradients(Rule("backprop", time), net, x, y)
    random_ones = gradients(Rule(FA, time), net, x, y)
    monkeypatch.setattr(assignment, "in_place_of_weight", lambda seed, name, weight: weight)
    assert equal(gradients(Rule(FA, time), net, x, y), expected)
    below = {n: g for n, g in expected.items() if n.startswith(("layer1.", "stage1."))}
    assert min(off({n: random_ones[n] for n in below}, below).values()) > OTHER


@pytest.mark.parametrize("time", ["bptt", TRACE, ELIGIBILITY, "none"])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_symmetric_direct_feedback_is_backpropagation_with_one_hidden_layer(model, recurrent, time):
    net, (x, y) = network(model, recurrent=recurrent, **ONE_HIDDEN[model]), batch(model)
    expected = gradients(Rule("backprop", time), net, x, y)
    assert equal(gradients(Rule(DFA, time, feedback="symmetric"), net, x, y), expected)
    assert all_differ(gradients(Rule(DFA, time), net, x, y), expected)


def test_symmetric_direct_feedback_is_not_backpropagation_with_two_hidden_layers_of_spikes():
    net, (x, y) = network(), batch()
    found, expected = (gradients(rule, net, x, y) for rule in (Rule(DFA, feedback="symmetric"), BPTT))
    assert off(found, expected)["layer1.fc.weight"] > OTHER
    assert off(found, expected)["layer2.fc.weight"] < EXACT


def linear_network(slope):
    torch.manual_seed(0)
    sizes = [12, 9, 8, 7, CLASSES]
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    activations = [nn.LeakyReLU(slope) for _ in layers[:-1]]
    return nn.Sequential(*[m for pair in zip(layers, activations, strict=False) for m in pair], layers[-1]).double()


def from_neurons_to_logits(weights):
    """The product of the weights, the last on the left, `[classes, units]`."""
    return functools.reduce(lambda product, weight: weight @ product, weights)


@pytest.mark.parametrize(("slope", "same"), [(1.0, True), (0.5, False)])
def test_direct_feedback_by_products_of_transposed_weights_is_backpropagation_where_neurons_are_linear(
    slope, same, monkeypatch
):
    net, x, y = linear_network(slope), random(N, 12), torch.arange(N) % CLASSES
    weights = [module.weight.detach() for module in net if isinstance(module, nn.Linear)]
    paths = {name: from_neurons_to_logits(weights[i + 1 :]) for i, name in enumerate(("1", "3", "5"))}

    expected = gradients(BPTT, net, x, y, loss=nn.functional.cross_entropy)
    symmetric = gradients(Rule(DFA, feedback="symmetric"), net, x, y, loss=nn.functional.cross_entropy)
    at_random = gradients(Rule(DFA), net, x, y, loss=nn.functional.cross_entropy)
    monkeypatch.setattr(assignment, "from_logits", lambda seed, name, classes, units, like: paths[name])
    by_hand = gradients(Rule(DFA), net, x, y, loss=nn.functional.cross_entropy)
    assert equal(symmetric, by_hand)
    assert equal(by_hand, expected) == same
    of_readout = ("6.weight", "6.bias")
    assert min(value for name, value in off(at_random, expected).items() if name not in of_readout) > OTHER


# in time


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("space", ["backprop", FA, DFA, "local_error"])
def test_blocks_of_all_steps_are_backpropagation_through_time_and_of_one_step_none(space, recurrent):
    net, (x, y) = network(recurrent=recurrent), batch()
    whole = gradients(Rule(space), net, x, y)
    for k in (T, T + 3):
        assert equal(gradients(Rule(space, "truncated", k), net, x, y), whole)
    none = gradients(Rule(space, "none"), net, x, y)
    one = gradients(Rule(space, "truncated", 1), net, x, y)
    assert all(torch.equal(one[name], none[name]) for name in none)
    some = [none, *(gradients(Rule(space, "truncated", k), net, x, y) for k in (2, 3, 5, 7)), whole]
    for found, other in itertools.combinations(some, 2):
        assert all_differ(found, other)


NEURONS = {
    "lif": {},
    "lif, tau 1.2": {"tau": 1.2},
    "lif, tau 8": {"tau": 8.0},
    "lif, input decays": {"decay_input": True, "tau": 3.0},
    "if": {"name": "if"},
    "current_lif": {"name": "current_lif", "tau": 1.6, "tau_syn": 3.0},
}


@pytest.mark.parametrize("neurons", NEURONS)
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_a_trace_of_the_inputs_is_exact_with_one_hidden_layer_and_a_soft_detached_reset(model, neurons):
    net, (x, y) = network(model, NEURONS[neurons], **ONE_HIDDEN[model]), batch(model)
    expected = gradients(BPTT, net, x, y)
    assert "bias" in " ".join(hidden(expected))
    for time in (TRACE, ELIGIBILITY):
        assert equal(gradients(Rule(time=time), net, x, y), expected)
    assert all_differ(gradients(Rule(time="none"), net, x, y), expected)
    of_mean = gradients(BPTT, net, x, y, loss=of_mean_logits)
    assert all_differ(gradients(Rule(time=TRACE), net, x, y), of_mean), "a step knows no logits of later ones"


@pytest.mark.parametrize("model", ["mlp", "convnet"])
@pytest.mark.parametrize(
    "reset", [{"v_reset": 0.0}, {"detach_reset": False}, {"v_reset": 0.1, "detach_reset": False}], ids=str
)
def test_other_resets_break_a_trace_of_the_inputs_and_not_one_of_every_synapse(model, reset):
    net, (x, y) = network(model, reset, **ONE_HIDDEN[model]), batch(model)
    expected = gradients(BPTT, net, x, y)
    assert all_differ(gradients(Rule(time=TRACE), net, x, y), expected)
    assert equal(gradients(Rule(time=ELIGIBILITY), net, x, y), expected)


def test_an_undetached_reset_of_a_current_lif_breaks_a_trace_of_the_inputs_alone():
    net, (x, y) = network(neuron={"name": "current_lif", "detach_reset": False}, hidden=[13]), batch()
    expected = gradients(BPTT, net, x, y)
    assert all_differ(gradients(Rule(time=TRACE), net, x, y), expected)
    assert equal(gradients(Rule(time=ELIGIBILITY), net, x, y), expected)


@pytest.mark.parametrize("time", [TRACE, ELIGIBILITY])
def test_with_two_hidden_layers_online_rules_miss_what_goes_through_the_later_neurons_past(time):
    net, (x, y) = network(), batch()
    found = off(gradients(Rule(time=time), net, x, y), gradients(BPTT, net, x, y))
    assert found["layer1.fc.weight"] > OTHER
    assert found["layer2.fc.weight"] < EXACT


# loops written out


def attached(past):
    return past


def detached(past):
    return past.detach()


def by_hand(net, x, y, of_potentials=attached, of_spikes=attached):
    """Gradients by autograd of an MLP of LIF neurons, soft and detached reset, with a choice of what goes back."""
    layers = [net.get_submodule(name) for name in ("layer1", "layer2") if hasattr(net, name)]
    potentials = [x.new_zeros(()) for _ in layers]
    spikes = [x.new_zeros(N, one.fc.out_features) for one in layers]
    logits = []
    for s in x:
        for i, one in enumerate(layers):
            h = (1 - 1 / one.lif.tau) * of_potentials(potentials[i]) + s @ one.fc.weight.T + one.fc.bias
            if one.recurrent is not None:
                h = h + of_spikes(spikes[i]) @ one.recurrent.v.weight.T
            s = one.lif.surrogate_function(h - one.lif.v_threshold)
            potentials[i], spikes[i] = h - one.lif.v_threshold * s.detach(), s
        logits.append(s @ net.fc.weight.T + net.fc.bias)
    found = torch.autograd.grad(of_each_step(torch.stack(logits), y), list(net.parameters()))
    return {name: g for (name, _), g in zip(net.named_parameters(), found, strict=True)}


@pytest.mark.parametrize("recurrent", [False, True])
def test_none_is_autograd_with_all_of_the_past_detached(recurrent):
    net, (x, y) = network(recurrent=recurrent), batch()
    assert equal(by_hand(net, x, y), gradients(BPTT, net, x, y))
    found = gradients(Rule(time="none"), net, x, y)
    assert equal(found, by_hand(net, x, y, detached, detached))
    assert all_differ(found, by_hand(net, x, y, attached, detached))
    if recurrent:
        assert all_differ(found, by_hand(net, x, y, detached, attached))


@pytest.mark.parametrize("rule", ["eprop", "ottt"])
def test_online_rules_are_autograd_with_spikes_through_recurrent_weights_detached(rule):
    net, (x, y) = network(recurrent=True, hidden=[13]), batch()
    found = gradients(rule_of(rule), net, x, y)
    assert equal(found, by_hand(net, x, y, attached, detached))
    assert all_differ(found, by_hand(net, x, y))
    assert all_differ(found, by_hand(net, x, y, detached, detached))


# SpikingJelly's own


def spikingjellys(node, container, **options):
    """Its network of the weights of `network()`, which takes one step a call."""
    net = network(neuron=options)
    modules = []
    for one in (net.layer1, net.layer2):
        fc = nn.Linear(one.fc.in_features, one.fc.out_features).double()
        fc.load_state_dict(one.fc.state_dict())
        modules += [fc, node(v_threshold=0.4, **options, surrogate_function=surrogate.Sigmoid(alpha=6.0))]
    readout = nn.Linear(net.fc.in_features, CLASSES).double()
    readout.load_state_dict(net.fc.state_dict())
    return net, container(*modules, readout)


def theirs(net, x, y):
    """Gradients as its `ottt_online_training` takes them, of the sum over steps of losses; 2.0.0 has none."""
    functional.reset_net(net)
    for step in x:
        nn.functional.cross_entropy(net(step), y).backward()
    names = [f"{one}.{p}" for one in ("layer1.fc", "layer2.fc", "fc") for p in ("weight", "bias")]
    return {name: p.grad / T for name, p in zip(names, net.parameters(), strict=True)}


def test_sltt_is_that_of_spikingjelly():
    options = {"v_reset": 0.0, "detach_reset": True, "decay_input": True}
    (own, other), (x, y) = spikingjellys(neuron.SLTTLIFNode, nn.Sequential, **options), batch()
    found = gradients(rule_of("sltt"), own, x, y)
    assert equal(found, theirs(other, x, y))
    assert all_differ(found, gradients(BPTT, own, x, y))


def test_ottt_is_that_of_spikingjelly_in_hidden_layers_that_take_spikes():
    """Its first layer takes the plain input and its readout, which has no state, a trace; no bias has one."""
    options = {"v_reset": None, "detach_reset": True}
    (own, other), (x, y) = spikingjellys(neuron.OTTTLIFNode, layer.OTTTSequential, **options), batch()
    found, expected = gradients(rule_of("ottt"), own, x, y), theirs(other, x, y)
    different = off(found, expected)
    assert different["layer2.fc.weight"] < EXACT
    none = gradients(Rule(time="none"), own, x, y)
    assert off(none, expected)["layer1.fc.weight"] < EXACT < OTHER < different["layer1.fc.weight"]
    assert different["fc.weight"] > OTHER
    for name in ("layer1.fc.bias", "layer2.fc.bias"):
        assert off(none, expected)[name] < EXACT < OTHER < different[name]
    assert different["fc.bias"] < EXACT


# presets, each by each

PRESETS = {
    "bptt": "bptt",
    "tbptt": {"name": "tbptt", "k": 3},
    "fa": "fa",
    "dfa": "dfa",
    "dfa, symmetric": {"name": "dfa", "feedback": "symmetric"},
    "le": "le",
    "ottt": "ottt",
    "sltt": "sltt",
    "eprop": "eprop",
    "eprop, random": {"name": "eprop", "feedback": "random"},
    "decolle": "decolle",
    "backprop x eligibility": {"name": "pair", "space": "backprop", "time": ELIGIBILITY},
}
# Rules that are one in every layer, feed-forward and with a loss of every step: by any reset, where no error comes from
# layers above, whose past an eligibility trace does not know;
ALWAYS_ONE = {("dfa", "eprop, random"), ("dfa, symmetric", "eprop")}
# by a soft and detached one, which a trace of the inputs follows as well;
SOFT_ONE = ALWAYS_ONE | {("le", "decolle"), ("ottt", "backprop x eligibility")}
# and in the last hidden layer, to which errors come by the readout alone.
LAST_ONE = {"bptt", "ottt", "backprop x eligibility", "eprop", "dfa, symmetric"}


def pairs_that_are_one(net, name):
    x, y = batch()
    found = {preset: gradients(rule_of(rule), net, x, y)[name] for preset, rule in PRESETS.items()}
    return {
        (one, other) for one, other in itertools.combinations(PRESETS, 2) if cosine(found[one], found[other]) > 0.999
    }


def test_of_all_pairs_of_presets_those_are_one_in_the_first_layer_that_theory_says():
    assert pairs_that_are_one(network(), "layer1.fc.weight") == SOFT_ONE
    hard = network(neuron={"v_reset": 0.0, "detach_reset": False})
    assert pairs_that_are_one(hard, "layer1.fc.weight") == ALWAYS_ONE


def test_of_all_pairs_of_presets_those_are_one_in_the_last_hidden_layer_that_theory_says():
    last = {tuple(pair) for pair in itertools.combinations([p for p in PRESETS if p in LAST_ONE], 2)}
    assert pairs_that_are_one(network(), "layer2.fc.weight") == SOFT_ONE | last


@pytest.mark.parametrize(("one", "other"), sorted(SOFT_ONE))
def test_presets_that_are_one_rule_are_so_to_rounding_in_all_layers(one, other):
    net, (x, y) = network(), batch()
    found, expected = (gradients(rule_of(PRESETS[name]), net, x, y) for name in (one, other))
    assert equal(found, expected)
