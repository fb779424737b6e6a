"""Other surrogates at attack time: they go in, change the backward pass alone, and come out again."""

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from sj_cka.attacks import NoGradient, accuracy, losses, pgd, pgd_surrogates, pixel_model, square, with_surrogate
from sj_cka.models import build
from sj_cka.neurons import SURROGATES, lif


def gradient(net, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(net(x), y), x)[0]


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_the_gradient_is_that_of_a_network_built_with_the_other_surrogate(backend):
    def network(**surrogate_of):
        neuron_of = {"name": "lif", "backend": backend, **surrogate_of}
        spec = {"name": "mlp", "inputs": 12, "hidden": [16]}
        made = build("snn", spec, in_channels=3, num_classes=4, T=3, neuron=neuron_of, seed=3)
        return pixel_model(made.train())  # SpikingJelly's torch code has no gradient in evaluation mode

    x, y = 2 * torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0])
    net, other = network(surrogate="sigmoid", alpha=6.0), network(surrogate="atan", alpha=1.5)
    before = net.net.layer1.lif.surrogate_function
    own = gradient(net, x, y)
    with with_surrogate(net, "atan", 1.5):
        assert torch.allclose(gradient(net, x, y), gradient(other, x, y), atol=1e-7)
    assert net.net.layer1.lif.surrogate_function is before
    assert torch.allclose(gradient(net, x, y), own, atol=1e-7)
    assert not torch.allclose(own, gradient(other, x, y), atol=1e-4)


def test_it_is_put_back_after_an_error_too_and_where_neurons_share_one():
    shared = surrogate.ATan()
    net = nn.Sequential(neuron.LIFNode(surrogate_function=shared), neuron.IFNode(surrogate_function=shared), lif())
    own = net[2].surrogate_function
    with pytest.raises(KeyError), with_surrogate(net, "rect"):  # noqa: PT012
        assert {type(module.surrogate_function) for module in net} == {surrogate.Rect}
        raise KeyError
    assert net[0].surrogate_function is shared
    assert net[1].surrogate_function is shared
    assert net[2].surrogate_function is own


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_of_the_table_can_be_taken_and_spikes_stay(name, snn):
    with torch.no_grad():
        expected = snn.net(snn.x[:16])
        with with_surrogate(snn.net, name):
            assert torch.equal(snn.net(snn.x[:16]), expected)


@pytest.mark.parametrize(
    ("net", "name", "alpha", "message"),
    [
        (nn.Linear(2, 2), "atan", 2.0, "expected a spiking network, found no surrogate function in Linear"),
        (nn.Sequential(lif()), "tanh", 2.0, "expected surrogate sigmoid, atan"),
        (nn.Sequential(lif()), "atan", -1.0, "expected a finite alpha > 0 for surrogate 'atan', got -1.0"),
        (
            nn.Sequential(neuron.IFNode(surrogate_function=surrogate.ATan(spiking=False))),
            "atan",
            2.0,
            "expected surrogates of spikes 0 and 1, found ATan",
        ),
        (
            nn.Sequential(neuron.IFNode(surrogate_function=surrogate.PoissonPass())),
            "atan",
            2.0,
            "expected surrogates of spikes 0 and 1, found PoissonPass",
        ),
    ],
)
def test_what_cannot_be_swapped_is_refused(net, name, alpha, message):
    with pytest.raises(ValueError, match=message), with_surrogate(net, name, alpha):
        pass


@pytest.mark.filterwarnings("ignore::sj_cka.attacks.MaskedGradient")
def test_one_width_that_the_network_has_is_pgd(snn):
    options = {"eps": 0.1, "steps": 3}
    made = pgd_surrogates(snn.net, snn.x[:32], snn.y[:32], surrogate="sigmoid", alphas=[6.0], **options)
    assert torch.allclose(made, pgd(snn.net, snn.x[:32], snn.y[:32], **options), atol=1e-6)


@pytest.mark.filterwarnings("ignore::sj_cka.attacks.MaskedGradient")
def test_the_step_of_several_widths_is_along_the_sum_of_their_scaled_gradients(snn):
    x, y, alphas = snn.x[:16], snn.y[:16], [1.0, 3.0]
    made = pgd_surrogates(snn.net, x, y, eps=0.05, alphas=alphas, steps=1, random_start=False, keep="last", bounds=None)
    total = torch.zeros_like(x)
    for alpha in alphas:
        with with_surrogate(snn.net, "sigmoid", alpha):
            g = gradient(snn.net, x, y)
        total += g / g.abs().mean((1, 2, 3), keepdim=True)
    assert torch.allclose(made, x + 0.05 * total.sign(), atol=1e-6)


def test_on_a_network_without_surrogates_it_is_pgd(ann):
    x, y = ann.x[:16], ann.y[:16]
    assert torch.equal(pgd_surrogates(ann.net, x, y, eps=0.1), pgd(ann.net, x, y, eps=0.1))


@pytest.mark.parametrize("alphas", [[], "12", [1.0, -2.0]])
def test_widths_that_are_none_are_refused(alphas, snn):
    with pytest.raises(ValueError, match=r"expected (alphas, one or more widths|a finite alpha > 0)"):
        pgd_surrogates(snn.net, snn.x[:4], snn.y[:4], eps=0.1, alphas=alphas)


def test_a_network_that_masks_its_gradient_is_told_and_falls_to_other_surrogates_and_to_square(snn):
    """A window so narrow that no potential lies in it: PGD finds nothing, and says so."""
    net, x, y = snn.net, snn.x[:128], snn.y[:128]
    with with_surrogate(net, "rect", 1e7):
        with pytest.raises(NoGradient, match="exactly zero for all 128 samples"):
            pgd(net, x, y, eps=0.12)
        wide = pgd_surrogates(net, x, y, eps=0.12, steps=10)
        free = square(net, x, y, eps=0.12, queries=100)
    clean = accuracy(net, x, y)
    assert accuracy(net, wide, y) < clean - 0.5
    assert accuracy(net, free, y) < clean - 0.3
    assert (losses(net, wide, y) >= losses(net, x, y)).all()
