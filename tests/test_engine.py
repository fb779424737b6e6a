"""Where jobs run: their order, one process or several, and jobs that fail."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import pytest

from sj_cka import engine, jobs, recipe
from sj_cka.engine import JobFailed, execute, in_order
from sj_cka.jobs import DataBlock, Files, Job, Kind
from sj_cka.plan import plan
from sj_cka.progress import Progress, bar
from sj_cka.store import Store
from sj_cka.tables import accuracies, compared

Write = Callable[..., Path]
NO_DATA = DataBlock({}, {}, "")


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two kinds of job that do next to nothing; gives the order in which jobs ran."""
    ran: list[str] = []

    def add(job: Job, needs: Any, context: Any) -> Files:
        ran.append(job.args["name"])
        context.report("at work")
        return {"sum": str(1 + sum(int(read("sum")) for read in needs.values())).encode()}

    def fail(job: Job, needs: Any, context: Any) -> Files:
        raise ZeroDivisionError("nothing is nothing")

    monkeypatch.setitem(jobs.KINDS, "add", Kind(add, 1))
    monkeypatch.setitem(jobs.KINDS, "fail", Kind(fail, 1))
    return ran


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


def test_a_store_that_cannot_be_written_is_told(kinds: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"^expected a folder for the store .*file: it is a file$"):
        execute([job("a")], Store(tmp_path / "file"), workers=1, progress=False)


def test_no_workers_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least 1 worker, got 0"):
        execute([], Store(tmp_path), workers=0)


def test_by_default_the_cores_are_shared_out_and_few_are_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda pid: set(range(32)), raising=False)
    monkeypatch.setattr(jobs, "device", lambda: jobs.machine.torch.device("cpu"))
    one = job("a")
    assert engine._default_workers([one]) == 32
    assert engine._default_workers([one, replace(one, threads=12)]) == 2
    assert engine._default_workers([replace(one, threads=64)]) == 1
    monkeypatch.setattr(jobs, "device", lambda: jobs.machine.torch.device("cuda"))
    assert engine._default_workers([one]) == 4


# processes


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        (engine.multiprocessing.current_process(), "_config", {"daemon": True}, "this is a daemonic one"),
        (sys.modules["__main__"], "__file__", "<stdin>", "expected a program in a file, got <stdin>: other processes"),
        (SpawnContext, "SimpleQueue", OSError(errno.ENOSPC, "No space left on device"), r"No space .*is /dev/shm full"),
        (SpawnContext, "SimpleQueue", ImportError("no functioning sem_open"), r"no other process \(no functioning sem"),
        (ProcessPoolExecutor, "submit", BlockingIOError(errno.EAGAIN, "Try again"), r"no other process \(Try again\)"),
    ],
    ids=["daemon", "stdin", "full /dev/shm", "no semaphores", "too many processes"],
)  # fmt: skip
def test_where_no_process_can_be_started_the_way_out_is_told(
    place: Any, name: str, value: Any, message: str, kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise value

    monkeypatch.setattr(place, name, refuse if isinstance(value, Exception) else value, raising=False)
    if name == "__file__":
        monkeypatch.setattr(place, "__spec__", None)
    told = f'{message}.*under if __name__ == "__main__":, or with workers=1'
    with pytest.raises(JobFailed, match=told):
        execute([job("a"), job("b")], Store(tmp_path), workers=2, progress=False)
    assert execute([job("a")], Store(tmp_path), workers=1, progress=False) == 1


@pytest.mark.sampled(0)
@pytest.mark.parametrize("script", ["import sj_cka\nsj_cka.run('tiny.yaml', workers=2, progress=False)\n"])
def test_a_script_without_a_guard_is_told_so_once(script: str, recipe_file: Write, tmp_path: Path) -> None:
    recipe_file()
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], env=os.environ, capture_output=True, text=True, check=False)
    assert done.stderr.count("Traceback") == 2  # of the pool, and of the error made of it
    assert done.stderr.splitlines()[-1].startswith(
        "sj_cka.engine.JobFailed: no process could be started. Call sj_cka.run"
    )


ONE_PAIR = [
    ("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", "variants:\n  all: {}\n"),
    ("  - {name: shortcuts, x: all.snn, y: none.snn}\n", ""),
    ("claims:\n  - test: greater\n    says: Shortcuts help.\n    source: nobody\n", ""),
    ("    a: {measure: paired_cka, comparison: twins, variant: all}\n", ""),
    ("    b: {measure: paired_cka, comparison: twins, variant: none}\n", ""),
]


@pytest.fixture
def quick_start(forked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that start with everything imported."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forked)


@pytest.mark.usefixtures("quick_start")
def test_one_process_and_several_give_the_same_numbers_to_the_bit(recipe_file: Write, tmp_path: Path) -> None:
    planned = plan(recipe.read(recipe_file(*ONE_PAIR)))
    alone, pool = Store(tmp_path / "alone"), Store(tmp_path / "pool")
    assert execute(planned.jobs, alone, workers=1, progress=False) == execute(
        planned.jobs, pool, workers=2, progress=False
    )
    for done in in_order(planned.jobs):
        names = {"train": ("weights.safetensors", "accuracy.json"), "init": ("weights.safetensors",)}
        for name in ("spec.json", *names.get(done.kind, ())):
            assert alone.read(done.key, name) == pool.read(done.key, name), (done.label, name)
    assert accuracies(planned, alone).equals(accuracies(planned, pool))
    for one, other in zip(compared(planned, alone), compared(planned, pool), strict=True):
        assert one.result.data.identical(other.result.data)


@pytest.mark.usefixtures("quick_start")
def test_a_loss_that_becomes_nan_in_another_process_is_told_with_network_epoch_and_step(
    recipe_file: Write, tmp_path: Path
) -> None:
    planned = plan(recipe.read(recipe_file(*ONE_PAIR, ("  lr: 0.1", "  ann: {lr: 1e30}"))))
    store = Store(tmp_path / "pool")
    told = r"^all\.ann, seed [01]: the loss became nan in epoch 1, step 2 of 2: lower train\.lr \(now 1e\+30\)"
    with pytest.raises(JobFailed, match=told):
        execute(planned.jobs, store, workers=2, progress=False)
    finished = {name for name, trained in planned.trained.items() if store.has(trained.key)}
    assert {network for network, _ in finished} == {"all.snn"}


@pytest.mark.usefixtures("quick_start")
def test_a_process_that_is_killed_ends_the_run_with_the_jobs_named_and_the_finished_ones_kept(
    recipe_file: Write, tmp_path: Path
) -> None:
    planned, store = plan(recipe.read(recipe_file())), Store(tmp_path / "pool")

    def kill_one() -> None:
        while not list(store.root.glob("??/[!.]*/manifest.json")):
            time.sleep(0.02)
        workers = [child.pid for child in multiprocessing.active_children()]
        os.kill(int(workers[0] or 0), signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    told = r"^a process died \(killed, or out of memory\?\) while these were at work: .*, seed [01].*; .*\. What was"
    with pytest.raises(JobFailed, match=told):
        execute(planned.jobs, store, workers=2, progress=False)
    assert multiprocessing.active_children() == []
    kept = len(list(store.root.glob("??/[!.]*/manifest.json")))
    assert 0 < kept < 40
    assert execute(planned.jobs, store, workers=1, progress=False) == 40 - kept


# progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_log_progress_is_a_whole_line_now_and_then() -> None:
    log = io.StringIO()
    with Progress(40, 30, show=True, file=log, log_seconds=3600) as progress:
        for i in range(9):
            progress.say(f"job {i}: epoch 1/2")
            progress.finished(f"job {i}")
        assert log.getvalue() == ""
        progress.finished("the last")
    assert log.getvalue() == "40/40 jobs, 0 s: the last finished\n"
    log = io.StringIO()
    with Progress(3, 0, show=True, file=log, log_seconds=0) as progress:
        progress.say("a: epoch 1/2")
        progress.finished("a")
    assert log.getvalue() == "0/3 jobs, 0 s: a: epoch 1/2\n1/3 jobs, 0 s: a finished\n"


def test_on_a_terminal_progress_is_a_bar() -> None:
    terminal = Terminal()
    with Progress(4, 1, show=True, file=terminal) as progress:
        progress.say("a: epoch 1/2")
        progress.finished("a")
    assert "2/4" in terminal.getvalue()
    assert "a: epoch 1/2" in terminal.getvalue()


def test_without_a_stderr_or_with_one_that_nobody_reads_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", None)
    for file in (None, Closed()):
        with Progress(2, 0, show=True, file=file, log_seconds=0) as progress:
            progress.say("a")
            progress.finished("a")
            assert progress.done == 1
    with bar(3, "samples") as count:
        count(1)


@pytest.mark.parametrize("file", [io.StringIO(), Terminal()])
def test_who_wants_no_progress_gets_none(file: Any) -> None:
    with Progress(1, 0, show=False, file=file, log_seconds=0) as progress:
        progress.say("a")
        progress.finished("a")
    assert file.getvalue() == ""
