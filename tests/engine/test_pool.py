"""A pool of processes: the numbers of one, and how it ends whatever becomes of a process."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

from sj_cka import jobs, recipe
from sj_cka.comparison_tables import compared
from sj_cka.engine import JobFailed, execute, in_order, pool
from sj_cka.job import DataBlock, Job
from sj_cka.plan import plan
from sj_cka.results import table
from sj_cka.store import Store

Write = Callable[..., Path]
NO_DATA = DataBlock({}, {}, "")


def job(name: str, *needs: Job, kind: str = "add") -> Job:
    return Job(kind, {"name": name}, {f"n{i}": needed for i, needed in enumerate(needs)}, NO_DATA, label=f"job {name}")


def test_by_default_the_cores_are_shared_out_and_few_are_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda pid: set(range(32)), raising=False)
    monkeypatch.setattr(jobs, "device", lambda: jobs.machine.torch.device("cpu"))
    one = job("a")
    assert pool.default_workers([one]) == 32
    assert pool.default_workers([one, replace(one, threads=12)]) == 2
    assert pool.default_workers([replace(one, threads=64)]) == 1
    monkeypatch.setattr(jobs, "device", lambda: jobs.machine.torch.device("cuda"))
    assert pool.default_workers([one]) == 4


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        (pool.multiprocessing.current_process(), "_config", {"daemon": True}, "this is a daemonic one"),
        (sys.modules["__main__"], "__file__", "<stdin>", "expected a program in a file, got <stdin>: other processes"),
        (BaseContext, "SimpleQueue", OSError(errno.ENOSPC, "No space left on device"), r"No space .*is /dev/shm full"),
        (BaseContext, "SimpleQueue", ImportError("no functioning sem_open"), r"no other process \(no functioning sem"),
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
        "sj_cka.engine.work.JobFailed: no process could be started. Call sj_cka.run"
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
    alone, several = Store(tmp_path / "alone"), Store(tmp_path / "pool")
    assert execute(planned.jobs, alone, workers=1, progress=False) == execute(
        planned.jobs, several, workers=2, progress=False
    )
    for done in in_order(planned.jobs):
        names = {"train": ("weights.safetensors", "accuracy.json"), "init": ("weights.safetensors",)}
        for name in ("spec.json", *names.get(done.kind, ())):
            assert alone.read(done.key, name) == several.read(done.key, name), (done.label, name)
    assert table(planned, alone, "accuracy").equals(table(planned, several, "accuracy"))
    for one, other in zip(compared(planned, alone), compared(planned, several), strict=True):
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


def test_processes_import_from_where_this_one_does_and_have_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that only sys.path names, and another of the same name where the program was started."""
    (tmp_path / "here").mkdir()
    (tmp_path / "sj_cka").mkdir()
    (tmp_path / "sj_cka" / "__init__.py").write_text("raise SystemExit('the one beside was imported')")
    (tmp_path / "here" / "told.py").write_text(
        "import os, sys, sj_cka\n"
        "def tell(name):\n"
        "    imported = sj_cka.__file__, 'sj_cka.engine.work' in sys.modules\n"
        "    return *imported, os.environ.get(name), os.environ.get('PYTHONPATH')\n"
    )
    (tmp_path / "here" / "script.py").write_text(
        "import os, sys\n"
        f"sys.path.append({str(Path(pool.__file__).parents[2])!r})\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from sj_cka.engine import pool\n"
        "import told\n"
        "if __name__ == '__main__':\n"
        "    for value in ('one', 'two'):\n"
        "        os.environ['TOLD'] = value\n"
        "        context = pool._context()\n"
        "        hand, leash = context.Pipe()\n"
        "        given = leash, dict(os.environ), pool._cores()\n"
        "        with ProcessPoolExecutor(1, context, initializer=pool._start_worker, initargs=given) as processes:\n"
        "            print(processes.submit(told.tell, 'TOLD').result())\n"
        "    print(os.environ.get('PYTHONPATH'))\n"
    )
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = subprocess.run(
        [sys.executable, "here/script.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    file = str(Path(pool.__file__).parents[1] / "__init__.py")
    assert done.stdout.splitlines() == [*(str((file, True, value, None)) for value in ("one", "two")), "None"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks of one process are for Linux")
def test_a_process_draws_numbers_of_its_own_bears_ctrl_c_and_keeps_to_the_cores_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/nowhere")])  # which Python leaves out too
    context = pool._context()
    assert type(context) is multiprocessing.context.ForkServerContext
    hand, leash = context.Pipe()
    cores = {min(os.sched_getaffinity(0))}
    given = leash, dict(os.environ), cores
    with ProcessPoolExecutor(2, context, initializer=pool._start_worker, initargs=given) as processes:
        assert processes.submit(os.sched_getaffinity, 0).result() == cores
        pid = processes.submit(os.getpid).result()
        status = Path(f"/proc/{pid}/status").read_text()
        parent = re.search(r"PPid:\s+(\d+)", status)
        assert parent is not None
        for of in (status, Path(f"/proc/{parent[1]}/status").read_text()):  # of the one that they are forks of
            assert int(re.search(r"SigBlk:\s+(\w+)", of)[1], 16) & 1 << signal.SIGINT - 1  # type: ignore[index]
        os.kill(pid, signal.SIGINT)
        assert processes.submit(abs, -1).result() == 1
    drawn = []
    for _ in range(2):
        with ProcessPoolExecutor(1, context, initializer=pool._start_worker, initargs=given) as processes:
            drawn.append(processes.submit(eval, "__import__('numpy').random.rand()").result())
    hand.close()
    assert drawn[0] != drawn[1]


def test_where_paths_cannot_be_told_processes_import_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, f"/a{os.pathsep}b"])
    assert type(pool._context()) is multiprocessing.context.SpawnContext
    monkeypatch.undo()
    monkeypatch.setattr(jobs, "device", lambda: jobs.machine.torch.device("cuda"))
    assert type(pool._context()) is multiprocessing.context.SpawnContext
