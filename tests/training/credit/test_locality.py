"""What the updates of a rule hang on: errors of blocks above, errors of later steps."""

import functools

import pandas as pd
import pytest
import torch
from lively import Looped, T, batch, gradients, network
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.layer import SeqToANNContainer
from torch import nn

from sj_cka.training import locality
from sj_cka.training.credit.alignment import by_module
from sj_cka.training.credit.locality import by_step
from sj_cka.training.credit.rule import Rule
from sj_cka.training.learning_rules import rule_of

RULES = {
    "bptt": "bptt",
    "tbptt": {"name": "tbptt", "k": 3},
    "fa": "fa",
    "dfa": "dfa",
    "symmetric": {"name": "dfa", "feedback": "symmetric"},
    "le": "le",
    "ottt": "ottt",
    "sltt": "sltt",
    "eprop": "eprop",
    "eprop, random": {"name": "eprop", "feedback": "random"},
    "decolle": "decolle",
}
# shares of updates that move when a block above is disturbed, and the same with the error of the logits held
ACROSS_BLOCKS = {
    "bptt": (1, 1),
    "tbptt": (1, 1),
    "fa": (1, 1 / 3),  # layer1 of layer2, by the slopes of its neurons; no layer of the readout
    "dfa": (1, 0),
    "symmetric": (1, 1),  # through the weights above, by which the error is sent
    "le": (0, 0),
    "ottt": (1, 1),
    "sltt": (1, 1),
    "eprop": (1, 1),
    "eprop, random": (1, 0),
    "decolle": (0, 0),
}
ONLINE = {"ottt", "sltt", "eprop", "eprop, random", "decolle"}


@functools.cache
def looked_at(name, recurrent=False):
    return locality(RULES[name], network(recurrent=recurrent), *batch())


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_rules_are_local_in_space_and_time_as_theory_says(name, recurrent):
    found = looked_at(name, recurrent)
    free, held = ACROSS_BLOCKS[name]
    assert found.across_blocks == free
    assert found.across_blocks_error_held == pytest.approx(held)
    if name in ONLINE:
        assert found.across_steps == 0
    elif name != "tbptt":
        assert found.across_steps == 1
    assert found.not_local == ()


def test_the_words_say_the_shares():
    text = str(looked_at("dfa"))
    assert "100% of updates move when a block above is disturbed (0% with the error of the logits held)" in text
    assert "100% of updates of a step move when a later step is disturbed" in text


@pytest.mark.parametrize("k", [2, 3, 5])
def test_blocks_of_steps_hear_of_later_steps_in_their_block_alone(k):
    table = locality({"name": "tbptt", "k": k}, network(), *batch()).time
    later = table[(table["disturbed"] > table["step"]) & table["remembers"]]
    within = (later["disturbed"] - 1) // k == (later["step"] - 1) // k
    assert within.any()
    assert not within.all()
    assert (later["change"][within] > 1e-9).all()
    assert (later["change"][~within] == 0).all()


@pytest.mark.parametrize("name", RULES)
def test_updates_of_a_step_move_when_it_is_disturbed_itself(name):
    found = looked_at(name)
    own = found.time[found.time["disturbed"] == found.time["step"]]
    assert set(own["layer"]) == {"layer1.fc", "layer2.fc", "fc"}
    assert (own["change"] > 1e-3).all()
    disturbed = found.space[~found.space["below"] & (found.space["layer"] != "fc")]
    assert (disturbed["change"] > 1e-9).all(), "what a block feeds, and itself"


@pytest.mark.parametrize("name", ["ottt", "eprop", "decolle"])
def test_traces_carry_what_was_before_and_without_one_the_potential_alone_does(name):
    table = looked_at(name).time
    before = table[(table["disturbed"] < table["step"]) & table["remembers"]]
    assert (before["change"] > 1e-9).any()


@pytest.mark.parametrize("model", ["mlp", "convnet"])
@pytest.mark.parametrize("name", RULES)
def test_the_parts_of_steps_add_up_to_the_update(name, model):
    net, (x, y) = network(model, recurrent="elementwise"), batch(model)
    rule = rule_of(RULES[name])
    wiring = rule.wiring(net, x)
    whole = by_module(gradients(rule, net, x, y), net)
    parts = by_step(rule, net, wiring, x, y)
    assert len(parts) == T
    for layer in wiring.layers:
        torch.testing.assert_close(sum(part[layer] for part in parts), whole[layer], rtol=1e-10, atol=1e-13)
        assert sum(bool(part[layer].any()) for part in parts) > 1


@pytest.mark.parametrize("name", ["bptt", "tbptt", "dfa", "ottt"])
def test_a_network_that_goes_through_its_steps_itself_is_as_local(name):
    one = looked_at(name)
    other = locality(RULES[name], Looped(network()), *batch())
    pd.testing.assert_frame_equal(one.space, other.space)
    pd.testing.assert_frame_equal(one.time, other.time)


@pytest.mark.parametrize("name", ["tbptt", "dfa"])
def test_layers_that_are_given_steps_and_samples_in_one_axis_are_as_local(name):
    net = network()
    one = looked_at(name)
    for block in (net.layer1, net.layer2, net):
        functional.set_step_mode(block.fc, "s")
    fc1, fc2, fc3 = (SeqToANNContainer(block.fc) for block in (net.layer1, net.layer2, net))
    merged = nn.Sequential(fc1, net.layer1.lif, fc2, net.layer2.lif, fc3)
    other = locality(RULES[name], merged, *batch())
    assert list(other.time["layer"].unique()) == ["0.0", "2.0", "4.0"]
    assert (other.across_blocks, other.across_steps) == (one.across_blocks, one.across_steps)


@pytest.mark.parametrize("name", ["bptt", "sltt"])
def test_layers_that_do_not_learn_are_left_out(name):
    net = network()
    net.layer1.fc.requires_grad_(requires_grad=False)
    found = locality(RULES[name], net, *batch())
    assert set(found.space["layer"]) == set(found.time["layer"]) == {"layer2.fc", "fc"}
    assert set(found.space["disturbed"]) == {"layer1.lif", "layer2.lif", "fc"}


def test_normalisation_is_named_as_what_no_rule_makes_local():
    found = locality("ottt", network(norm="step"), *batch())
    assert found.not_local == ("layer1.bn", "layer2.bn")
    assert "not local, whatever the rule: layer1.bn, layer2.bn (batch normalisation)" in str(found)
    assert found.across_steps == 0


def test_disturbances_are_of_a_seed_and_leave_the_network_as_it_was():
    net, (x, y) = network(), batch()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    one, again, other = (locality("fa", net, x, y, seed=seed) for seed in (0, 0, 1))
    assert one.space.equals(again.space)
    assert one.time.equals(again.time)
    assert not one.space.equals(other.space)
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    assert rule_of("fa") == one.rule == Rule("feedback_alignment")


def test_silent_neurons_are_refused():
    net, (x, y) = network(), batch()
    net.layer1.lif.v_threshold = 1e3
    with pytest.raises(ValueError, match=r"those of 'layer1.lif' are silent"):
        locality("le", net, x, y)
