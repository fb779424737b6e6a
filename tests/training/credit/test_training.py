"""Trainings by learning rules, end to end: on digits, stopped and resumed, and in two processes."""

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from sj_cka.data import digits
from sj_cka.models import build
from sj_cka.training import LEARNING_RULES, Checkpoints, DeviceLoader, Settings, train
from sj_cka.training.step import Step

PRESETS = {
    name: {"name": name, **options}
    for name, options in {
        "bptt": {},
        "tbptt": {"k": 2},
        "fa": {},
        "dfa": {},
        "le": {},
        "ottt": {},
        "sltt": {},
        "eprop": {},
        "decolle": {},
        "pair": {"space": "feedback_alignment", "time": "presynaptic_trace", "seed": 2},
        "frozen": {},
    }.items()
}
N = 96


class Box:
    """Holds one checkpoint in memory."""

    content = None

    def load(self):
        return self.content

    def save(self, content):
        self.content = content

    def set_aside(self):
        raise AssertionError("a checkpoint was damaged")


class Stopped(Exception):
    pass


def network(norm="none"):
    return build(
        "snn",
        {"name": "mlp", "inputs": 64, "hidden": (20, 16), "norm": norm, "recurrent": "elementwise"},
        in_channels=1,
        num_classes=10,
        T=4,
        neuron={"v_threshold": 0.5, "v_reset": None, "detach_reset": True},
    )


def trained(rule, checkpoints=None, stop_after=None, **options):
    """Network and history of a training on a few digits."""
    data, net = digits(), network(**options)
    batches = DeviceLoader(data.x_train[:N], data.y_train[:N], batch_size=24, seed=0, classes=10)
    settings = Settings(epochs=4, batch_size=24, lr=0.1, loss="tet", rule=rule)

    def report(epoch):
        if epoch.epoch == stop_after:
            raise Stopped

    history = train(net, batches, settings, seed=0, checkpoints=checkpoints, report=report).history
    return net, history


def test_all_rules_are_tried():
    assert set(PRESETS) == set(LEARNING_RULES)


@pytest.mark.parametrize("name", PRESETS)
def test_the_loss_falls_and_the_weights_move_that_are_to(name):
    net, history = trained(PRESETS[name])
    assert history[-1].loss < 0.97 * history[0].loss
    assert history[-1].accuracy > history[0].accuracy
    before = dict(network().named_parameters())
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == ({"fc.weight", "fc.bias"} if name == "frozen" else set(before))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(module.v == 0.0 for module in net.modules() if hasattr(module, "v_threshold"))


@pytest.mark.parametrize("name", ["tbptt", "fa", "dfa", "le", "ottt", "decolle"])
def test_batch_normalisation_of_each_step_goes_with_them(name):
    net, history = trained(PRESETS[name], norm="step")
    assert history[-1].loss < 0.97 * history[0].loss
    before = dict(network("step").named_parameters())
    assert all(not torch.equal(p, before[n]) for n, p in net.named_parameters())
    batches, epochs, T = 4, 4, 4
    assert int(net.layer2.bn.num_batches_tracked) == batches * epochs * T


@pytest.mark.parametrize("name", PRESETS)
def test_a_training_that_was_stopped_ends_with_the_same_weights_to_the_bit(name):
    net, history = trained(PRESETS[name])
    box = Box()
    with pytest.raises(Stopped):
        trained(PRESETS[name], Checkpoints(box, 1), stop_after=2)
    again, resumed = trained(PRESETS[name], Checkpoints(box, 1))
    assert all(torch.equal(p, again.get_parameter(n)) for n, p in net.named_parameters())
    assert [epoch.loss for epoch in resumed] == [epoch.loss for epoch in history]


def test_the_loss_that_is_told_is_that_of_all_steps():
    data, net = digits(), network()
    x, y = data.x_train[:24], data.y_train[:24]
    logits = net(x)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.repeat(4))
    for name in PRESETS:
        step = Step(network(), Settings(batch_size=24, loss="tet", rule=PRESETS[name]))
        found, loss = step.gradients(x, y, size=24)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_half_precision_keeps_the_direction(name):
    """bf16 of the forward pass; gradients are those of float32, roughly."""
    data, found = digits(), {}
    for precision in ("float32", "bf16"):
        net = network()
        Step(net, Settings(batch_size=24, loss="tet", rule=PRESETS[name], precision=precision)).gradients(
            data.x_train[:24], data.y_train[:24], size=24
        )
        found[precision] = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        assert found[precision].dtype == torch.float32
    one, other = found.values()
    assert float(one @ other / (one.norm() * other.norm())) > 0.9


def test_synapses_are_followed_in_half_precision_behind_neurons_of_spikingjelly():
    x, y, found = torch.rand(4, 6, 12, generator=torch.Generator().manual_seed(0)) * 3, torch.arange(6) % 3, {}
    for precision in ("float32", "bf16"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(12, 20), neuron.LIFNode(step_mode="m", v_threshold=0.3), nn.Linear(20, 3))
        Step(net, Settings(batch_size=6, loss="tet", rule="eprop", precision=precision)).gradients(x, y, size=6)
        found[precision] = net[0].weight.grad.flatten()
    one, other = found.values()
    assert float(one @ other / (one.norm() * other.norm())) > 0.9


# run in each process, and here: shares of one batch, uneven ones
SHARED = """
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from sj_cka.models import build
from sj_cka.training import Settings
from sj_cka.training.distributed import own_share, sum_gradients
from sj_cka.training.step import Step

RULES = ["bptt", {"name": "tbptt", "k": 2}, "fa", "dfa", "le", "ottt", "eprop", "decolle"]


def learn(rule):
    "Gradients of a batch of seven, summed over processes."
    net = build(
        "snn",
        {"name": "mlp", "inputs": 12, "hidden": (9, 8), "norm": "none", "recurrent": True},
        in_channels=1,
        num_classes=4,
        T=4,
        neuron={"v_threshold": 0.4, "v_reset": None, "detach_reset": True},
    ).double()
    x = torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = own_share(torch.arange(7))
    Step(net, Settings(loss="tet", rule=rule)).gradients(x[:, own], own % 4, size=7)
    sum_gradients(net)
    return {name: p.grad for name, p in net.named_parameters()}
"""
WORK = (
    SHARED
    + """
import sys
from datetime import timedelta

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
torch.save([learn(rule) for rule in RULES], f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""
)


def test_two_processes_have_the_gradients_of_one(tmp_path, together):
    here = {}
    exec(SHARED, here)
    together(WORK, *((rank, tmp_path) for rank in range(2)))
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for i, rule in enumerate(here["RULES"]):
        for name, gradient in here["learn"](rule).items():
            assert gradient.any()
            torch.testing.assert_close(one[i][name], gradient, rtol=1e-5, atol=1e-8)
            assert torch.equal(one[i][name], other[i][name])
