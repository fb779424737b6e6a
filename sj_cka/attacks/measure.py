"""What an attack did: accuracy, success, losses, size of the perturbation."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.ascent import LossName
from sj_cka.attacks.victim import LOSSES, Victim, attacked, check_finite, differentiable
from sj_cka.ranges import NORMS, Norm


def right(net: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 256) -> Tensor:
    """Which samples are classified right, bool `[N]`; in evaluation mode, the network left as it was.

    Args:
        net: from inputs in attack units to logits.
        x: inputs, floating point, `[N, ...]` or as `net.sample_axis` says.
        y: labels `[N]`.
        batch_size: samples a forward pass.
    """
    return _in_batches(net, x, y, batch_size, lambda victim: victim.right(victim.x))


def accuracy(net: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 256) -> float:
    """Share of samples classified right, 0 to 1; arguments as of `right`."""
    return float(right(net, x, y, batch_size=batch_size).double().mean())


def success_rate(net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, *, batch_size: int = 256) -> float:
    """Share of the samples classified right that are classified wrong under attack, 0 to 1; NaN where none is right.

    Args:
        net, y, batch_size: as of `right`.
        x, x_adv: the inputs before and under attack.
    """
    before = right(net, x, y, batch_size=batch_size)
    after = right(net, x_adv, y, batch_size=batch_size)
    return float((before & ~after).sum() / before.sum())


def losses(net: nn.Module, x: Tensor, y: Tensor, *, loss: LossName = "cross_entropy", batch_size: int = 256) -> Tensor:
    """The loss of each sample, `[N]`; arguments as of `right`, losses as of `pgd`."""
    checks.one_of("loss", loss, LOSSES)
    return _in_batches(net, x, y, batch_size, lambda victim: victim.losses(victim.x, LOSSES[loss]))


def without_gradient(
    net: nn.Module, x: Tensor, y: Tensor, *, loss: LossName = "cross_entropy", batch_size: int = 256
) -> Tensor:
    """Which samples have an input gradient of exactly zero, bool `[N]`: what a gradient attack cannot move from there.

    Arguments as of `right`, losses as of `pgd`.

    Raises:
        NoGradient: the network has no gradient to its input at all, or one that is not finite.
    """
    checks.one_of("loss", loss, LOSSES)

    def zero(victim: Victim) -> Tensor:
        slope = victim.slope(victim.x, LOSSES[loss])
        check_finite(slope.finite)
        return slope.gradient.flatten(1).eq(0).all(1)

    with differentiable():
        return _in_batches(net, x, y, batch_size, zero)


def _in_batches(net: nn.Module, x: Tensor, y: Tensor, batch_size: int, ask: Callable[[Victim], Tensor]) -> Tensor:
    """What is asked of every batch, `[N]`."""
    checks.whole("batch_size", batch_size)
    with attacked(net, x, y, None) as whole:
        batches = zip(whole.x.split(batch_size), whole.y.split(batch_size), strict=True)
        return torch.cat([ask(whole._replace(x=a, y=b)) for a, b in batches])


class Perturbation(NamedTuple):
    """How far each sample was moved, each `[N]`.

    Args:
        linf: largest change of a value, in units of x.
        l2: Euclidean norm of the change, in units of x.
        changed: share of the values that changed at all, 0 to 1.
    """

    linf: Tensor
    l2: Tensor
    changed: Tensor


def perturbation(x: Tensor, x_adv: Tensor, *, sample_axis: Literal[0, 1] = 0) -> Perturbation:
    """What an attack changed, measured on what it returned: after clipping, whatever its eps was.

    Args:
        x, x_adv: inputs before and under attack, of one shape.
        sample_axis: 0 for `[N, ...]`, 1 for `[T, N, ...]`.

    Raises:
        ValueError: two shapes.

    Example:
        >>> perturbation(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 0.0, 4.0]]))
        Perturbation(linf=tensor([4.]), l2=tensor([5.]), changed=tensor([0.5000]))
    """
    check_shapes(x, x_adv)
    kind = x.dtype if x.is_floating_point() else torch.float64
    delta = (x_adv.to(kind) - x.to(kind)).movedim(sample_axis, 0).flatten(1)
    return Perturbation(delta.abs().amax(1), delta.norm(dim=1), delta.ne(0).to(kind).mean(1))


def within(x: Tensor, x_adv: Tensor, *, eps: float, norm: Norm = "l2", sample_axis: Literal[0, 1] = 0) -> Tensor:
    """What an attack found where it is within eps of x in the norm, and x elsewhere.

    Args:
        x, x_adv, sample_axis: as of `perturbation`.
        eps: largest distance in units of x, from 0.
        norm: "l2" or "linf".

    Raises:
        ValueError: an argument out of range, or two shapes.
    """
    eps = checks.strength(eps)
    checks.one_of("norm", norm, NORMS)
    moved = perturbation(x, x_adv, sample_axis=sample_axis)
    near = (moved.l2 if norm == "l2" else moved.linf) <= eps
    return torch.where(near.view([-1 if axis == sample_axis else 1 for axis in range(x.ndim)]), x_adv, x)


def check_shapes(x: Tensor, x_adv: Tensor) -> None:
    """Raises ValueError where inputs before and under attack differ in shape."""
    if x.shape != x_adv.shape:
        raise ValueError(f"expected x and x_adv of one shape, got {tuple(x.shape)} and {tuple(x_adv.shape)}")
