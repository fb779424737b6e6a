"""The tests that a claim can be put to, each with all there is to know of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sj_cka.claims import verdicts
from sj_cka.claims.measurements import Evidence
from sj_cka.claims.statements import (
    Above,
    Below,
    Claim,
    Differs,
    Greater,
    GreaterInAll,
    Less,
    NearCeiling,
    Trend,
)
from sj_cka.claims.verdicts import Finding
from sj_cka.plugins import lookup


class ClaimTest(NamedTuple):
    """An entry of TESTS.

    Args:
        block: what a recipe says of the claim; its field `test` is `Literal[<name of the entry>]`.
        effect: what the estimate of a finding is, in words.
        judge: (claim, evidence) -> what was measured and how it was judged.
    """

    block: type[Claim]
    effect: str
    judge: Callable[[Any, Evidence], Finding] = verdicts.verdict_on


TESTS: dict[str, ClaimTest] = {
    "greater": ClaimTest(Greater, "difference"),
    "less": ClaimTest(Less, "difference"),
    "differs": ClaimTest(Differs, "difference"),
    "greater_in_all": ClaimTest(GreaterInAll, "least of the differences"),
    "above": ClaimTest(Above, "distance from it"),
    "below": ClaimTest(Below, "distance from it"),
    "near_ceiling": ClaimTest(NearCeiling, "share beyond one half"),
    "trend": ClaimTest(Trend, "slope"),
}


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """The verdict on one claim, by its test."""
    return lookup(TESTS, claim.test, "test").judge(claim, evidence)
