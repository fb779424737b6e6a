"""Every place that runs a network on tensors that are used again hands out copies, and refuses what has no values."""

import pytest
import torch
from torch import nn

from sj_cka import compare, record
from sj_cka.energy import cost
from sj_cka.training import Settings, accuracy, calibrate, train
from sj_cka.twins import ann_twin, converted_snn, snn_twin


class InPlace(nn.Module):
    """What a ReLU in place and a centring in place do to what a network is given."""

    def forward(self, x):
        return x.relu_().sub_(0.5)


class Merges(nn.Linear):
    """Adds its low-rank weights when it leaves training mode, takes them out when it enters it."""

    def __init__(self, i, o):
        super().__init__(i, o)
        self.a, self.merged = nn.Parameter(torch.randn(o, i)), False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.weight += -self.a if mode else self.a
            self.merged = not mode
        return self


def net():
    torch.manual_seed(0)
    return nn.Sequential(InPlace(), Merges(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def recorded(net, x, y):
    with record(net):
        net(x.clone())


# what runs the network, and whether it is there to change its statistics or weights
RUNS = {
    "accuracy": (lambda net, x, y: accuracy(net, x, y, batch_size=8), False),
    "calibrate": (lambda net, x, y: calibrate(net, x, batch_size=8), True),
    "cost": (lambda net, x, y: cost(net, x, batch_size=8), False),
    "converted_snn": (lambda net, x, y: converted_snn(net, [x], T=2, mode="max"), False),
    "compare": (lambda net, x, y: compare(net, loader=[x], allow_train=True, given="input", progress=False), False),
    "train": (lambda net, x, y: train(net, [(x, y)], Settings(epochs=1, batch_size=20, lr=0.1), seed=0), True),
    "record": (recorded, True),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("mode", [True, False])
def test_a_network_that_works_in_place_and_merges_weights_leaves_tensors_and_weights_alone(name, mode):
    run, changes = RUNS[name]
    made, x = net().train(mode), torch.randn(20, 6)
    y, given = torch.arange(20) % 3, x.clone()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    run(made, x, y)
    assert torch.equal(x, given)
    assert made.training is (mode or name == "train")
    if not changes:
        assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
        assert made[1].merged is not mode
    elif name == "calibrate":
        assert all(torch.equal(p, before[key]) for key, p in made.named_parameters())
        assert not torch.equal(made[2].running_mean, before["2.running_mean"])
        assert made[2].momentum == 0.1


@pytest.mark.parametrize("name", [*RUNS, "snn_twin", "ann_twin"])
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_has_no_values_is_refused_by_name_wherever_a_network_comes_in(name):
    others = {"snn_twin": lambda net, x, y: snn_twin(net, T=2), "ann_twin": lambda net, x, y: ann_twin(net)}
    run = others.get(name) or RUNS[name][0]
    lazy = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.LazyLinear(3)).eval()
    with pytest.raises(ValueError, match=r"'weight' of module '2' \(LazyLinear\) has no values yet"):
        run(lazy, torch.randn(20, 6), torch.arange(20) % 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_accuracy_of_torchscript_can_be_had():
    made = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x, y = torch.randn(20, 6), torch.arange(20) % 3
    assert accuracy(torch.jit.trace(made, x), x, y) == accuracy(made, x, y)
