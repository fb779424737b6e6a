"""A test of claims: two measurements are equal but for a margin of its own."""

from __future__ import annotations

from typing import Literal

from sj_cka.claims import Answers, Evidence, Judged
from sj_cka.claims.effects import effect_of
from sj_cka.claims.inference import chances
from sj_cka.claims.statements import TwoArms
from sj_cka.typed import Float


class Within(TwoArms):
    """a differs from b by no more than so much."""

    test: Literal["within"]
    at_most: Float


def judge(claim: Within, evidence: Evidence) -> Judged:
    """Holds where the effect is found to lie within it."""
    effect = effect_of(claim, evidence)
    p = chances(effect.estimate, claim.at_most)
    return Judged(Answers(p.within, min(p.above, p.below)), *effect[:3])
