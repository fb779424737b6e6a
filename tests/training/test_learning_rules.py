"""Learning rules: what BPTT leaves, rules of others between forward pass and update, and presets with their options."""

from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch import nn

from sj_cka.data import digits
from sj_cka.models import build
from sj_cka.plugins import UnknownName
from sj_cka.recipe.choices import RULE
from sj_cka.training import LEARNING_RULES, DeviceLoader, NotFinite, Settings, capturable, train
from sj_cka.training.credit.rule import Rule, Space, Time
from sj_cka.training.learning_rules import Preset, bptt, function_of, rule_of
from sj_cka.training.loop import _captured
from sj_cka.training.step import Step

PLAIN = Settings(epochs=2, batch_size=16, lr=0.1, weight_decay=0.0)


def network(kind="snn"):
    return build(kind, {"name": "resnet", "depth": 8}, in_channels=1, num_classes=10, T=2, seed=0)


def trained(rule, kind="snn", **options):
    """Weights after a training on a few digits."""
    data, net = digits(), network(kind)
    settings = Settings(**vars(PLAIN) | options | {"rule": rule})
    x, y = data.x_train[:48], data.y_train[:48]
    train(net, DeviceLoader(x, y, batch_size=16, seed=0, classes=10), settings, seed=0)
    return dict(net.named_parameters())


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def rules(monkeypatch):
    """Rules of another package."""

    def scaled(net, x, y, *, by: float = 0.5, **given):
        logits, loss = bptt(net, x, y, **given)
        for parameter in net.parameters():
            parameter.grad *= by
        return logits, loss

    def lazy(net, x, y, *, forward, loss, scale):
        logits = forward(x)
        return logits, loss(logits, y)

    def broken(net, x, y, *, forward, loss, scale):
        logits = forward(x)
        return logits, loss(logits, y) * float("nan")

    for rule in (scaled, lazy, broken):
        monkeypatch.setitem(LEARNING_RULES, rule.__name__, rule)


@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_bptt_leaves_the_gradients_of_autograd_and_none_is_dead(kind):
    torch.manual_seed(0)
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)

    def mean_loss(logits, y):
        return nn.functional.cross_entropy(logits.mean(0) if logits.ndim == 3 else logits, y)

    one, other = network(kind).train(), network(kind).train()
    logits, loss = bptt(one, x, y, forward=one, loss=mean_loss, scale=lambda loss: 8 * loss)
    expected = torch.autograd.grad(mean_loss(other(x), y), list(other.parameters()))
    assert torch.equal(loss, mean_loss(logits, y))
    for parameter, gradient in zip(one.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, 8 * gradient)
    assert all(gradient.any() for gradient in expected)


def test_the_rule_is_bptt_unless_another_is_named():
    assert same(trained("bptt"), trained({"name": "bptt"}))
    assert Settings().rule == "bptt"


@pytest.mark.usefixtures("rules")
def test_a_training_takes_the_gradients_that_a_rule_leaves_with_its_options():
    halved, backpropagated = trained("scaled", lr=0.2), trained("bptt")
    assert same(halved, backpropagated)  # half the gradient at twice the rate
    assert same(trained({"name": "scaled", "by": 0.25}, lr=0.4), backpropagated)
    assert not same(trained({"name": "scaled", "by": 0.25}, lr=0.2), backpropagated)


@pytest.mark.usefixtures("rules")
def test_norms_are_bounded_after_the_rule():
    bounded = [trained({"name": "scaled", "by": by}, clip=1e-3) for by in (2.0**12, 2.0**13)]
    for one, other in zip(*(weights.values() for weights in bounded), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not same(bounded[0], trained({"name": "scaled", "by": 2.0**12}))


@pytest.mark.usefixtures("rules")
def test_a_rule_that_leaves_no_gradients_ends_a_training():
    with pytest.raises(RuntimeError, match="expected the learning rule lazy to leave gradients, it left none"):
        trained("lazy")


@pytest.mark.usefixtures("rules")
def test_a_loss_that_is_no_number_ends_a_training_by_any_rule():
    with pytest.raises(NotFinite, match=r"the loss became nan in epoch 1, step 1 of 3"):
        trained("broken")


def test_a_rule_that_nobody_knows_is_told():
    with pytest.raises(UnknownName, match=r"unknown learning rule 'btpt'; did you mean .*'bptt'"):
        trained("btpt")


@pytest.mark.parametrize(
    ("device", "options", "may", "captured"),
    [
        ("cuda", {}, True, True),
        ("cuda", {}, False, False),
        ("cuda", {"graph": False}, True, False),
        ("cuda", {"compile": True}, True, False),
        ("cpu", {}, True, False),
    ],
)
def test_a_step_is_captured_where_its_rule_says_that_it_may_be(device, options, may, captured):
    step = SimpleNamespace(settings=Settings(**options), capturable=may, device=torch.device(device))
    assert (_captured(step) is not None) == captured


def test_only_a_rule_that_says_so_is_captured():
    def rule(net, x, y, **given): ...

    assert not hasattr(rule, "capturable")
    assert capturable(rule).capturable
    assert bptt.capturable


DFA = "direct_feedback_alignment"
PRESETS = {
    "bptt": ({}, Rule()),
    "tbptt": ({"k": 3}, Rule(time="truncated", k=3)),
    "fa": ({"seed": 5}, Rule("feedback_alignment", seed=5)),
    "dfa": ({"feedback": "symmetric"}, Rule(DFA, feedback="symmetric")),
    "le": ({"seed": 5}, Rule("local_error", seed=5)),
    "ottt": ({}, Rule(time="presynaptic_trace")),
    "sltt": ({}, Rule(time="none")),
    "eprop": ({}, Rule(DFA, "eligibility_trace", feedback="symmetric")),
    "decolle": ({"seed": 5}, Rule("local_error", "presynaptic_trace", seed=5)),
    "pair": (
        {"space": DFA, "time": "truncated", "k": 2, "feedback": "symmetric", "seed": 1},
        Rule(DFA, "truncated", 2, "symmetric", 1),
    ),
}


def test_all_presets_are_listed():
    assert set(PRESETS) == {name for name, rule in LEARNING_RULES.items() if isinstance(rule, Preset)}


@pytest.mark.parametrize("name", PRESETS)
def test_options_of_a_recipe_reach_the_rule(name):
    options, expected = PRESETS[name]
    block = RULE.typed({"name": name, **options})
    assert rule_of(block) == expected
    assert rule_of(RULE.without_defaults(block)) == expected
    if not options:
        assert rule_of(name) == expected
    assert rule_of(expected) is expected


@pytest.mark.parametrize("name", PRESETS)
def test_an_option_that_a_rule_does_not_have_is_an_error(name):
    options, _ = PRESETS[name]
    with pytest.raises(ValueError, match=r"(?s)depth.*not permitted"):
        RULE.typed({"name": name, "depth": 4, **options})
    with pytest.raises(TypeError, match="depth"):
        rule_of({"name": name, "depth": 4, **options})
    with pytest.raises(TypeError, match="depth"):
        Step(network(), Settings(rule={"name": name, "depth": 4, **options}, loss="tet"))


@pytest.mark.parametrize("time", get_args(Time))
@pytest.mark.parametrize("space", get_args(Space))
def test_a_pair_is_any_two_choices(space, time):
    k = {"k": 2} if time == "truncated" else {}
    block = RULE.typed({"name": "pair", "space": space, "time": time, **k})
    assert rule_of(block) == Rule(space, time, k.get("k"))
    assert function_of(block).keywords == {"space": space, "time": time, **k}


def test_a_rule_that_is_none_of_two_choices_has_no_definition():
    with pytest.raises(ValueError, match=r"expected a learning rule with a definition, made of a Rule, got 'frozen'"):
        rule_of("frozen")
    with pytest.raises(ValueError, match="got 'test_all_presets_are_listed'"):
        rule_of(test_all_presets_are_listed)
    with pytest.raises(UnknownName, match=r"unknown learning rule 'otttt'; did you mean .*'ottt'"):
        rule_of("otttt")


@pytest.mark.parametrize("rule", [{"seed": 1}, {"name": ["fa"]}, 3, None])
@pytest.mark.parametrize("read", [rule_of, function_of, lambda rule: Step(network(), Settings(rule=rule))])
def test_what_names_no_rule_is_told(read, rule):
    with pytest.raises(
        ValueError, match=r"expected a name of LEARNING_RULES, or a mapping with `name` .* got (\{|3|None)"
    ):
        read(rule)
