"""The membrane potential of neurons, and observations of some layers."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka.neurons import FusedLIFNode
from sj_cka.recording import Observation, neurons, plan_observation, reset_states

T, N = 4, 5


def images(n=N, seed=0):
    return torch.randn(n, 2, 4, 3, generator=torch.Generator().manual_seed(seed))


def observed(net, x, what=("output", "membrane"), layers=None, only=None, **options):
    """`{(layer, what): [S, N, ...]}` of one pass."""
    made = plan_observation(net.eval(), x, layers=layers, **options)
    seen = {}

    def receive(tap, step, rows, what):
        steps = seen.setdefault((tap.layer, what), {})
        steps.update({step + s: row.clone() for s, row in enumerate(rows)})

    taps = None if only is None else [tap for tap in made.taps if tap.layer in only]
    observation = Observation(net, made, len(x), receive, what, taps)
    try:
        reset_states(net)
        with torch.no_grad():
            made.drive.run(net, x)
    finally:
        observation.close()
    observation.check()
    return {key: torch.stack([steps[s] for s in range(len(steps))]) for key, steps in seen.items()}


def by_hand(x_seq, v_reset):
    """Spikes and the potential after the reset of an LIF neuron with tau 2 and decaying input."""
    v, spikes, v_seq = torch.zeros_like(x_seq[0]) + (v_reset or 0.0), [], []
    for x in x_seq:
        v = v + (x - (v - (v_reset or 0.0))) / 2.0
        spikes.append((v >= 1).float())
        v = v - spikes[-1] if v_reset is None else torch.where(spikes[-1] == 1, torch.tensor(v_reset), v)
        v_seq.append(v)
    return torch.stack(spikes), torch.stack(v_seq)


def net_of(kind, mode, v_reset):
    return nn.Sequential(
        layer.Conv2d(2, 3, 3, padding=1, step_mode=mode),
        kind(tau=2.0, decay_input=True, v_reset=v_reset, step_mode=mode),
        layer.Conv2d(3, 2, 1, step_mode=mode),
    )


@pytest.mark.parametrize("v_reset", [0.0, -0.25, None])
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", [neuron.LIFNode, FusedLIFNode])
def test_the_membrane_potential_is_that_after_the_reset_at_every_step(kind, mode, v_reset):
    net, x = net_of(kind, mode, v_reset), 3 * images()
    seen = observed(net, x, T=T)
    drive = nn.functional.conv2d(x, net[0].weight, net[0].bias, padding=1).expand(T, -1, -1, -1, -1)
    spikes, v_seq = by_hand(drive, v_reset)
    assert set(seen) == {("0", "output"), ("1", "output"), ("2", "output"), ("1", "membrane")}
    assert torch.equal(seen["1", "output"], spikes)
    assert torch.allclose(seen["1", "membrane"], v_seq, atol=1e-6)
    assert 0 < spikes.mean() < 1


def test_a_neuron_inside_a_container_over_time_and_one_used_twice_give_a_potential_for_every_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.T = T
            self.inner = layer.MultiStepContainer(nn.Sequential(nn.Flatten(), neuron.LIFNode()))
            self.spike = neuron.LIFNode(step_mode="m")

        def forward(self, x):
            y = self.spike(3 * self.inner(torch.stack([x * (t + 1) for t in range(self.T)])))
            return self.spike(3 * y)

    x = images()
    seen = observed(Twice(), x, ("membrane",))
    spikes, v_seq = by_hand(torch.stack([(x * (t + 1)).flatten(1) for t in range(T)]), 0.0)
    again, v_again = by_hand(3 * spikes, 0.0)
    assert set(seen) == {("inner.0.1", "membrane"), ("spike#0", "membrane"), ("spike#1", "membrane")}
    assert torch.allclose(seen["inner.0.1", "membrane"], v_seq, atol=1e-6)
    assert torch.allclose(seen["spike#0", "membrane"], v_again, atol=1e-6)
    first_of_second = v_again[-1] + (3 * again[0] - v_again[-1]) / 2  # the second call goes on with v of the first
    first_of_second = torch.where(first_of_second >= 1, 0.0, first_of_second)
    assert torch.allclose(seen["spike#1", "membrane"][0], first_of_second, atol=1e-6)


KINDS = [
    "ComplementaryLIFNode",
    "CUBALIFNode",
    "EIFNode",
    "IFNode",
    "ILIFNode",
    "IzhikevichNode",
    "KLIFNode",
    "ParametricLIFNode",
    "QIFNode",
    "SLTTLIFNode",
]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_neuron_has_the_same_potential_in_both_step_modes(name):
    x = 4 * images()
    seen = {}
    for mode in ("s", "m"):
        torch.manual_seed(0)
        made = getattr(neuron, name)()
        functional.set_step_mode(made, mode)
        net = nn.Sequential(layer.Conv2d(2, 3, 3, step_mode=mode), made, layer.Conv2d(3, 2, 1, step_mode=mode))
        seen[mode] = observed(net, x, layers="1", T=T)
    assert seen["m"]["1", "membrane"].shape == (T, N, 3, 2, 1)
    assert torch.allclose(seen["m"]["1", "membrane"], seen["s"]["1", "membrane"], atol=1e-6)
    assert seen["m"]["1", "membrane"].std() > 0


@pytest.mark.parametrize("made", [neuron.PSN(T), neuron.NonSpikingLIFNode(decode="max-mem")])
def test_a_neuron_without_a_membrane_potential_is_an_error_that_names_it_and_leaves_no_hook(made):
    net = nn.Sequential(
        layer.Flatten(step_mode="m"), layer.Linear(24, 6, step_mode="m"), neuron.IFNode(step_mode="m"), made
    )
    made_plan = plan_observation(net.eval(), images(), layers=["2", "3"], T=T)
    with pytest.raises(ValueError, match=rf"neuron '3' \({type(made).__name__}\): expected a neuron "):
        Observation(net, made_plan, N, print, ("output", "membrane"))
    assert not any(module._forward_hooks for module in net.modules())
    assert not net[2].store_v_seq


def test_a_multi_step_neuron_that_keeps_its_last_potential_alone_is_an_error_and_a_single_step_one_is_not():
    made = neuron.SimpleLIFNode(tau=2.0, decay_input=True, step_mode="m")
    net, x = nn.Sequential(layer.Linear(6, 4, step_mode="m"), made), torch.randn(N, 6)
    with pytest.raises(ValueError, match=r"neuron '1' \(SimpleLIFNode\).*every step.*run it in single-step mode"):
        Observation(net, plan_observation(net.eval(), x, T=T), N, print, ("membrane",))
    functional.set_step_mode(net, "s")
    drive = net[0](x).detach().expand(T, N, 4)
    assert torch.allclose(observed(net, x, T=T)["1", "membrane"], by_hand(drive, 0.0)[1], atol=1e-6)


@pytest.mark.parametrize("observe", [(), "membrane", ("output", "v"), ("spikes",)])
def test_what_is_observed_is_one_of_two_things(observe):
    net = net_of(neuron.LIFNode, "m", 0.0)
    with pytest.raises(ValueError, match="expected observe as a tuple of 'output' and 'membrane', got"):
        Observation(net, plan_observation(net.eval(), images(), T=T), N, print, observe)


class Stops(nn.Module):
    """Raises when told to, behind the neuron."""

    def __init__(self, error):
        super().__init__()
        self.error, self.on = error, False

    def forward(self, x):
        if self.on:
            raise self.error
        return x * 1


@pytest.mark.parametrize("where", ["forward", "receive", "nowhere"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("kind", [neuron.LIFNode, FusedLIFNode, neuron.ComplementaryLIFNode])
def test_hooks_flags_and_sequences_are_as_before_whatever_happens(where, error, kept, kind):
    spike, stops = kind(step_mode="m"), Stops(error)
    flag, held = ("store_state_seqs", "state_seqs") if kind is neuron.ComplementaryLIFNode else ("store_v_seq", "v_seq")
    setattr(spike, flag, kept)
    net, x = nn.Sequential(spike, stops).eval(), images()
    net(torch.randn(T, 2, 7))
    before = getattr(spike, held)
    made = plan_observation(net, x, T=T)
    assert getattr(spike, held) is before  # planning ran the network

    def receive(tap, step, rows, what):
        if where == "receive" and what == "membrane":
            raise error

    stops.on = where == "forward"
    observation = Observation(net, made, N, receive, ("output", "membrane"))
    assert getattr(spike, flag)
    try:
        reset_states(net)
        made.drive.run(net, x)
    except error:
        assert where != "nowhere"
    else:
        assert where == "nowhere"
    finally:
        observation.close()
    assert getattr(spike, flag) is kept
    assert getattr(spike, held) is before
    assert not any(module._forward_hooks for module in net.modules())


def test_no_sequence_is_held_longer_than_its_layer_takes():
    net = nn.Sequential(neuron.LIFNode(step_mode="m"), neuron.LIFNode(step_mode="m")).eval()
    held = []

    def receive(tap, step, rows, what):
        held.append(sum(module.v_seq is not None for module in net))

    x = images()
    made = plan_observation(net, x, T=T)
    observation = Observation(net, made, N, receive, ("membrane",))
    made.drive.run(net, x)
    observation.close()
    assert held == [0, 0]


def test_some_of_the_layers_may_be_observed_alone():
    net, x = net_of(neuron.LIFNode, "m", 0.0), images()
    whole = observed(net, x, T=T)
    part = observed(net, x, only=["1", "2"], T=T)
    assert set(part) == {("1", "output"), ("1", "membrane"), ("2", "output")}
    assert all(torch.equal(part[key], whole[key]) for key in part)
    assert set(observed(net, x, ("membrane",), only=["0"], T=T)) == set()
    observation = Observation(net, plan_observation(net, x, T=T), N, print, ("membrane",))
    assert [len(module._forward_hooks) for module in net] == [0, 1, 0]
    observation.close()


def test_the_neurons_of_a_network_are_known_by_name():
    net = nn.Sequential(neuron.PSN(T), nn.Sequential(nn.Linear(3, 3), FusedLIFNode()), nn.ReLU())
    assert neurons(net) == ["0", "1.1"]
    assert neurons(neuron.LIFNode()) == [""]
    assert neurons(nn.ReLU()) == []
