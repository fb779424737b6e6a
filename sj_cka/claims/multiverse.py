"""Whether a verdict hangs on how CKA was taken: the same claim under every specification that the results hold."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from sj_cka.claims.block_patterns import place_in_block
from sj_cka.claims.evidence import Evidence
from sj_cka.claims.judging import Judged, judge, verdict_of
from sj_cka.claims.measurements import MEASUREMENTS
from sj_cka.claims.statements import Claim

LAYER_SETS = ("all", "neurons", "block outputs")
SCALES = ("raw", "over ceiling", "angle")


class Agreement(NamedTuple):
    """How many specifications say the same as the verdict, of how many, and which do not."""

    agree: int
    of: int
    others: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.agree} of {self.of}"


def agreement(claim: Claim, judged: Judged, verdict: str, evidence: Evidence) -> Agreement | None:
    """How many specifications agree with a verdict; None where a claim has one alone.

    Over layer sets, scales and times, as far as the evidence has them. Margins and values are of the raw scale: on
    others a specification agrees with an effect that was found, in one direction, where its own has the same sign and
    an interval that leaves out 0. On the raw scale it agrees where it says the same, uncorrected.
    """
    directed = claim.test in ("greater", "less", "trend", "greater_in_all") and verdict in ("holds", "contradicted")
    said, found = verdict_of(judged.answers, min(judged.answers)), dict[str, bool]()
    for name, given, changed in _specifications(claim, evidence, SCALES if directed else SCALES[:1]):
        other = judge(changed, given)
        if not np.isfinite(other.estimate.value):
            continue
        if directed:
            over, same = other.estimate.interval(), np.sign(other.estimate.value) == np.sign(judged.estimate.value)
            found[name] = bool(same and (over.low > 0 or over.high < 0))
        else:
            found[name] = verdict_of(other.answers, min(other.answers)) == said
    if len(found) < 2:
        return None
    return Agreement(sum(found.values()), len(found), tuple(name for name, agrees in found.items() if not agrees))


def _specifications(claim: Claim, evidence: Evidence, scales: tuple[str, ...]) -> Iterator[tuple[str, Evidence, Claim]]:
    """Name, evidence and claim of every specification of a claim on similarity."""
    arms = list(claim.arms().values())
    if any(MEASUREMENTS[arm.measure].table != "paired" for arm in arms):
        return
    plain = all(arm.measure == "paired_cka" for arm in arms)
    if not plain or any(str(arm.comparison) in evidence.titles_of_others for arm in arms):
        scales = SCALES[:1]
    if any(arm.minus for arm in arms):
        scales = tuple(scale for scale in scales if scale != "over ceiling")
    sets = LAYER_SETS if plain and not any(arm.layers for arm in arms) else LAYER_SETS[:1]
    for (time, table), layers, scale in product(evidence.times.items(), sets, scales):
        rows = table[table["layer"].isin(_layers(table, layers, evidence))]
        if rows.empty:
            continue
        if scale == "angle":
            rows = rows.assign(cka=angular(rows["cka"]))
        given = replace(evidence, tables={**evidence.tables, "paired": rows})
        yield f"{layers}, {scale}, {time}", given, _over_ceiling(claim) if scale == "over ceiling" else claim


def angular(cka: pd.Series) -> pd.Series:
    """1 - 2 arccos(CKA) / pi: 1 where two Grams point the same way, 0 where they are at right angles."""
    return 1 - 2 * np.arccos(cka.clip(-1, 1)) / np.pi


def _layers(table: pd.DataFrame, which: str, evidence: Evidence) -> set[str]:
    names = set(table["layer"])
    if which == "neurons":
        return names & evidence.neurons
    if which == "block outputs":
        return {name for name in names if place_in_block(name)[0] and not place_in_block(name)[1]}
    return names


def _over_ceiling(claim: Claim) -> Claim:
    """The claim with values over their noise ceilings in all its arms."""
    changed = claim.model_dump(exclude_none=True)
    for arms in (changed, *changed.get("pairs", ())):
        for arm in {"a", "b", "c", "d"} & arms.keys():
            arms[arm]["measure"] = "cka_over_ceiling"
    return type(claim).model_validate(changed)
