"""Which modules are layers."""

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn.utils import parametrizations

from sj_cka.recording import plan_observation


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
    return list(plan_observation(model, torch.randn(5, 4), layers=layers, T=2).layers)


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


class Reuses(nn.Module):
    """One ReLU under two names, used three times."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(4, 6), nn.Linear(6, 6), nn.ReLU()
        self.inner = nn.ModuleDict({"act": self.relu})

    def forward(self, x):
        return self.relu(self.b(self.inner["act"](self.b(self.relu(self.a(x))))))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("relu", ["relu#0", "relu#1", "relu#2"]),
        ("relu#1", ["relu#1"]),
        (["relu#2", "a", "relu#0"], ["relu#2", "a", "relu#0"]),
        (["relu#1", "relu"], ["relu#1", "relu#0", "relu#2"]),
        (["relu", "relu#1"], ["relu#0", "relu#1", "relu#2"]),
        ("inner.act", ["relu#0", "relu#1", "relu#2"]),
        (["inner.act#1", "b#0", "relu#1"], ["relu#1", "b#0"]),
        ("inner.*", ["relu#0", "relu#1", "relu#2"]),
        ("r*#2", ["relu#2"]),
        ("a#0", ["a"]),
    ],
)
def test_a_use_goes_by_its_label_and_a_module_by_any_of_its_names(layers, expected):
    assert chosen(layers, Reuses().eval()) == expected


def test_the_labels_of_a_plan_choose_the_same_layers_again():
    net = Reuses().eval()
    labels = chosen("*", net)
    assert set(labels) == {"a", "b#0", "b#1", "relu#0", "relu#1", "relu#2"}
    assert chosen(labels, net) == labels


def test_a_use_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"one of the 3 uses of module 'relu' in a step, 'relu#0' to 'relu#2', got"):
        chosen("relu#3", Reuses().eval())
    with pytest.raises(ValueError, match=r"layers: 'relo#1' matches no module"):
        chosen("relo#1", Reuses().eval())


def test_a_use_without_samples_does_not_matter_where_another_is_asked_for():
    class Position(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(x) + self.relu(torch.ones(4))

    assert chosen("relu#0", Position().eval()) == ["relu#0"]
    with pytest.raises(ValueError, match="one axis that scales with the samples"):
        chosen("relu", Position().eval())


@pytest.mark.parametrize("layers", [3, [3], [nn.ReLU()], nn.Sequential(nn.ReLU())])
def test_what_names_no_layers_is_refused(layers):
    with pytest.raises(TypeError, match="layers: expected a dotted name, glob, module type or predicate, got"):
        chosen(layers)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_what_makes_weights_is_no_layer(norm):
    model = nn.Sequential(norm(nn.Linear(4, 6)), nn.ReLU(), norm(nn.Linear(6, 6)), neuron.IFNode(), nn.Linear(6, 2))
    assert chosen(model=model.eval()) == ["0", "1", "2", "3"]
    assert chosen("*", model) == ["0", "1", "2", "3", "4"]
    assert chosen("", norm(nn.Linear(4, 6)).eval()) == [""]
