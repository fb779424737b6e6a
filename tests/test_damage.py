"""Damaged stores: `report` names what is damaged, `run` makes it again, and the numbers are those of before."""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import sj_cka
import sj_cka.store
from sj_cka import study
from sj_cka.engine import JobFailed, in_order, standing
from sj_cka.integrity import MANIFEST
from sj_cka.job import Job
from sj_cka.store import Store
from sj_cka.study import StudyResult

Write = Callable[..., Path]
SMALL = [
    ("seeds: 2", "seeds: 1"),
    ("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", "variants:\n  all: {}\n"),
    ("  - {name: shortcuts, x: all.snn, y: none.snn}\n", ""),
    ("claims:\n  - test: greater\n    says: Shortcuts help.\n    source: nobody\n", ""),
    ("    a: {measure: paired_cka, comparison: twins, variant: all}\n", ""),
    ("    b: {measure: paired_cka, comparison: twins, variant: none}\n", ""),
]
MEASURED = ["seconds", "images_s", "memory_mb"]  # of the clock and the machine


@pytest.fixture
def done(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> StudyResult:
    """A finished study of 8 jobs."""
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    return run(recipe_file(*SMALL))


def run(path: Path) -> StudyResult:
    return sj_cka.run(path, workers=1, progress=False)


def tables(folder: Path) -> dict[str, bytes]:
    """The CSVs of a report, without what clocks say."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    history = pd.read_csv(folder / "history.csv").drop(columns=MEASURED)
    return found | {"history.csv": history.to_csv().encode()}


def files(store: Store, job: Job) -> list[Path]:
    return sorted(store.folder(job.key).iterdir())


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def test_after_damage_to_every_job_report_names_them_and_a_run_gives_the_same_tables(
    done: StudyResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, store, before = tmp_path / "tiny.yaml", Store(), tables(done.folder)
    ordered = in_order(done.results.plan.jobs)
    draw, hit = random.Random(0), set()
    for job in ordered:  # files of every kind in turn
        damaged = max(files(store, job), key=lambda path: (path.name not in hit, draw.random()))
        hit.add(damaged.name)
        flip(damaged, draw)
    assert hit >= {"weights.safetensors", "cka.nc", "cost.json", "spec.json", "environment.json"}
    with pytest.raises(JobFailed, match="8 jobs of this study are damaged: ") as told:
        study.redraw(path)
    assert all(job.label in str(told.value) for job in ordered)
    assert "8 jobs (2 init, 2 train, 2 cost, 2 compare), 0 finished before, 8 damaged" in study.outline(path)
    assert not store.aside.exists()  # looking moves nothing
    again = run(path)
    assert (again.done, tables(again.folder)) == (8, before)
    assert all(f"{job.label}: {store.folder(job.key)}" in caplog.text for job in ordered)
    assert len(list(store.aside.glob("*/*"))) == 8
    assert tables(study.redraw(path).folder) == before


def of_before(store: Store, job: Job) -> None:
    """A job as earlier versions left it."""
    (store.folder(job.key) / MANIFEST).unlink()
    (store.folder(job.key) / "done").touch()


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_study_of_an_earlier_version_is_read_whole_once_and_what_cannot_be_parsed_is_made_again(
    done: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store, before = tmp_path / "tiny.yaml", Store(), tables(done.folder)
    ordered = in_order(done.results.plan.jobs)
    for job in ordered:
        of_before(store, job)
    assert "8 finished before" in study.outline(path)
    assert all((store.folder(job.key) / MANIFEST).is_file() for job in ordered)
    assert not list(store.root.glob("??/*/done"))
    with monkeypatch.context() as once:
        once.setattr(standing, "parse", lambda *anything: pytest.fail("parsed again"))
        assert run(path).done == 0
    kinds = ("train", "init", "cost", "compare")
    train, init, cost, compare = (next(job for job in ordered if job.kind == kind) for kind in kinds)
    for job in (train, init, cost, compare):
        of_before(store, job)
    (store.folder(train.key) / "history.csv").unlink()
    halve(store.folder(init.key) / "weights.safetensors")
    halve(store.folder(cost.key) / "cost.json")
    shutil.copy(store.folder(cost.key) / "spec.json", store.folder(compare.key) / "spec.json")
    with pytest.raises(JobFailed) as told:
        study.redraw(path)
    for job, wrong in (
        (train, "history.csv is missing"),
        (init, "weights.safetensors is damaged: "),
        (cost, "cost.json is damaged: "),
        (compare, "spec.json is not that of this job"),
    ):
        assert f"{job.label} ({store.folder(job.key)}: {wrong}" in str(told.value)
    again = run(path)
    assert (again.done, tables(again.folder)) == (4, before)


def test_a_store_of_an_earlier_version_that_cannot_be_written_is_read_all_the_same(
    done: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (job, *_) = Store(), in_order(done.results.plan.jobs)
    of_before(store, job)

    def read_only(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(sj_cka.store, "whole", read_only)
    assert standing.stand([job], store).open == set()
    assert json.loads(store.read(job.key, "spec.json")) == job.spec
