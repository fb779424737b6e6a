"""How the input of a layer of neurons is normalised: over all steps, step by step, or not at all."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from sj_cka.plugins import check_option

Norm = Literal["batch", "step", "none"]


class _OfEachStep:
    """Mixed in before SpikingJelly's batch normalisation: in training each step `[N, ...]` has statistics of its own.

    Weights and running statistics are shared by the steps, and the latter move at each of them in turn. In evaluation,
    and on input without time, it is the normalisation that it is mixed into.
    """

    def forward(self: Any, x: Tensor) -> Tensor:
        """Normalised, of the shape of x: `[T, N, ...]`, or `[N, ...]` in step mode "s"."""
        normalise = super().forward  # type: ignore[misc]
        if self.step_mode == "s" or not self.training:
            return normalise(x)
        return torch.cat([normalise(step) for step in x.split(1)])


class StepBatchNorm1d(_OfEachStep, layer.BatchNorm1d):
    """Batch normalisation of vectors `[T, N, D]`, over N; see `_OfEachStep`.

    Example:
        >>> bn = StepBatchNorm1d(1, step_mode="m")
        >>> bn(torch.tensor([[[1.0], [3.0]], [[10.0], [30.0]]])).flatten().detach().round(decimals=3)
        tensor([-1.,  1., -1.,  1.])
    """


class StepBatchNorm2d(_OfEachStep, layer.BatchNorm2d):
    """Batch normalisation of images `[T, N, C, H, W]`, over N, H and W; see `_OfEachStep`."""


_KINDS: dict[Norm, tuple[type[nn.Module], type[nn.Module]]] = {
    "batch": (layer.BatchNorm1d, layer.BatchNorm2d),
    "step": (StepBatchNorm1d, StepBatchNorm2d),
}


def check_norm(norm: Any) -> Norm:
    """The option of that name.

    Raises:
        OptionError: it is none of its values.
    """
    known = get_args(Norm)
    check_option(norm in known, "norm", f"one of {', '.join(known)}", repr(norm))
    return norm


def normalised(norm: Norm, features: int, mode: str, *, images: bool) -> dict[str, nn.Module]:
    """The child `bn` of a layer, or none.

    Args:
        norm: see `check_norm`.
        features: or channels.
        mode: SpikingJelly's step mode.
        images: whether its input is `[T, N, C, H, W]` and not `[T, N, D]`.
    """
    return {} if norm == "none" else {"bn": _KINDS[norm][images](features, step_mode=mode)}


def draw_unnormalised(below: nn.Linear | nn.Conv2d) -> None:
    """Draws the weights of a layer that nothing normalises: normal, variance 2 / fan in (He et al. 2015); bias 0."""
    nn.init.kaiming_normal_(below.weight, mode="fan_in", nonlinearity="relu")
    assert below.bias is not None
    nn.init.zeros_(below.bias)
