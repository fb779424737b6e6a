"""What so many seeds can decide of each claim, before they are run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sj_cka.claims.evidence import Evidence
from sj_cka.claims.inference import LEVEL, MIN_SEEDS
from sj_cka.claims.judging import TESTS, judge, margin_of, measurement_of
from sj_cka.claims.power import ENOUGH, Design, beyond, design_found, inside, least_difference
from sj_cka.claims.statements import NEAR, Claim, GreaterInAll, NearCeiling, Trend


class Foreseen(NamedTuple):
    """What so many seeds can decide of a claim.

    Args:
        claim: of the study.
        seeds: that it is to have.
        spread: where the spread comes from, in words.
        least: the least effect that is found to be beyond the margin with a power of ENOUGH.
        power: of a claim of sameness, if nothing differs; else NaN.
        note: why a primary claim is exploratory.
    """

    claim: Claim
    seeds: int
    spread: str
    least: float
    power: float
    note: str


def design_of(claim: Claim, swept: Mapping[str, float]) -> Design:
    """What a claim rests on before a run: arms as if none shared a network, with the spread that is expected."""
    spread = claim.spread or measurement_of(claim).spread
    weights = np.ones(2 if isinstance(claim, GreaterInAll) else len(claim.arms()))
    if isinstance(claim, Trend):
        x = np.log2(list(swept.values()))
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    squares = weights**2
    return Design(spread * float(squares.sum() ** 0.5), round(float(squares.sum() ** 2 / (squares**2).sum())))


def power_of_sameness(claim: Claim, design: Design, seeds: int) -> float:
    """The probability that a claim of sameness holds where nothing differs; NaN of another."""
    if not TESTS[claim.test].sameness:
        return float("nan")
    if seeds < MIN_SEEDS:
        return 0.0
    if isinstance(claim, NearCeiling):
        return beyond(design, 1 - NEAR, 0.0, seeds, 2 * LEVEL)  # one-sided
    return inside(design, 0.0, margin_of(claim), seeds)


def demoted(claim: Claim, seeds: int, swept: Mapping[str, float]) -> str:
    """Why a claim that is called primary is exploratory, in words; "" where it is not.

    A claim of sameness that so many seeds cannot decide, though nothing differs, is none to build on.
    """
    if not claim.primary or not TESTS[claim.test].sameness:
        return ""
    found = power_of_sameness(claim, design_of(claim, swept), seeds)
    return f"exploratory: with {seeds} seeds its power is {found:.2f}, {ENOUGH:g} was needed" if found < ENOUGH else ""


def foreseen(
    claims: Sequence[Claim], seeds: int, swept: Mapping[str, float], so_far: Evidence | None = None
) -> list[Foreseen]:
    """What so many seeds can decide of each claim, from the spread that is stored or, where there is none, expected."""
    found = []
    for claim in claims:
        design, of = design_of(claim, swept), "expected"
        if so_far is not None:
            known = judge(claim, so_far).estimate
            if known.n > 1 and known.se > 0 and known.df > 0:
                design, of = design_found(known), f"of {known.n} seeds"
        least, power = least_difference(design, margin_of(claim), seeds), power_of_sameness(claim, design, seeds)
        found.append(Foreseen(claim, seeds, f"{design.se:.3g} {of}", least, power, demoted(claim, seeds, swept)))
    return found


def in_words(found: Iterable[Foreseen]) -> str:
    """A line a claim."""
    lines = [f"What the seeds can decide with a power of {ENOUGH:g} (spread: standard error of an effect of one seed):"]
    for one in found:
        margin = margin_of(one.claim)
        what = f"an effect from {one.least:.3g}" if np.isfinite(one.least) else "nothing: that takes two seeds"
        what += f", margin {margin:g}"
        if np.isfinite(one.power):
            of = f"all of the ceiling, from {NEAR:g}" if isinstance(one.claim, NearCeiling) else f"within {margin:g}"
            what = f"sameness, {of}: power {one.power:.2f}"
        role = "exploratory" if one.note or not one.claim.primary else "primary"
        lines.append(f"  {role:11}  {what}, spread {one.spread}: {one.claim.says}")
    return "\n".join(lines)
