"""Boundary and HopSkipJump: only what was right is attacked, only what is near enough counts."""

import builtins

import pytest
import torch
from torch import nn

from sj_cka.attacks import accuracy, boundary, hop_skip_jump, perturbation, right

ATTACKS = {"boundary": (boundary, {"steps": 150}), "hop_skip_jump": (hop_skip_jump, {"steps": 6, "evaluations": 40})}

pytestmark = pytest.mark.usefixtures("foolbox")


@pytest.fixture(params=ATTACKS)
def attack(request):
    function, options = ATTACKS[request.param]
    return lambda *args, **more: function(*args, **(options | more))


def line():
    """Two classes on either side of x0 + x1 = 1, at a distance of |x0 + x1 - 1| / sqrt(2); sizes in between 0 and 1."""
    net = nn.Linear(2, 2)
    net.weight.data, net.bias.data = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([1.0, -1.0])
    x = torch.tensor([[0.2, 0.4], [0.45, 0.5], [0.8, 0.9], [0.1, 0.1], [0.6, 0.5]])
    return net, x, torch.tensor([0, 0, 1, 1, 1])  # the fourth is wrong


def test_it_comes_close_to_the_nearest_point_of_the_border(attack):
    net, x, y = line()
    made = attack(net, x, y, eps=1.4)
    distances = (x.sum(1) - 1).abs() / 2**0.5
    found = perturbation(x, made).l2
    hit = torch.tensor([0, 1, 2, 4])
    assert not right(net, made, y)[hit].any()
    assert (found[hit] >= distances[hit] - 1e-5).all()
    assert (found[hit] <= 1.35 * distances[hit] + 0.02).all()
    assert torch.equal(made[3], x[3])


def test_what_is_found_farther_than_eps_is_no_success_and_given_back_as_it_was(attack):
    net, x, y = line()
    made = attack(net, x, y, eps=0.1)
    assert not torch.equal(made[1], x[1])
    assert not torch.equal(made[4], x[4])
    assert torch.equal(made[[0, 2, 3]], x[[0, 2, 3]])
    assert perturbation(x, made).l2.max() <= 0.1


def test_it_fools_trained_networks_at_a_distance_of_single_pixels(attack, case):
    x, y = case.x[:24], case.y[:24]
    made = attack(case.net, x, y, eps=2.0)
    assert accuracy(case.net, made, y) <= accuracy(case.net, x, y) - 0.3
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_hop_skip_jump_minimises_the_norm_that_it_is_told(ann):
    x, y = ann.x[:24], ann.y[:24]
    found = {
        norm: perturbation(x, hop_skip_jump(ann.net, x, y, eps=1.0, norm=norm, steps=6, evaluations=40))
        for norm in ("l2", "linf")
    }
    assert found["linf"].linf.mean() < found["l2"].linf.mean()
    assert found["l2"].l2.mean() < found["linf"].l2.mean()


def test_a_batch_of_one_class_is_told_and_stays(attack):
    net, x, y = line()
    with pytest.warns(UserWarning, match="2 of 2 samples that are classified right have no other input in the batch"):
        made = attack(net, x[:2], y[:2], eps=1.0)
    assert torch.equal(made, x[:2])


def test_without_foolbox_it_is_told_what_to_install(attack, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "foolbox":
            raise ImportError("No module named 'foolbox'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    net, x, y = line()
    with pytest.raises(ImportError, match=r"need foolbox, .*: pip install 'sj-cka\[attacks\]'"):
        attack(net, x, y, eps=1.0)


def test_an_option_out_of_range_is_refused():
    net, x, y = line()
    with pytest.raises(ValueError, match="expected steps, a whole number from 1, got 0"):
        boundary(net, x, y, eps=1.0, steps=0)
    with pytest.raises(ValueError, match="expected evaluations, a whole number from 1, got 0"):
        hop_skip_jump(net, x, y, eps=1.0, evaluations=0)
    with pytest.raises(ValueError, match="expected norm 'linf' or 'l2', got 'l1'"):
        hop_skip_jump(net, x, y, eps=1.0, norm="l1")
