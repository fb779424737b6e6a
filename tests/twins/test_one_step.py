"""What it costs to find out how a twin is run on one step, and what it is found out by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import compare
from sj_cka.models import build
from sj_cka.twins import ann_twin

T, N = 4, 12


def sequential(mode: str) -> nn.Sequential:
    net = nn.Sequential(layer.Linear(6, 7), neuron.LIFNode(), layer.Linear(7, 3))
    functional.set_step_mode(net, mode)
    return net


class Loops(nn.Module):
    """Makes its own steps."""

    def __init__(self) -> None:
        super().__init__()
        self.T, self.body = T, sequential("s")

    def forward(self, x):
        return torch.stack([self.body(x) for _ in range(self.T)])


class HardCoded(Loops):
    """Makes its own steps, whose number stands in no attribute."""

    def forward(self, x):
        return torch.stack([self.body(x) for _ in range(3)])


class SilentFold(nn.Module):
    """Folds its steps into the samples, in layers of which one is silent."""

    def __init__(self) -> None:
        super().__init__()
        self.T, self.fc1, self.lif = T, layer.Linear(6, 7), neuron.LIFNode(step_mode="m")
        self.silent, self.fc2 = layer.Linear(7, 7, bias=False), layer.Linear(7, 3)

    def forward(self, x):
        y = self.fc1(x.repeat(self.T, 1))
        spikes = self.lif(y.unflatten(0, (self.T, len(x)))).flatten(0, 1)
        return self.fc2(spikes + self.silent(0 * spikes)).unflatten(0, (self.T, len(x)))


def convolutions() -> nn.Sequential:
    net = nn.Sequential(
        layer.Conv2d(3, 4, 3), layer.BatchNorm2d(4), neuron.LIFNode(), layer.Flatten(), layer.Linear(14 * 14 * 4, 3)
    )
    functional.set_step_mode(net, "m")
    return net


class Rows:
    """Samples, of all steps, that the first layer of each network is given, call by call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[int, list[int]] = {}
        for kind in (layer.Conv2d, layer.Linear):
            monkeypatch.setattr(kind, "forward", self.counting(kind.forward))

    def counting(self, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def counted(module, x):
            if id(module.weight) in self.seen:  # a copy that is tried has the same parameters
                self.seen[id(module.weight)].append(x.numel() // self.features)
            return forward(module, x)

        counted.__module__ = forward.__module__  # SpikingJelly's, as what it stands for
        return counted

    def of(self, net: nn.Module, x: torch.Tensor) -> list[int]:
        self.features = x[0].numel()
        first = next(m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        return self.seen.setdefault(id(first.weight), [])


def resnet() -> nn.Module:
    return build("snn", {"name": "resnet", "depth": 8}, in_channels=3, num_classes=3, T=T)


once = [(2, 1), (3, 1)]
# network, T asked for, and (rows, calls) of every pass over few samples: of the network, and of its twin
COSTS: dict[str, tuple[Callable[[], nn.Module], int | None, list[tuple[int, int]], list[tuple[int, int]]]] = {
    "resnet": (resnet, None, [*once, (2, 1)], [*once, *once]),  # its first layer sees no steps
    "multi-step": (
        lambda: sequential("m"),
        T,
        [*once, (2 * T, 1), (3 * T, 1), (2 * (T + 1), 1)],  # as it is; shown T times; a step more
        [(2, 1), (2, 1), (2 * 3, 1), *once],  # as it is; one step; two steps on three samples; in the comparison
    ),
    "convolutions": (convolutions, T, [(2, 1), (8, 1), (12, 1), (10, 1)], [(2, 1), (2, 1), (6, 1), *once]),
    "single-step": (lambda: sequential("s"), T, [*once, (2, T), (3, T), (2, T + 1)], [*once, *once]),
    "own loop": (Loops, None, [(2, T), (3, T), (2, T + 1)], [(2, T), (3, 1), *once]),
    "silent": (SilentFold, None, [(8, 1), (12, 1), (10, 1), (8, 1), (12, 1)], [(8, 1), (3, 1), *once]),  # and on noise
    # steps that no attribute counts are uses to a comparison of the twin
    "hard-coded": (HardCoded, None, [(2, 3), (3, 3)], [(2, 3), (3, 3), (2, 3), (2, 3), (3, 3)]),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_comparison_with_the_twin_costs_at_most_5_passes_a_network_over_few_samples(name, monkeypatch):
    make, steps, *expected = COSTS[name]
    net = make().eval()
    shape = (3, 16, 16) if name in ("resnet", "convolutions") else (6,)
    x = torch.randn(N, *shape, generator=torch.Generator().manual_seed(0))
    rows = Rows(monkeypatch)
    of_net = rows.of(net, x)
    twin = ann_twin(net)
    of_twin = rows.of(twin, x)
    compare(net, twin, [x], T=steps, progress=False)
    for seen, passes in zip((of_net, of_twin), expected, strict=True):
        calls = [count for count, several in passes for _ in range(several)]
        assert seen[: len(calls)] == calls
        assert set(seen[len(calls) :]) <= {N, N * T}  # the loader's
        assert len(passes) <= 5


class Normed(nn.Module):
    """Multi-step layers, averaged over the steps; what a subclass is given, and how it looks at it, differs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = sequential("m")

    def forward(self, x):
        return self.body(x).mean(0)


class Tokens(Normed):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 6)

    def forward(self, x):
        return super().forward(self.table(x)).mean(1)


class BearsNoNaN(Normed):
    def forward(self, x):
        if x.isnan().any():
            raise ArithmeticError("not a number")
        return super().forward(x)


class PastTheHooks(Normed):
    def forward(self, x):
        first, lif, last = self.body
        return last(lif.forward(first(x))).mean(0)


class PaddedInTime(nn.Module):
    """Two steps of its own, the first without an input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = sequential("m")

    def forward(self, x):
        return self.body(torch.stack([0 * torch.ones_like(x), x]))


def by_hand(body: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    hidden = nn.functional.linear(x, body[0].weight, body[0].bias).relu()
    return nn.functional.linear(hidden, body[2].weight, body[2].bias)


def numbers(n: int = N) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [Normed, BearsNoNaN, PastTheHooks])
def test_the_step_is_found_whatever_a_network_makes_of_the_marked_sample(kind):
    net = kind()
    assert torch.allclose(ann_twin(net)(numbers()), by_hand(net.body, numbers()), atol=1e-6)


def test_input_that_is_no_floating_point_cannot_be_marked_and_finds_its_step():
    net, x = Tokens(), torch.arange(3 * N).reshape(N, 3) % 5
    expected = by_hand(net.body, net.table(x)).mean(1)
    assert torch.allclose(ann_twin(net)(x), expected, atol=1e-6)


def test_steps_that_differ_are_averaged_and_not_taken_for_samples():
    net = PaddedInTime()
    expected = (by_hand(net.body, 0 * numbers()) + by_hand(net.body, numbers())) / 2
    assert torch.allclose(ann_twin(net)(numbers()), expected, atol=1e-6)


def test_what_a_first_call_tries_leaves_the_twin_as_it_was():
    twin = ann_twin(nn.Sequential(layer.BatchNorm1d(6), *sequential("s"))).train()
    seen: list[torch.Size] = []
    twin[2].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    random = torch.random.get_rng_state()
    twin(numbers())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert twin[0].num_batches_tracked == 1
    assert seen == [(N, 7)]
    assert all(module.training for module in twin.modules())
