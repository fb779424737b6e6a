"""Claims of the papers as checkable statements: measurements, intervals over seeds, verdicts."""

from sj_cka.claims.block_patterns import contrast, grid
from sj_cka.claims.judging import TESTS, ClaimTest, judge
from sj_cka.claims.measurements import MEASUREMENTS, Evidence, Measurement, selected
from sj_cka.claims.statements import Arm, Claim, path_of
from sj_cka.claims.verdicts import Finding, Verdict, swept, verdict_of

__all__ = [
    "MEASUREMENTS",
    "TESTS",
    "Arm",
    "Claim",
    "ClaimTest",
    "Evidence",
    "Finding",
    "Measurement",
    "Verdict",
    "contrast",
    "grid",
    "judge",
    "path_of",
    "selected",
    "swept",
    "verdict_of",
]
