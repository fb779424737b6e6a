"""Verdicts on the claims of a study, all at once: primary ones are corrected for their number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sj_cka.claims import controls
from sj_cka.claims.arms import Levels
from sj_cka.claims.effects import compared_in, network_arms, networks_of
from sj_cka.claims.evidence import Evidence
from sj_cka.claims.foresight import demoted
from sj_cka.claims.inference import Estimate, corrected
from sj_cka.claims.judging import (
    TESTS,
    Judged,
    Part,
    Verdict,
    believed,
    judge,
    margin_of,
    measurement_of,
    reason_of,
    verdict_of,
)
from sj_cka.claims.measurements import MEASUREMENTS
from sj_cka.claims.multiverse import Agreement, agreement
from sj_cka.claims.power import MOST_SEEDS, seeds_needed
from sj_cka.claims.statements import Above, Below, Claim
from sj_cka.over_seeds import Interval

_NOTHING, _NO_ESTIMATE = Interval(np.nan, np.nan, np.nan, 0), Estimate(np.nan, np.nan, np.nan, 0)


@dataclass(frozen=True)
class Finding:
    """A claim with what was measured and how it was judged.

    Args:
        says, source, test: of the claim.
        verdict: what follows.
        primary: whether it was corrected for the number of primary claims; else it is exploratory.
        measured: in words.
        estimate: the effect, with its interval.
        corrected: the same with the interval of all primary claims together (Bonferroni); NaN of an exploratory one.
        p: the least p-value of its answers.
        p_corrected: after Holm over the primary claims; of an exploratory claim p itself.
        margin, reason: differences within it are of no matter, and why.
        arms: value, floor and ceiling, by key.
        needed: of an undecided claim how many seeds would decide it, in words.
        note: what a reader must know.
        controls: what stands beside it, in words.
        agreement: how many specifications say the same; None where there is one alone.
        confidence: of the intervals, in %.
        found: the effect with its standard error and degrees of freedom.
        direction: where the claim puts the effect, a name of READINGS; "" where its verdict rests on several effects.
        value: that the effect is the distance from; NaN where there is none.
        gates: what the claim must fail and does not, or is not told from, in words; "held" where it fails all; "" where
            there is nothing.
        missed: what was compared and is not what was to be, in words.
    """

    says: str
    source: str
    test: str
    verdict: Verdict
    primary: bool
    measured: str
    estimate: Interval
    corrected: Interval = _NOTHING
    p: float = 1.0
    p_corrected: float = 1.0
    margin: float = 0.0
    reason: str = ""
    arms: Mapping[str, Levels] = field(default_factory=dict)
    needed: str = ""
    note: str = ""
    controls: tuple[str, ...] = ()
    agreement: Agreement | None = None
    confidence: int = 95
    found: Estimate = _NO_ESTIMATE
    direction: str = ""
    value: float = np.nan
    gates: str = ""
    missed: str = ""

    @property
    def role(self) -> str:
        """Whether a claim is one of those that the study is made for."""
        return "primary" if self.primary else "exploratory"


class _Case(NamedTuple):
    """A claim as judged, and what speaks against an answer.

    Args:
        judged: by its test.
        missed: what was compared and is not what was to be, in words.
        passing: what must not pass and does, in words.
        untrained: networks of it that miss the training accuracy that the study asks for.
        exploratory: why it is none of the primary claims, though the recipe calls it one; "" where it is.
    """

    claim: Claim
    judged: Judged
    missed: list[str]
    passing: list[str]
    untrained: list[str]
    exploratory: str

    @property
    def primary(self) -> bool:
        return self.claim.primary and not self.exploratory

    @property
    def p(self) -> float:
        return 1.0 if self.untrained else min(self.judged.answers)


def findings(claims: Sequence[Claim], evidence: Evidence, late: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """The verdict on every claim of a study.

    Args:
        claims: of the study.
        evidence: its numbers.
        late: sentence of a claim -> why it cannot be primary, where it was changed after a first run.
    """
    cases = [_case(claim, evidence, (late or {}).get(claim.says, "")) for claim in claims]
    primary = [case.primary for case in cases]
    over = corrected([case.p for case in cases], primary)
    count = max(1, sum(primary))
    return tuple(_finding(case, p, count, evidence) for case, p in zip(cases, over, strict=True))


def _case(claim: Claim, evidence: Evidence, late: str) -> _Case:
    judged = judge(claim, evidence)
    missed, passing = _missed(claim, evidence), list(controls.gates(claim, evidence))
    judged = judged._replace(answers=believed(judged.answers, missed=bool(missed), passing=bool(passing)))
    weak = demoted(claim, judged.estimate.n, evidence.swept)
    untrained = evidence.not_trained(networks_of(claim, evidence))
    return _Case(claim, judged, missed, passing, untrained, late if claim.primary and late else weak)


def _missed(claim: Claim, evidence: Evidence) -> list[str]:
    """Comparisons that are not at the success rate that they were to have, and networks without a number."""
    places = (place for place in compared_in(claim, evidence) if place in evidence.unequal)
    return list(dict.fromkeys([*(evidence.unequal[place] for place in places), *_unknown(claim, evidence)]))


def _unknown(claim: Claim, evidence: Evidence) -> Iterator[str]:
    """Seeds of networks that have no number, and why."""
    if measurement_of(claim).of != "network":
        return
    for arm in network_arms(claim, evidence).values():
        values, _ = evidence.of_network(arm)
        if seeds := ", ".join(map(str, values.index[values.isna()])):
            why = MEASUREMENTS[arm.measure].unknown or "it has no number"
            yield f"{arm.network}, seed {seeds}: {why}"


def _finding(case: _Case, p: float, count: int, evidence: Evidence) -> Finding:
    claim, judged, test = case.claim, case.judged, TESTS[case.claim.test]
    verdict: Verdict = "not trained" if case.untrained else verdict_of(judged.answers, p)
    blocked = [*case.missed, *case.passing]
    notes = [case.exploratory, *blocked, judged.note]
    if case.untrained:
        notes.insert(0, f"training accuracy below {evidence.trained_at:g}: {', '.join(case.untrained)}")
    level = 1 - test.confidence / 100
    needed = _needed(judged, level / count if case.primary else level) if verdict == "undecided" else ""
    return Finding(
        claim.says,
        claim.source,
        claim.test,
        verdict,
        case.primary,
        judged.words,
        judged.estimate.interval(1 - level),
        judged.estimate.interval(1 - level / count) if case.primary else _NOTHING,
        min(judged.answers),
        1.0 if case.untrained else p,
        margin_of(claim),
        reason_of(claim),
        judged.arms,
        "" if blocked else needed,
        "; ".join(filter(None, notes)),
        tuple(controls.beside(judged, margin_of(claim))),
        agreement(claim, judged, verdict, evidence),
        test.confidence,
        judged.estimate,
        judged.direction,
        claim.value if isinstance(claim, Above | Below) else np.nan,
        "; ".join(case.passing) or controls.found(claim, judged),
        "; ".join(case.missed),
    )


def _needed(judged: Judged, level: float) -> str:
    """How many seeds would decide a claim, in words; "" where nothing is known of it, or an effect points elsewhere."""
    parts = [part for part in judged.parts if part.open] or [Part(judged.estimate, judged.margin, True)]
    if judged.estimate.n < 2 or any(part.margin == 0 and part.estimate.value <= 0 for part in judged.parts):
        return ""
    seeds = [seeds_needed(part.estimate, part.margin, level) for part in parts]
    most = max((of for of in seeds if of is not None), default=0)
    return f"more than {MOST_SEEDS} seeds" if None in seeds else f"about {most} seeds"
