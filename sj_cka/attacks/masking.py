"""Against masked gradients: other surrogates at attack time, and an attack along several of them at once."""

from __future__ import annotations

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
