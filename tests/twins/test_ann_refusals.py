"""What has no artificial twin: each with its name and the reason, and nothing that has one."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from spikingjelly.activation_based import encoding, functional, layer, neuron, rnn, surrogate
from spikingjelly.activation_based.ann2snn import Converter, RateCodingRecipe
from spikingjelly.activation_based.examples.rsnn_sequential_fmnist import FeedBackNet, StatefulSynapseNet
from spikingjelly.activation_based.examples.spiking_lstm_sequential_mnist import Net as SpikingLSTMNet
from spikingjelly.activation_based.model import sew_resnet
from torch import nn

from sj_cka import compare
from sj_cka.twins import ann_twin


class Stateful(nn.Module):
    """A user's own neuron."""

    def __init__(self):
        super().__init__()
        self.v = 0.0

    def reset(self):
        self.v = 0.0

    def forward(self, x):
        self.v = self.v + x
        return self.v


# SpikingJelly 2.0.0 chooses itself
TORCH = {"backend": "torch"} if "backend" in inspect.signature(neuron.FlexSN).parameters else {}
REFUSED = [
    (lambda: layer.SynapseFilter(tau=2.0), "filters its input over time"),
    (lambda: layer.Delay(1), "delays its input"),
    (lambda: layer.NeuNorm(2, 3, 3), "keeps a state"),
    (lambda: layer.DropConnectLinear(2, 2), "keeps a state"),
    (lambda: layer.LinearRecurrentContainer(neuron.IFNode(), 4, 4), "feeds its output back"),
    (lambda: layer.ElementWiseRecurrentContainer(neuron.IFNode(), torch.add), "feeds its output back"),
    (lambda: rnn.SpikingLSTM(4, 4, 1), "feeds its output back"),
    (lambda: layer.TemporalEffectiveBatchNorm2d(4, 2), "parameters of its own for every time step"),
    (lambda: layer.BatchNormThroughTime1d(4, 2), "parameters of its own for every time step"),
    (lambda: layer.TemporalWiseAttention(4, 2), "weighs the time steps"),
    (lambda: layer.MultiDimensionalAttention(4, 4, 2, 2), "weighs the time steps"),
    (lambda: layer.TemporalBinSum(2), "turns counts into time steps"),
    (lambda: layer.SpikeTraceOp(nn.Linear(2, 2)), "spikes together with their trace"),
    (lambda: encoding.PoissonEncoder(), "take the network behind it"),
    (lambda: encoding.LatencyEncoder(4), "take the network behind it"),
    (lambda: surrogate.ATan(), "makes spikes outside a neuron"),
    (lambda: Stateful(), r"has a reset\(\)"),
    (
        lambda: neuron.FlexSN(lambda x, y, v: (x + y, v), 1, **TORCH),
        "is a neuron of 2 inputs and 1 outputs",
    ),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED)
def test_what_has_no_counterpart_is_named_with_the_reason(make, reason):
    module = make()
    net = nn.Sequential(neuron.LIFNode(), nn.Sequential(module))
    with pytest.raises(
        ValueError, match=rf"module '1.0' \({type(module).__name__}\) has no artificial twin: .*{reason}"
    ):
        ann_twin(net)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (FeedBackNet, "fc.1"),
        (StatefulSynapseNet, "fc.2"),
        (SpikingLSTMNet, "lstm"),
    ],
)
def test_the_recurrent_networks_of_spikingjellys_examples(make, name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        ann_twin(make())


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(3, 2), neuron.LIFNode())
        self.v = nn.Linear(2, 2)


class ReadsPotential(Reads):
    def forward(self, x):
        self.fc(x)
        return self.v(self.fc[-1].v)


class ReadsInAMethod(Reads):
    def forward(self, x):
        self.fc(x)
        return self.last()

    def last(self):
        return self.fc[1].v


class ReadsBelow(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = ReadsPotential()

    def forward(self, x):
        return self.block(x)


class ReadsInALoop(Reads):
    def forward(self, x):
        self.fc(x)
        return next(module.v for module in self.fc if isinstance(module, nn.ReLU | neuron.BaseNode))


@pytest.mark.parametrize(
    ("kind", "neuron"),
    [(ReadsPotential, "fc.1"), (ReadsInAMethod, "fc.1"), (ReadsBelow, "block.fc.1"), (ReadsInALoop, "fc.1")],
)
def test_a_forward_that_reads_a_potential_is_refused_as_soon_as_it_runs(kind, neuron):
    twin = ann_twin(kind())
    message = rf"the forward reads 'v' of neuron '{neuron}', which the twin's ReLU has not: let it use what the neuron"
    with pytest.raises(ValueError, match=message):
        twin(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=message):
        compare(kind().eval(), twin.eval(), torch.zeros(8, 3), progress=False, T=1)


def test_other_things_of_that_name_and_what_is_never_called_are_no_reading():
    class Attention(Reads):
        def forward(self, x):
            functional.reset_net(self)
            return self.v(self.fc(x)) if self.fc[-1].step_mode == "s" else None

        def potential(self):
            return self.fc[-1].v

    net = Attention()
    assert torch.equal(ann_twin(net)(torch.ones(2, 3)), net.v(net.fc[0](torch.ones(2, 3)).relu()))


def test_a_network_without_neurons():
    with pytest.raises(ValueError, match="expected a network with neurons of SpikingJelly, found none in Linear"):
        ann_twin(nn.Linear(2, 2))


class Closes(nn.Module):
    """Its forward calls a function that keeps its modules."""

    def __init__(self, keeps, mode="s"):
        super().__init__()
        self.fc, self.bn, self.lif = layer.Linear(3, 3), layer.BatchNorm1d(3), neuron.LIFNode(step_mode=mode)
        self.last = neuron.IFNode(step_mode=mode)
        fc, bn, lif = self.fc, self.bn, self.lif
        self.run = {
            "all": lambda x: lif(fc(x)),
            "neuron": lambda x: lif(self.fc(x)),
            "layer": lambda x: bn(x),
            "forward": lambda x: lif.forward(x),
            "part": lambda x: lif.forward(x),
        }[keeps]
        self.only = keeps == "forward"

    def forward(self, x):
        return self.run(x) if self.only else self.last(self.run(x))


@pytest.mark.parametrize(
    ("keeps", "message"),
    [
        ("all", r"the forward runs 'fc' \(Linear\) of the network that the twin was made of, through a function"),
        ("neuron", r"the forward runs 'fc' \(Linear\) of the network"),
        ("layer", r"the forward runs 'bn' \(BatchNorm1d\) of the network"),
        ("forward", r"the forward runs 'lif' \(LIFNode\) of the network"),
        ("part", r"the forward runs 'lif' \(LIFNode\) of the network"),
    ],
)
@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_closure_that_runs_the_network_itself_is_an_error_and_leaves_it_as_it_is(keeps, message, mode):
    net = Closes(keeps, mode).train()
    twin = ann_twin(net)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            twin(torch.ones(2, 3))
    assert net.bn.num_batches_tracked == 0
    assert net.lif.v == 0.0
    assert "forward" not in vars(net.lif)


def test_a_neuron_that_is_no_module_of_the_network_is_an_error():
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif, self.hidden = neuron.LIFNode(), [neuron.IFNode()]

        def forward(self, x):
            return self.lif(self.hidden[0](x))

    with pytest.raises(ValueError, match=r"the forward runs a neuron \(IFNode\) that is no module of it"):
        ann_twin(Hides())(torch.ones(2, 3))


def test_modules_that_a_forward_makes_or_keeps_for_itself_are_its_own():
    class Makes(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif, self.kept = neuron.LIFNode(), [nn.Linear(3, 3)]

        def forward(self, x):
            return nn.Flatten()(self.lif(self.kept[0](x)))

    net = Makes()
    assert torch.equal(ann_twin(net)(torch.ones(2, 3)), net.kept[0](torch.ones(2, 3)).relu())


def test_a_graph_is_refused_and_the_network_that_it_was_made_of_named_as_its_twin():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    recipe = RateCodingRecipe([(torch.rand(5, 3), torch.zeros(5))], fuse_flag=False)
    converted = Converter(recipe).convert(net)
    assert isinstance(converted, torch.fx.GraphModule)
    with pytest.raises(ValueError, match=r"a graph that torch.fx traced .*the network that was converted is its art"):
        ann_twin(converted)


def test_a_graph_within_a_network_is_translated():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.graph, self.lif = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.Tanh())), neuron.LIFNode()

        def forward(self, x):
            return self.lif(self.graph(x))

    net, x = Holds(), torch.ones(2, 3)
    assert torch.equal(ann_twin(net)(x), net.graph(x).relu())


def test_logic_on_spikes_gets_a_warning():
    def sew(cnf):
        return sew_resnet.SEWResNet(
            sew_resnet.BasicBlock, [1, 1, 1, 1], num_classes=2, cnf=cnf, spiking_neuron=neuron.IFNode
        )

    with pytest.warns(UserWarning, match=r"'layer1.0' and 3 more: IAND, x \(1 - y\), is a logical connection"):
        ann_twin(sew("IAND"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ann_twin(sew("ADD"))
