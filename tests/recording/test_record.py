"""record: what it keeps, and that the network is left as it was."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import Space, compare, record
from sj_cka.recording import preserved


def multi_step():
    return nn.Sequential(
        layer.Conv2d(1, 3, 3, step_mode="m"), layer.BatchNorm2d(3, step_mode="m"), neuron.LIFNode(step_mode="m")
    )


def test_the_values_are_what_the_layers_put_out():
    net, x = multi_step().eval(), torch.randn(2, 5, 1, 6, 6)
    with record(net) as features, torch.no_grad():
        out = net(x)
    assert torch.equal(features["2"], out)
    assert torch.allclose(features["0"][1], nn.functional.conv2d(x[1], net[0].weight, net[0].bias), atol=1e-6)


def test_gradients_and_the_caller_s_mode_go_their_own_way():
    net, x = multi_step().train(), torch.randn(2, 5, 1, 6, 6)
    with record(net) as features:
        net(x).sum().backward()
    assert net[0].weight.grad is not None
    assert not features["0"].requires_grad
    assert net.training


def test_probing_changes_neither_weights_nor_buffers_nor_states_nor_random_state():
    net, x = multi_step().train(), torch.randn(2, 5, 1, 6, 6)
    net(x)
    plain, seen = net[1].running_mean.clone(), net[2].v.clone()
    twin = multi_step().train()
    twin.load_state_dict(net.state_dict())
    twin[2].v = net[2].v.detach().clone()
    random = torch.random.get_rng_state()
    with record(net):
        assert torch.equal(net[1].running_mean, plain)
        assert torch.equal(net[2].v, seen)
        out = net(x)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(out, twin(x))
    assert torch.equal(net[1].running_mean, twin[1].running_mean)
    assert torch.equal(net[2].v, twin[2].v)


def test_preserved_puts_everything_back_after_an_exception():
    net = multi_step().eval()
    net(torch.randn(2, 5, 1, 6, 6))
    state, buffers = net[2].v, {k: v.clone() for k, v in net.state_dict().items()}
    random = torch.random.get_rng_state()

    def disturb():
        net.train()
        net(torch.randn(2, 5, 1, 6, 6))
        functional.reset_net(net)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), preserved(net):
        disturb()
    assert not net.training
    assert net[2].v is state
    assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_the_hooks_are_gone_after_an_exception_in_the_network():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            y = self.fc(x)
            if len(x) > 3:
                raise ZeroDivisionError
            return y

    net = Breaks().eval()
    with pytest.raises(ZeroDivisionError), record(net, "fc"):
        net(torch.randn(5, 3))
    assert not net.fc._forward_hooks
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


class Fails(nn.Module):
    """Raises at one of its calls, behind a neuron and a batch norm in training mode; counts them where nobody looks."""

    calls = 0

    def __init__(self, error):
        super().__init__()
        self.norm, self.spike, self.last = nn.BatchNorm1d(3), neuron.LIFNode(), nn.Linear(3, 3)
        self.error, self.at = error, None

    def forward(self, x):
        y = self.last(self.spike(self.norm(x + torch.rand(()))))
        Fails.calls += 1
        if Fails.calls == self.at:
            raise self.error
        return y


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 2, 3])  # within the first probe, the second, and the call itself
def test_whatever_stops_the_network_no_hook_is_left_and_the_probes_leave_no_trace(error, at):
    net = Fails(error).train()
    net(torch.randn(4, 3))
    Fails.calls, net.at = 0, at
    state, buffers = net.spike.v, {k: v.clone() for k, v in net.state_dict().items()}
    x, random = torch.randn(6, 3), torch.random.get_rng_state()
    # the whole batch, which is tried where a few samples fail, runs
    expected = ValueError if at < 3 and issubclass(error, Exception) else error
    with pytest.raises(expected), record(net, layout="NCHW"):
        net(x)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(m.training for m in net.modules())
    if at < 3:
        assert net.spike.v is state
        assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items())
        assert torch.equal(torch.random.get_rng_state(), random)


def test_a_state_changed_in_place_or_held_in_a_list_is_put_back():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.v, self.past = torch.zeros(3), []

        def reset(self):
            self.v.zero_()
            self.past.clear()

        def forward(self, x):
            self.v += x.mean(0)
            self.past.append(self.v.clone())
            return x + self.v

    net = nn.Sequential(nn.Linear(3, 3), Mine(), neuron.SlidingPSN(k=2)).eval()
    with torch.no_grad():
        net(torch.randn(5, 3))
    v, past, queue = net[1].v, net[1].past, net[2].queue
    values = v.clone(), [x.clone() for x in past], [x.clone() for x in queue]
    with preserved(net), torch.no_grad():
        functional.reset_net(net[2])
        net[1].reset()
        net(torch.randn(5, 3))
    assert net[1].v is v
    assert net[1].past is past
    assert net[2].queue is queue
    assert torch.equal(v, values[0])
    assert len(past) == len(queue) == 1
    assert torch.equal(past[0], values[1][0])
    assert torch.equal(queue[0], values[2][0])


def test_too_few_samples_to_tell_samples_from_steps_are_refused():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    with pytest.raises(ValueError, match="probes on 3 samples, got a first call with 2"), record(net):
        net(torch.randn(2, 3))


@pytest.mark.parametrize("T", [1, 2, 7])
def test_any_number_of_frames_is_told_from_samples(T):
    net = multi_step().eval()
    with record(net, "0") as features, torch.no_grad():
        net(torch.randn(T, 5, 1, 6, 6))
    assert features["0"].shape[:2] == (T, 5)


def test_a_buffer_that_forward_replaces_is_put_back():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return self.fc(x)

    net = Counts().eval()
    before = net.calls
    with preserved(net):
        net(torch.randn(4, 3))
    assert net.calls is before
    assert float(net.calls) == 0


def test_a_neuron_of_one_s_own_is_reset_and_put_back():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.v = None

        def reset(self):
            self.v = None

        def forward(self, x):
            self.v = x if self.v is None else self.v + x
            return (self.v > 1).float()

    net = nn.Sequential(nn.Linear(3, 5), Mine()).eval()
    net(torch.randn(2, 3))
    state = net[1].v
    with record(net, "1") as features, torch.no_grad():
        assert net[1].v is state
        net[1].reset()
        net(torch.randn(6, 3))
    assert features["1"].shape == (1, 6, 5)


def test_a_record_within_a_record_sees_the_same_call_and_neither_sees_probes():
    net, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval(), torch.randn(6, 3)
    with record(net) as outer, record(net) as inner, torch.no_grad():
        net(x)
    assert outer.keys() == inner.keys()
    assert all(torch.equal(outer[name], inner[name]) for name in outer)
    assert outer["1"].shape == (1, 6, 5)


def test_a_record_of_a_part_that_is_called_within_sees_the_part_alone():
    part = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    net, x = nn.Sequential(part, nn.Linear(5, 2)).eval(), torch.randn(6, 3)
    with record(net) as outer, record(part, "1") as inner, torch.no_grad():
        net(x)  # the part is called, and probed, while the whole is watched
        part(x + 1)
        expected = part(torch.cat([x, x + 1])).unsqueeze(0)
    assert torch.equal(outer["0.1"], expected[:, :6])
    assert torch.equal(inner["1"][:, :12], expected)


def test_a_comparison_within_a_record_is_not_recorded():
    net, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval(), torch.randn(6, 3)
    with record(net) as features, torch.no_grad():
        compare(net, loader=[x], space=Space(forecast=True), progress=False)
        net(x)
        compare(net, loader=[x], progress=False)
    assert features["0"].shape == (1, 6, 5)
    assert torch.equal(features["0"][0], net[0](x))


def test_the_probes_leave_the_caller_s_tensors_alone():
    net, x = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 5), nn.Tanh()).eval(), torch.randn(6, 3)
    before = x.clone()
    with record(net, "1") as features, torch.no_grad():
        assert torch.equal(x, before)
        net(x)
    assert torch.equal(x, before.relu())  # the caller's own call, in the caller's own way
    assert torch.equal(features["1"][0], net[1](before.relu()))
