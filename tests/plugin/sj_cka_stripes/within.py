"""A test of claims: two measurements are equal but for a margin."""

from __future__ import annotations

from typing import Literal

from sj_cka.claims import MEASUREMENTS, Evidence, Finding
from sj_cka.claims.statements import TwoArms
from sj_cka.over_seeds import interval
from sj_cka.typed import Float


class Within(TwoArms):
    """a differs from b by no more than the margin."""

    test: Literal["within"]
    margin: Float


def judge(claim: Within, evidence: Evidence) -> Finding:
    """Holds where the interval over seeds lies within the margin."""
    a, b = (evidence.of_network(arm) for arm in claim.arms().values())
    difference = interval(a - b)
    inside = -claim.margin <= difference.low and difference.high <= claim.margin
    measured = f"{MEASUREMENTS[claim.a.measure].label} {a.mean():.3f} against {b.mean():.3f}, margin {claim.margin:g}"
    verdict = "holds" if inside else "undecided"
    return Finding(claim.says, claim.source, claim.test, verdict, None, measured, difference, None)
