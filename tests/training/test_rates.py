"""Firing rates while a network trains, compiled or not."""

import math

import torch
from spikingjelly.activation_based import functional
from torch import nn
from torch._dynamo.testing import CompileCounter

from sj_cka.models import build
from sj_cka.neurons import lif
from sj_cka.training.loop import RateMeter


def network():
    return build("snn", {"name": "resnet", "depth": 8}, in_channels=1, num_classes=10, T=2).train()


def test_rates_are_spikes_per_neuron_and_step_since_the_last_time():
    net, counted = network(), {}
    images = [torch.randn(n, 1, 8, 6, generator=torch.Generator().manual_seed(n)) for n in (5, 3)]
    with RateMeter(net) as meter:
        for name, module in meter.neurons.items():
            module.register_forward_hook(
                lambda m, a, out, name=name: counted.setdefault(name, []).append((out.sum().item(), out.numel()))
            )
        for turn in (images, images[:1]):
            counted.clear()
            for x in turn:
                for module in meter.neurons.values():
                    module.reset()
                net(x)
            overall, rates = meter.take()
            sums = {name: [sum(part) for part in zip(*calls, strict=True)] for name, calls in counted.items()}
            assert rates == {name: spikes / values for name, (spikes, values) in sums.items()}
            spikes, values = (sum(part) for part in zip(*sums.values(), strict=True))
            assert overall == spikes / values > 0


def test_a_network_without_neurons_has_no_rate():
    with RateMeter(nn.Linear(2, 2)) as meter:
        overall, rates = meter.take()
    assert math.isnan(overall)
    assert rates == {}


def test_hooks_of_all_layers_are_compiled_into_one_graph_and_not_again_as_they_count():
    net = nn.Sequential(nn.Linear(4, 4), *[lif() for _ in range(12)]).eval()  # no surrogate, which breaks a graph
    with RateMeter(net) as meter, torch.no_grad():
        assert len(meter.neurons) == 12
        counter = CompileCounter()
        compiled = torch.compile(net, backend=counter, fullgraph=True)
        x = 3 * torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            functional.reset_net(net)
            compiled(x)
        assert counter.frame_count == 1
        _, rates = meter.take()
        functional.reset_net(net)
        compiled(x)
        assert counter.frame_count == 1
        assert meter.take()[1] == rates
        assert 0 < rates["1"] < 1
