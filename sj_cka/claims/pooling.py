"""A study that was run more than once, each time with seeds of its own: its claims over all runs.

A claim is pooled where its verdict follows from one estimate with a standard error, in every run. One that rests on
several estimates (`near_ceiling`, `greater_in_all`) is not: its verdicts stand side by side, and of a primary one the
place among those that are corrected for stays taken, with a p-value of 1. Controls must hold in every run, and a claim
is primary where it is in every run.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtr  # Student's t

from sj_cka.claims.inference import ROUNDING, Estimate, chances, corrected
from sj_cka.claims.judging import READINGS, Answers, Verdict, believed, verdict_of
from sj_cka.claims.table import Claimed

REPEATED = 0.01
"""p-value below which runs did not find the same."""


def pooled(found: Sequence[Estimate]) -> Estimate:
    """The mean of estimates from networks that have nothing in common, weighted by their seeds.

        w_i = n_i / sum n,  value = sum w_i value_i,  se^2 = sum w_i^2 se_i^2,  df = se^4 / sum (w_i^4 se_i^4 / df_i)

    The degrees of freedom are those of Satterthwaite (1946). Weights are of seeds and not of what was found of the
    spread: that is too uncertain with few seeds to say which run is the better one.

    Example:
        >>> pooled([Estimate(0.1, 0.02, 3.0, 4), Estimate(0.2, 0.02, 3.0, 4)])
        Estimate(value=0.15..., se=0.0141..., df=6.0..., n=8)
    """
    weights = np.array([one.n for one in found], dtype=float)
    return _weighted(found, weights / weights.sum())


def difference(one: Estimate, other: Estimate) -> float:
    """Two-sided p-value of Welch's t that two runs found the same.

    Example:
        >>> round(difference(Estimate(0.1, 0.02, 3.0, 4), Estimate(0.2, 0.02, 3.0, 4)), 4)
        0.0123
    """
    apart = _weighted([one, other], np.array([1.0, -1.0]))
    return float(2 * stdtr(apart.df, -abs(apart.value) / np.maximum(apart.se, ROUNDING)))


def _weighted(found: Sequence[Estimate], weights: np.ndarray) -> Estimate:
    """A weighted sum of independent estimates, with the degrees of freedom of Satterthwaite."""
    values, se, df = np.array([one[:3] for one in found]).T
    parts = (weights * se) ** 2
    squares = float((parts**2 / df).sum())
    # equal values everywhere: no spread to weigh the estimates by
    freedom = float(parts.sum()) ** 2 / squares if squares != 0 else float(df.sum())
    return Estimate(float(weights @ values), float(parts.sum() ** 0.5), freedom, sum(one.n for one in found))


class Pooled(NamedTuple):
    """A claim over all runs; attributes as of `Claimed`.

    It is not repeated where runs differ at p < REPEATED, and where one says another thing than another.

    Args:
        differing: p-value that the runs found the same: the least of all pairs, times their number.
    """

    verdict: Verdict | Literal["not repeated"]
    primary: bool
    found: Estimate
    confidence: int
    p: float
    differing: float


def over_runs(claims: Sequence[Sequence[Claimed]]) -> list[Pooled | None]:
    """The claims of a study over its runs, judged as those of one run are; None for one that is not pooled.

    Args:
        claims: of each claim what every run found of it; where that is one run alone it is not pooled.
    """
    primary = [all(one.primary for one in runs) for runs in claims]
    p = [min(_answers(runs)) if can_be_pooled(runs) else 1.0 for runs in claims]
    over = corrected(p, primary)
    return [
        _pooled(runs, among, of) if can_be_pooled(runs) else None
        for runs, among, of in zip(claims, primary, over, strict=True)
    ]


def can_be_pooled(runs: Sequence[Claimed]) -> bool:
    """Whether there are several runs, in each of which one estimate with a standard error decides in the same way."""
    ways = {(one.test, one.direction, one.margin, one.confidence) for one in runs}
    known = all(one.direction in READINGS and np.isfinite(one.found[:3]).all() for one in runs)
    return len(runs) > 1 and len(ways) == 1 and known


def _pooled(runs: Sequence[Claimed], primary: bool, p: float) -> Pooled:
    pairs = [difference(one.found, other.found) for one, other in combinations(runs, 2)]
    differing = min(1.0, len(pairs) * min(pairs))
    verdict: Verdict | Literal["not repeated"] = verdict_of(_answers(runs), p)
    if any(one.verdict == "not trained" for one in runs):
        verdict = "not trained"
    elif differing < REPEATED or len({one.verdict for one in runs} & _DECIDED) > 1:
        verdict = "not repeated"
    return Pooled(verdict, primary, pooled([one.found for one in runs]), runs[0].confidence, p, differing)


def _answers(runs: Sequence[Claimed]) -> Answers:
    """p-values of the answers to a claim over all runs, before anything is corrected."""
    if any(one.verdict == "not trained" for one in runs):
        return Answers(1.0, 1.0)
    answers = READINGS[runs[0].direction](chances(pooled([one.found for one in runs]), runs[0].margin))
    missed, passing = (any(of) for of in ((one.missed for one in runs), (one.gates not in _GOOD for one in runs)))
    return believed(answers, missed=missed, passing=passing)


_GOOD = ("", "held")
_DECIDED = {"holds", "contradicted", "equivalent"}
