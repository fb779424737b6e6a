"""Layers of weights as learning rules see them: what goes in, what comes out, and gradients by other inputs or weights.

A layer is y = W x + b, W a matrix, a convolution, or one weight a unit. Its two gradients are products that a learning
rule may take with something else: that of x with a fixed matrix in place of W, that of W with a trace in place of x.
"""

from typing import Any, NamedTuple

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from sj_cka.models.recurrence import Elementwise

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS, Elementwise)
_KNOWN = (*LAYERS, layer.Conv1d, layer.Conv2d, layer.Conv3d)  # their forward is y = W x + b


def check_layer(name: str, module: nn.Module) -> None:
    """Raises ValueError where a convolution pads otherwise than with zeros, or one side more than the other."""
    if not isinstance(module, CONVOLUTIONS):
        return
    uneven = module.padding == "same" and any(
        d * (k - 1) % 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)
    )
    if module.padding_mode != "zeros" or uneven:
        got = "padding one side more than the other" if uneven else f"padding_mode {module.padding_mode!r}"
        raise ValueError(f"expected convolutions that pad both sides alike with zeros, got {name!r} with {got}")


def has_own_forward(module: nn.Module) -> bool:
    """Whether a layer's forward is another than torch's or SpikingJelly's, and may use its weight otherwise."""
    return not any(
        module.forward.__func__ is known.forward  # type: ignore[attr-defined]
        and getattr(type(module), "_conv_forward", None) is getattr(known, "_conv_forward", None)
        for known in _KNOWN
        if "forward" not in vars(module)
    )


def as_batch(module: nn.Module, x: Tensor) -> Tensor:
    """What a convolution is given or gives as `[B, C, *]`, leading axes merged; of other layers as it is."""
    if not isinstance(module, CONVOLUTIONS):
        return x
    axes = 2 + len(module.kernel_size)
    return x.flatten(0, x.ndim - axes) if x.ndim > axes else x


def padding_of(module: Any) -> tuple[int, ...]:
    """Zeros that a convolution adds at both ends of each axis."""
    if not isinstance(module.padding, str):
        return tuple(module.padding)
    same = module.padding == "same"
    return tuple(d * (k - 1) // 2 if same else 0 for d, k in zip(module.dilation, module.kernel_size, strict=True))


def back(module: Any, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the input x, by a weight that may be another than the layer's."""
    if isinstance(module, CONVOLUTIONS):
        grad_x = _convolved(module, grad, as_batch(module, x), weight, (True, False, False))[0]
        return grad_x.view(x.shape)
    return grad * weight if isinstance(module, Elementwise) else grad @ weight


def of_weight(module: Any, grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of the weight, by an input that may be another than the layer's."""
    if isinstance(module, CONVOLUTIONS):
        return _convolved(module, grad, as_batch(module, x), module.weight, (False, True, False))[1]
    if isinstance(module, Elementwise):
        return (grad * x).sum_to_size(module.weight.shape)
    return grad.flatten(0, -2).T @ x.flatten(0, -2)


def of_bias(module: Any, grad: Tensor) -> Tensor:
    """Gradient of the bias."""
    if isinstance(module, CONVOLUTIONS):
        return as_batch(module, grad).transpose(0, 1).flatten(1).sum(1)
    return grad.flatten(0, -2).sum(0)


def _convolved(
    module: Any, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        as_batch(module, grad).to(weight.dtype),
        x.to(weight.dtype),
        weight,
        None,
        module.stride,
        padding_of(module),
        module.dilation,
        False,
        [0] * len(module.kernel_size),
        module.groups,
        wanted,
    )
    return grads


class Backward(NamedTuple):
    """What the backward of a layer takes in place of its own.

    Args:
        weight: in place of its weight, for the gradient of its input.
        x: in place of its input, for the gradient of its weight.
        ones: in place of 1, what a bias is multiplied by.
    """

    weight: Tensor | None = None
    x: Tensor | None = None
    ones: float = 1.0


class Synapses(torch.autograd.Function):
    """A layer's output as it is, whose backward takes another weight, or another input, in place of the layer's."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, module: Any, other: Backward
    ) -> Tensor:
        """The output.

        Args:
            y: output of the layer, without its graph.
            x: its input.
            weight, bias: its own.
            module: the layer.
            other: what its backward takes.
        """
        ctx.save_for_backward(weight, x, other.weight, other.x)
        ctx.module, ctx.ones = module, other.ones
        return y.clone()  # a view would refuse what works in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, x, other, trace = ctx.saved_tensors
        module, (needs_x, needs_weight, needs_bias) = ctx.module, ctx.needs_input_grad[1:4]
        wide = grad.to(weight.dtype)
        grad_x = back(module, wide, x, weight if other is None else other).to(x.dtype) if needs_x else None
        seen = (x if trace is None else trace).to(weight.dtype)
        grad_weight = of_weight(module, wide, seen) if needs_weight else None
        grad_bias = of_bias(module, wide) * ctx.ones if needs_bias else None
        return None, grad_x, grad_weight, grad_bias, None, None
