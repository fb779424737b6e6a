"""What to hold an attack against: noise of the same size, and another attack of the same success."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.ascent import l2, unit
from sj_cka.attacks.measure import check_shapes, right
from sj_cka.attacks.promise import AttackFunction, held
from sj_cka.attacks.table import attack_named
from sj_cka.attacks.victim import sample_axis as axis_of
from sj_cka.ranges import clipped


def craft(
    attack: str | AttackFunction,
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    /,
    *,
    eps: float,
    batch_size: int = 256,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """An attack on any number of samples, in batches of nearly equal size.

    Args:
        attack: a name of ATTACKS, or such a function.
        net, x, y, eps, generator, options: what it is given; the generator goes on from batch to batch.
        batch_size: samples of a batch at most, from 1.

    Returns:
        Inputs like x.

    Raises:
        UnknownName: no such attack; and what the attack raises.
    """
    function = attack_named(attack) if isinstance(attack, str) else held(attack)
    axis, generator = axis_of(net), checks.own(generator)
    y = checks.labels(x, y, axis)
    parts = -(-len(y) // checks.whole("batch_size", batch_size))
    batches = zip(x.tensor_split(parts, axis), y.tensor_split(parts), strict=True)
    return torch.cat([function(net, a, b, eps=eps, generator=generator, **options) for a, b in batches], axis)


def noise_like(
    x: Tensor,
    x_adv: Tensor,
    *,
    generator: Generator | None = None,
    bounds: checks.Bounds = (0.0, 1.0),
    sample_axis: Literal[0, 1] = 0,
) -> Tensor:
    """Noise in a random direction, of the same L2 norm for each sample as what an attack changed, after clipping.

    The direction is normal, the same for all values. Its length is found by bisection, since clipping takes a part of
    it, so that `perturbation(x, noise).l2` equals that of the attack to 1e-4 of it. Where the bounds leave too little
    room in that direction, as for strong attacks on images of black and white, every value of the sample moves to the
    side where it has more room.

    Args:
        x, x_adv, sample_axis: as of `perturbation`, floating point.
        generator: what the directions are drawn from, on the CPU; None for a new one, seeded 0.
        bounds: smallest and largest value of an input; None for none.

    Returns:
        Inputs like x.

    Raises:
        ValueError: two shapes, or values out of bounds.
    """
    limits, generator = checks.limits(bounds), checks.own(generator)
    check_shapes(x, x_adv)
    x, x_adv = checks.continuous(x, limits), checks.continuous(x_adv, limits)
    start = x.detach().movedim(sample_axis, 0)
    wanted = l2(x_adv.detach().movedim(sample_axis, 0) - start)
    direction = unit(torch.randn(start.shape, generator=generator)).to(start)

    def at(length: Tensor) -> Tensor:
        return clipped(start + length * direction, limits)

    if limits is None:
        return at(wanted).movedim(0, sample_axis).contiguous()
    inwards = torch.where(start > sum(limits) / 2, -direction.abs(), direction.abs())
    # a length that takes every value to its bound
    far = (limits[1] - limits[0]) / direction.abs().flatten(1).amin(1).clamp_min(1e-12).view(wanted.shape)
    direction = torch.where(l2(at(far) - start) < wanted, inwards, direction)
    low, high = torch.zeros_like(wanted), far
    for _ in range(60):
        middle = (low + high) / 2
        short = l2(at(middle) - start) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    made = torch.where(wanted > 0, at(high), start)
    return made.movedim(0, sample_axis).contiguous()


class Matched(NamedTuple):
    """An attack at a given success rate.

    Args:
        eps: found by bisection.
        rate: success rate there, measured.
        x_adv: inputs under that attack.
    """

    eps: float
    rate: float
    x_adv: Tensor


class RateNotReached(ValueError):
    """An attack does not reach a success rate within the eps that are allowed; `rate` is what it reached."""

    def __init__(self, message: str, rate: float) -> None:
        super().__init__(message)
        self.rate = rate


def eps_for_success(
    attack: str | AttackFunction,
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    /,
    *,
    rate: float,
    eps_max: float,
    tolerance: float = 0.01,
    tries: int = 12,
    batch_size: int = 256,
    generator: Generator | None = None,
    **options: Any,
) -> Matched:
    """The eps at which an attack succeeds on a given share of the samples that are classified right, by bisection.

    Two networks are alike under attack only at the same success: the weaker attack changes less. Every try starts from
    the same random numbers. Of all tries, the one whose rate is nearest to the wanted one is given, of two the smaller
    eps; its rate is a multiple of 1 / (samples classified right), and may miss by more than the tolerance where the
    rate jumps.

    Args:
        attack, net, x, y, batch_size, options: as of `craft`.
        rate: wanted success rate, above 0 and below 1.
        eps_max: largest eps, tried first.
        tolerance: how near the rate has to come, from 0; the search then ends.
        tries: attacks after the first at most, from 1.
        generator: seeds all tries; None for a new one, seeded 0.

    Raises:
        ValueError: an argument out of range, or no sample classified right. RateNotReached: not even at `eps_max`, as
            where gradients are masked.
    """
    if not 0 < checks.number("rate", rate, most=1.0) < 1:
        raise ValueError(f"expected rate above 0 and below 1, got {rate!r}")
    checks.number("tolerance", tolerance)
    checks.whole("tries", tries)
    if checks.strength(eps_max) == 0:
        raise ValueError("expected eps_max, the largest eps, above 0, got 0")
    seed = int(torch.randint(2**31, (), generator=checks.own(generator)))
    before = right(net, x, y, batch_size=batch_size)
    if not bool(before.any()):
        raise ValueError("expected a sample that is classified right, got none, so that no attack can succeed")

    def at(eps: float) -> Matched:
        drawn = Generator().manual_seed(seed)
        x_adv = craft(attack, net, x, y, eps=eps, batch_size=batch_size, generator=drawn, **options)
        after = right(net, x_adv, y, batch_size=batch_size)
        return Matched(eps, float((before & ~after).sum() / before.sum()), x_adv)

    best = at(eps_max)
    if best.rate < rate - tolerance:
        raise RateNotReached(
            f"expected a success rate of {rate:g} within eps {eps_max:g}, the attack reached {best.rate:g} there: "
            "allow a larger eps, or take an attack without gradients if these are masked",
            best.rate,
        )
    return _bisected(at, best, rate, tolerance, tries)


def _bisected(at: Callable[[float], Matched], best: Matched, rate: float, tolerance: float, tries: int) -> Matched:
    """The match nearest to a rate, between eps 0 and that of the first one."""
    low, high = 0.0, best.eps
    for _ in range(tries):
        if abs(best.rate - rate) <= tolerance:
            break
        tried = at((low + high) / 2)
        low, high = (low, tried.eps) if tried.rate >= rate else (tried.eps, high)
        best = min(best, tried, key=lambda match: (abs(match.rate - rate), match.eps))
    return best
