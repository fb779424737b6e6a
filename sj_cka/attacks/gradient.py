"""Attacks along the gradient of the loss: one step, many steps, the setting of Li et al. 2023, several surrogates."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from spikingjelly.activation_based import surrogate as surrogates
from torch import Generator, Tensor, nn

from sj_cka.attacks.ascent import Ascent, Keep, LossName, climbed, scaled
from sj_cka.attacks.checks import Bounds
from sj_cka.attacks.promise import promises
from sj_cka.attacks.victim import LOSSES, Loss, Slope, Victim
from sj_cka.neurons.surrogates import SurrogateName, make_surrogate
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


# what they put out are not the spikes of a step function, so that another surrogate would change the network
_NO_STEP = (surrogates.PoissonPass, surrogates.MultiLevelSpikeCount)


@contextmanager
def with_surrogate(net: nn.Module, name: SurrogateName, alpha: float | None = None) -> Iterator[None]:
    """A network whose neurons, SpikingJelly's and this package's, have another surrogate gradient; put back on leaving.

    Spikes stay what they are, only the backward pass differs.

    Args:
        net: a spiking network.
        name: a surrogate of `sj_cka.neurons.SURROGATES`.
        alpha: its steepness; None for its default.

    Raises:
        ValueError: a network without surrogates or with one that is no step function in the forward pass, no such
            surrogate, an alpha outside its range.

    Example:
        >>> from sj_cka.neurons import lif
        >>> net = nn.Sequential(lif())
        >>> with with_surrogate(net, "atan", 2.0):
        ...     print(net[0].surrogate_function)
        ATan(alpha=2.0, spiking=True)
        >>> net[0].surrogate_function.alpha
        6.0
    """
    places = _places(net)
    if not places:
        raise ValueError(f"expected a spiking network, found no surrogate function in {type(net).__name__}")
    made = make_surrogate(name, alpha)
    try:
        for module, key, _ in places:
            module._modules[key] = made
        yield
    finally:
        for module, key, function in places:
            module._modules[key] = function


@promises("radius")
def pgd_surrogates(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    surrogate: SurrogateName = "sigmoid",
    alphas: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
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
    """PGD along the mean gradient of several widths of the surrogate, whatever the network was trained with.

        g = sum over alphas of grad_x L(x, y; alpha) / mean|grad_x L(x, y; alpha)|

    Each gradient is brought to mean absolute value 1 for each sample first: through many layers their sizes differ by
    orders of magnitude, and the steepest or the flattest would decide alone. One alpha gives PGD with another
    surrogate. A step costs as many forward and backward passes as there are alphas. A network without surrogates, such
    as an artificial twin, has one gradient: there this is `pgd`.

    Args:
        surrogate: its shape, a name of `sj_cka.neurons.SURROGATES` that has an alpha.
        alphas: its steepnesses, one or more.
        net, x, y, eps, generator, norm, steps, rel_stepsize, random_start, restarts, momentum, loss, bounds, keep: see
            `pgd`.

    Raises:
        ValueError: an argument out of range, see also `with_surrogate`. NoGradient: see `pgd`.
    """
    if isinstance(alphas, str) or not list(alphas):
        raise ValueError(f"expected alphas, one or more widths of the surrogate, got {alphas!r}")
    for alpha in alphas:
        make_surrogate(surrogate, alpha)
    ascent = Ascent(norm, steps, rel_stepsize, random_start, restarts, momentum, loss, keep)
    slope = partial(_mean_slope, loss=LOSSES[loss], surrogate=surrogate, alphas=alphas)
    return climbed(net, x, y, eps, generator, bounds, ascent, slope)


def _mean_slope(victim: Victim, x: Tensor, *, loss: Loss, surrogate: SurrogateName, alphas: Sequence[float]) -> Slope:
    """Losses at x, the same for all, and the sum of the scaled gradients; without surrogates the one gradient."""
    if not _places(victim.net):
        return victim.slope(x, loss)
    total, finite = torch.zeros_like(x), torch.ones(len(x), dtype=torch.bool, device=x.device)
    for alpha in alphas:
        with with_surrogate(victim.net, surrogate, alpha):
            slope = victim.slope(x, loss)
        total = total + scaled(slope.gradient)
        finite = finite & slope.finite
    return slope._replace(gradient=total, finite=finite)


def _places(net: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Every surrogate function of a network, with the module that has it and its name there."""
    found = [
        (module, key, child)
        for module in net.modules()
        for key, child in module._modules.items()
        if isinstance(child, surrogates.SurrogateFunctionBase)
    ]
    for _, _, child in found:
        if isinstance(child, _NO_STEP) or not child.spiking:
            raise ValueError(
                f"expected surrogates of spikes 0 and 1, found {child}: with another one the network would put out "
                "something else"
            )
    return found
