"""Noise: of the size that it says, everywhere, and nothing of the network."""

import math

import pytest
import torch

from sj_cka.attacks import gaussian, perturbation, salt_and_pepper, uniform

N, SHAPE = 200, (3, 8, 6)
Y = torch.zeros(N, dtype=torch.long)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grey():
    return torch.full((N, *SHAPE), 0.5)


def test_gaussian_noise_has_the_deviation_eps():
    noise = gaussian(None, grey(), Y, eps=0.05, generator=generator()) - 0.5
    n = noise.numel()
    assert abs(float(noise.mean())) < 4 * 0.05 / math.sqrt(n)
    assert float(noise.std()) == pytest.approx(0.05, rel=4 / math.sqrt(2 * n))
    assert float(perturbation(grey(), grey() + noise).l2.mean()) == pytest.approx(0.05 * math.sqrt(144), rel=0.02)


def test_gaussian_noise_is_the_same_at_every_eps_but_for_its_size():
    weak, strong = (gaussian(None, grey(), Y, eps=eps, bounds=None) - 0.5 for eps in (0.01, 0.04))
    assert torch.allclose(4 * weak, strong, atol=1e-6)


def test_uniform_noise_fills_the_ball():
    noise = uniform(None, grey(), Y, eps=0.1, generator=generator()) - 0.5
    assert float(noise.abs().max()) <= 0.1 + 1e-6
    assert float(noise.abs().max()) > 0.0999
    assert float(noise.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.02)
    shares = torch.histc(noise, bins=10, min=-0.1, max=0.1) / noise.numel()
    assert torch.allclose(shares, torch.tensor(0.1), atol=0.01)


def test_noise_is_clipped_to_the_bounds_or_not():
    assert gaussian(None, grey(), Y, eps=1.0).aminmax() == (0, 1)
    assert gaussian(None, grey(), Y, eps=5.0, bounds=None).max() > 1
    assert uniform(None, grey(), Y, eps=0.5, bounds=(0.25, 0.75)).aminmax() == (0.25, 0.75)


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0])
def test_salt_and_pepper_change_a_share_of_the_pixels_in_all_channels_half_each(eps):
    made = salt_and_pepper(None, grey(), Y, eps=eps, generator=generator())
    salt, pepper = made.eq(1), made.eq(0)
    assert (salt == salt[:, :1]).all()
    assert (pepper == pepper[:, :1]).all()
    assert (salt | pepper | made.eq(0.5)).all()
    error = 4 * math.sqrt(eps / 2 * (1 - eps / 2) / (N * 48))
    assert abs(float(salt[:, 0].double().mean()) - eps / 2) < error
    assert abs(float(pepper[:, 0].double().mean()) - eps / 2) < error


def test_pixels_that_change_at_one_share_change_at_every_larger_one():
    weak, strong = (salt_and_pepper(None, grey(), Y, eps=eps) for eps in (0.1, 0.3))
    changed = weak != 0.5
    assert torch.equal(weak[changed], strong[changed])
    assert (strong != 0.5).sum() > changed.sum()


def test_salt_and_pepper_of_frames_hit_each_step_on_its_own_and_vectors_value_by_value():
    frames = torch.full((2, 3, 2, 8, 6), 0.5)  # [N, T, C, H, W]
    made = salt_and_pepper(None, frames, Y[:2], eps=0.5)
    assert torch.equal(made[:, :, 0], made[:, :, 1])
    assert not torch.equal(made[:, 0], made[:, 1])
    vectors = salt_and_pepper(None, torch.full((50, 40), 0.5), Y[:50], eps=0.5)
    assert 0.4 < float(vectors.ne(0.5).double().mean()) < 0.6


def test_shares_above_1_and_pepper_without_bounds_are_refused():
    with pytest.raises(ValueError, match=r"expected eps, a finite number, from 0 to 1, got 1.5"):
        salt_and_pepper(None, grey(), Y, eps=1.5)
    with pytest.raises(ValueError, match=r"expected bounds \(low, high\), the values of pepper and salt, got None"):
        salt_and_pepper(None, grey(), Y, eps=0.5, bounds=None)
