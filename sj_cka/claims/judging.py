"""The tests that a claim can be put to, each with all there is to know of it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from sj_cka.claims.arms import Levels, high_layers, of_comparison, over_ceiling, shared_layers
from sj_cka.claims.ceilings import low_layers
from sj_cka.claims.effects import effect_of, used, weighted
from sj_cka.claims.evidence import Evidence
from sj_cka.claims.inference import LEVEL, UNKNOWN, Chances, Estimate, chances
from sj_cka.claims.measurements import MEASUREMENTS, Column, Measurement, beyond_wrong
from sj_cka.claims.statements import (
    NEAR,
    Above,
    Below,
    Claim,
    Differs,
    Greater,
    GreaterInAll,
    Less,
    NearCeiling,
    OneArm,
    Same,
    Trend,
)
from sj_cka.plugins import lookup


class Answers(NamedTuple):
    """p-values of the answers to a claim; the least of them is its own."""

    holds: float
    contradicted: float
    equivalent: float = 1.0


class Part(NamedTuple):
    """An effect that must be decided for a claim to be, and the margin that it is set against."""

    estimate: Estimate
    margin: float
    open: bool


class Judged(NamedTuple):
    """A claim as its test judges it, before anything is corrected.

    Args:
        answers: p-values.
        estimate: of the effect that is shown.
        words: what was measured.
        note: what a reader must know of it.
        arms: what stands side by side, by key.
        parts: what must be decided; empty for the estimate alone.
        margin: that the estimate is set against.
        direction: a name of READINGS, where the answers follow from the estimate alone; "" where from several.
    """

    answers: Answers
    estimate: Estimate
    words: str
    note: str = ""
    arms: Mapping[str, Levels] = {}
    parts: tuple[Part, ...] = ()
    margin: float = 0.0
    direction: str = ""


Verdict = Literal["holds", "contradicted", "equivalent", "undecided", "not trained"]


def verdict_of(answers: Answers, p: float) -> Verdict:
    """The answer with the least p-value, where that is, corrected, at most LEVEL."""
    if not p <= LEVEL:
        return "undecided"
    said: tuple[Verdict, ...] = ("holds", "contradicted", "equivalent")
    return said[answers.index(min(answers))]


def believed(answers: Answers, *, missed: bool, passing: bool) -> Answers:
    """What is left of the answers to a claim that something speaks against.

    Args:
        answers: p-values.
        missed: what was compared is not what was to be: nothing is left.
        passing: what must not pass does so as well, or could not be tried: that the claim holds says nothing.
    """
    if missed:
        return Answers(1.0, 1.0)
    return answers._replace(holds=1.0) if passing else answers


Direction = Literal["up", "down", "apart", "together"]
READINGS: dict[str, Callable[[Chances], Answers]] = {
    "up": lambda p: Answers(p.above, p.below, p.within),
    "down": lambda p: Answers(p.below, p.above, p.within),
    "apart": lambda p: Answers(min(p.above, p.below), p.within),
    "together": lambda p: Answers(p.within, min(p.above, p.below)),
}
"""`Direction`, where a claim puts its one effect -> what the p-values of the effect say of the claim."""


def measurement_of(claim: Claim) -> Measurement:
    """What its arms measure, or the first of them: all are on one scale."""
    return MEASUREMENTS[next(iter(claim.arms().values())).measure]


def margin_of(claim: Claim) -> float:
    """Differences within it are of no matter: what the claim says, or its measurement; of a line that is drawn, 0."""
    if isinstance(claim, NearCeiling):
        return 0.0
    if claim.margin is not None:
        return claim.margin
    return measurement_of(claim).margin


def reason_of(claim: Claim) -> str:
    """Why differences within the margin are of no matter."""
    if isinstance(claim, NearCeiling):
        return f"{NEAR:g} of the ceiling is the line"
    return claim.reason or measurement_of(claim).reason


def one_effect(
    claim: OneArm, evidence: Evidence, *, direction: Direction, columns: Mapping[str, Column] | None = None
) -> Judged:
    """A claim on one effect.

    Args:
        claim: of the study.
        evidence: its numbers.
        direction: where the claim puts it.
        columns: as of `effect_of`.
    """
    effect = effect_of(claim, evidence, columns)
    margin = margin_of(claim)
    answers = READINGS[direction](chances(effect.estimate, margin))
    levels = {key: sample.levels for key, sample in effect.arms.items()}
    return Judged(answers, *effect[:3], levels, margin=margin, direction=direction)


def trend(claim: Trend, evidence: Evidence, columns: Mapping[str, Column] | None = None) -> Judged:
    """A slope, in the direction that the claim says."""
    return one_effect(claim, evidence, direction=claim.direction, columns=columns)


def near_ceiling(claim: NearCeiling, evidence: Evidence, columns: Mapping[str, Column] | None = None) -> Judged:
    """Value over ceiling against NEAR, and layers of one name above those of different names."""
    arm, column = claim.a, (columns or {}).get("a", "cka")
    shared = shared_layers({"a": arm}, evidence)["a"]
    layers = high_layers(arm, evidence, shared)
    sample = over_ceiling(arm, evidence, layers, column=column)
    value, right, best = (of_comparison(arm, evidence, layers, column=of) for of in (column, beyond_wrong, "best"))
    share, apart = weighted([(1.0, sample)], NEAR), weighted([(1.0, right)])
    p, above = chances(share, 0.0), chances(apart, 0.0)
    levels = value.levels
    words = (
        f"{evidence.label(arm)} {levels.value:.3f}, ceiling {levels.ceiling:.3f}, floor {levels.floor:.3f}; "
        f"{share.value + NEAR:.3f} of the ceiling; {apart.value:+.3f} above layers of other names; the layer of the "
        f"same name is the best match for {100 * best.levels.value:.0f} % of the layers"
    )
    note = "; ".join(filter(None, [used(claim, {"a": value}), low_layers(shared, layers), sample.note]))
    # two answers, of which one is true: each has all of LEVEL, one-sided
    answers = Answers(1.0, 1.0) if p == UNKNOWN else Answers(max(p.above, above.above) / 2, p.below / 2)
    parts = Part(share, 0.0, p.above / 2 > LEVEL), Part(apart, 0.0, above.above / 2 > LEVEL)
    return Judged(answers, share, words, note, {"a": levels}, parts)


def in_all(claim: GreaterInAll, evidence: Evidence) -> Judged:
    """Pairs that must all hold: p-values of all of them, or, to contradict, of one among so many."""
    found = [one_effect(part, evidence, direction="up") for part in claim.parts()]
    least = min(found, key=lambda judged: judged.estimate.value)
    answers = Answers(
        max(judged.answers.holds for judged in found),
        min(1.0, len(found) * min(judged.answers.contradicted for judged in found)),
        max(judged.answers.equivalent for judged in found),
    )
    words = "; ".join(f"{i}: {judged.words}" for i, judged in enumerate(found, 1))
    note = "; ".join(dict.fromkeys(judged.note for judged in found if judged.note))
    arms = {f"{i}.{key}": levels for i, judged in enumerate(found, 1) for key, levels in judged.arms.items()}
    parts = tuple(Part(judged.estimate, margin_of(claim), min(judged.answers) > LEVEL) for judged in found)
    return Judged(answers, least.estimate, words, note, arms, parts, margin_of(claim))


class ClaimTest(NamedTuple):
    """An entry of TESTS.

    Args:
        block: what a recipe says of the claim; its field `test` is `Literal[<name of the entry>]`.
        effect: what the estimate of a finding is, in words.
        judge: (claim, evidence) -> what was measured and how it was judged; with `columns` as of `effect_of` where it
            is a claim of sameness.
        sameness: it states that two things are alike: it must then fail for wrong layers and for permuted samples.
        confidence: in %, of the interval by which it is judged.
    """

    block: type[Claim]
    effect: str
    judge: Callable[..., Judged]
    sameness: bool = False
    confidence: int = 95


TESTS: dict[str, ClaimTest] = {
    "greater": ClaimTest(Greater, "difference", functools.partial(one_effect, direction="up")),
    "less": ClaimTest(Less, "difference", functools.partial(one_effect, direction="down")),
    "differs": ClaimTest(Differs, "difference", functools.partial(one_effect, direction="apart")),
    "same": ClaimTest(Same, "difference", functools.partial(one_effect, direction="together"), True, 90),
    "greater_in_all": ClaimTest(GreaterInAll, "least of the differences", in_all),
    "above": ClaimTest(Above, "distance from it", functools.partial(one_effect, direction="up")),
    "below": ClaimTest(Below, "distance from it", functools.partial(one_effect, direction="down")),
    "near_ceiling": ClaimTest(NearCeiling, f"share of the ceiling beyond {NEAR:g}", near_ceiling, True, 90),
    "trend": ClaimTest(Trend, "slope per doubling", trend),
}


def judge(claim: Claim, evidence: Evidence, columns: Mapping[str, Column] | None = None) -> Judged:
    """What the test of a claim says of it, before anything is corrected."""
    test: ClaimTest = lookup(TESTS, claim.test, "test")
    arguments: dict[str, Any] = {} if columns is None else {"columns": columns}
    return test.judge(claim, evidence, **arguments)
