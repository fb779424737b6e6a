"""What of a network its artificial twin takes over, and in what form."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading
import warnings

import pytest
import torch
from spikingjelly.activation_based import functional, layer, monitor, neuron, surrogate
from torch import nn

from sj_cka import compare
from sj_cka.recording import is_neuron
from sj_cka.twins import ann_twin


class Spiking(nn.Module):
    """A multi-step network of which one neuron serves two layers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = layer.Linear(6, 5, step_mode="m"), layer.Linear(5, 5, step_mode="m")
        self.lif = neuron.LIFNode(step_mode="m")
        self.again = self.lif
        self.drop = layer.Dropout(0.5, step_mode="m")
        self.others = [self.lif]

    def forward(self, x):
        return self.fc2(self.again(self.fc2(self.drop(self.lif(self.fc1(x))))))


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def snn() -> Spiking:
    """After a step of training: its states hang on a graph."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Spiking()
        net(3 * numbers(4, 3, 6)).sum().backward()
        return net


def by_hand(net: Spiking, x: torch.Tensor) -> torch.Tensor:
    return net.fc2(net.fc2(net.fc1(x).relu()).relu())


def test_a_shared_neuron_is_one_activation_wherever_it_is_held(snn):
    twin = ann_twin(snn)
    assert type(twin.lif) is nn.ReLU
    assert twin.again is twin.lif
    assert twin.others == [twin.lif]
    assert twin.fc1 is not snn.fc1
    assert twin.fc1.weight.data_ptr() != snn.fc1.weight.data_ptr()


def test_live_states_are_dropped_in_the_twin_and_kept_in_the_network(snn):
    v, mask = snn.lif.v, snn.drop.mask
    assert v.grad_fn is not None
    with pytest.raises(RuntimeError, match="deepcopy"):  # why it is not done so
        copy.deepcopy(snn)
    twin = ann_twin(snn).eval()
    assert snn.lif.v is v
    assert snn.drop.mask is mask
    assert torch.equal(twin(numbers(3, 6)), by_hand(snn, numbers(3, 6)))
    assert torch.equal(twin(numbers(3, 6)), twin(numbers(3, 6)))


def test_tensors_of_a_graph_in_other_attributes_are_copied_without_it(snn):
    snn.seen = {"last": [snn.fc1(numbers(1, 6))]}
    twin = ann_twin(snn)
    assert twin.seen["last"][0].grad_fn is None
    assert torch.equal(twin.seen["last"][0], snn.seen["last"][0])
    assert snn.seen["last"][0].grad_fn is not None


def test_what_watches_the_network_does_not_see_the_twin(snn):
    class Watches:
        def __init__(self):
            self.lock, self.seen = threading.Lock(), []  # a lock cannot be copied

        def hook(self, module, args, output):
            self.seen.append(output.shape)

    watches, watches_twin = Watches(), Watches()
    snn.fc1.register_forward_hook(watches.hook)
    twin = ann_twin(snn)
    twin.fc1.register_forward_hook(watches_twin.hook)
    twin(numbers(3, 6))
    assert watches.seen == []
    assert watches_twin.seen == [(1, 3, 5)]


def test_a_monitor_of_inputs_does_not_see_the_twin_and_sees_the_network_on(snn):
    with monitor.InputMonitor(snn, neuron.BaseNode) as seen:
        twin = ann_twin(snn)
        twin(numbers(3, 6))
        assert seen.records == []
        assert not any(module._forward_pre_hooks for module in twin.modules())
        snn(numbers(4, 3, 6))
        assert len(seen.records) == 2


@pytest.mark.parametrize("bound", [False, True])
def test_a_hook_of_the_network_that_changes_an_input_changes_the_twins(bound):
    class Doubles(Spiking):
        factor = 2.0

        def __init__(self):
            super().__init__()
            hook = self.double if bound else (lambda module, args: (2 * args[0],))
            self.fc1.register_forward_pre_hook(hook)

        def double(self, module, args):
            return (self.factor * args[0],)

    net = Doubles().eval()
    twin = ann_twin(net)
    assert torch.allclose(twin(numbers(3, 6)), by_hand(net, numbers(3, 6)), atol=1e-6)
    if bound:  # to the twin, not to the network
        net.factor = 0.0
        assert torch.allclose(twin(numbers(3, 6)), by_hand(Doubled(net), numbers(3, 6)), atol=1e-6)


class Doubled:
    """The same network with its hook as it was."""

    def __init__(self, net):
        self.fc1, self.fc2 = lambda x: nn.functional.linear(2 * x, net.fc1.weight, net.fc1.bias), net.fc2


def test_weights_that_a_hook_makes_are_made_in_the_twin(snn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older of torch's two
        nn.utils.weight_norm(snn.fc1)
    snn.eval()
    snn.lif.reset()
    snn(numbers(4, 3, 6))
    twin = ann_twin(snn)
    with torch.no_grad():
        twin.fc1.weight_g *= 2
    weight = 2 * snn.fc1.weight
    expected = snn.fc2(snn.fc2(nn.functional.linear(numbers(3, 6), weight, snn.fc1.bias).relu()).relu())
    assert torch.allclose(twin(numbers(3, 6)), expected, atol=1e-6)


def test_the_network_gives_the_same_before_and_after(snn):
    snn.eval()
    x = 3 * numbers(4, 3, 6)
    functional.reset_net(snn)
    before = snn(x)
    v = snn.lif.v.clone()
    twin = ann_twin(snn)
    twin(x[0])
    assert torch.equal(snn.lif.v, v)
    functional.reset_net(snn)
    assert torch.equal(snn(x), before)
    assert snn.lif.step_mode == "m"
    assert type(snn) is Spiking


def test_a_mask_of_dropout_does_not_stay():
    net = nn.Sequential(layer.Dropout(0.5), neuron.IFNode())
    twin = ann_twin(net.train())
    x = torch.ones(4, 100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net(x)  # makes a mask, which it keeps
        assert type(twin[0]) is nn.Dropout
        assert not torch.equal(twin(x), twin(x))
        assert sorted(twin(x).unique().tolist()) == [0.0, 2.0]
    assert torch.equal(twin.eval()(x), x)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_dropout_of_channels_drops_whole_ones(mode):
    net = nn.Sequential(layer.Dropout2d(0.5, step_mode=mode), neuron.IFNode(step_mode=mode)).train()
    twin = ann_twin(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        maps = twin(torch.ones(20, 8, 3, 2)).flatten(2)
    assert isinstance(twin[0], nn.Dropout2d)
    assert torch.equal(maps, maps[..., :1].expand_as(maps))
    assert 0.3 < float((maps == 0).float().mean()) < 0.7


@pytest.mark.parametrize(
    "read_out",
    [
        lambda: neuron.NonSpikingLIFNode(),
        lambda: neuron.NonSpikingIFNode(decode="mean-mem"),
        lambda: neuron.NoisyNonSpikingIFNode(2, T=4, decode="max-mem"),
        lambda: neuron.IFNode(v_threshold=float("inf"), step_mode="m"),
    ],
)
def test_a_read_out_is_not_rectified(read_out):
    fc = layer.Linear(6, 2, step_mode="m")
    nn.init.constant_(fc.bias, -9.0)
    net = nn.Sequential(neuron.IFNode(step_mode="m"), fc, read_out())
    twin = ann_twin(net)
    y = twin(numbers(5, 6))
    assert isinstance(twin[2], nn.Identity)
    assert torch.allclose(y, fc(numbers(5, 6).relu()))
    assert y.min() < 0


def test_a_read_out_that_leaves_no_steps_leaves_none_in_the_twin():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif, self.out = neuron.LIFNode(step_mode="m"), neuron.NonSpikingIFNode(decode="last_mem")
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(self.out(self.lif(x)).flatten(1))

    net = Flat()
    assert torch.allclose(ann_twin(net)(numbers(5, 2, 3)), net.fc(numbers(5, 2, 3).relu().flatten(1)))


# SpikingJelly 2.0.0 chooses itself
TORCH = {"backend": "torch"} if "backend" in inspect.signature(neuron.FlexSN).parameters else {}
MANY = {
    "PSN": lambda: neuron.PSN(4),
    "MaskedPSN": lambda: neuron.MaskedPSN(2, 4, step_mode="m"),
    "SlidingPSN": lambda: neuron.SlidingPSN(2, step_mode="m"),
    "GatedLIFNode": lambda: neuron.GatedLIFNode(4, step_mode="m"),
    "ParametricLIFNode": lambda: neuron.ParametricLIFNode(step_mode="m"),
    "ComplementaryLIFNode": lambda: neuron.ComplementaryLIFNode(step_mode="m"),
    "DSRIFNode": lambda: neuron.DSRIFNode(T=4),
    "ILCIFNode": lambda: neuron.ILCIFNode(2, 3),
    "NoisyCUBALIFNode": lambda: neuron.NoisyCUBALIFNode(6, T=4),
    "FlexSN": lambda: neuron.FlexSN(lambda x, v: ((x + v > 1).float(), v), 1, **TORCH),
    "own subclass": lambda: type("Own", (neuron.LIFNode,), {})(step_mode="m"),
}


@pytest.mark.parametrize("kind", MANY)
def test_neurons_of_every_family_become_activations_without_their_parameters(kind):
    net = nn.Sequential(layer.Linear(5, 6, step_mode="m"), MANY[kind]())
    assert is_neuron(net[1])
    twin = ann_twin(net)
    assert [name for name, _ in twin.named_modules()] == ["", "0", "1"]
    assert list(twin.state_dict()) == ["0.weight", "0.bias"]
    assert torch.equal(twin(numbers(3, 5)), net[0](numbers(3, 5)).relu())


@pytest.mark.parametrize(
    "container",
    [
        lambda: layer.MultiStepContainer(nn.Linear(5, 5), neuron.LIFNode()),
        lambda: layer.SeqToANNContainer(nn.Linear(5, 5), neuron.IFNode()),
        lambda: layer.StepModeContainer(True, "m", nn.Linear(5, 5), neuron.IFNode()),
        lambda: nn.ModuleList([nn.Linear(5, 5), neuron.LIFNode(step_mode="m")]),
    ],
)
def test_neurons_inside_containers(container):
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.held, self.last = container(), neuron.LIFNode(step_mode="m")

        def forward(self, x):
            for module in self.held if isinstance(self.held, nn.ModuleList) else [self.held]:
                x = module(x)
            return self.last(x)

    net = Holds()
    twin = ann_twin(net)
    assert type(twin.held) is type(net.held)
    assert type(twin.held[1]) is nn.ReLU
    assert torch.allclose(twin(numbers(3, 5)), net.held[0](numbers(3, 5)).relu())


def test_another_activation_and_never_in_place():
    net = nn.Sequential(layer.Linear(6, 4), neuron.LIFNode())
    leaky = ann_twin(net, activation=lambda: nn.LeakyReLU(0.5, inplace=True))
    assert torch.allclose(leaky(numbers(3, 6)), nn.functional.leaky_relu(net[0](numbers(3, 6)), 0.5))
    assert not leaky[1].inplace
    assert not ann_twin(net, activation=lambda: nn.Sequential(nn.ReLU(inplace=True)))[1][0].inplace
    parametric = ann_twin(net.double(), activation=nn.PReLU)
    assert parametric(numbers(3, 6).double()).dtype == torch.float64
    assert list(parametric.state_dict()) == ["0.weight", "0.bias", "1.weight"]


SHARED = nn.ReLU()


@pytest.mark.parametrize("activation", [torch.relu, SHARED, lambda: torch.relu, lambda: SHARED])
def test_what_makes_no_activations_is_an_error(activation):
    net = nn.Sequential(neuron.LIFNode(), neuron.LIFNode())
    with pytest.raises(TypeError, match=r"expected activation as what makes a new module, e\.g\. nn\.ReLU"):
        ann_twin(net, activation=activation)


def test_a_twin_is_trained_moved_saved_and_copied_like_any_network(snn):
    twin = ann_twin(snn)
    x = numbers(8, 6)
    assert twin.training
    other = ann_twin(snn, activation=nn.Tanh)
    other.load_state_dict({key: 0 * value for key, value in snn.state_dict().items()})
    assert not other.eval()(x).any()
    loss = nn.functional.mse_loss(twin.eval()(x), torch.zeros(8, 5))
    loss.backward()
    with torch.no_grad():
        for p in twin.parameters():
            p -= 0.01 * p.grad
    after = twin(x)
    assert nn.functional.mse_loss(after, torch.zeros(8, 5)) < loss
    for again in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert type(again) is type(twin)
        assert torch.equal(again(x), after)
        assert again.fc1.weight.data_ptr() != twin.fc1.weight.data_ptr()
    file = io.BytesIO()
    torch.save(ann_twin(snn).eval(), file)  # before its first call
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x), by_hand(snn, x))
    assert twin.double()(x.double()).dtype == torch.float64
    assert isinstance(twin, Spiking)


def test_a_twin_prints_and_takes_the_settings_of_spikingjelly(snn):
    attention = layer.SpikingSelfAttention(8, 2)  # prints the backend of its neurons
    assert "num_heads=2" in repr(ann_twin(attention))
    twin = ann_twin(snn).eval()
    if hasattr(functional, "set_backend"):  # not in SpikingJelly 2.0.0
        functional.set_backend(twin, "torch")
    functional.reset_net(twin)
    functional.detach_net(twin)
    assert torch.equal(twin(numbers(3, 6)), by_hand(snn, numbers(3, 6)))
    functional.set_step_mode(twin, "s")
    sizes = []
    twin.lif.register_forward_hook(lambda module, args, output: sizes.append(output.shape))
    assert torch.equal(twin(numbers(3, 6)), by_hand(snn, numbers(3, 6)))
    assert sizes == [(3, 5), (3, 5)]


def test_a_surrogate_that_neurons_share_is_no_spike_of_its_own():
    class Shares(nn.Module):
        def __init__(self):
            super().__init__()
            self.surrogate = surrogate.ATan()
            self.lif = neuron.LIFNode(surrogate_function=self.surrogate)

        def forward(self, x):
            return self.lif(x)

    assert torch.equal(ann_twin(Shares())(numbers(3, 2)), numbers(3, 2).relu())


def test_a_neuron_alone():
    twin = ann_twin(neuron.LIFNode(step_mode="m"))
    assert type(twin) is nn.ReLU
    assert torch.equal(twin(numbers(3, 2)), numbers(3, 2).relu())


def test_the_twins_pair_by_name_in_a_comparison(snn):
    x = 3 * numbers(16, 6)
    functional.reset_net(snn)
    result = compare(snn.eval(), ann_twin(snn), [x], T=4, progress=False)
    assert list(result.paired().index) == [name for name in result.layers_x if name in result.layers_y]
    assert result.paired()["fc1"] == pytest.approx(1)
