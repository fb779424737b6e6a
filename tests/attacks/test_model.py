"""The network under attack: pixels in, logits out, whatever the network does about time."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from sj_cka.attacks import NoGradient, fgsm, pgd, pixel_model, pixels, without_gradient
from sj_cka.data import digits
from sj_cka.models import build

MEAN, STD = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)


def plain(step_mode, make=None):
    """A network of SpikingJelly's own neurons, which shows no image T times by itself; T and N as its layers want."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            layer.Conv2d(3, 8, 3, padding=1, step_mode=step_mode),
            make() if make else neuron.LIFNode(surrogate_function=surrogate.ATan()),
            layer.Flatten(step_mode=step_mode),
            layer.Linear(8 * 5 * 4, 4, step_mode=step_mode),
        )
    functional.set_step_mode(net, step_mode)
    return net


def images(N=6):
    return 3 * torch.rand(N, 3, 5, 4, generator=torch.Generator().manual_seed(0))


def test_it_normalises_every_channel():
    x = torch.rand(2, 3, 5, 4)
    made = pixel_model(nn.Flatten(), MEAN, STD)(x).view(x.shape)
    for c in range(3):
        assert torch.allclose(made[:, c], (x[:, c] - MEAN[c]) / STD[c])
    assert torch.allclose(pixel_model(nn.Flatten(), 0.5, 2.0)(x).view(x.shape), (x - 0.5) / 2)


def test_it_gives_what_the_network_gives_for_the_normalised_images_of_a_data_set():
    data = digits()
    net = build("snn", {"name": "mlp", "inputs": 64, "hidden": [16]}, in_channels=1, num_classes=10, T=3).eval()
    with torch.no_grad():
        expected = net(data.as_input(data.x_test[:20])).mean(0)
        made = pixel_model(net, data.mean, data.std)(data.x_test[:20])
    assert torch.allclose(made, expected, atol=1e-5)


def test_states_are_reset_before_each_call():
    net = pixel_model(plain("m"), T=4)
    with torch.no_grad():
        assert torch.equal(net(images()), net(images()))
        net(images(3))  # another number of samples


def test_states_are_reset_for_a_network_that_does_not_do_so_itself():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain("m")

        def forward(self, x):
            return self.net(x.unsqueeze(0).expand(4, *x.shape)).mean(0)

    x, y = images(), torch.tensor([0, 1, 2, 3, 0, 1])
    options = {"eps": 0.5, "bounds": None, "steps": 3, "loss": "margin"}
    assert torch.equal(pgd(Mean(), x, y, **options), pgd(pixel_model(plain("m"), T=4), x, y, **options))


def test_multi_step_and_single_step_networks_are_shown_the_image_so_many_times():
    x = images()
    with torch.no_grad():
        m, s = pixel_model(plain("m"), T=4)(x), pixel_model(plain("s"), T=4)(x)
        net = plain("m")
        expected = net(x.unsqueeze(0).repeat(4, 1, 1, 1, 1)).mean(0)
    assert torch.equal(m, expected)
    assert torch.allclose(m, s, atol=1e-6)
    assert m.shape == (6, 4)


def test_frames_are_averaged_over_their_steps():
    x = torch.rand(4, 6, 3, 5, 4)
    with torch.no_grad():
        made = pixel_model(plain("m"), sample_axis=1)(x)
        assert torch.equal(made, plain("m")(x).mean(0))


CUT = [neuron.LIFNode, neuron.IFNode, neuron.ParametricLIFNode, neuron.ComplementaryLIFNode, neuron.QIFNode]


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_spikingjellys_own_neurons_carry_their_surrogate_gradient_under_attack(kind, step_mode):
    """SpikingJelly 2.0.0rc1 cuts it off in evaluation mode for some, so that every attack would find nothing."""
    net = pixel_model(plain(step_mode, kind), T=4).eval()
    y = net(images()).argmax(1)
    assert not without_gradient(net, images(), y, loss="margin").any()
    made = fgsm(net, images(), y, eps=0.5, loss="margin", bounds=None)
    assert (made != images()).flatten(1).any(1).all()
    assert not any(module.training for module in net.modules())


def test_spikes_under_attack_are_those_in_evaluation_mode():
    net, seen = pixel_model(plain("m"), T=4).eval(), []
    net.net[1].register_forward_hook(lambda module, x, spikes: seen.append(spikes.detach()))
    with torch.no_grad():
        y = net(images()).argmax(1)
    fgsm(net, images(), y, eps=0.5, loss="margin", bounds=None)
    assert torch.equal(seen[0], seen[1])


def test_a_network_whose_neurons_keep_their_gradient_to_themselves_is_told():
    """OTTT's neurons have none in evaluation mode, and hand traces to the next layer in training mode."""
    net = pixel_model(plain("s", neuron.OTTTLIFNode), T=4).eval()
    y = net(images()).argmax(1)
    with pytest.raises(NoGradient, match="expected a network with a gradient to its input"):
        pgd(net, images(), y, eps=0.5, bounds=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": 0.5}, "expected mean and std together, or neither, got mean=0.5 and std=None"),
        ({"mean": MEAN, "std": (0.1, 0.0, 0.1)}, r"expected std above 0 in every channel, got \(0.1, 0.0, 0.1\)"),
        ({"T": 0}, "expected T, a whole number from 1, got 0"),
        ({"T": 4, "sample_axis": 1}, "expected no T beside sample_axis=1, since frames are the steps, got T=4"),
        ({"sample_axis": 2}, r"expected sample_axis 0 for \[N, ...\] or 1"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pixel_model(plain("m"), **options)


def test_bytes_become_pixels_and_counts_are_left_to_the_user():
    assert torch.equal(pixels(torch.tensor([[0, 255]], dtype=torch.uint8)), torch.tensor([[0.0, 1.0]]))
    assert pixels(torch.ones(2, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(ValueError, match=r"got torch.int64; counts of events: x.float\(\)"):
        pixels(torch.ones(2, dtype=torch.int64))


def test_what_is_no_network_is_refused():
    with pytest.raises(ValueError, match=r"expected a network, an nn.Module, got function"):
        pgd(lambda x: x, torch.rand(2, 3), torch.tensor([0, 1]), eps=0.1)
