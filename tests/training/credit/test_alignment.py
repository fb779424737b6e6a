"""Updates beside BPTT's: the whole and step by step."""

import math

import pytest
import torch
from lively import T, batch, cosine, gradients, network
from spikingjelly.activation_based import functional
from torch import nn

from sj_cka.training import alignment, certify, locality
from sj_cka.training.credit.alignment import by_module, per_step, updates
from sj_cka.training.credit.rule import Rule
from sj_cka.training.learning_rules import rule_of

LAYERS = ["layer1.fc", "layer2.fc", "fc"]


def test_bptt_lies_on_itself_in_every_layer_and_step():
    found = alignment("bptt", network(), *batch())
    assert list(found.whole["layer"]) == LAYERS
    assert sorted(set(found.by_step["step"])) == list(range(1, T + 1))
    assert len(found.by_step) == T * len(LAYERS)
    assert found.hidden == LAYERS[:2]
    for table in found[:2]:
        assert table["cosine"].to_numpy() == pytest.approx(1, abs=1e-12)
        assert table["norm_ratio"].to_numpy() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rule", ["fa", "ottt", {"name": "tbptt", "k": 2}, Rule("local_error", seed=4)])
def test_cosines_and_norms_are_those_of_the_gradients(rule):
    net, (x, y) = network(), batch()
    found = alignment(rule, net, x, y).whole.set_index("layer")
    own, back = (by_module(gradients(one, net, x, y), net) for one in (rule_of(rule), Rule()))
    for layer in LAYERS:
        assert found.loc[layer, "cosine"] == pytest.approx(cosine(own[layer], back[layer]), abs=1e-12)
        ratio = float(own[layer].norm() / back[layer].norm())
        assert found.loc[layer, "norm_ratio"] == pytest.approx(ratio, rel=1e-12)
    assert found.loc["fc", "cosine"] == pytest.approx(1, abs=1e-12)
    assert found.loc["layer1.fc", "cosine"] < 0.999


def test_rows_of_a_step_are_of_the_loss_of_that_step_alone():
    """The first step has no past: online rules are BPTT there in the last hidden layer and below."""
    found = alignment("sltt", network(), *batch()).by_step
    first, last = (found[found["step"] == step].set_index("layer") for step in (1, T))
    assert first["cosine"].to_numpy() == pytest.approx(1, abs=1e-9)
    assert last.loc["layer1.fc", "cosine"] < 0.99
    assert last.loc["fc", "cosine"] == pytest.approx(1, abs=1e-12)


def test_recurrent_weights_have_no_update_of_the_first_step_to_compare():
    found = alignment("sltt", network(recurrent=True), *batch()).by_step
    first = found[found["step"] == 1].set_index("layer")
    assert math.isnan(first.loc["layer1.recurrent.v", "cosine"])
    assert math.isnan(first.loc["layer1.recurrent.v", "norm_ratio"])
    assert not first.loc["layer1.fc"].isna().any()


def test_gradients_are_put_together_by_module_and_missing_ones_are_zero():
    net = network()
    found = by_module({"layer1.fc.bias": torch.ones(11)}, net)
    assert found["layer1.fc"].shape == (11 * 12 + 11,)
    assert found["layer1.fc"].sum() == 11
    assert not found["fc"].any()
    net.fc.requires_grad_(False)
    assert set(by_module({}, net)) == {"layer1.fc", "layer2.fc"}


def test_the_loss_is_the_mean_over_steps_and_samples():
    x, y = batch()
    logits = network()(x)
    expected = torch.stack([torch.nn.functional.cross_entropy(z, y) for z in logits]).mean()
    torch.testing.assert_close(per_step(logits, y), expected, rtol=1e-12, atol=0)


def test_updates_begin_at_rest_and_without_gradients():
    net, (x, y) = network(), batch()
    first = updates(Rule(), net, x, y)
    net(x)
    second = updates(Rule(), net, x, y)
    assert all(torch.equal(first[layer], second[layer]) for layer in LAYERS)
    assert all(update.any() for update in first.values())


def test_dropout_does_not_act_and_the_mode_of_training_stays():
    net, (x, y) = network().float().train(), batch()
    one, other = (alignment("fa", net, x.float(), y).whole for _ in range(2))
    assert one.equals(other)
    assert all(module.training for module in net.modules())
    assert all(p.grad is None and p.dtype == torch.float32 for p in net.parameters())


def test_a_layer_without_a_gradient_has_no_cosine_and_no_certificate():
    net, (x, y) = network(), batch()
    net.layer1.lif.v_threshold = 1e3
    with pytest.raises(ValueError, match=r"those of 'layer1.lif' are silent .*take other samples, larger weights"):
        certify("fa", net, x, y)
    net.layer1.lif.v_threshold = 0.4
    with torch.no_grad():
        net.fc.weight.zero_()
    with pytest.raises(ValueError, match=r"it has none for 'layer1.fc': every rule would agree with it"):
        certify("fa", net, x, y)
    found = alignment("fa", net, x, y).whole.set_index("layer")
    assert found.loc["layer1.fc"].isna().all()
    assert found.loc["fc", "cosine"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("look", [alignment, certify, locality])
@pytest.mark.parametrize("make", [lambda: torch.nn.Sequential(torch.nn.Linear(12, 4)), lambda: network(kind="ann")])
def test_a_network_without_spiking_neurons_is_refused(look, make):
    with pytest.raises(ValueError, match=r"expected a spiking network, .*; found no spiking neurons"):
        look("bptt", make(), *batch())


@pytest.mark.parametrize("look", [alignment, certify, locality])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda net, x, y: (net, x, y + 1), "expected labels from 0 to 3, .* got labels from 1 to 4"),
        (lambda net, x, y: (net, x, y.float()), r"labels \[N\], whole numbers from 0, got \[5\] of torch.float32"),
        (lambda net, x, y: (net, x, y[:3]), r"of every step and label, \[8, 3, classes\], got \[8, 5, 4\]"),
        (lambda net, x, y: (Averaged(net), x, y), r"\[8, 5, classes\], got \[5, 4\] for input \[8, 5, 12\]"),
        (
            lambda net, x, y: (set_mode(net, "s"), x, y),
            "the same logits for all steps at once and for one after the other",
        ),
    ],
)
def test_samples_and_networks_that_no_rule_can_be_seen_on_are_told(look, change, says):
    with pytest.raises(ValueError, match=says):
        look("bptt", *change(network(), *batch()))


class Averaged(nn.Module):
    """Its logits are means over time."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).mean(0)


def set_mode(net, mode):
    functional.set_step_mode(net, mode)
    return net


def test_numbers_are_taken_on_the_cpu_without_kernels_of_a_backend():
    """A neuron of SpikingJelly that asks for CuPy, whose kernels know no float64, ends otherwise in an error."""
    net, (x, y) = network(neuron={"backend": "torch"}), batch()
    expected = alignment("fa", net, x, y).whole
    asks = [module for module in net.modules() if hasattr(module, "_backend")]
    if not asks:
        pytest.skip("in this release of SpikingJelly no neuron asks for a backend")
    for module in asks:
        module._backend = "cupy"
    found = alignment("fa", net, x, y).whole
    assert found.equals(expected)
    assert all(module._backend == "cupy" for module in asks)
