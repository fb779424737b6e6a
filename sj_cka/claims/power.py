"""What so many seeds can decide, before and after a run: power, the least difference, the seeds that are missing."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit  # the normal distribution; quantiles of Student's t

from sj_cka.claims.inference import LEVEL, MIN_SEEDS, Estimate

ENOUGH = 0.8  # power below which a claim is exploratory
MOST_SEEDS = 1000
_NO_SPREAD = 1e-9
_HALVINGS = 20  # of the step from the margin
_DRAWS = 4000  # of the spread that is found


class Design(NamedTuple):
    """What a claim rests on.

    Args:
        se: standard error of its effect with one seed an arm: it falls with the root of their number.
        groups: independent groups of networks with equal shares of its variance.
    """

    se: float
    groups: int


def _found(design: Design, n: int) -> tuple[float, np.ndarray, np.ndarray]:
    """The standard error with n seeds an arm; and what is found of it, and of its degrees of freedom, `[draw]`.

    The degrees of freedom of Satterthwaite are themselves found, and fewer than the groups have together: a noncentral
    t would promise up to .12 more power at 3 seeds.
    """
    generator = np.random.default_rng(0)
    shares = generator.chisquare(n - 1, (_DRAWS, design.groups)) / ((n - 1) * design.groups)
    total = shares.sum(1)
    return design.se / n**0.5, design.se * np.sqrt(total / n), total**2 / (shares**2).sum(1) * (n - 1)


def beyond(design: Design, difference: float, margin: float, n: int, level: float = LEVEL) -> float:
    """Probability that an effect is found to be greater than the margin."""
    se, found, df = _found(design, n)
    bound = stdtrit(df, 1 - level / 2) * found
    return float(ndtr((difference - bound - margin) / se).mean())


def inside(design: Design, difference: float, margin: float, n: int, level: float = LEVEL) -> float:
    """Probability that an effect is found to lie within the margin."""
    se, found, df = _found(design, n)
    reach = np.maximum(margin - stdtrit(df, 1 - level) * found, 0.0)
    return float((ndtr((reach - difference) / se) - ndtr((-reach - difference) / se)).mean())


def least_difference(design: Design, margin: float, n: int, level: float = LEVEL) -> float:
    """The least effect that n seeds find to be beyond the margin with a power of ENOUGH; NaN under 2 seeds."""
    if n < 2:
        return float("nan")
    if design.se <= _NO_SPREAD * max(margin, 1.0):
        return margin
    low, high = margin, margin + design.se
    while beyond(design, high, margin, n, level) < ENOUGH:
        high += high - margin
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(design, middle, margin, n, level) < ENOUGH else (low, middle)
    return high


def design_found(found: Estimate) -> Design:
    """The design of an effect that was estimated from at least two seeds."""
    return Design(found.se * found.n**0.5, max(1, round(found.df / (found.n - 1))))


def seeds_needed(found: Estimate, margin: float, level: float = LEVEL) -> int | None:
    """The seeds that would decide with a power of ENOUGH, if effect and spread are what was found.

    None where nothing is known of the spread, or more than MOST_SEEDS would be needed.
    """
    if found.n < 2 or not np.isfinite([found.value, found.se]).all() or found.df <= 0:
        return None
    design, size = design_found(found), abs(found.value)

    def decided(n: int) -> bool:
        if design.se == 0:
            return size != margin
        return (beyond if size > margin else inside)(design, size, margin, n, level) >= ENOUGH

    fewest = max(MIN_SEEDS, found.n + 1)
    if not decided(MOST_SEEDS):
        return None
    low, high = fewest, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle + 1, high)
    return low
