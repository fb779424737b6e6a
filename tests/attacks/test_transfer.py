"""Attacks that are made on one network and shown to another."""

import pytest
import torch

from sj_cka.attacks import accuracy, pgd, pixel_model, transfer, uniform
from sj_cka.plugins import UnknownName

pytestmark = pytest.mark.filterwarnings("ignore::sj_cka.attacks.MaskedGradient")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_is_the_attack_on_the_source_and_fools_the_other_more_than_noise_less_than_its_own(trained, snn):
    x, y = snn.x, snn.y
    options = {"steps": 10}
    made = transfer(trained["ann"], x, y, eps=0.12, source=trained["snn"], options=options, generator=generator())
    assert torch.equal(made, pgd(trained["snn"], x, y, eps=0.12, generator=generator(), **options))
    own = pgd(trained["ann"], x, y, eps=0.12, generator=generator(), **options)
    noise = uniform(trained["ann"], x, y, eps=0.12)
    rates = [accuracy(trained["ann"], images, y) for images in (noise, made, own)]
    assert rates[0] > rates[1] + 0.1
    assert rates[1] > rates[2] + 0.1


def test_what_does_not_fit_is_refused(snn, frames):
    with pytest.raises(ValueError, match="expected a source with samples on axis 0, as the network's, got 1"):
        transfer(snn.net, snn.x, snn.y, eps=0.1, source=frames.net)
    with pytest.raises(UnknownName, match="unknown attack 'pdg'; did you mean 'pgd'"):
        transfer(snn.net, snn.x, snn.y, eps=0.1, source=snn.net, attack="pdg")


def test_the_source_may_normalise_in_another_way(snn):
    other = pixel_model(snn.net.net, 0.5, 0.5)
    made = transfer(snn.net, snn.x[:8], snn.y[:8], eps=0.1, source=other)
    assert torch.equal(made, pgd(other, snn.x[:8], snn.y[:8], eps=0.1))
