"""A study from its recipe to its page."""

import re
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from sj_cka import frozen, jobs, recipe
from sj_cka.claims import Finding, claims_table
from sj_cka.claims import findings as judged
from sj_cka.claims.foresight import foreseen, in_words
from sj_cka.disk import try_folder, unfit
from sj_cka.engine import ENGINES, JobFailed, execute, in_order, refuse_unguarded, stand
from sj_cka.figures import Section
from sj_cka.over_seeds import accuracy_summary
from sj_cka.plan import Plan, plan
from sj_cka.plugins import lookup
from sj_cka.processes import joined, world
from sj_cka.provenance import STUDY, backends, environments, provenance, remarks
from sj_cka.report import Edition, Page, answer, write_csv, write_page, write_pngs
from sj_cka.results import Results, evidence_so_far, read_results
from sj_cka.store import Store
from sj_cka.tensorboard import curves


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Args:
        folder: where its files lie: report.html, study.json, cka.csv, accuracy.csv, claims.csv and,
            where a browser is found, PNGs.
        findings: the claims with their verdicts.
        accuracy: columns network, split, mean, low, high, seeds.
        results: all numbers, for own evaluation.
        done: jobs that this run did; the others were finished before.
    """

    folder: Path
    findings: tuple[Finding, ...]
    accuracy: pd.DataFrame
    results: Results = field(repr=False)
    done: int

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def summary(self) -> str:
        """Accuracies, verdicts and the path of the report, for a terminal."""
        width = max(map(len, ["network", *self.accuracy["network"]]))
        lines = ["", f"{'network':{width}}    train     test   95 % interval of test"]
        for network, rows in self.accuracy.groupby("network", sort=False):
            train, test = (rows[rows.split == split].iloc[0] for split in ("train", "test"))
            between = f"{100 * test.low:.1f} to {100 * test.high:.1f}" if test.seeds > 1 else "one seed"
            lines.append(f"{network:{width}}  {100 * train['mean']:5.1f} %  {100 * test['mean']:5.1f} %   {between}")
        if self.findings:
            lines += ["", f"{'verdict':13} {'role':12} claim"]
            lines += [f"{f.verdict:13} {f.role:12} {f.says}" for f in self.findings]
        return "\n".join([*lines, "", f"report: {self.report}"])


def run(
    path: str | Path,
    *,
    profile: str = "quick",
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
    tensorboard: bool = False,
    engine: str | None = None,
) -> StudyResult:
    """Runs a study from its recipe to its report; jobs that are finished already are not done again.

    Started by torchrun, each training is shared by its processes; only the first writes.

    Args:
        path: the recipe, a YAML file.
        profile: "quick" (embedded data, minutes on a laptop), "smoke", "paper", or another of the recipe.
        settings: `key.path=value`, laid over recipe and profile, e.g. `data.path=mine.npz`.
        out: folder of the report; None for figures/<recipe>, or figures/<recipe>-<profile> for others than quick.
        store: folder of finished jobs; None for $SJ_CKA_STORE or .sj_cka/store.
        workers: processes; None for as many as the cores hold, 1 for this process alone. The numbers do not depend on
            it. With more than one, a script must call this under `if __name__ == "__main__":`, as ever where Python
            starts processes.
        progress: show a bar.
        tensorboard: write every epoch, as it ends, into the folder `tensorboard` of the report.
        engine: where jobs run, a name of `sj_cka.engine.ENGINES`; None for processes of this machine.

    Returns:
        A `StudyResult`.

    Raises:
        RecipeError: the recipe, or its data, cannot be used; nothing was run.
        OSError: the report or the store cannot be written (nothing was run), or no longer (what was finished is kept).
        JobFailed: a job could not be done; finished ones are kept.
        UnknownName: no such engine.
    """
    began = time.perf_counter()
    refuse_unguarded()
    if engine is not None:
        lookup(ENGINES, engine, "engine")
    with joined():
        planned, finished = plan(recipe.read(path, profile, settings)), Store(store)
        folder = _folder(planned, out)
        first = world()[0] == 0
        if progress and first:
            print(f"{planned.counted(finished)}\nneurons on {jobs.device().type}: {backends(planned)}")
        if first:
            Edition(folder, _fixed(planned, finished)).try_out()
            if tensorboard:
                try_folder(folder / "tensorboard", "TensorBoard")
            _freeze(planned, finished)
        shown = curves(folder / "tensorboard", in_order(planned.jobs), finished) if tensorboard and first else None
        with shown or nullcontext():
            done = execute(planned.jobs, finished, workers=workers, progress=progress, engine=engine)
        return _finish(planned, finished, folder, done, time.perf_counter() - began, write=first)


def redraw(
    path: str | Path,
    *,
    profile: str = "quick",
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    store: str | Path | None = None,
) -> StudyResult:
    """Makes the report of a study anew from finished jobs, without running any.

    Raises:
        RecipeError: as `run`. JobFailed: a job is not finished yet.
    """
    began = time.perf_counter()
    planned, finished = plan(recipe.read(path, profile, settings)), Store(store)
    standing = stand(in_order(planned.jobs), finished)
    if standing.damaged:
        raise JobFailed(standing.told())
    if missing := standing.missing:
        raise JobFailed(f"{len(missing)} jobs of this study are not finished, first: {missing[0].label}; run it first")
    folder = _folder(planned, out)
    Edition(folder, _fixed(planned, finished)).try_out()
    return _finish(planned, finished, folder, 0, time.perf_counter() - began)


def _freeze(planned: Plan, store: Store) -> list[frozen.Frozen]:
    jobs = in_order(planned.jobs)
    return frozen.freeze(planned.study, store, len(jobs) - len(stand(jobs, store).open), len(jobs))


def outline(
    path: str | Path, *, profile: str = "quick", settings: Sequence[str] = (), store: str | Path | None = None
) -> str:
    """What a study would run, what that costs, and what its seeds can decide, in words.

    Of a public data set that is not there the shape is enough.

    Raises:
        RecipeError: as `run`.
    """
    planned, finished = plan(recipe.read(path, profile, settings), imagined=True), Store(store)
    parts = [planned.counted(finished), planned.costs()]
    if claims := planned.study.recipe.claims:
        swept, seeds = planned.study.swept, len(planned.study.seeds)
        parts.append(f"\n{in_words(foreseen(claims, seeds, swept, evidence_so_far(planned, finished)))}")
    return "\n".join(parts)


def _finish(planned: Plan, store: Store, folder: Path, done: int, seconds: float, *, write: bool = True) -> StudyResult:
    """From finished jobs to tables, verdicts and the page."""
    study, results = planned.study, read_results(planned, store)
    held = _freeze(planned, store)
    findings = judged(study.recipe.claims, results.evidence, frozen.late(held))
    result = StudyResult(folder, findings, accuracy_summary(results.for_all("accuracy")), results, done)
    if not write:
        return result
    shown = [results.section(block) for block in study.recipe.figures]
    ran = environments(planned, store)
    known = provenance(planned, ran, held, done, seconds)
    page = Page(
        study.recipe.title,
        study.recipe.question,
        tuple(answer(finding) for finding in findings),
        tuple(shown),
        known.words(),
        study.source.text,
        (*known.changes, *remarks(planned, ran, results.tables["undefined"])),
    )
    safe = f"all finished jobs are safe in {store.root}, sj-cka report draws it from them"
    with Edition(folder, _fixed(planned, store)).made(safe) as made:
        for name, table in _written(results, findings).items():
            write_csv(table, made / f"{name}.csv")
        (made / STUDY).write_bytes(known.content())
        write_page(page, made / "report.html")
        write_pngs(_stills(study.recipe.figures, shown), made)
    return result


def _written(results: Results, findings: tuple[Finding, ...]) -> dict[str, pd.DataFrame]:
    """Name -> table, of those that a report has; empty ones only where readers look for them."""
    held_out = [(data.block.name["name"], name) for data in results.plan.sets for name in data.samples.held_out]
    tables = results.tables | {
        "claims": claims_table(findings),
        "test_split": pd.DataFrame(held_out, columns=["data", "recording"]),
    }
    del tables["paired"]  # cka has the same values, at every step too
    return {name: table for name, table in tables.items() if len(table) or name in ("cka", "claims", "undefined")}


def _folder(planned: Plan, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    name, profile = planned.study.name, planned.study.profile
    if wrong := unfit(name):
        message = f"expected a file whose name a folder can have, figures/<recipe>, got {name!r}: {wrong}; or give out"
        raise planned.study.error((), message)
    return Path("figures") / (name if profile == "quick" else f"{name}-{profile}")


def _fixed(planned: Plan, store: Store) -> list[Path]:
    """What stays where it is, though it may lie in the folder of the report."""
    return [store.root, planned.study.source.path]


def _stills(blocks: list[recipe.FigureBlock], shown: list[Section]) -> dict[str, object]:
    """File name -> figure for the PNGs: floors and noise ceilings are left to the page."""
    stills: dict[str, object] = {}
    for block, section in zip(blocks, shown, strict=True):
        for panel in section.panels if block.state == "trained" else ():
            parts = [block.name, block.comparison or "", panel.label if len(section.panels) > 1 else ""]
            name = re.sub(r"[^\w.-]+", "_", "_".join(part for part in parts if part))
            again = sum(other == name or other.startswith(f"{name}_again") for other in stills)
            stills[f"{name}_again{again}" if again else name] = panel.figure
    return stills
