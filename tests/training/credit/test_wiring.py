"""How layers and neurons hang together, as a run shows it."""

import pytest
import torch
from lively import CLASSES, T, batch, network, random
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import nn

from sj_cka.models import build
from sj_cka.training.credit.rule import Rule
from sj_cka.training.credit.wiring import wiring_of, without_noise


def wired(net, x, runs=2):
    return wiring_of(net, lambda: net(x), runs)


def test_an_mlp():
    net, (x, _) = network(), batch()
    found = wired(net, x[:1])
    assert list(found.layers) == ["layer1.fc", "layer2.fc", "fc"]
    assert list(found.neurons) == ["layer1.lif", "layer2.lif"]
    assert found.into == {"layer1.fc": ["layer1.lif"], "layer2.fc": ["layer2.lif"], "fc": []}
    assert found.from_ == {"layer1.fc": [], "layer2.fc": ["layer1.lif"], "fc": ["layer2.lif"]}
    assert found.blocks == {"layer1.lif": ["layer1.fc"], "layer2.lif": ["layer2.fc"]}
    assert found.classifier == ["fc"]
    assert set(found.calls.values()) == {1.0}
    assert (found.behind, found.past, found.spiking_logits, found.norms, found.others) == (set(), [], [], [], [])
    assert found.shapes["layer1.fc"] == found.shapes["layer1.lif"] == (1, 5, 11)


@pytest.mark.parametrize("recurrent", [True, "elementwise"])
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_recurrence_shows_in_the_second_step(model, recurrent):
    net, (x, _) = network(model, recurrent=recurrent), batch(model)
    found = wired(net, x[:1])
    back = [name for name in found.layers if found.is_recurrent(name)]
    assert back == [name for name in found.layers if name.endswith("recurrent.v")]
    assert len(back) == 2
    assert [len(layers) for layers in found.blocks.values()] == [2, 2]
    assert not any(wired(net, x[:1], runs=1).is_recurrent(name) for name in found.layers)
    assert all(wired(net, x[:2], runs=1).is_recurrent(name) for name in back)


def test_pooling_and_normalisation_are_no_layers_of_weights():
    net, (x, _) = network("convnet", norm="step"), batch("convnet")
    found = wired(net, x)
    assert list(found.layers) == ["stage1.0.conv", "stage2.0.conv", "fc"]
    assert found.norms == ["stage1.0.bn", "stage2.0.bn"]
    assert found.from_["stage2.0.conv"] == ["stage1.0.lif"]
    assert found.classifier == ["fc"]


def test_shortcuts_of_a_resnet():
    net = build("snn", {"name": "resnet", "depth": 8}, in_channels=2, num_classes=CLASSES, T=T).double()
    found = wired(net, random(T, 2, 2, 8, 8), runs=1)
    assert found.into["conv1"] == ["layer1.0.lif1", "layer2.0.lif1"]
    assert found.past == []
    assert found.classifier == ["fc"]


def lif():
    return neuron.LIFNode(v_threshold=0.3, step_mode="m", surrogate_function=surrogate.ATan())


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.lif1, self.fc2, self.lif2, self.fc3 = (
            nn.Linear(12, 6),
            lif(),
            nn.Linear(6, 6),
            lif(),
            nn.Linear(6, 4),
        )

    def forward(self, x):
        s = self.lif1(self.fc1(x))
        return self.fc3(s + self.lif2(self.fc2(s) + s))


def test_spikes_that_go_past_layers():
    found = wired(Shortcut().double(), batch()[0])
    assert found.past == [("lif1", "lif2")]
    assert sorted(found.from_["fc3"]) == ["lif1", "lif2"]
    assert found.into["fc1"] == ["lif1"]


def test_a_layer_behind_another_and_neurons_at_the_end():
    net = nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 5), lif(), nn.Linear(5, 4), lif()).double()
    found = wired(net, batch()[0])
    assert found.behind == {"0"}
    assert found.into == {"0": ["2"], "1": ["2"], "3": ["4"]}
    assert found.classifier == []
    assert found.spiking_logits == ["4"]


def test_two_layers_behind_the_last_neurons_leave_the_last_one_as_classifier():
    net = nn.Sequential(nn.Linear(12, 6), lif(), nn.Linear(6, 5), nn.Linear(5, 4)).double()
    found = wired(net, batch()[0])
    assert found.classifier == ["3"]
    assert found.behind == {"2"}
    assert found.into["2"] == []


def test_activations_count_where_there_are_no_neurons_and_there_alone():
    of_activations = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    assert list(wired(of_activations, batch()[0][0], runs=1).neurons) == ["1"]
    of_both = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), lif(), nn.Linear(6, 4)).double()
    assert list(wired(of_both, batch()[0]).neurons) == ["2"]


def test_modules_that_do_not_run_are_no_layers():
    net = network()
    net.spare = nn.Linear(3, 3).double()
    assert "spare" not in wired(net, batch()[0]).layers
    net.idle = lif()
    with pytest.raises(ValueError, match=r"calls its neurons as modules, 'idle' is never called"):
        wired(net, batch()[0])


def test_units_are_counted_for_a_sample():
    net, (x, _) = network("convnet", recurrent=True), batch("convnet")
    for runs, steps in ((2, x[:1]), (1, x)):
        assert wired(net, steps, runs).units == {"stage1.0.lif": 4 * 6 * 4, "stage2.0.lif": 6 * 3 * 2}
    with pytest.raises(ValueError, match="expected samples, by which it is seen how layers hang together; got none"):
        wired(net, x[:, :0])


def test_the_network_is_left_as_it_was():
    net, (x, _) = network(norm="step"), batch()
    net.train()
    net(x)
    potential = net.layer1.lif.v.detach().clone()
    kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.random.get_rng_state()
    wired(net, x)
    assert torch.equal(net.layer1.lif.v, potential)
    assert all(torch.equal(kept[name], tensor) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.equal(state, torch.random.get_rng_state())


def test_without_noise_neurons_alone_train():
    net = nn.Sequential(nn.Linear(12, 6), layer.Dropout(0.5, step_mode="m"), lif())
    net.train()
    with without_noise(net):
        assert [module.training for module in net] == [False, False, True]
    assert all(module.training for module in net.modules())


def test_the_wiring_is_found_once_for_a_network_in_a_mode():
    net, (x, _) = network(), batch()
    rule = Rule("local_error", "none")
    assert rule.wiring(net, x) is rule.wiring(net, x)
    assert Rule("local_error", "none").wiring(net, x) is rule.wiring(net, x)
    assert rule.wiring(net.train(), x) is not rule.wiring(net.eval(), x)
