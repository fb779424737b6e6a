"""A study from its recipe to its page."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from sj_cka import jobs, recipe, sections, tables
from sj_cka.claims import Finding, judge
from sj_cka.engine import JobFailed, execute, in_order
from sj_cka.outline import costs, counted, described
from sj_cka.plan import Plan, plan
from sj_cka.report import Page, write_csv, write_page, write_pngs
from sj_cka.sections import Results
from sj_cka.store import Store
from sj_cka.tensorboard import Curves
from sj_cka.training.distributed import world
from sj_cka.training.torchrun import joined

_ANN_INPUT = {
    "steps": "Of recordings, the artificial networks see each frame alone, with logits averaged (ann_input: steps).",
    "sum": "Of recordings, the artificial networks see the sum of all frames (ann_input: sum).",
}


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Args:
        folder: where its files lie: report.html, cka.csv, accuracy.csv, claims.csv and, where a browser is found, PNGs.
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
            lines += ["", f"{'verdict':13} {'learned':13} claim"]
            lines += [f"{f.verdict:13} {f.learned or '-':13} {f.says}" for f in self.findings]
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

    Returns:
        A `StudyResult`.

    Raises:
        RecipeError: the recipe, or its data, cannot be used; nothing was run.
        NotADirectoryError: `out` is a file; nothing was run.
        JobFailed: a job could not be done; finished ones are kept.
    """
    began = time.perf_counter()
    with joined():
        planned, finished = plan(recipe.read(path, profile, settings)), Store(store)
        folder = _folder(planned, out)
        first = world()[0] == 0
        if progress and first:
            print(f"{counted(planned, finished)}\nneurons on {jobs.device().type}: {_backends(planned)}")
        with Curves(folder / "tensorboard") if tensorboard and first else nullcontext() as curves:
            if curves is not None:
                curves.add_finished(planned, finished)
            on_epoch = None if curves is None else curves.add
            done = execute(planned.jobs, finished, workers=workers, progress=progress, on_epoch=on_epoch)
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
    missing = [job for job in in_order(planned.jobs) if not finished.has(job.key)]
    if missing:
        raise JobFailed(f"{len(missing)} jobs of this study are not finished, first: {missing[0].label}; run it first")
    return _finish(planned, finished, _folder(planned, out), 0, time.perf_counter() - began)


def outline(
    path: str | Path, *, profile: str = "quick", settings: Sequence[str] = (), store: str | Path | None = None
) -> str:
    """What a study would run and what that costs, in words; of a public data set that is not there the shape is enough.

    Raises:
        RecipeError: as `run`.
    """
    planned = plan(recipe.read(path, profile, settings), imagined=True)
    return f"{counted(planned, Store(store))}\n{costs(planned)}"


def _finish(planned: Plan, store: Store, folder: Path, done: int, seconds: float, *, write: bool = True) -> StudyResult:
    """From finished jobs to tables, verdicts and the page."""
    study = planned.study
    compared = tables.compared(planned, store)
    results = Results(
        planned,
        compared,
        tables.accuracies(planned, store),
        tables.evaluated(planned, store),
        tables.histories(planned, store),
        tables.costs(planned, store),
        tables.paired(compared),
        tables.dynamics(compared),
        tables.attacks(planned, store),
        tables.backdoors(planned, store),
    )
    findings = tuple(judge(claim, results.evidence) for claim in study.recipe.claims)
    summary = tables.accuracy_summary(results.for_all(results.accuracy))
    if not write:
        return StudyResult(folder, findings, summary, results, done)
    shown = [sections.section(block, results) for block in study.recipe.figures]
    undefined = tables.undefined(compared)
    write_csv(tables.tidy(compared), folder / "cka.csv")
    write_csv(results.accuracy, folder / "accuracy.csv")
    others = {"evaluated": results.evaluated, "dynamics": results.dynamics, "cost": results.cost}
    others |= {"attacks": results.attacks, "backdoors": results.backdoors}
    others |= {"history": results.history, "firing_rates": tables.firing_rates(planned, store)}
    for name, table in others.items():
        if len(table):
            write_csv(table, folder / f"{name}.csv")
    write_csv(tables.claims(findings), folder / "claims.csv")
    write_csv(undefined, folder / "undefined.csv")
    if held_out := [(data.block.name["name"], name) for data in planned.sets for name in data.samples.held_out]:
        write_csv(pd.DataFrame(held_out, columns=["data", "recording"]), folder / "test_split.csv")
    page = Page(
        study.recipe.title,
        study.recipe.question,
        tuple(sections.answer(finding) for finding in findings),
        tuple(shown),
        _provenance(planned, store, done, seconds),
        study.source.text,
        _notes(planned, store, undefined),
    )
    write_page(page, folder / "report.html")
    write_pngs(_stills(study.recipe.figures, shown), folder)
    return StudyResult(folder, findings, summary, results, done)


def _folder(planned: Plan, out: str | Path | None) -> Path:
    name, profile = planned.study.name, planned.study.profile
    folder = Path(out) if out is not None else Path("figures") / (name if profile == "quick" else f"{name}-{profile}")
    # told before the hours of work, not after them
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"expected a folder for the report, got {folder}: {there} is a file")
    return folder


def _stills(blocks: list[recipe.FigureBlock], shown: list[sections.Section]) -> dict[str, object]:
    """File name -> figure for the PNGs: floors and ceilings are left to the page."""
    stills: dict[str, object] = {}
    for block, section in zip(blocks, shown, strict=True):
        for panel in section.panels if block.state == "trained" else ():
            parts = [block.name, block.comparison or "", panel.label if len(section.panels) > 1 else ""]
            name = re.sub(r"[^\w.-]+", "_", "_".join(part for part in parts if part))
            again = sum(other == name or other.startswith(f"{name}_again") for other in stills)
            stills[f"{name}_again{again}" if again else name] = panel.figure
    return stills


def _provenance(planned: Plan, store: Store, done: int, seconds: float) -> dict[str, str]:
    study, here = planned.study, jobs.environment()
    ordered = in_order(planned.jobs)
    return {
        "recipe": str(study.source.path),
        "profile": study.profile,
        **({"set": ", ".join(study.settings)} if study.settings else {}),
        "seeds": ", ".join(map(str, study.seeds)),
        "data": "; ".join(f"{described(data)}, fingerprint {data.samples.fingerprint[:12]}" for data in planned.sets),
        "jobs": f"{len(ordered)}, of which {done} in this run ({seconds:.0f} s); threads a job: "
        f"{study.recipe.train.threads}",
        **here,
        "neuron backend": _backends(planned),
        "commit": _commit(),
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _backends(planned: Plan) -> str:
    """Which implementation of each neuron of the study runs here, and why."""
    said = []
    for condition in planned.study.conditions.values():
        neuron = condition.snn.neuron.options()
        backend = jobs.backend_of(neuron)
        said.append(f"{neuron['name']}: {'its own' if backend is None else f'{backend.name} ({backend.reason})'}")
    return "; ".join(dict.fromkeys(said))


def _commit() -> str:
    """Git commit of this package's checkout, if it runs from one."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown (git did not answer)"
    return found.stdout.strip() or "not a git checkout"


def _notes(planned: Plan, store: Store, undefined: pd.DataFrame) -> tuple[str, ...]:
    notes = [_elsewhere(planned, store)]
    alignment = planned.study.recipe.cka
    for _, samples in planned.sets:
        notes += samples.remarks
        if alignment.batches is None and 0 < (left := len(samples.x_test) % alignment.batch_size) < 4:
            notes.append(
                f"The last minibatch of {left} test {samples.called} is left out: the unbiased HSIC needs at least 4."
            )
    if any(samples.T is not None for _, samples in planned.sets):
        notes += [_ANN_INPUT[how] for how in dict.fromkeys(c.ann_input for c in planned.study.conditions.values())]
    trained = undefined[undefined.state == "trained"]
    if len(trained):
        reasons = ", ".join(f"{reason} ({count})" for reason, count in trained["reason"].value_counts().items())
        layers = trained.groupby(["comparison", "variant", "side", "layer"]).ngroups
        notes.append(
            f"{len(trained)} single values (layer, step, seed), in {layers} layers over all comparisons of trained "
            f"networks, have no CKA: {reasons}; see undefined.csv."
        )
    if "paper" in planned.study.recipe.profiles and planned.study.profile != "paper":
        notes.append(
            f"This is the profile {planned.study.profile!r}, not 'paper': smaller than what the paper did. It tests "
            "directions and shapes that the paper states, not its numbers."
            + (" Nobody has run the profile 'paper' yet." if "paper" in planned.study.recipe.never_run else "")
        )
    return tuple(filter(None, notes))


def _elsewhere(planned: Plan, store: Store) -> str:
    """Says so where finished jobs ran on another device, or with other versions, than those that the page names."""
    others = dict[str, int]()
    for job in in_order(planned.jobs):
        here = jobs.environment(job)
        there = json.loads(store.read(job.key, "environment.json"))
        other = ", ".join(f"{key} {value}" for key, value in there.items() if value != here.get(key))
        if other:
            others[other] = others.get(other, 0) + 1
    counted = "; ".join(f"{count} with {other}" for other, count in others.items())
    return f"Some jobs were done before, in another environment than the one named below: {counted}." if others else ""
