"""Certificates hold for every preset, and for none with a fault in it."""

import functools
import math

import pytest
import torch
from lively import CLASSES, batch, network
from torch.nn.utils.parametrizations import weight_norm

from sj_cka.training import certify
from sj_cka.training.credit import assignment, definition, feedback, rule, traces
from sj_cka.training.credit.certificate import EXACT, OTHER, another, as_by_bptt
from sj_cka.training.credit.rule import Rule
from sj_cka.training.learning_rules import LEARNING_RULES, bptt, rule_of

PRESETS = {
    name: {"name": name, **options}
    for name, options in {
        "bptt": {},
        "tbptt": {"k": 3},
        "fa": {},
        "dfa": {},
        "le": {},
        "ottt": {},
        "sltt": {},
        "eprop": {},
        "decolle": {},
        "pair": {"space": "feedback_alignment", "time": "eligibility_trace"},
    }.items()
}


def test_every_preset_is_here_and_frozen_is_no_rule_of_two_choices():
    assert {*PRESETS, "frozen"} == set(LEARNING_RULES)


@pytest.mark.parametrize("recurrent", [False, "elementwise"])
@pytest.mark.parametrize("preset", PRESETS)
def test_certificates_hold_and_tell_a_rule_from_others(preset, recurrent):
    certificate = certify(PRESETS[preset], network(recurrent=recurrent), *batch())
    assert certificate.holds, str(certificate)
    assert "the certificate holds" in str(certificate)
    assert certificate.rule == rule_of(PRESETS[preset])
    assert certificate.classifier == ("fc",)
    assert max(certificate.deviation.values()) < EXACT
    assert certificate.identities["fc"] < EXACT
    assert len(certificate.controls) == (3 if preset in ("ottt", "decolle") else 2)
    assert min(certificate.controls.values()) > OTHER
    assert not certificate.not_local


def test_a_certificate_of_a_convnet_with_normalisation_names_what_is_local_for_no_rule():
    certificate = certify("ottt", network("convnet", norm="step"), *batch("convnet"))
    assert certificate.holds
    assert certificate.not_local == ("stage1.0.bn", "stage2.0.bn")
    assert "stage1.0.bn, stage2.0.bn (batch normalisation)" in str(certificate)


# name -> the rule that is claimed, what plants a fault, and the network; a plant changes internals by a monkeypatch, or
# gives a function that claims to be the rule
FAULTS = {}


def fault(claimed, neuron=None, **model):
    """Puts a plant into the table."""

    def add(plant):
        FAULTS[plant.__name__.replace("_", " ")] = (claimed, plant, neuron or {"v_reset": 0.0}, model)
        return plant

    return add


def trace(change):
    """Filters whose trace is changed: by the filter, the trace, that of 1, and the input."""

    def call(self, x, real=traces.Filter.__call__):
        return change(self, *real(self, x), x)

    return call


@fault("ottt")
def a_trace_that_decays_otherwise(patch):
    real = traces.Filter.__init__
    patch.setattr(traces.Filter, "__init__", lambda self, decays: real(self, [0.9 * d for d in decays]))


@fault("ottt")
def a_trace_that_does_not_decay(patch):
    real = traces.Filter.__init__
    patch.setattr(traces.Filter, "__init__", lambda self, decays: real(self, [1.0 for d in decays]))


@fault("ottt")
def a_trace_that_comes_a_step_late(patch):
    def late(self, x, one, x_t):
        before = getattr(self, "before", torch.zeros_like(x))
        self.before = x
        return before, one

    patch.setattr(traces.Filter, "__call__", trace(late))


@fault("ottt")
def a_bias_without_its_trace(patch):
    patch.setattr(traces.Filter, "__call__", trace(lambda self, x, one, x_t: (x, 1.0)))


@fault("ottt", neuron={"name": "current_lif"})
def a_trace_of_one_filter_for_a_current(patch):
    real = traces.decays
    patch.setattr(assignment, "decays", lambda node: real(node)[:1])


@fault("fa", hidden=(9, 9))
def a_transposed_feedback_matrix(patch):
    def transposed(seed, name, weight):
        drawn = feedback.in_place_of_weight(seed, name, weight)
        return drawn.T.contiguous() if drawn.shape[0] == drawn.shape[1] else drawn

    patch.setattr(assignment, "in_place_of_weight", transposed)


@fault("fa")
def feedback_redrawn_at_every_call(patch):
    seeds = iter(range(1, 10**6))
    real = feedback.in_place_of_weight
    patch.setattr(assignment, "in_place_of_weight", lambda seed, name, weight: real(next(seeds), name, weight))


@fault({"name": "dfa", "seed": 3})
def feedback_of_another_seed(patch):
    real = feedback.from_logits
    patch.setattr(assignment, "from_logits", lambda seed, *others: real(0, *others))


@fault("fa")
def feedback_that_follows_the_weights(patch):
    real = feedback.in_place_of_weight
    patch.setattr(assignment, "in_place_of_weight", lambda seed, name, weight: real(seed, name, weight) + 0.1 * weight)


def sent(change):
    real = assignment.Assignment._send
    return lambda self, error: real(self, change(error))


@fault("dfa")
def an_error_of_the_wrong_sign(patch):
    patch.setattr(assignment.Assignment, "_send", sent(lambda error: -error))


@fault("dfa")
def an_error_of_the_step_before(patch):
    patch.setattr(assignment.Assignment, "_send", sent(lambda error: error.roll(1, 0)))


@fault("eprop")
def an_eligibility_without_the_reset(patch):
    """The decay alone."""
    real = traces.Eligibility.add

    def add(self, step, x):
        rows = [[None if j is None else torch.full_like(j, 0.5) for j in row] for row in step.by_states]
        real(self, step._replace(by_states=rows), x)

    patch.setattr(traces.Eligibility, "add", add)


@fault("eprop")
def an_eligibility_that_is_not_carried_over(patch):
    real = traces.Eligibility.add

    def add(self, step, x):
        real(self, step, x)
        self.states = [torch.zeros_like(state) for state in self.states]

    patch.setattr(traces.Eligibility, "add", add)


@fault("eprop", recurrent="elementwise")
def an_eligibility_of_recurrent_weights_left_out(patch):
    real = traces.Eligibility.add
    patch.setattr(traces.Eligibility, "add", lambda self, step, x: None if self._is_diagonal else real(self, step, x))


@fault("eprop")
def symmetric_feedback_of_the_layer_above_alone(patch):
    real = rule.transposed_paths

    def short(network, neurons, run):
        found = real(network, neurons, run)
        first, last = list(found)
        return {**found, first: found[last] @ torch.ones(9, 11, dtype=torch.float64)}

    patch.setattr(rule, "transposed_paths", short)


@fault("le")
def a_local_error_that_leaks_into_the_block_below(patch):
    def rule(network, x, y, *, forward, loss, scale):
        spikes = {}

        def keep(name):
            return lambda module, args, out: spikes.__setitem__(name, out)

        names = ("layer1.lif", "layer2.lif")
        hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
        logits = forward(x)
        for hook in hooks:
            hook.remove()
        total = loss(network.fc(spikes["layer2.lif"].detach()), y)
        for name, s in spikes.items():
            total = total + loss(s @ feedback.local_readout(0, name, CLASSES, s.shape[-1], s).T, y)
        scale(total).backward()
        return logits, loss(logits, y)

    return rule


@fault("le")
def local_readouts_of_one_seed_for_all_layers(patch):
    real = feedback.local_readout
    patch.setattr(assignment, "local_readout", lambda seed, name, *others: real(seed, "all", *others))


@fault({"name": "tbptt", "k": 3})
def blocks_of_another_length(patch):
    return Rule(time="truncated", k=4)


@fault({"name": "tbptt", "k": 3})
def blocks_of_all_steps(patch):
    return bptt


@fault("sltt")
def the_past_of_potentials_not_detached(patch):
    """SpikingJelly's issue 593: a loss and a backward pass for each step, and the membrane goes on attached."""

    def rule(network, x, y, *, forward, loss, scale):
        logits = [forward(x[t : t + 1]) for t in range(len(x))]
        total = sum(loss(one, y) for one in logits) / len(x)
        scale(total).backward()
        return torch.cat(logits), total

    return rule


@fault("ottt")
def the_loss_of_mean_logits(patch):
    def rule(network, x, y, *, forward, loss, scale):
        return Rule()(network, x, y, forward=forward, loss=lambda z, y: loss(z.mean(0, keepdim=True), y), scale=scale)

    return rule


@fault("bptt")
def the_loss_of_the_last_step(patch):
    def rule(network, x, y, *, forward, loss, scale):
        return bptt(network, x, y, forward=forward, loss=lambda z, y: loss(z[-1:], y), scale=scale)

    return rule


def without(name):
    """OTTT that forgets a parameter."""

    def rule(network, x, y, **given):
        done = Rule(time="presynaptic_trace")(network, x, y, **given)
        network.get_parameter(name).grad = None
        return done

    return rule


@fault("ottt")
def a_layer_left_out(patch):
    return without("layer2.fc.weight")


@fault("ottt")
def a_bias_left_out(patch):
    return without("layer1.fc.bias")


@fault("ottt")
def a_readout_that_does_not_learn(patch):
    return without("fc.weight")


@fault("ottt")
def gradients_of_half_the_size(patch):
    def rule(network, x, y, *, scale, **given):
        return Rule(time="presynaptic_trace")(network, x, y, scale=lambda loss: scale(loss) / 2, **given)

    return rule


@fault("ottt")
def one_step_left_out(patch):
    def rule(network, x, y, *, forward, loss, scale):
        shown = iter(range(len(x)))
        return Rule(time="presynaptic_trace")(
            network, x, y, forward=forward, loss=lambda z, y: loss(z, y) * (next(shown) != 2), scale=scale
        )

    return rule


@fault("bptt")
def another_rule(patch):
    return LEARNING_RULES["ottt"]


@fault("decolle")
def another_neighbour(patch):
    return functools.partial(LEARNING_RULES["le"], seed=1)


@pytest.mark.parametrize("name", FAULTS)
def test_a_rule_with_a_fault_fails_its_certificate(name, monkeypatch):
    claimed, plant, neuron, model = FAULTS[name]
    net = network(neuron=neuron, **model)
    x, y = batch()
    rule = plant(monkeypatch) or claimed
    certificate = certify(rule, net, x, y, definition=claimed)
    assert not certificate.holds
    assert "off its definition" in " ".join(certificate.faults)
    assert max(certificate.deviation.values()) > 1e-3
    assert "the certificate FAILS: " in str(certificate)


def test_without_faults_these_rules_have_certificates_on_these_networks():
    sound = {repr((claimed, neuron, model)): (claimed, neuron, model) for claimed, _, neuron, model in FAULTS.values()}
    assert 8 < len(sound) < len(FAULTS)
    for claimed, neuron, model in sound.values():
        assert certify(claimed, network(neuron=neuron, **model), *batch()).holds


def test_a_fault_is_told_by_the_layer():
    certificate = certify(without("layer2.fc.weight"), network(), *batch(), definition="ottt")
    assert [fault.split(" is ")[0] for fault in certificate.faults] == ["layer2.fc", "layer2.fc"]
    assert "off BPTT, which it must equal" in certificate.faults[1]
    assert certificate.deviation["layer1.fc"] < EXACT


def test_a_rule_that_is_its_own_control_fails(monkeypatch):
    """Symmetric feedback alignment is backpropagation, so that nothing tells them apart."""
    for module in (assignment, definition):
        monkeypatch.setattr(module, "in_place_of_weight", lambda seed, name, weight: weight)
    certificate = certify("bptt", network(), *batch())
    assert certificate.faults == ("it is the same as feedback_alignment, which it is not to be",)


def test_a_function_that_says_nothing_needs_a_definition():
    def mine(network, x, y, **given): ...

    with pytest.raises(ValueError, match=r"expected a learning rule with a definition, .*got 'mine'"):
        certify(mine, network(), *batch())
    with pytest.raises(ValueError, match=r"expected a learning rule with a definition, .*got 'frozen'"):
        certify("frozen", network(), *batch())


def test_silent_neurons_are_refused():
    net, (x, y) = network(), batch()
    net.layer2.lif.v_threshold = 1e3
    with pytest.raises(ValueError, match=r"expected neurons that spike, those of 'layer2.lif' are silent"):
        certify("ottt", net, x, y)


def test_a_gradient_of_zero_is_refused():
    net, (x, y) = network(), batch()
    with torch.no_grad():
        net.fc.weight.zero_()  # the spikes of both layers reach no logit
    with pytest.raises(ValueError, match=r"BPTT has a gradient for every layer, it has none for 'layer1.fc'"):
        certify("ottt", net, x, y)


def test_the_network_is_left_as_it_was():
    net, (x, y) = network().float().train(), batch()
    net(x.float())
    potential = net.layer1.lif.v.clone()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert certify("eprop", net, x.float(), y).holds
    assert torch.equal(net.layer1.lif.v, potential)
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in net.parameters())
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("rule", ["bptt", "sltt", "eprop"])
def test_neurons_that_learn_are_certified(rule):
    certificate = certify(rule, network(neuron={"name": "plif"}), *batch())
    assert certificate.holds
    assert {"layer1.lif", "layer2.lif"} <= set(certificate.deviation)


@pytest.mark.parametrize("rule", ["bptt", "fa", "ottt", "eprop"])
def test_layers_whose_weights_are_made_of_others_are_certified(rule):
    net = network(recurrent=True)
    for layer in (net.layer2.fc, net.layer2.recurrent.v):
        weight_norm(layer)
    certificate = certify(rule, net, *batch())
    assert certificate.holds, str(certificate)
    assert "layer2.recurrent.v.parametrizations.weight" in certificate.deviation


def test_images_are_certified_as_they_are_shown():
    x, y = batch()
    assert certify("ottt", network(), x[0], y).holds


@pytest.mark.parametrize("rule", PRESETS)
def test_controls_are_other_rules(rule):
    made = rule_of(PRESETS[rule])
    others = another(made, T=8)
    assert len(others) == 2
    assert made not in others.values()


@pytest.mark.parametrize(
    ("rule", "neurons", "control"),
    [
        ("ottt", {}, "a trace that loses a tenth more a step"),
        ("eprop", {"v_reset": 0.0}, "a trace that knows no reset"),
        ("eprop", {"detach_reset": False}, "a trace that knows no reset"),
        ("eprop", {}, None),  # a soft detached reset has no part in it
        ("sltt", {}, None),
    ],
)
def test_the_same_rule_with_a_fault_in_its_trace_is_another(rule, neurons, control):
    controls = certify(rule, network(neuron=neurons), *batch()).controls
    own = [name for name in controls if name.startswith("a trace")]
    assert own == ([] if control is None else [control])
    assert all(controls[name] > 1e-3 for name in own)


@pytest.mark.parametrize(
    ("rule", "neurons", "recurrent", "exact"),
    [
        (Rule(), {"v_reset": 0.0}, True, ["layer1", "layer2"]),
        (Rule(time="truncated", k=8), {}, True, ["layer1", "layer2"]),
        (Rule(time="truncated", k=7), {}, False, []),
        (Rule(time="presynaptic_trace"), {}, False, ["layer2"]),
        (Rule(time="presynaptic_trace"), {}, True, []),
        (Rule(time="presynaptic_trace"), {"v_reset": 0.0}, False, []),
        (Rule(time="presynaptic_trace"), {"detach_reset": False}, False, []),
        (Rule(time="eligibility_trace"), {"v_reset": 0.0}, False, ["layer2"]),
        (Rule("direct_feedback_alignment", feedback="symmetric"), {"v_reset": 0.0}, True, ["layer2"]),
        (Rule("direct_feedback_alignment"), {}, False, []),
        (Rule("feedback_alignment"), {}, False, []),
        (Rule("local_error"), {}, False, []),
        (Rule(time="none"), {}, False, []),
    ],
)
def test_layers_that_must_have_the_update_of_bptt_are_known(rule, neurons, recurrent, exact):
    net, (x, y) = network(neuron=neurons, recurrent=recurrent), batch()
    found = as_by_bptt(rule, rule.wiring(net, x), len(x))
    expected = {name for name in dict(net.named_modules()) if name.endswith(("fc", ".v"))}
    assert found == {name for name in expected if name == "fc" or name.split(".")[0] in exact}
    certificate = certify(rule, net, x, y)
    assert certificate.holds
    assert set(certificate.identities) == found
    others = {layer for layer in certificate.deviation if layer not in found}
    cosines = certificate.whole.set_index("layer")["cosine"]
    assert all(cosines[layer] < 1 - 1e-6 for layer in others)
    assert all(math.isclose(cosines[layer], 1, rel_tol=1e-9) for layer in found)
