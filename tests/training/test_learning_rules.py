"""Learning rules: what BPTT leaves, and rules of others between the forward pass and the update."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sj_cka.data import digits
from sj_cka.models import build
from sj_cka.plugins import UnknownName
from sj_cka.training import LEARNING_RULES, DeviceLoader, NotFinite, Settings, capturable, train
from sj_cka.training.learning_rules import bptt
from sj_cka.training.loop import _captured

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
    with pytest.raises(UnknownName, match="unknown learning rule 'btpt'"):
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
