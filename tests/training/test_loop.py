"""Training: it learns, it is seeded, it stops at NaN."""

import math

import pytest
import torch
from torch import nn

from sj_cka.data import digits
from sj_cka.models import build
from sj_cka.training import NotFinite, Settings, accuracy, calibrate, class_scores, train

QUICK = Settings(epochs=2, batch_size=16)


def network(kind="snn", seed=0):
    return build(kind, {"name": "resnet", "depth": 8}, in_channels=1, num_classes=10, T=2, seed=seed)


def some(n=48):
    data = digits()
    return data.x_train[:n], data.y_train[:n]


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_a_network_learns_images_that_it_sees(kind):
    x, y = some(96)
    net = network(kind)
    history = train(net, x, y, Settings(epochs=25, batch_size=16), seed=0)
    assert history[-1].loss < history[0].loss / 2
    assert accuracy(net, x, y) > 0.9


@pytest.mark.parametrize("kind", ["snn", "ann"])
def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_does_not(kind):
    x, y = some()
    torch.manual_seed(1)
    first, second, other = network(kind), network(kind), network(kind)
    histories = [train(net, x, y, QUICK, seed=s) for net, s in ((first, 3), (second, 3), (other, 4))]
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert [e.loss for e in histories[0]] == [e.loss for e in histories[1]]


def test_one_step_is_sgd_on_the_cross_entropy_of_the_mean_over_time_with_decay_on_all_parameters():
    x, y = some(8)
    net, by_hand = linear(), linear()
    settings = Settings(epochs=1, batch_size=8, lr=0.5, momentum=0.9, weight_decay=0.1)
    history = train(net, x, y, settings, seed=0)
    loss = nn.functional.cross_entropy(by_hand(x), y)
    loss.backward()
    expected = [p - 0.5 * (p.grad + 0.1 * p) for p in by_hand.parameters()]
    assert all(torch.allclose(p, e, atol=1e-6) for p, e in zip(net.parameters(), expected, strict=True))
    assert history[0].loss == pytest.approx(loss.item(), rel=1e-6)


def test_the_learning_rate_falls_along_a_cosine_to_zero():
    x, y = some(32)
    history = train(linear(), x, y, Settings(epochs=4, batch_size=8, lr=0.2), seed=0)
    assert [e.lr for e in history] == pytest.approx([0.1 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


def test_every_image_is_seen_once_an_epoch_in_an_order_from_the_seed_alone():
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(1, 2)

        def forward(self, x):
            seen.append(x.flatten().tolist())
            return self.fc(x)

    x, y = torch.arange(10.0).reshape(10, 1), torch.zeros(10, dtype=torch.int64)
    for _ in range(2):
        torch.manual_seed(len(seen))
        train(Watch(), x, y, Settings(epochs=2, batch_size=4), seed=5)
    first, second = seen[:6], seen[6:]
    assert first == second
    assert sorted(i for batch in first[:3] for i in batch) == list(range(10))
    assert first[:3] != first[3:]


def test_a_last_batch_of_one_image_is_left_out():
    x, y = some(17)
    assert train(network("ann"), x, y, Settings(epochs=1, batch_size=16), seed=0)[0].accuracy * 16 % 1 == 0


def test_a_loss_that_is_no_number_stops_with_epoch_and_step():
    x, y = some(32)
    x = x.clone()
    x[:] = float("nan")
    with pytest.raises(NotFinite, match=r"the loss became nan in epoch 1, step 1 of 2: lower train\.lr"):
        train(linear(), x, y, QUICK, seed=0)


def test_the_firing_rate_is_spikes_per_neuron_and_step():
    x, y = some(32)
    net, counted = network(), []
    for module in net.modules():
        if type(module).__name__ == "FusedLIFNode":
            module.register_forward_hook(lambda m, a, out: counted.append((out.sum().item(), out.numel())))
    history = train(net, x, y, Settings(epochs=1, batch_size=16), seed=0)
    assert history[0].firing_rate == pytest.approx(sum(s for s, _ in counted) / sum(n for _, n in counted))
    assert 0 < history[0].firing_rate < 1
    assert math.isnan(train(network("ann"), x, y, Settings(epochs=1), seed=0)[0].firing_rate)


def test_each_epoch_is_reported_when_it_ends():
    x, y = some(32)
    told = []
    assert train(linear(), x, y, QUICK, seed=0, report=told.append) == told


def test_accuracy_runs_in_evaluation_mode_and_puts_the_mode_back():
    x, y = some()
    net = network().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert accuracy(net, x, y) == accuracy(net, x, y, batch_size=5)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_class_scores_are_the_mean_over_time():
    logits = torch.randn(4, 3, 10)
    assert torch.equal(class_scores(logits), logits.mean(0))
    assert torch.equal(class_scores(logits[0]), logits[0])


def test_calibration_sets_the_statistics_to_those_of_the_data_and_keeps_weights_and_mode():
    x, _ = some(64)
    net = network("ann").eval()
    weights = {k: v.clone() for k, v in net.named_parameters()}
    calibrate(net, x, batch_size=32)
    with torch.no_grad():
        stem = net.conv1(x)
    assert torch.allclose(net.layer1[0].bn1.running_mean, stem.mean((0, 2, 3)), atol=1e-5)
    assert not net.training
    assert net.bn.momentum == 0.1
    assert all(torch.equal(v, weights[k]) for k, v in net.named_parameters())


def test_an_untrained_network_spikes_only_after_calibration():
    x, _ = some(64)
    net = network().eval()
    spikes = []
    net.lif.register_forward_hook(lambda m, a, out: spikes.append(out.mean().item()))
    calibrate(net, x)
    spikes.clear()
    with torch.no_grad():
        net(x)
    assert spikes[0] > 0.02
