"""The ledger as Markdown: what became of all claims, then a line a claim and run, then what nobody has run."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from math import floor, isfinite, log10
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from sj_cka.claims import TESTS, Claimed, Verdict
from sj_cka.claims.controls import DISAGREE
from sj_cka.claims.pooling import REPEATED
from sj_cka.ledger.reports import Report
from sj_cka.ledger.runs import Line, StudyRuns
from sj_cka.ledger.unrun import Unrun
from sj_cka.over_seeds import Interval

_VERDICTS = (*get_args(Verdict), "not repeated")
_COLUMNS = ["row", "study", "claim", "test", "verdict", "role", "value", "margin", "interval", "seeds", "p", "controls"]
_COLUMNS += ["agree", "source", "date", "hash"]
_NOTHING = "–"

_INTRODUCTION = """\
# Ledger

Every claim of every study, whatever became of it. Written by `sj-cka ledger` from the folders of the reports; `make
figures` draws those of the gallery anew from finished jobs, runs what is missing, and writes this page.
[How to read it](#how-to-read-it). [What nobody has run](#what-nobody-has-run).
"""

_HOW_TO_READ = f"""\
## How to read it

- *row*: what to call it, and to link to: `#depth-3` is the third claim of the report in the folder depth,
  `#depth-3-runs` the same over all runs.
- *verdict*: *holds*, *contradicted* and *equivalent* are what an interval over seeds says against the margin,
  *undecided* that it says nothing, *not trained* that a network stayed below the training accuracy that its recipe asks
  for.
- *role*: primary claims are those that a study is made for.
- *value*: {{effects}}; positive where a is larger. Its *interval* is of 95 %, or of 90 % where it says so.
- *p*: of a primary claim after Holm over those of its study; of an exploratory one as it is.
- *controls*: whether all that must not pass for the same is found out (held), and whether both halves of the images say
  the same.
- *agree*: specifications of layers, scale and time that say the same.
- *date*: when the report was drawn; its jobs may be older. *commit* is that of the drawing, too; *CPU hours* are those
  of all jobs of a study, also of those that another study shares.
- *hash*: the first 12 digits of the SHA-256 of claims.csv, as the manifest of the report has it.
- {_NOTHING}: there is none, or a report of an earlier version does not tell.

A study that was run more than once, with other seeds and nothing else changed, has a line for each run and one over all
runs: the mean weighted by seeds, judged as one run is, with controls that must hold in every run. It is *not repeated*
where the runs differ at p < {REPEATED:g} (Welch), or where one is decided otherwise than another. A claim that rests
on several estimates (near_ceiling, greater_in_all) is not pooled: it counts as what all its runs say, else as
undecided.
"""


def markdown(
    studies: Sequence[StudyRuns], unrun: Sequence[Unrun], damaged: Sequence[str], beside: Path, recipes: bool = True
) -> str:
    """The ledger.

    Args:
        studies: in order.
        unrun: what is missing.
        damaged: reports that were left out, with the reason.
        beside: folder that links start from.
        recipes: whether there were any to look at.
    """
    called = _called([report for study in studies for report in study.reports])
    parts = [
        _INTRODUCTION,
        _table(["", "claims", *_VERDICTS], _counts(studies), numeric=True),
        _left_out(damaged),
        "## Claims\n",
        _table(_COLUMNS, [row for study in studies for row in _rows(study, beside, called)]),
        "## Studies\n",
        _table(
            ["study", "title", "profile", "seeds", "CPU hours", "commit", "claims fixed"],
            [_run(report, beside) for study in studies for report in study.reports],
        ),
        "".join(f"- {_cell(note)}\n" for study in studies for note in study.notes),
        "## What nobody has run\n",
        _missing(unrun, beside, recipes),
        _HOW_TO_READ.format(effects=_effects()),
    ]
    return "\n".join(part for part in parts if part)


def counted(studies: Sequence[StudyRuns]) -> str:
    """How many claims there are, and what became of them, in a sentence."""
    counts = Counter(line.verdict for study in studies for line in study.lines)
    became = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _VERDICTS if counts[verdict])
    return f"{counts.total()} claims of {len(studies)} stud{'y' if len(studies) == 1 else 'ies'}: {became or 'none'}"


def _effects() -> str:
    """What the value of each test is, in words."""
    by_effect: dict[str, list[str]] = {}
    for name, test in TESTS.items():
        by_effect.setdefault(test.effect, []).append(name)
    return ", ".join(f"{effect} ({_cell(', '.join(names))})" for effect, names in by_effect.items())


def _counts(studies: Sequence[StudyRuns]) -> Iterator[list[str]]:
    """A row for primary claims, exploratory ones and all."""
    lines = [line for study in studies for line in study.lines]
    of = {
        "primary": [line for line in lines if line.primary],
        "exploratory": [line for line in lines if not line.primary],
        "all": lines,
    }
    for name, among in of.items():
        counts = Counter(line.verdict for line in among)
        yield [name, str(len(among)), *(str(counts[verdict]) for verdict in _VERDICTS)]


def _left_out(damaged: Sequence[str]) -> str:
    lines = [f"- {_cell(why)}\n" for why in damaged]
    why = "Left out, because they cannot be read or do not hold what was written into them:\n\n"
    return "".join([why, *lines]) if lines else ""


def _called(reports: Iterable[Report]) -> dict[Path, str]:
    """Folder of a report -> what its rows are called by: its name, of letters, digits and hyphens, and no other's."""
    called: dict[Path, str] = {}
    for report in reports:
        name = re.sub(r"[^\w-]+", "-", report.name)
        same = chain([name], (f"{name}-folder{i}" for i in count(2)))
        called[report.folder] = next(one for one in same if one not in called.values())
    return called


def _rows(study: StudyRuns, beside: Path, called: Mapping[Path, str]) -> Iterator[list[str]]:
    for number, line in enumerate(study.lines, 1):
        for report, claim in line.runs:
            yield [_anchor(f"{called[report.folder]}-{number}"), *_row(report, claim, beside)]
        if line.pooled is not None:
            yield [_anchor(f"{called[study.reports[0].folder]}-{number}-runs"), *_over_runs(study, line)]


def _anchor(name: str) -> str:
    """What a row is called, and where links to it lead."""
    return f'<a id="{name}"></a>{_cell(name)}'


def _row(report: Report, claim: Claimed, beside: Path) -> list[str]:
    """A claim as one run found it."""
    return [
        _link(report.name, report.folder, beside),
        *map(_cell, (claim.says, claim.test, claim.verdict, _role(claim.primary))),
        *_numbers(claim.estimate, claim.margin, claim.confidence, claim.p),
        *map(_cell, (_controls(claim), claim.agree, claim.source)),
        _cell("" if report.study is None else report.study.time.partition(" ")[0]),
        _cell(report.sha256[:12]),
    ]


def _over_runs(study: StudyRuns, line: Line) -> list[str]:
    """A claim over all runs."""
    pooled, (_, claim) = line.pooled, line.runs[0]
    assert pooled is not None
    over = pooled.found.interval(pooled.confidence / 100)
    other = "; runs are over other layers" if len({one.layers for _, one in line.runs}) > 1 else ""
    return [
        _cell(f"{study.reports[0].name}, {len(study.reports)} runs"),
        *map(_cell, (claim.says, claim.test, pooled.verdict, _role(pooled.primary))),
        *_numbers(over, claim.margin, pooled.confidence, pooled.p),
        *map(_cell, (f"runs differ: p {_p(pooled.differing)}{other}", "", claim.source, "", "")),
    ]


def _numbers(over: Interval, margin: float, confidence: int, p: float) -> list[str]:
    """The cells value, margin, interval, seeds and p."""
    places = digits((over.high - over.low) / 2)
    between = f"{over.low:.{places}f} to {over.high:.{places}f}" if isfinite(over.low) else ""
    if between and confidence != 95:
        between = f"{confidence} %: {between}"
    value = f"{over.mean:+.{places}f}" if isfinite(over.mean) else ""
    return list(map(_cell, (value, f"{margin:g}", between, str(over.n), _p(p))))


def digits(half_width: float) -> int:
    """Decimals of an estimate of which two digits of half its interval are shown; 3 where that is not known.

    Example:
        >>> [digits(half) for half in (0.058, 0.16, 12.0, 0.0011, float("nan"))]
        [3, 2, 0, 4, 3]
    """
    return min(6, max(0, 1 - floor(log10(half_width)))) if isfinite(half_width) and half_width > 0 else 3


def _p(p: float) -> str:
    return "" if not isfinite(p) else "<.001" if p < 0.001 else f"{p:.2g}"


def _controls(claim: Claimed) -> str:
    """What became of what a claim must fail, and whether both halves of the images agree."""
    halves = [f"halves {DISAGREE}"] if DISAGREE in claim.controls else []
    return "; ".join([*filter(None, (claim.gates, claim.missed)), *halves])


def _role(primary: bool) -> str:
    return "primary" if primary else "exploratory"


def _run(report: Report, beside: Path) -> list[str]:
    """What is known of a run."""
    name, run = _link(report.name, report.folder, beside), report.study
    if run is None:
        return [name, *[_NOTHING] * 6]
    hours = f"{sum(run.cpu_s.values()) / 3600:.3g}" + (" and more" if run.unknown else "")
    changed = f" with {', '.join(run.changed)}" if run.changed else ""
    profile = run.profile + changed + (", smaller than the paper's" if run.smaller else "")
    seeds, since = ", ".join(map(str, run.seeds)), "; changed since" if run.changes else ""
    return [name, *map(_cell, (run.title, profile, seeds, hours, run.commit, run.fixed + since))]


def _missing(unrun: Sequence[Unrun], beside: Path, recipes: bool) -> str:
    if not recipes and not unrun:
        return "Not known: there was no recipe to look at.\n"
    if not unrun:
        return "Every profile of every recipe has a report here.\n"
    rows = [
        [
            one.name if one.file is None else _link(one.name, one.file, beside),
            _cell(", ".join(one.never)),
            _cell(", ".join(one.unreported)),
        ]
        for one in unrun
    ]
    first = next((one for one in unrun if one.file is not None), None)
    command = ""
    if first is not None:
        profile = (*first.never, *first.unreported)[0]
        command = (
            "\nWhat one of them would take, before it is run (without `--dry-run`):\n"
            f"\n    sj-cka run {first.file} --profile {profile} --dry-run\n"
        )
    return _table(["recipe", "profiles that nobody has run", "others without a report here"], rows) + command


def _link(text: str, to: Path, beside: Path) -> str:
    relative = Path(os.path.relpath(to.resolve(), beside.resolve())).as_posix()
    return f"[{_cell(text)}]({quote(relative)})"


def _cell(text: str) -> str:
    r"""A text in a cell: on one line, and nothing in it taken for Markdown.

    Example:
        >>> print(_cell("a_b | c\n*.snn"), _cell(""))
        a_b \| c \*.snn –
    """
    return re.sub(r"([\\|<>*`\[\]~]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split())) or _NOTHING


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: bool = False) -> str:
    rule = ["---", *["---:" if numeric else "---"] * (len(headings) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (headings, rule, *rows))
