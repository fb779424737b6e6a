"""What a twin does with the time that a network's forward makes, takes, loops over or averages."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_cka import compare
from sj_cka.twins import ann_twin

T, N = 4, 5
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers; what a subclass does with time is all that differs."""

    mode = "m"

    def __init__(self):
        super().__init__()
        self.T = T
        self.fc1, self.lif = layer.Linear(6, 7), neuron.LIFNode()
        self.fc2 = layer.Linear(7, 3)
        functional.set_step_mode(self, self.mode)

    def layers(self, x):
        return self.fc2(self.lif(self.fc1(x)))


class TakesSteps(Net):
    def forward(self, x):
        return self.layers(x)


class Averages(Net):
    def forward(self, x):
        return self.layers(x).mean(0)


class Repeats(Net):
    def forward(self, x):
        return self.layers(x.unsqueeze(0).repeat(self.T, *[1] * x.ndim))


class RepeatsAndAverages(Net):
    def forward(self, x):
        return self.layers(x.expand(self.T, *x.shape)).mean(0)


class RepeatsImages(Net):
    def forward(self, x):
        return self.layers(x.expand(self.T, *x.shape) if x.ndim == 2 else x)


class Folds(Net):
    def __init__(self):
        super().__init__()
        self.fc1.step_mode = self.fc2.step_mode = "s"

    def forward(self, x):
        y = functional.seq_to_ann_forward(x, [self.fc1])
        return functional.seq_to_ann_forward(self.lif(y), self.fc2)


class SamplesFirst(Net):
    """Takes `[N, T, ...]` and gives it back so."""

    def forward(self, x):
        return self.layers(x.transpose(0, 1)).transpose(0, 1)


class SingleStep(Net):
    mode = "s"

    def forward(self, x):
        return self.layers(x)


class Loops(Net):
    """Over an image, as often as an attribute of another name says."""

    mode = "s"

    def __init__(self):
        super().__init__()
        self.time_steps, self.classes = T, 3

    def forward(self, x):
        return torch.stack([self.layers(x) for _ in range(self.time_steps)])


class Accumulates(Net):
    mode = "s"

    def forward(self, x):
        return sum(self.layers(x) for _ in range(self.T)) / self.T


class LoopsOverFrames(Net):
    mode = "s"

    def forward(self, x):
        return torch.stack([self.layers(x[t]) for t in range(self.T)]).mean(0)


class LoopsOverWhatComes(Net):
    mode = "s"

    def forward(self, x):
        return torch.stack([self.layers(frame) for frame in x])


class LoopsOverSecond(Net):
    mode = "s"

    def forward(self, x):
        return torch.stack([self.layers(x[:, t]) for t in range(x.shape[1])], dim=1)


class HardCoded(Net):
    mode = "s"

    def forward(self, x):
        return torch.stack([self.layers(x) for _ in range(3)])


class HardCodedBehind(Net):
    """As many steps as classes, behind the samples."""

    mode = "s"

    def forward(self, x):
        return torch.stack([self.layers(x) for _ in range(3)], dim=1)


class HardCodedLast(Net):
    mode = "s"

    def forward(self, x):
        return torch.stack([self.layers(x) for _ in range(3)], dim=-1)


class HardCodedMultiStep(Net):
    def forward(self, x):
        return self.layers(x.unsqueeze(0).repeat(3, *[1] * x.ndim)).transpose(0, 1)


class HardCodedRunningMean(Net):
    """A step of the output is the mean over all until then."""

    mode = "s"

    def forward(self, x):
        y = torch.stack([self.layers(x) for _ in range(4)], dim=1)
        return y.cumsum(1) / torch.arange(1, 5)[:, None]


class RepeatsBehind(Net):
    def forward(self, x):
        return self.layers(x.unsqueeze(0).repeat(self.T, *[1] * x.ndim)).transpose(0, 1)


class LoopsBehind(Net):
    mode = "s"

    def forward(self, x):
        return torch.stack([self.layers(x) for _ in range(self.T)], dim=1)


class LoopsOnceBehind(LoopsBehind):
    def __init__(self):
        super().__init__()
        self.T = 1


class TakesStepsAndGivesThemBehind(Net):
    def forward(self, x):
        return self.layers(x).transpose(0, 1)


class Several(Net):
    """Several outputs, of which one has steps."""

    def forward(self, x):
        y = self.layers(x)
        return {"mean": y.mean(0), "steps": (y, "a word")}


ALL = [
    TakesSteps,
    Averages,
    Repeats,
    RepeatsAndAverages,
    RepeatsImages,
    Folds,
    SamplesFirst,
    SingleStep,
    Loops,
    Accumulates,
    LoopsOverFrames,
    LoopsOverWhatComes,
    LoopsOverSecond,
    HardCoded,
    HardCodedBehind,
    HardCodedLast,
    HardCodedMultiStep,
    HardCodedRunningMean,
    RepeatsBehind,
    LoopsBehind,
    LoopsOnceBehind,
    TakesStepsAndGivesThemBehind,
]
# a number of steps in the code alone gives uses: lif#0, lif#1, lif#2. The frames of LoopsOverFrames are not repeated
UNPAIRED = [
    *(HardCoded, HardCodedBehind, HardCodedLast, HardCodedMultiStep, HardCodedRunningMean),
    *(LoopsOverFrames, LoopsOnceBehind),
]


def by_hand(net: Net, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(
        nn.functional.linear(x, net.fc1.weight, net.fc1.bias).relu(), net.fc2.weight, net.fc2.bias
    )


@pytest.mark.parametrize("n", [1, 2, T, N])
@pytest.mark.parametrize("kind", ALL)
def test_samples_in_samples_out(kind, n):
    net = kind()
    y = ann_twin(net)(X[:n])
    assert y.shape == (n, 3)
    assert torch.allclose(y, by_hand(net, X[:n]), atol=1e-6)


def test_every_tensor_of_the_output_loses_its_steps():
    net = Several()
    y = ann_twin(net)(X)
    assert torch.allclose(y["mean"], by_hand(net, X), atol=1e-6)
    assert torch.allclose(y["steps"][0], by_hand(net, X), atol=1e-6)
    assert y["steps"][1] == "a word"


@pytest.mark.parametrize("kind", [TakesSteps, RepeatsImages, LoopsOverWhatComes])
def test_frames_are_each_a_sample(kind):
    net, frames = kind(), torch.stack([X, 2 * X])
    twin = ann_twin(net)
    assert torch.allclose(twin(frames), by_hand(net, frames), atol=1e-6)
    assert torch.allclose(twin(X), by_hand(net, X), atol=1e-6)


def test_an_attribute_that_counts_steps_is_one_only_meanwhile():
    net = Repeats()
    twin = ann_twin(net)
    assert torch.allclose(twin(X), by_hand(net, X))
    assert (net.T, twin.T) == (T, T)
    calls = []
    twin.lif.register_forward_hook(lambda module, args, output: calls.append(output.shape))
    twin(X)
    assert calls == [(1, N, 7)]


def test_an_attribute_of_another_meaning_is_left():
    class Cools(Net):
        mode = "s"

        def forward(self, x):
            return self.layers(x) / self.T

    net = Cools()
    assert torch.allclose(ann_twin(net)(X), by_hand(net, X) / T, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_an_attribute_that_counts_layers_is_left(train):
    """Three times the same layers, one behind the other, look like three steps."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.depth = 3
            self.fc, self.lif, self.head = layer.Linear(6, 6), neuron.LIFNode(), layer.Linear(6, 2)

        def forward(self, x):
            for _ in range(self.depth):
                x = self.lif(self.fc(x))
            return self.head(x)

    net = Deep().train(train)
    assert torch.allclose(ann_twin(net)(X), net.head(net.fc(net.fc(net.fc(X).relu()).relu()).relu()), atol=1e-6)


def test_steps_that_are_summed_may_be_one():
    class Sums(Net):
        mode = "s"

        def forward(self, x):
            return sum(self.layers(x) for _ in range(self.T))

    net = Sums()
    assert torch.allclose(ann_twin(net)(X), by_hand(net, X), atol=1e-6)


def test_the_first_call_leaves_no_trace():
    class Normed(Averages):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = layer.BatchNorm1d(6, step_mode="m"), layer.Dropout(0.5, step_mode="m")
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(self.drop(self.norm(x)))

    twin = ann_twin(Normed()).train()
    seen = []
    twin.lif.register_forward_hook(lambda *_: seen.append(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = twin(X)
        after = torch.random.get_rng_state()
        torch.manual_seed(0)
        assert torch.equal(twin(X), first)
        assert torch.equal(torch.random.get_rng_state(), after)
    assert seen == [1, 1]
    assert twin.calls == 2
    assert twin.norm.num_batches_tracked == 2


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in UNPAIRED])
def test_comparisons_pair_the_neurons(kind):
    snn = kind().eval()
    twin, x = ann_twin(snn), 3 * torch.randn(16, 6, generator=torch.Generator().manual_seed(1))

    def samples_first(net, batch):
        return net(batch if net is twin else batch.unsqueeze(1).repeat(1, T, 1))

    forward = samples_first if kind in (SamplesFirst, LoopsOverSecond) else None
    result = compare(snn, twin, [x], T=T if forward is None else None, forward=forward, progress=False)
    assert list(result.layers_x)[:2] == list(result.layers_y)[:2] == ["fc1", "lif"]
    assert set(result.paired().index) >= {"fc1", "lif"}
    assert result.paired()["fc1"] == pytest.approx(1)


def test_input_that_fits_in_no_way_is_an_error_with_all_that_was_tried():
    twin = ann_twin(TakesSteps())
    with pytest.raises(
        ValueError, match=r"cannot be run on \[5, 9\].*as it is: .*mat1.*; with a step at axis 0: .*mat1"
    ):
        twin(torch.zeros(N, 9))
    assert twin(X).shape == (N, 3)
