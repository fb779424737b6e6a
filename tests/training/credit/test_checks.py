"""Networks that a rule does not go with: which layer, and why."""

import copy
import inspect
import re

import pytest
import torch
from lively import CLASSES, N, T, batch, gradients, network, of_each_step, random
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import nn

from sj_cka.models import build
from sj_cka.plugins import OptionError
from sj_cka.training import Settings, certify
from sj_cka.training.credit.rule import Rule
from sj_cka.training.step import Step

BACKPROP, FA, DFA, LOCAL = "backprop", "feedback_alignment", "direct_feedback_alignment", "local_error"
TRACE, ELIGIBILITY = "presynaptic_trace", "eligibility_trace"


def lif(cls=neuron.LIFNode, **options):
    options = {"tau": 2.0, "v_threshold": 0.3, "v_reset": None, "step_mode": "m"} | options
    return cls(**options, surrogate_function=surrogate.Sigmoid())


class Net(nn.Module):
    """Two layers of neurons, and a part of the forward that tests replace."""

    def __init__(self, **modules):
        super().__init__()
        parts = {
            "fc1": nn.Linear(12, 9),
            "lif1": lif(),
            "fc2": nn.Linear(9, 9),
            "lif2": lif(),
            "fc3": nn.Linear(9, CLASSES),
        }
        for name, module in (parts | modules).items():
            self.add_module(name, module)

    def forward(self, x):
        return self.fc3(self.lif2(self.fc2(self.lif1(self.fc1(x)))))


class OwnStep(neuron.LIFNode):
    def single_step_forward(self, x):
        return super().single_step_forward(2 * x)


class Lateral(neuron.LIFNode):
    """Its neurons inhibit each other."""

    def multi_step_forward(self, x_seq):
        return super().multi_step_forward(x_seq - 0.2 * x_seq.mean(-1, keepdim=True))


class LateralReset(neuron.LIFNode):
    """Its neurons act on each other from the second step on."""

    def multi_step_forward(self, x_seq):
        spikes = super().multi_step_forward(x_seq)
        self.v = self.v - 0.2 * spikes[-1].mean(-1, keepdim=True)
        return spikes


class Images(Net):
    """Shows images `[N, D]` eight times, and says it to nobody."""

    def forward(self, x):
        return super().forward(x.expand(T, *x.shape))


class Spiking(Net):
    def forward(self, x):
        return self.lif3(super().forward(x))


class Functional(Net):
    def forward(self, x):
        return self.fc3(self.lif2(nn.functional.linear(self.lif1(self.fc1(x)), self.fc2.weight, self.fc2.bias)))


class Bypassed(Net):
    def forward(self, x):
        s = torch.stack([self.lif2.single_step_forward(x_t) for x_t in self.fc2(self.lif1(self.fc1(x)))])
        return self.fc3(s)


class Attention(Net):
    def forward(self, x):
        s = self.lif1(self.fc1(x))
        mixed = torch.stack([self.attention(x_t, x_t, x_t)[0] for x_t in s])
        return self.fc3(self.lif2(self.fc2(mixed)))


class Mixing(Net):
    def forward(self, x):
        s = self.lif1(self.fc1(x))
        return self.fc3(self.lif2(self.fc2(self.mix(s, s))))


class Twice(Net):
    def forward(self, x):
        return self.fc3(self.lif2(self.fc2(self.fc2(self.lif1(self.fc1(x))))))


class NeuronsTwice(Net):
    def forward(self, x):
        return self.fc3(self.lif2(self.fc2(self.lif1(self.lif1(self.fc1(x))))))


class Shortcut(Net):
    def forward(self, x):
        s = self.lif1(self.fc1(x))
        return self.fc3(self.lif2(self.fc2(s) + s))


class Inside(Net):
    """A shortcut past neurons, from a layer of weights."""

    def forward(self, x):
        h = self.fc1(x)
        return self.fc3(self.lif2(self.fc2(self.lif1(h)) + h))


class Behind(Net):
    def forward(self, x):
        return self.fc3(self.lif2(self.fc2b(self.fc2(self.lif1(self.fc1(x))))))


class Bare(Net):
    def forward(self, x):
        return self.fc3(x[..., :9])


class Named(Net):
    def forward(self, x):
        return self.fc3(self.lif2(self.fc2(input=self.lif1(self.fc1(x)))))


class InPlace(Net):
    """Adds and rectifies in place: what a layer puts out, what neurons do, and logits."""

    def forward(self, x):
        h = self.fc1(x)
        h += 0.1
        s = self.lif1(h)
        s *= 0.9
        out = self.fc3(self.lif2(nn.functional.relu_(self.fc2(s))))
        out -= 0.1
        return out


class MeanLogits(Net):
    """Its logits are means over time."""

    def forward(self, x):
        return super().forward(x).mean(0)


class OneForAll(Net):
    """Two layers feed the same neurons, one after the other."""

    def forward(self, x):
        return self.fc3(self.lif2(self.fc2(self.lif2(self.fc1(x)))))


class Delayed(nn.Module):
    """Gives what it was given a step before, which it keeps where SpikingJelly does not look."""

    def __init__(self):
        super().__init__()
        self.last = None

    def reset(self):
        self.last = None

    def forward(self, x_seq):
        out = [torch.zeros_like(x_seq[0]) if self.last is None else self.last, *x_seq]
        self.last = out.pop()
        return torch.stack(out)


class Standardised(nn.Linear):
    """Its forward makes another weight of the one that it has."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight / self.weight.std(), self.bias)


class Pooled(nn.Module):
    """A pooling between a convolution and its neurons; or a convolution of the caller's."""

    def __init__(self, conv=None, pool=None):
        super().__init__()
        self.conv = conv or layer.Conv2d(2, 3, 3, padding=1, step_mode="m")
        self.pool = pool or nn.Identity()
        self.lif1 = lif()
        self.fc = nn.LazyLinear(CLASSES)

    def forward(self, x):
        return self.fc(self.lif1(self.pool(self.conv(x))).flatten(2))


def pooled(**parts):
    net = Pooled(**parts).double()
    net(random(T, N, 2, 6, 4))
    net.lif1.reset()
    return net


def vector():
    return random(T, N, 12)


def frames():
    return random(T, N, 2, 6, 4)


def sliding():
    """Neurons that look back within a call, on a backend that runs on the CPU; 2.0.0 has one backend alone."""
    chosen = {"backend": "conv"} if "backend" in inspect.signature(neuron.SlidingPSN).parameters else {}
    return neuron.SlidingPSN(k=2, step_mode="m", **chosen)


REFUSED = {
    "neurons without a known trace": (
        Rule(time=TRACE),
        lambda: Net(lif1=neuron.ParametricLIFNode(v_threshold=0.3, step_mode="m")),
        vector,
        "expected neurons whose trace is known .*'lif1' is a ParametricLIFNode; an eligibility_trace follows any",
    ),
    "plif of the table": (
        Rule(LOCAL, TRACE),
        lambda: network(neuron={"name": "plif"}),
        vector,
        "expected neurons whose trace is known .*'layer1.lif' is a FusedPLIFNode",
    ),
    "a subclass with a step of its own": (
        Rule(time=TRACE),
        lambda: Net(lif2=lif(OwnStep)),
        vector,
        "'lif2' is a OwnStep",
    ),
    "neurons that act on each other": (
        Rule(time=ELIGIBILITY),
        lambda: Net(lif2=lif(Lateral)),
        vector,
        r"act each on itself alone .*'lif2' \(Lateral\) act on each other",
    ),
    "neurons that act on each other by their states": (
        Rule(DFA, ELIGIBILITY),
        lambda: Net(lif1=lif(LateralReset)),
        vector,
        r"'lif1' \(LateralReset\) act on each other",
    ),
    "images whose first axis is no time": (
        Rule(LOCAL, "none"),
        Images,
        lambda: vector()[0],
        r"expected logits of every step, \[1, 5, classes\], .*got \[8, 1, 12\]|got \[8, 1, 4\] for input \[1, 12\]",
    ),
    "statistics over all steps": (
        Rule(time="none"),
        lambda: network(norm="batch").train(),
        vector,
        "'layer1.bn' are over all steps",
    ),
    "statistics over all steps, by blocks": (
        Rule(time="truncated", k=2),
        lambda: network("convnet", norm="batch").train(),
        frames,
        "'stage1.0.bn' are over all steps",
    ),
    "batch normalisation of each step": (
        Rule(time=ELIGIBILITY),
        lambda: network(norm="step"),
        vector,
        "expected no batch normalisation .*'layer1.bn' makes what a synapse left in a neuron depend on other samples",
    ),
    "logits of neurons": (
        Rule(time="none"),
        lambda: Spiking(lif3=lif()),
        vector,
        "expected logits of a layer of weights, without a state, .*from the neurons 'lif3'",
    ),
    "logits of neurons, through time": (
        Rule(DFA),
        lambda: Spiking(lif3=lif()),
        vector,
        "expected logits of a layer of weights .*they come from neurons 'lif3'",
    ),
    "one step": (
        Rule(time=TRACE),
        Net,
        lambda: vector()[:1],
        "expected at least two steps for the time rule 'presynaptic_trace', got T = 1",
    ),
    "a shortcut": (Rule(LOCAL), Shortcut, vector, "output of 'lif1' reaches 'lif2' past its layers"),
    "a shortcut inside a block": (Rule(DFA), Inside, vector, r"'fc1' feeds 'lif1' and 'lif2' \(a shortcut\)"),
    "a shortcut and a trace": (Rule(time=TRACE), Inside, vector, r"'fc1' feeds 'lif1' and 'lif2' \(a shortcut\)"),
    "a layer used by a function": (
        Rule(FA),
        Functional,
        vector,
        r"'fc2.(weight|bias)' is used without a call of 'fc2' \(Linear\), where no learning rule could see it",
    ),
    "neurons used past their call": (
        Rule(FA),
        Bypassed,
        vector,
        "expected a forward that calls its neurons as modules, 'lif2' is never called",
    ),
    "weights of no known layer": (
        Rule(FA),
        lambda: Attention(attention=nn.MultiheadAttention(9, 1)),
        vector,
        "'attention.out_proj.weight' is used without a call of 'attention.out_proj'",
    ),
    "a matrix of no layer": (
        Rule(LOCAL),
        lambda: Mixing(mix=nn.Bilinear(9, 9, 9)),
        vector,
        "expected weights of linear layers and convolutions, which .* local_error x bptt .*got 'mix.weight'",
    ),
    "a layer used twice": (Rule(time=TRACE), Twice, vector, "run once a step .*'fc2' runs 2 times"),
    "neurons used twice": (Rule(time=TRACE), NeuronsTwice, vector, "'lif1' runs 2 times"),
    "a layer with a forward of its own": (
        Rule(FA),
        lambda: Net(fc2=Standardised(9, 9)),
        vector,
        "expected layers that compute W x [+] b .*'fc2' is a Standardised with a forward of its own",
    ),
    "standardised weights and traces": (
        Rule(time=TRACE),
        lambda: pooled(conv=layer.WSConv2d(2, 3, 3, padding=1, step_mode="m")),
        frames,
        "'conv' is a WSConv2d with a forward of its own",
    ),
    "standardised weights and traces of synapses": (
        Rule(time=ELIGIBILITY),
        lambda: Net(fc2=Standardised(9, 9)),
        vector,
        "'fc2' is a Standardised with a forward of its own",
    ),
    "mean logits": (
        Rule(DFA),
        MeanLogits,
        vector,
        r"every row of the logits .* logits are \[5, 'classes'\], 'lif1' runs 1 times on \[8, 5, 9\]; take the mean",
    ),
    "mean logits and local errors": (Rule(LOCAL), MeanLogits, vector, r"logits are \[5, 'classes'\]"),
    "the same neurons for two layers": (
        Rule(LOCAL),
        lambda: OneForAll(lif1=nn.Identity()),
        vector,
        r"'lif2' runs 2 times on \[8, 5, 9\]; .* neurons of their own for every layer",
    ),
    "the same neurons for two layers, step by step": (
        Rule(DFA, "none"),
        lambda: OneForAll(lif1=nn.Identity()),
        vector,
        "expected neurons that run once a step .*'lif2' runs 2 times",
    ),
    "weights of what comes from below and back": (
        Rule(DFA),
        lambda: Net(fc2=nn.Identity(), lif2=layer.LinearRecurrentContainer(lif(step_mode="s"), 9, 9, step_mode="m")),
        vector,
        "expected recurrent weights apart .*'lif2.rc' takes the spikes of 'lif1' and 'lif2.sub_module'",
    ),
    "a readout with a state": (
        Rule(time="none"),
        lambda: nn.Sequential(Net(), layer.SynapseFilter(step_mode="m")),
        vector,
        "logits of a layer of weights, without a state, .*what '0.fc3' puts out reaches those of later steps",
    ),
    "a filter before neurons": (
        Rule(time=TRACE),
        lambda: Net(lif2=nn.Sequential(layer.SynapseFilter(step_mode="m"), lif())),
        vector,
        "expected no state but that of neurons .*what 'fc2' puts out reaches 'lif2.1' at later steps",
    ),
    "a state that is kept elsewhere": (
        Rule(time="none"),
        lambda: Net(fc2=nn.Sequential(Delayed(), nn.Linear(9, 9))),
        vector,
        "expected states that SpikingJelly knows of .*errors go on to the step before; make what remembers",
    ),
    "neurons that look at all steps of a call": (
        Rule(time="truncated", k=2),
        lambda: Net(lif1=sliding()),
        vector,
        r"expected neurons that go on from step to step .*'lif1' \(SlidingPSN\) spike otherwise",
    ),
    "a dropout before neurons": (
        Rule(DFA, ELIGIBILITY),
        lambda: Net(lif2=nn.Sequential(layer.Dropout(0.5, step_mode="m"), lif())),
        vector,
        "expected neurons right behind their layers .*the input of 'lif2.1' is not the sum of what 'fc2' put out",
    ),
    "a normalisation of each sample before neurons": (
        Rule(time=ELIGIBILITY),
        lambda: Net(lif1=nn.Sequential(nn.LayerNorm(9), lif())),
        vector,
        "the input of 'lif1.1' is not the sum of what 'fc1' put out",
    ),
    "an input given by name": (Rule(FA), Named, vector, "their input as the first argument, 'fc2' is given it by name"),
    "circular padding": (
        Rule(FA),
        lambda: pooled(conv=layer.Conv2d(2, 3, 3, padding=1, padding_mode="circular", step_mode="m")),
        frames,
        "got 'conv' with padding_mode 'circular'",
    ),
    "pooling before neurons": (
        Rule(time=ELIGIBILITY),
        lambda: pooled(pool=layer.AvgPool2d(2, step_mode="m")),
        frames,
        "expected a neuron for every output of a layer .*'conv' puts",
    ),
    "a layer behind another": (
        Rule(time=ELIGIBILITY),
        lambda: Behind(fc2b=nn.Linear(9, 9)),
        vector,
        "between 'fc2' and its neurons stands another layer",
    ),
    "convolutions in groups": (
        Rule(time=ELIGIBILITY),
        lambda: pooled(conv=layer.Conv2d(2, 4, 3, padding=1, groups=2, step_mode="m")),
        frames,
        "convolutions of one group .*'conv' is a Conv2d",
    ),
    "no neurons": (Rule(LOCAL), lambda: nn.Sequential(nn.Linear(12, CLASSES)), vector, "expected neurons"),
    "an artificial network of images": (
        Rule(time="none"),
        lambda: build("ann", {"name": "mlp", "inputs": 12}, in_channels=1, num_classes=CLASSES),
        lambda: vector()[0],
        "expected a spiking network for what goes step by step, got an artificial one",
    ),
    "an artificial network of frames": (
        Rule(time="none"),
        lambda: build("ann", {"name": "mlp", "inputs": 12}, in_channels=1, num_classes=CLASSES),
        vector,
        "expected a spiking network for the time rule 'none', got one without spiking neurons",
    ),
    "a resnet and local errors": (
        Rule(LOCAL),
        lambda: resnet(),
        lambda: random(T, N, 2, 8, 8),
        r"past its layers \(a shortcut\)|of one place",
    ),
    "a resnet and traces": (
        Rule(time=TRACE),
        lambda: resnet(),
        lambda: random(T, N, 2, 8, 8),
        r"'conv1' feeds 'layer1.0.lif1' and 'layer2.0.lif1' \(a shortcut\)",
    ),
}


def resnet():
    """In evaluation mode, where statistics are of no step."""
    made = build(
        "snn",
        {"name": "resnet", "depth": 8},
        in_channels=2,
        num_classes=CLASSES,
        T=T,
        neuron={"name": "lif", "v_threshold": 0.4},
    )
    return made.double().eval()


@pytest.mark.parametrize("fault", REFUSED)
def test_a_network_that_a_rule_would_be_wrong_on_is_refused_by_name(fault):
    rule, make, x, says = REFUSED[fault]
    net, y = make().double(), torch.arange(N) % CLASSES
    with pytest.raises(ValueError, match=re.compile(says, re.DOTALL)):
        rule(net, x(), y, forward=net, loss=of_each_step, scale=lambda value: value)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    "rule", [Rule(BACKPROP, "bptt"), Rule(BACKPROP, "none"), Rule(FA), Rule(FA, "none"), Rule(time="truncated", k=3)]
)
def test_shortcuts_are_welcome_where_errors_go_through_layers(rule):
    net = resnet()
    found = gradients(rule, net, random(T, N, 2, 8, 8), torch.arange(N) % CLASSES)
    other = gradients(Rule(), net, random(T, N, 2, 8, 8), torch.arange(N) % CLASSES)
    first = "conv1.weight"
    assert torch.allclose(found[first], other[first], rtol=0.01) == (rule == Rule())
    torch.testing.assert_close(found["fc.weight"], other["fc.weight"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rule", [Rule(time="none"), Rule(FA, "truncated", k=3)])
def test_a_filter_before_neurons_is_welcome_where_no_trace_has_to_follow_it(rule):
    net = Net(lif2=nn.Sequential(layer.SynapseFilter(step_mode="m"), lif()))
    assert certify(rule, net, 3 * vector(), torch.arange(N) % CLASSES).holds


@pytest.mark.parametrize("rule", [Rule(time=TRACE), Rule(time="truncated", k=3)])
def test_errors_end_at_a_delay_of_spikes(rule):
    net = Net(fc2=nn.Sequential(layer.Delay(1, step_mode="m"), nn.Linear(9, 9)))
    assert certify(rule, net, 3 * vector(), torch.arange(N) % CLASSES).holds


@pytest.mark.parametrize("rule", [Rule(FA, "none"), Rule(DFA), Rule(LOCAL), Rule(time=TRACE)])
def test_what_works_in_place_is_followed(rule):
    assert certify(rule, InPlace(), 3 * vector(), torch.arange(N) % CLASSES).holds


@pytest.mark.parametrize("rule", [Rule(DFA), Rule(LOCAL), Rule(time="none")])
def test_a_forward_of_its_own_is_welcome_where_autograd_goes_through_it(rule):
    net = Net(fc2=Standardised(9, 9)).double()
    assert certify(rule, net, 3 * vector(), torch.arange(N) % CLASSES).holds


@pytest.mark.parametrize(
    ("options", "option", "says"),
    [
        ({"space": "backpropagation"}, "space", "one of backprop, feedback_alignment, .* got 'backpropagation'"),
        ({"time": "rtrl"}, "time", "one of bptt, truncated, .* got 'rtrl'"),
        ({"feedback": "fixed"}, "feedback", "one of random, symmetric.* got 'fixed'"),
        ({"time": "truncated"}, "k", "the steps of a block, a whole number from 1, got None"),
        ({"time": "truncated", "k": 0}, "k", "from 1.* got 0"),
        ({"time": "truncated", "k": 2.5}, "k", "a whole number from 1, got 2.5"),
        ({"time": "truncated", "k": "2"}, "k", "a whole number from 1, got '2'"),
        ({"time": "truncated", "k": True}, "k", "a whole number from 1, got True"),
        ({"space": FA, "seed": 1.5}, "seed", "a whole number, got 1.5"),
        ({"space": FA, "seed": "a"}, "seed", "a whole number, got 'a'"),
        ({"k": 3}, "k", "expected k with time \"truncated\" alone, got 3 with 'bptt'"),
        ({"time": "none", "k": 1}, "k", "got 1 with 'none'"),
        ({"feedback": "symmetric"}, "feedback", "direct_feedback_alignment alone, got 'backprop'$"),
        (
            {"feedback": "symmetric", "space": FA},
            "feedback",
            "got 'feedback_alignment', since symmetric feedback alignment is backprop",
        ),
        ({"feedback": "symmetric", "space": LOCAL}, "feedback", "got 'local_error'$"),
    ],
)
def test_options_that_no_rule_has_or_that_contradict_each_other_are_refused(options, option, says):
    with pytest.raises(OptionError, match=says) as raised:
        Rule(**options)
    assert raised.value.option == option


@pytest.mark.parametrize("rule", ["ottt", "sltt", "eprop", "decolle", {"name": "tbptt", "k": 2}])
def test_online_rules_want_a_loss_of_every_step(rule):
    with pytest.raises(OptionError, match=r'expected loss "tet".* got "mean"') as raised:
        Step(network(), Settings(rule=rule, loss="mean"))
    assert raised.value.option == "loss"
    Step(network(), Settings(rule=rule, loss="tet"))


@pytest.mark.parametrize("rule", ["fa", "dfa", "le", "ottt"])
def test_rules_that_look_into_layers_are_not_compiled(rule):
    with pytest.raises(OptionError, match="expected no compile for a learning rule that looks into layers") as raised:
        Step(network(), Settings(rule=rule, loss="tet", compile=True))
    assert raised.value.option == "compile"
    Step(network(), Settings(rule="bptt", loss="mean", compile=True))


def test_of_norms_those_that_train_are_looked_at():
    net, (x, y) = network(norm="batch"), batch()
    net.layer2.bn.train()
    with pytest.raises(ValueError, match=r"the statistics of 'layer2.bn' are over all steps"):
        Rule(time="none")(net, x, y, forward=net, loss=of_each_step, scale=lambda value: value)


def test_a_refusal_is_no_memory_of_the_network():
    """Batch normalisation is refused in training, taken in evaluation, and refused again in training."""
    net, (x, y) = network(norm="batch"), batch()
    for _ in range(2):
        net.train()
        with pytest.raises(ValueError, match="over all steps"):
            Rule(time="none")(net, x, y, forward=net, loss=of_each_step, scale=lambda value: value)
        net.eval()
        for module in (net.layer1.lif, net.layer2.lif):
            module.train()
        assert gradients(Rule(time="none"), net, x, y)


def test_a_layer_put_in_place_of_another_is_seen():
    net, x, y = Net().double(), 3 * vector(), torch.arange(N) % CLASSES
    rule = Rule(FA)
    gradients(rule, net, x, y)
    net.fc2 = Net().double().fc2
    as_new = gradients(rule, copy.deepcopy(net), x, y)
    found = gradients(rule, net, x, y)
    assert all(torch.equal(found[name], of) for name, of in as_new.items())
