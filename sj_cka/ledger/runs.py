"""Reports of one study: those of runs with other seeds and the same design are put together, claim by claim."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import NamedTuple

from sj_cka.claims import Claimed
from sj_cka.claims.pooling import Pooled, over_runs
from sj_cka.ledger.reports import Report
from sj_cka.provenance import Provenance


class Line(NamedTuple):
    """A claim of a study.

    Args:
        runs: what each run found of it, as (report, finding).
        pooled: the same over all runs; None where it is not pooled.
    """

    runs: tuple[tuple[Report, Claimed], ...]
    pooled: Pooled | None

    @property
    def verdict(self) -> str:
        """The one that counts: over all runs; where they are not pooled what all say, else that it is undecided."""
        if self.pooled is not None:
            return self.pooled.verdict
        said = {claim.verdict for _, claim in self.runs}
        return said.pop() if len(said) == 1 else "undecided"

    @property
    def primary(self) -> bool:
        """Whether it is primary in every run."""
        return all(claim.primary for _, claim in self.runs)


@dataclass(frozen=True)
class StudyRuns:
    """A study with all its runs.

    Args:
        reports: of its runs.
        lines: its claims, in the recipe's order.
        notes: what is to be said of runs that were, or were not, put together.
    """

    reports: tuple[Report, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


def studies(reports: Sequence[Report]) -> list[StudyRuns]:
    """The studies that reports are of, by name: those of one recipe and profile are one study, where they may be."""
    found = []
    for _, group in groupby(sorted(reports, key=lambda report: report.of), key=lambda report: report.of):
        of_one = sorted(group, key=lambda report: report.name)
        if why := list(dict.fromkeys(_apart(of_one))):
            names = ", ".join(report.name for report in of_one)
            found += [_study([report]) for report in of_one]
            found[-1] = StudyRuns(found[-1].reports, found[-1].lines, (f"{names} are not pooled: {'; '.join(why)}.",))
        else:
            found.append(_study(of_one))
    return sorted(found, key=lambda study: study.reports[0].name)


def _apart(reports: Sequence[Report]) -> Iterator[str]:
    """Why reports are not of one study that was run with several seeds, in words."""
    for one, other in combinations(reports, 2):
        if one.study is None or other.study is None:
            yield "a report of an earlier version does not tell its design"
        else:
            yield from differing(one.study, other.study)


def differing(one: Provenance, other: Provenance) -> Iterator[str]:
    """Why two runs are not one study run twice, in words; nothing where they are."""
    parts = [part for part in one.design | other.design if part != "seeds"]
    if changed := [part for part in parts if one.design.get(part) != other.design.get(part)]:
        yield f"they differ in {', '.join(changed)}"
    if [held for _, held in one.data] != [held for _, held in other.data]:
        yield "they differ in what their data hold"
    if kinds := [kind for kind in one.kinds | other.kinds if one.kinds.get(kind) != other.kinds.get(kind)]:
        yield f"they differ in the version of {', '.join(kinds)} jobs"
    if shared := sorted(set(one.seeds) & set(other.seeds)):
        yield f"both have seed {', '.join(map(str, shared))}"


def _study(reports: Sequence[Report]) -> StudyRuns:
    """Reports of one design, whose claims may yet differ."""
    runs: dict[tuple[str, int], list[tuple[Report, Claimed]]] = {}
    for report in reports:
        seen = Counter[str]()  # a study may have two claims of one sentence
        for claim in report.claims:
            runs.setdefault((claim.says, seen[claim.says]), []).append((report, claim))
            seen[claim.says] += 1
    alike = [len(of) == len(reports) and _is_one([report for report, _ in of], says) for (says, _), of in runs.items()]
    claims = [[claim for _, claim in of] for of in runs.values()]
    # what differs between runs is judged in each of them alone, and keeps its place among the primary ones
    pooled = over_runs([of if same else of[:1] for of, same in zip(claims, alike, strict=True)])
    changed = [says for (says, _), same in zip(runs, alike, strict=True) if not same]
    notes = []
    if len(reports) > 1:
        names = ", ".join(report.name for report in reports)
        notes.append(f"{names}: {sum(line is not None for line in pooled)} of {len(runs)} claims are pooled.")
        notes += [f"Not pooled, because the claim is not the same in all of {names}: {says}" for says in changed]
    lines = tuple(Line(tuple(of), over) for of, over in zip(runs.values(), pooled, strict=True))
    return StudyRuns(tuple(reports), lines, tuple(notes))


def _is_one(reports: Sequence[Report], says: str) -> bool:
    """Whether a sentence stands for the same claim in all reports."""
    return len({report.study and report.study.claims.get(says) for report in reports}) == 1
