"""Attacks along the gradient of the loss: one step, many steps, and the setting of Li et al. 2023."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from sj_cka.attacks.ascent import Ascent, Keep, LossName, climbed
from sj_cka.attacks.checks import Bounds
from sj_cka.attacks.promise import promises
from sj_cka.ranges import Norm


@promises("radius")
def fgsm(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    norm: Norm = "linf",
    loss: LossName = "cross_entropy",
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    """The fast gradient sign method: one step to the border of the ball.

        x_adv = clip(x + eps sign(grad_x L(x, y)))                    linf: Goodfellow et al. 2015, ICLR
        x_adv = clip(x + eps grad_x L / ||grad_x L||_2)               l2

    Args:
        net: from inputs in attack units to logits `[N, classes]`, e.g. `pixel_model(...)`; run in evaluation mode and
            left as it was.
        x: inputs, floating point: `[N, ...]`, or `[T, N, ...]` where `net.sample_axis` is 1.
        y: labels `[N]`.
        eps: length of the step in units of x, from 0; 0 gives x itself, bit for bit.
        generator: of no effect, nothing is drawn.
        norm: in which the step is as long as can be.
        loss: what is raised: "cross_entropy", or "margin", the best other logit minus that of the label.
        bounds: smallest and largest value of an input, which is clipped to them; None for none.

    Returns:
        Inputs like x. Where the gradient of a sample is exactly zero, the sample as it is (a `MaskedGradient` warning
        counts those among the samples classified right).

    Raises:
        ValueError: an argument out of range. NoGradient: all gradients are zero, or one is not finite.

    Example:
        >>> import torch
        >>> from sj_cka.attacks import pixel_model
        >>> net = nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.eye(2))
        >>> fgsm(pixel_model(net), torch.tensor([[0.5, 0.25]]), torch.tensor([0]), eps=0.125)
        tensor([[0.3750, 0.3750]])
    """
    return pgd(
        net,
        x,
        y,
        eps=eps,
        generator=generator,
        norm=norm,
        steps=1,
        rel_stepsize=1.0,
        random_start=False,
        loss=loss,
        bounds=bounds,
        keep="last",
    )


@promises("radius")
def pgd(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    norm: Norm = "linf",
    steps: int = 20,
    rel_stepsize: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    momentum: float = 0.0,
    loss: LossName = "cross_entropy",
    bounds: Bounds = (0.0, 1.0),
    keep: Keep = "best",
) -> Tensor:
    """Projected gradient descent on the negative loss (Madry et al. 2018, ICLR).

    With momentum it is MI-FGSM (Dong et al. 2018, CVPR):

        g[i+1] = momentum g[i] + grad_x L(x[i], y) / mean|grad_x L(x[i], y)|     without momentum the gradient itself
        x[i+1] = P(x[i] + a d(g[i+1]))                                           d: sign (linf), g / ||g||_2 (l2)

    P projects to the ball of radius eps around x and clips to the bounds. (Dong et al. divide by the sum of absolute
    values; the mean gives the same directions for every size of input.)

    It takes `steps` forward and backward passes a restart and at most two forward passes besides; weights get no
    gradient. Arguments that are not named below: see `fgsm`.

    Args:
        eps: radius of the ball in units of x, in the norm.
        generator: what the starts are drawn from, on the CPU; None for a new one, seeded 0.
        steps: of one restart, from 1.
        rel_stepsize: a, in units of eps, from 0 to 2.5; None: 2.5 / steps, so that every point can be reached from
            every start.
        random_start: whether to start from a uniform draw from the ball, else from x.
        restarts: how often to start, from 1; more than 1 only with a random start and keep="best".
        momentum: decay of earlier gradients, from 0; MI-FGSM has 1.
        keep: "best": each sample's iterate of the largest loss over all steps and restarts, x itself among them, so
            that no sample's loss falls; "last": the last iterate.

    Returns:
        Inputs like x, within the ball up to rounding.

    Raises:
        ValueError: an argument out of range. NoGradient: all gradients of the first step are zero, or one of any step
        is not finite.
    """
    ascent = Ascent(norm, steps, rel_stepsize, random_start, restarts, momentum, loss, keep)
    return climbed(net, x, y, eps, generator, bounds, ascent)


@promises("radius", norm="linf")
def pgd_paper(net: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: Generator | None = None) -> Tensor:
    """PGD as in the released code of Li et al. 2023: 20 steps of eps / 10 from x, L-inf, no bounds, the last iterate.

    There eps = 0.01 is in *normalised* units, so x is normalised and `net` takes it so: `pixel_model(net)` without mean
    and std. (Divided by a std of about 0.2, that is half a step of an 8-bit pixel.) The release attacks in training
    mode and so changes the statistics of batch normalisation; here they stay.

    Args:
        net, x, y, generator: see `fgsm`.
        eps: radius in normalised units.

    Raises:
        ValueError, NoGradient: see `pgd`.
    """
    return pgd(
        net,
        x,
        y,
        eps=eps,
        generator=generator,
        steps=20,
        rel_stepsize=0.1,
        random_start=False,
        bounds=None,
        keep="last",
    )
