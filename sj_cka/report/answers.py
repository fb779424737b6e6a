"""Judged claims as the page states them."""

from __future__ import annotations

import pandas as pd

from sj_cka.claims import TESTS, Finding, Interval
from sj_cka.report.page import Answer


def answer(finding: Finding) -> Answer:
    """A judged claim as the page states it."""
    parts = [finding.measured, f"{TESTS[finding.test].effect} {_numbers(finding.estimate)}"]
    if finding.learned_estimate is not None:
        parts.append(f"training added {_numbers(finding.learned_estimate)}")
    if finding.note:
        parts.append(finding.note)
    return Answer(finding.says, finding.verdict, finding.learned, "; ".join(parts), finding.source)


def _numbers(estimate: Interval) -> str:
    if pd.isna(estimate.mean):
        return "undefined"
    if estimate.n < 2:
        return f"{estimate.mean:+.3f} (one seed, no interval)"
    return f"{estimate.mean:+.3f} (95 % interval {estimate.low:+.3f} to {estimate.high:+.3f}, {estimate.n} seeds)"
