"""What an attack did, measured; and noise and other attacks of the same size or success."""

import math

import pytest
import torch
from torch import nn

from sj_cka.attacks import (
    RateNotReached,
    accuracy,
    craft,
    eps_for_success,
    fgsm,
    losses,
    noise_like,
    perturbation,
    pgd,
    promises,
    right,
    success_rate,
    uniform,
    within,
    without_gradient,
)
from sj_cka.plugins import UnknownName
from sj_cka.training import accuracy as trained_accuracy

pytestmark = pytest.mark.filterwarnings("ignore::sj_cka.attacks.MaskedGradient")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_accuracy_is_that_of_training_in_batches_of_any_size(case):
    expected = trained_accuracy(case.net, case.x, case.y)
    assert accuracy(case.net, case.x, case.y) == pytest.approx(expected, abs=1e-12)
    assert accuracy(case.net, case.x, case.y, batch_size=7) == pytest.approx(expected, abs=1e-12)
    assert right(case.net, case.x, case.y).shape == (256,)


def test_success_counts_what_was_right_alone():
    net = nn.Identity()
    y = torch.tensor([0, 0, 0, 0])
    x = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    x_adv = torch.tensor([[0.0, 1], [1, 0], [1, 0], [0, 1]])
    assert success_rate(net, x, x_adv, y) == pytest.approx(1 / 3)
    assert math.isnan(success_rate(net, x[3:], x_adv[3:], y[3:]))


def test_losses_are_those_of_the_formulas():
    logits, y = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])
    expected = torch.logsumexp(logits, 1) - logits[[0, 1], y]
    assert torch.allclose(losses(nn.Identity(), logits, y), expected)
    assert torch.equal(losses(nn.Identity(), logits, y, loss="margin"), torch.tensor([-1.0, 2.0]))


def test_samples_without_a_gradient_are_named():
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    x = torch.tensor([[-1.0, -2.0], [1.0, -2.0], [-1.0, 2.0]])
    assert without_gradient(net, x, torch.tensor([0, 0, 1])).tolist() == [True, False, False]


def test_perturbations_are_measured_for_each_sample():
    x = torch.zeros(2, 3, 4)
    x_adv = x.clone()
    x_adv[0, 1, 2], x_adv[1, 0, 0], x_adv[1, 2, 3] = -0.5, 3, 4
    first, second = perturbation(x, x_adv), perturbation(x.transpose(0, 1), x_adv.transpose(0, 1), sample_axis=1)
    for moved in (first, second):
        assert moved.linf.tolist() == [0.5, 4]
        assert moved.l2.tolist() == [0.5, 5]
        assert moved.changed.tolist() == pytest.approx([1 / 12, 2 / 12])
    counts = perturbation(torch.tensor([[3, 0]], dtype=torch.uint8), torch.tensor([[0, 4]], dtype=torch.uint8))
    assert counts.l2.tolist() == [5]
    with pytest.raises(ValueError, match=r"expected x and x_adv of one shape, got \(2, 3, 4\) and \(2, 3\)"):
        perturbation(x, x_adv[..., 0])


def test_within_gives_back_what_is_too_far():
    x, x_adv = torch.zeros(3, 2), torch.tensor([[0.3, 0.4], [0.6, 0.8], [0.0, 0.7]])
    assert within(x, x_adv, eps=0.75).tolist() == [x_adv[0].tolist(), [0, 0], x_adv[2].tolist()]
    assert within(x, x_adv, eps=0.5, norm="linf").tolist() == [x_adv[0].tolist(), [0, 0], [0, 0]]
    assert within(x.T, x_adv.T, eps=0.75, sample_axis=1).T.tolist() == within(x, x_adv, eps=0.75).tolist()


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_noise_has_the_measured_norm_of_each_samples_attack(eps, bounds, ann):
    x_adv = fgsm(ann.net, ann.x[:64], ann.y[:64], eps=eps, bounds=bounds)
    x_adv[5] = ann.x[5]
    noise = noise_like(ann.x[:64], x_adv, generator=generator(), bounds=bounds)
    wanted, found = (perturbation(ann.x[:64], x).l2 for x in (x_adv, noise))
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(noise[5], ann.x[5])
    if bounds:
        assert 0 <= float(noise.min()) <= float(noise.max()) <= 1
    step, other = ((x - ann.x[:64]).flatten(1) for x in (x_adv, noise))
    if eps < 0.5:  # else all that is left is towards the other end
        cosine = nn.functional.cosine_similarity(step[torch.arange(64) != 5], other[torch.arange(64) != 5])
        assert abs(float(cosine.mean())) < 0.2
    assert not torch.equal(noise, noise_like(ann.x[:64], x_adv, generator=generator(1), bounds=bounds))


def test_noise_like_an_attack_on_frames_is_matched_sample_by_sample(frames):
    x_adv = uniform(frames.net, frames.x, frames.y, eps=0.2)
    x_adv[:, 3] = frames.x[:, 3]
    noise = noise_like(frames.x, x_adv, sample_axis=1)
    wanted, found = (perturbation(frames.x, x, sample_axis=1).l2 for x in (x_adv, noise))
    assert torch.allclose(found, wanted, rtol=1e-4)
    assert found[3] == 0
    same = noise_like(frames.x.movedim(1, 0), x_adv.movedim(1, 0))
    assert torch.equal(noise.movedim(1, 0), same)


def test_crafting_in_batches_is_the_attack_on_each(case, frames):
    x, y = case.x[:50], case.y[:50]
    made = craft("fgsm", case.net, x, y, eps=0.1, batch_size=20)
    assert torch.allclose(made, fgsm(case.net, x, y, eps=0.1), atol=1e-6)
    sizes = []

    def attack(net, x, y, *, eps, generator):
        sizes.append(len(y))
        return x

    craft(attack, case.net, x, y, eps=0.1, batch_size=20)
    assert sizes == [17, 17, 16]  # no last one of a few, whose gradients may all be zero
    made = craft("pgd", frames.net, frames.x, frames.y, eps=0.1, batch_size=4, random_start=False)
    whole = pgd(frames.net, frames.x, frames.y, eps=0.1, random_start=False)
    assert torch.allclose(made, whole, atol=1e-6)
    with pytest.raises(UnknownName, match="unknown attack 'fsgm'; did you mean 'fgsm'"):
        craft("fsgm", case.net, x, y, eps=0.1)


def test_the_eps_of_a_success_rate_is_found(case):
    matched = eps_for_success("fgsm", case.net, case.x, case.y, rate=0.5, eps_max=0.5)
    assert abs(matched.rate - 0.5) <= 0.01
    x_adv = fgsm(case.net, case.x, case.y, eps=matched.eps)
    assert torch.equal(matched.x_adv, x_adv)
    assert success_rate(case.net, case.x, x_adv, case.y) == pytest.approx(matched.rate)
    assert 0.02 < matched.eps < 0.3


def test_random_attacks_are_compared_on_the_same_numbers(snn):
    options = {"rate": 0.4, "eps_max": 1.0, "generator": generator(4)}
    matched = eps_for_success("gaussian", snn.net, snn.x, snn.y, **options)
    again = eps_for_success("gaussian", snn.net, snn.x, snn.y, **options | {"generator": generator(4)})
    assert matched.eps == again.eps
    assert torch.equal(matched.x_adv, again.x_adv)
    assert abs(matched.rate - 0.4) <= 0.02
    other = eps_for_success("gaussian", snn.net, snn.x, snn.y, **options | {"generator": generator(5)})
    assert not torch.equal(matched.x_adv, other.x_adv)


def test_a_rate_out_of_reach_is_told_with_what_was_reached(snn):
    with pytest.raises(RateNotReached, match=r"expected a success rate of 0.9 within eps 0.02, .* reached") as e:
        eps_for_success("uniform", snn.net, snn.x, snn.y, rate=0.9, eps_max=0.02)
    assert 0 <= e.value.rate < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "expected rate above 0 and below 1, got 0.0"),
        ({"rate": 1.5}, "expected rate, a finite number from 0 to 1, got 1.5"),
        ({"eps_max": 0.0}, "expected eps_max, the largest eps, above 0, got 0"),
        ({"tries": 0}, "expected tries, a whole number from 1, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message, snn):
    with pytest.raises(ValueError, match=message):
        eps_for_success("uniform", snn.net, snn.x, snn.y, **({"rate": 0.5, "eps_max": 1.0} | options))


def test_a_network_that_is_right_nowhere_cannot_be_attacked(snn):
    wrong = (snn.net(snn.x[:20]).argmax(1) + 1) % 10
    with pytest.raises(ValueError, match="expected a sample that is classified right, got none"):
        eps_for_success("uniform", snn.net, snn.x[:20], wrong, rate=0.5, eps_max=1.0)


def test_the_old_name_of_the_largest_eps_ends_in_an_error_that_says_the_new_one(snn):
    with pytest.raises(TypeError, match="eps_max"):
        eps_for_success("uniform", snn.net, snn.x, snn.y, rate=0.5, most=1.0)
    with pytest.raises(TypeError, match="expected norm, bounds and eps_max, which was most before, got most"):
        promises("share", most=1.0)
