"""Layers' two gradients, beside those of autograd, and by another input or weight."""

import pytest
import torch
from lively import random
from torch import nn

from sj_cka.models.recurrence import Elementwise
from sj_cka.training.credit.layers import Backward, Synapses, back, check_layer, of_bias, of_weight, padding_of

LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "linear, steps": (lambda: nn.Linear(5, 4), (2, 3, 5)),
    "linear, no bias": (lambda: nn.Linear(5, 4, bias=False), (3, 5)),
    "conv": (lambda: nn.Conv2d(2, 4, 3, padding=1), (3, 2, 6, 5)),
    "conv, strided": (lambda: nn.Conv2d(2, 4, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2)), (3, 2, 7, 6)),
    "conv, same": (lambda: nn.Conv2d(2, 4, 3, padding="same", dilation=2), (3, 2, 6, 5)),
    "conv, valid": (lambda: nn.Conv2d(2, 4, 3, padding="valid"), (3, 2, 6, 5)),
    "conv, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (3, 4, 6, 5)),
    "conv 1d": (lambda: nn.Conv1d(2, 4, 3, padding=1), (3, 2, 7)),
    "conv 3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 3, 5)),
    "elementwise": (lambda: Elementwise(4, 0), (2, 3, 4)),
    "elementwise, images": (lambda: Elementwise(3, 2), (2, 3, 5, 4)),
}


def made(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().double(), random(*shape).requires_grad_()


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_autograd(name):
    layer, x = made(name)
    y = layer(x)
    grad = random(*y.shape, seed=1)
    expected = torch.autograd.grad(y, [x, *layer.parameters()], grad)
    found = [back(layer, grad, x.detach(), layer.weight), of_weight(layer, grad, x.detach())]
    if getattr(layer, "bias", None) is not None:
        found.append(of_bias(layer, grad))
    for one, other in zip(found, expected, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_synapses_go_back_by_the_weight_and_the_input_that_they_are_told(name):
    layer, x = made(name)
    y = layer(x)
    grad = random(*y.shape, seed=1)
    weight, trace = random(*layer.weight.shape, seed=2), random(*x.shape, seed=3)
    other = Backward(weight, trace, 2.5)
    bias = getattr(layer, "bias", None)
    out = Synapses.apply(y.detach(), x, layer.weight, bias, layer, other)
    assert torch.equal(out, y)
    found = torch.autograd.grad(out, [x, *layer.parameters()], grad)
    [of_trace] = torch.autograd.grad(layer(trace), [layer.weight], grad)
    torch.testing.assert_close(found[1], of_trace, rtol=1e-10, atol=1e-12)
    if bias is not None:
        [of_one] = torch.autograd.grad(layer(x), [bias], grad)
        torch.testing.assert_close(found[2], 2.5 * of_one, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        layer.weight.copy_(weight)
    [of_x] = torch.autograd.grad(layer(x), [x], grad)
    torch.testing.assert_close(found[0], of_x, rtol=1e-10, atol=1e-12)


def test_gradients_of_a_frozen_layer_are_none():
    layer, x = made("conv")
    layer.requires_grad_(False)
    out = Synapses.apply(layer(x).detach(), x, layer.weight, layer.bias, layer, Backward(ones=2.0))
    out.sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    assert x.grad.any()


def test_padding_is_counted_in_zeros_at_both_ends():
    assert padding_of(nn.Conv2d(1, 1, 3, padding="same", dilation=2)) == (2, 2)
    assert padding_of(nn.Conv2d(1, 1, 3, padding="valid")) == (0, 0)
    assert padding_of(nn.Conv2d(1, 1, 3, padding=(2, 1))) == (2, 1)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_other_padding_than_by_zeros_is_refused(mode):
    with pytest.raises(ValueError, match=f"pad both sides alike with zeros, got 'c1' with padding_mode '{mode}'"):
        check_layer("c1", nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode))


def test_padding_of_one_side_more_than_the_other_is_refused():
    with pytest.raises(ValueError, match="got 'c1' with padding one side more than the other"):
        check_layer("c1", nn.Conv2d(1, 1, 2, padding="same"))
    check_layer("c1", nn.Conv2d(1, 1, 2, padding="same", dilation=2))
