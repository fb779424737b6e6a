"""The order of jobs, what is done and what is not, and what jobs say meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sj_cka import jobs
from sj_cka.engine import ENGINES, Engine, JobFailed, do, execute, in_order
from sj_cka.job import DataBlock, Job
from sj_cka.jobs import Kind
from sj_cka.plugins import UnknownName
from sj_cka.progress import Progress
from sj_cka.store import Store

NO_DATA = DataBlock({}, {}, "")


def job(name: str, *needs: Job, kind: str = "add") -> Job:
    return Job(kind, {"name": name}, {f"n{i}": needed for i, needed in enumerate(needs)}, NO_DATA, label=f"job {name}")


def test_jobs_come_after_all_that_they_need_and_each_once(kinds: list[str]) -> None:
    a, b = job("a"), job("b")
    c = job("c", a, b)
    d = job("d", c, a)
    assert [j.args["name"] for j in in_order([d, c, b])] == ["a", "b", "c", "d"]
    assert [j.args["name"] for j in in_order([b, job("b"), a])] == ["b", "a"]


def test_jobs_get_the_files_of_those_that_they_need(kinds: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    a, b = job("a"), job("b")
    c = job("c", a, b)
    assert execute([c], store, workers=1, progress=False) == 3
    assert kinds == ["a", "b", "c"]
    assert store.read(c.key, "sum") == b"3"


def test_what_is_finished_is_not_done_again(kinds: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    a = job("a")
    execute([a], store, workers=1, progress=False)
    assert execute([a, job("b", a)], store, workers=1, progress=False) == 1
    assert kinds == ["a", "b"]
    assert execute([a, job("b", a)], store, workers=8, progress=False) == 0


def test_a_job_that_fails_is_named_and_what_was_finished_is_kept(kinds: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    a, bad, b = job("a"), job("bad", kind="fail"), job("b")
    with pytest.raises(JobFailed, match=r"^job bad: ZeroDivisionError: nothing is nothing$"):
        execute([a, bad, b], store, workers=1, progress=False)
    assert (store.has(a.key), store.has(bad.key), store.has(b.key)) == (True, False, False)


def test_a_job_without_a_file_that_its_kind_leaves_is_not_taken_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(jobs.KINDS, "lazy", Kind(lambda job, needs, context: {"a": b""}, lambda job: ("a", "b")))
    store, lazy = Store(tmp_path), job("lazy", kind="lazy")
    with pytest.raises(JobFailed, match=r"expected the files that a job of kind 'lazy' leaves, without \['b'\]"):
        execute([lazy], store, workers=1, progress=False)
    assert not store.has(lazy.key)


def test_a_store_that_cannot_be_written_is_told(kinds: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"^expected a folder for the store .*file: it is a file$"):
        execute([job("a")], Store(tmp_path / "file"), workers=1, progress=False)


def test_no_workers_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least 1 worker, got 0"):
        execute([], Store(tmp_path), workers=0)


def test_what_a_job_says_is_shown_while_it_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, heard = list[str](), threading.Event()

    def say(self: Progress, line: str) -> None:
        shown.append(line)
        heard.set()

    def wait_to_be_heard(job: Job, needs: Any, context: Any) -> dict[str, bytes]:
        context.report("at work")
        assert heard.wait(30)
        return {}

    monkeypatch.setattr(Progress, "say", say)
    monkeypatch.setitem(jobs.KINDS, "add", Kind(wait_to_be_heard, lambda job: ()))
    store, one = Store(tmp_path), job("a")
    store.log(one.key).path.parent.mkdir(parents=True)
    store.log(one.key).path.write_text('{"says": "of a run that was killed"}\n')
    assert execute([one], store, workers=1, progress=False) == 1
    assert shown == ["job a: at work"]


# engines


def test_another_engine_is_one_function_and_gets_each_job_when_what_it_builds_on_is_in_the_store(
    kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    @contextmanager
    def threads(store: Store, missing: Sequence[Job], workers: int | None) -> Iterator[Engine]:
        told.append((len(missing), workers))

        def submit(job: Job) -> Future[None]:
            assert all(store.has(needed.key) for needed in job.inputs.values())
            return pool.submit(do, job, store)

        with ThreadPoolExecutor(2) as pool:
            yield Engine(submit, room=2)

    monkeypatch.setitem(ENGINES, "threads", threads)
    store = Store(tmp_path)
    a, b = job("a"), job("b")
    c = job("c", a, b)
    assert execute([c], store, engine="threads", progress=False) == 3
    assert (sorted(kinds), kinds[2], store.read(c.key, "sum"), told) == (["a", "b", "c"], "c", b"3", [(3, None)])
    with pytest.raises(JobFailed, match=r"^job bad: ZeroDivisionError"):
        execute([job("bad", kind="fail")], store, engine="threads", workers=5, progress=False)
    assert told[1] == (1, 5)


def test_an_engine_that_nobody_knows_or_that_cannot_do_what_is_asked_is_refused(
    kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with pytest.raises(UnknownName, match="unknown engine 'proceses'; did you mean 'processes'"):
        execute([job("a")], store, engine="proceses", progress=False)
    with pytest.raises(JobFailed, match=r"expected one worker of the engine 'here', .*, got 2"):
        execute([job("a"), job("b")], store, engine="here", workers=2, progress=False)
    monkeypatch.setattr("sj_cka.engine.schedule.world", lambda: (0, 2))
    with pytest.raises(JobFailed, match="expected the engine 'here' in the 2 processes of a group, got 'processes'"):
        execute([job("a")], store, engine="processes", progress=False)
    assert kinds == []


def test_an_engine_without_room_is_refused_in_place_of_waiting_for_ever(
    kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(store: Store, missing: Sequence[Job], workers: int | None) -> Iterator[Engine]:
        yield Engine(lambda job: Future(), room=0)

    monkeypatch.setitem(ENGINES, "full", full)
    with pytest.raises(JobFailed, match="expected room for a job at least in the engine 'full', got 0"):
        execute([job("a")], Store(tmp_path), engine="full", progress=False)
