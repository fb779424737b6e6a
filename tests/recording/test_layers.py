"""Which modules are layers."""

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from sj_cka.recording import plan


def net():
    return nn.Sequential(
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True)),
        nn.Dropout(0.5),
        nn.Identity(),
        nn.Sequential(nn.Linear(6, 6), neuron.IFNode(step_mode="s")),
        nn.Linear(6, 2),
    ).eval()


def chosen(layers=None, model=None):
    model = model or net()
    return list(plan(model, torch.randn(5, 4), layers=layers, T=2).layers)


def test_by_default_neurons_and_called_leaves_count_once_and_the_last_linear_not():
    # dropout and identity pass on the ReLU's tensor; the Sequentials put out their last member's
    assert chosen() == ["0.0", "0.1", "0.2", "3.0", "3.1"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("3.1", ["3.1"]),
        (["3.1", "0.0"], ["3.1", "0.0"]),
        ("0.*", ["0.0", "0.1", "0.2"]),
        (["3.*", "*.0"], ["3.0", "3.1", "0.0"]),
        (nn.Linear, ["0.0", "3.0", "4"]),
        (neuron.IFNode, ["3.1"]),
        (lambda name, module: isinstance(module, nn.ReLU), ["0.2"]),
        ("0", ["0"]),
    ],
)
def test_layers_are_chosen_by_name_glob_type_or_predicate_in_the_order_asked(layers, expected):
    assert chosen(layers) == expected


def test_nothing_inside_a_neuron_is_a_layer():
    assert not [name for name in chosen("*") if "surrogate" in name]
    with pytest.raises(ValueError, match=r"'3.1.surrogate_function' matches no module; known: 0, 0.0"):
        chosen("3.1.surrogate_function")


def test_a_pattern_that_matches_nothing_lists_close_names():
    with pytest.raises(ValueError, match=r"layers: '3.2' matches no module; did you mean '3.1'"):
        chosen("3.2")
    with pytest.raises(ValueError, match="layers: Conv2d matches no module"):
        chosen(nn.Conv2d)


def test_a_layer_that_is_never_called_is_an_error():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x) + torch.nn.functional.linear(x, self.unused.weight)

    with pytest.raises(ValueError, match="'unused' matches unused, which the forward pass never calls"):
        chosen("unused", Unused().eval())


def test_subclasses_of_a_neuron_and_neurons_that_are_no_base_node_are_neurons():
    from sj_cka.recording import is_neuron

    class Mine(neuron.LIFNode):
        pass

    assert is_neuron(Mine())
    assert is_neuron(neuron.PSN(T=2))
    assert not is_neuron(nn.ReLU())
    assert not is_neuron(Mine().surrogate_function)
