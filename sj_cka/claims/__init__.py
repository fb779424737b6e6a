"""Claims of the papers as checkable statements: measurements, estimates over networks, verdicts."""

from sj_cka.claims.block_patterns import contrast, grid
from sj_cka.claims.effects import swept
from sj_cka.claims.evidence import ORIGINS, Evidence, hanging_on
from sj_cka.claims.judging import TESTS, Answers, ClaimTest, Judged, Verdict, judge, margin_of
from sj_cka.claims.measurements import MEASUREMENTS, Measurement, selected
from sj_cka.claims.statements import Arm, Claim, path_of
from sj_cka.claims.table import Claimed, claims_table, read_claims
from sj_cka.claims.verdicts import Finding, findings

__all__ = [
    "MEASUREMENTS",
    "ORIGINS",
    "TESTS",
    "Answers",
    "Arm",
    "Claim",
    "ClaimTest",
    "Claimed",
    "Evidence",
    "Finding",
    "Judged",
    "Measurement",
    "Verdict",
    "claims_table",
    "contrast",
    "findings",
    "grid",
    "hanging_on",
    "judge",
    "margin_of",
    "path_of",
    "read_claims",
    "selected",
    "swept",
]
