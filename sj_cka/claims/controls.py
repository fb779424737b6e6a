"""What a claim must fail, and what must agree, before its verdict is believed."""

from collections.abc import Iterator

import numpy as np

from sj_cka.claims.evidence import Evidence
from sj_cka.claims.inference import LEVEL
from sj_cka.claims.judging import TESTS, Judged, judge
from sj_cka.claims.measurements import MEASUREMENTS
from sj_cka.claims.statements import Claim, NearCeiling

GATES = {"wrong": "layers of other names", "permuted": "permuted samples"}
"""Column of the table `paired` -> what it is the similarity of: with it a claim of sameness must not hold."""
LEAST_MARGIN = 0.02  # halves that differ by less agree, whatever the margin of the claim


DISAGREE = "do not agree"


def is_gated(claim: Claim) -> bool:
    """Whether there is something that a claim must fail: it is one of sameness, of layers."""
    return TESTS[claim.test].sameness and MEASUREMENTS[claim.arms()["a"].measure].table == "paired"


def gates(claim: Claim, evidence: Evidence) -> Iterator[str]:
    """Why a claim of sameness says nothing, in words: what must not pass, passes, or could not be tried."""
    if not is_gated(claim):
        return
    for column, what in GATES.items():
        tried = None
        if MEASUREMENTS[claim.arms()["a"].measure].of_similarity and column in evidence.tables["paired"]:
            tried = judge(claim, evidence, {"a": column})
        if tried is None or not np.isfinite(tried.estimate.value):
            yield f"{what} could not be tried"
        elif tried.answers.holds <= LEVEL:
            yield f"{what} pass as well"


def found(claim: Claim, judged: Judged) -> str:
    """What became of what a claim must fail, where nothing of it passed; "" where there is nothing."""
    if isinstance(claim, NearCeiling) and judged.parts[1].open:
        return "not told from layers of other names"
    return "held" if is_gated(claim) else ""


def beside(judged: Judged, margin: float) -> Iterator[str]:
    """What stands beside a claim on similarity, in words: likeness to the pixels, and the two halves of the images."""
    for key, levels in judged.arms.items():
        if not np.isnan(levels.pixels):
            yield f"{key}: {levels.pixels:.3f} with the pixels"
        if not np.isnan(levels.halves).any():
            one, other = levels.halves
            agree = "" if abs(one - other) <= max(margin, LEAST_MARGIN) else f", which {DISAGREE}"
            yield f"{key}: {one:.3f} and {other:.3f} on the two halves of the images{agree}"
