"""Projected gradient ascent on the loss of every sample, inside a ball around it."""

import math
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.victim import LOSSES, NoGradient, Slope, Victim, attacked, check_finite
from sj_cka.ranges import NORMS, Norm, Range, clipped

Keep = Literal["best", "last"]
LossName = Literal["cross_entropy", "margin"]


class MaskedGradient(UserWarning):
    """Samples that an attack could not move, because their gradient is exactly zero."""


class Ball(NamedTuple):
    """All inputs that an attack may give: within eps of its start, and within the bounds.

    Args:
        eps: radius.
        norm: of the difference, over all values of a sample.
        bounds: smallest and largest value; None for none.
    """

    eps: float
    norm: Norm
    bounds: Range | None

    def project(self, x: Tensor, centre: Tensor) -> Tensor:
        """The nearest inputs inside, of `[N, ...]` around centres `[N, ...]`; then clipped to the bounds."""
        delta = x - centre
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / l2(delta)).clamp(max=1.0)
        return clipped(centre + delta, self.bounds)

    def draw(self, centre: Tensor, generator: Generator) -> Tensor:
        """Inputs drawn uniformly from the ball around `[N, ...]`, then clipped to the bounds."""
        if self.norm == "linf":
            delta = torch.rand(centre.shape, generator=generator).mul_(2).sub_(1).to(centre)
        else:
            direction = torch.randn(centre.shape, generator=generator)
            D = math.prod(centre.shape[1:])
            radius = torch.rand(len(centre), generator=generator, dtype=torch.float64) ** (1 / D)
            delta = (unit(direction) * radius.to(direction).view(-1, *[1] * (centre.ndim - 1))).to(centre)
        return self.project(centre + self.eps * delta, centre)


def l2(x: Tensor) -> Tensor:
    """L2 norm of each sample of `[N, ...]`, as `[N, 1, ...]`."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)


def scaled(gradient: Tensor) -> Tensor:
    """Gradients `[N, ...]` with mean absolute value 1 in each sample; zeros stay zeros."""
    axes = tuple(range(1, gradient.ndim))
    tiny = torch.finfo(gradient.dtype).tiny
    # by the largest first: squares and sums of what passed many layers can underflow
    gradient = gradient / gradient.abs().amax(axes, keepdim=True).clamp_min(tiny)
    return gradient / gradient.abs().mean(axes, keepdim=True).clamp_min(tiny)


def unit(x: Tensor) -> Tensor:
    """`[N, ...]` with L2 norm 1 in each sample; zeros stay zeros."""
    x = scaled(x)
    return x / l2(x).clamp_min(torch.finfo(x.dtype).tiny)


class Ascent(NamedTuple):
    """How an attack climbs: see `sj_cka.attacks.pgd` for each."""

    norm: Norm
    steps: int
    rel_stepsize: float | None
    random_start: bool
    restarts: int
    momentum: float
    loss: LossName
    keep: Keep

    def step(self) -> float:
        """The length of a step in units of eps.

        Raises:
            ValueError: a value out of range, or two that contradict each other.
        """
        checks.one_of("norm", self.norm, NORMS)
        checks.one_of("loss", self.loss, LOSSES)
        checks.one_of("keep", self.keep, ("best", "last"))
        checks.whole("steps", self.steps)
        checks.whole("restarts", self.restarts)
        checks.number("momentum", self.momentum)
        if self.restarts > 1 and not (self.random_start and self.keep == "best"):
            raise ValueError(
                f"expected random_start=True and keep='best' for restarts={self.restarts}, since one restart would be "
                "as the other or only the last would count, got "
                f"random_start={self.random_start} and keep={self.keep!r}"
            )
        # the ball is 2 eps wide, so that no step need be longer than that of one step by default
        if self.rel_stepsize is None:
            return 2.5 / self.steps
        return checks.number("rel_stepsize", self.rel_stepsize, most=2.5)


def climbed(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    generator: Generator | None,
    bounds: checks.Bounds,
    ascent: Ascent,
    slope: Callable[[Victim, Tensor], Slope] | None = None,
) -> Tensor:
    """Inputs like x under an attack that climbs; arguments as of `sj_cka.attacks.pgd`.

    Args:
        slope: of a victim at inputs `[N, ...]`, losses and gradient; None for its own.
    """
    limits, step, generator = checks.limits(bounds), ascent.step(), checks.own(generator)
    with attacked(net, x, y, limits) as victim:
        return victim.as_given(_ascend(victim, Ball(eps, ascent.norm, limits), generator, ascent, step * eps, slope))


def _ascend(
    victim: Victim,
    ball: Ball,
    generator: Generator,
    ascent: Ascent,
    step: float,
    slope: Callable[[Victim, Tensor], Slope] | None,
) -> Tensor:
    """Inputs `[N, ...]` after all steps, each of length `step`.

    Each step is one forward and one backward pass: the loss of an iterate is known when its gradient is. What is
    beside them: with keep="best" one forward pass for the last iterate of a restart, and one for x itself where no
    restart begins there.

    Raises:
        NoGradient: all gradients of the first step are zero, or some gradient is not finite.
    """
    x, loss, keep_best = victim.x, LOSSES[ascent.loss], ascent.keep == "best"
    highest = victim.losses(x, loss) if keep_best and ascent.random_start else x.new_full((len(x),), -torch.inf)
    finite = torch.ones(len(x), dtype=torch.bool, device=x.device)
    best, moved, right = x, ~finite, None
    for _ in range(ascent.restarts):
        here = ball.draw(x, generator) if ascent.random_start else x
        velocity = torch.zeros_like(x)
        for _ in range(ascent.steps):
            losses, gradient, fits, sound = victim.slope(here, loss) if slope is None else slope(victim, here)
            finite = finite & sound
            moved = moved | gradient.flatten(1).ne(0).any(1)
            if right is None:
                _check_first(moved)
                right = fits
            if keep_best:
                best, highest = _better(here, losses, best, highest)
            velocity = gradient if ascent.momentum == 0 else ascent.momentum * velocity + scaled(gradient)
            direction = velocity.sign() if ball.norm == "linf" else unit(velocity)
            here = ball.project(here + step * direction, x)
        best, highest = _better(here, victim.losses(here, loss), best, highest) if keep_best else (here, highest)
    assert right is not None
    check_finite(finite)
    _tell(moved, right)
    return best


def _better(x: Tensor, losses: Tensor, best: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    losses = losses.detach()
    higher = losses > highest
    return torch.where(higher.view(-1, *[1] * (x.ndim - 1)), x, best), torch.where(higher, losses, highest)


def _check_first(moves: Tensor) -> None:
    if not bool(moves.any()):
        raise NoGradient(
            f"expected a gradient to follow, it is exactly zero for all {len(moves)} samples, so that no success would "
            "mean nothing; a wider surrogate at attack time (pgd_surrogates), loss='margin', or an attack without "
            "gradients (square) may do"
        )


def _tell(moved: Tensor, right: Tensor) -> None:
    stuck = int((right & ~moved).sum())
    if stuck:
        warnings.warn(
            f"the gradient of {stuck} of {int(right.sum())} samples that are classified right is exactly zero at every "
            "step: they stay as they are, and count as robust for no better reason (sj_cka.attacks.without_gradient "
            "tells which); compare with an attack without gradients, e.g. square",
            MaskedGradient,
            stacklevel=5,
        )
