"""What is asked of a network: its accuracy, and statistics for one that never trained."""

import torch

from sj_cka.data import digits
from sj_cka.models import build
from sj_cka.training import accuracy, calibrate, class_scores


def network(kind="snn"):
    return build(kind, {"name": "resnet", "depth": 8}, in_channels=1, num_classes=10, T=2)


def some(n=48):
    data = digits()
    return data.as_input(data.x_train[:n]), data.y_train[:n]


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
