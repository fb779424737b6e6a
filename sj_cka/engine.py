"""Where jobs run: in this process, or in a pool of processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sj_cka import jobs
from sj_cka.jobs import Job
from sj_cka.store import Store


class JobFailed(RuntimeError):
    """A job that could not be done; the message says which and why. What was finished before stays in the store."""


def execute(wanted: Sequence[Job], store: Store, *, workers: int | None = None, progress: bool = True) -> int:
    """Does the jobs that the store lacks, each after those that it builds on.

    Args:
        wanted: jobs, in the order in which they are started where they may.
        store: where finished jobs lie.
        workers: processes; None for one a core, 1 for this process itself.
        progress: show a bar.

    Returns:
        How many jobs were done.

    Raises:
        JobFailed: a job raised, or its process died.
    """
    ordered = in_order(wanted)
    missing = [job for job in ordered if not store.has(job.key)]
    count = min(workers or os.cpu_count() or 1, max(1, len(missing)))
    with tqdm(total=len(ordered), initial=len(ordered) - len(missing), unit="job", disable=not progress) as bar:
        if count == 1:
            for job in missing:
                try:
                    _do(job, store, lambda line, job=job: bar.set_postfix_str(f"{job.label}: {line}"))  # type: ignore[misc]
                except Exception as error:
                    raise _failed(job, error) from error
                bar.update()
        elif missing:
            _in_pool(missing, store, count, bar)
    return len(missing)


def in_order(wanted: Iterable[Job]) -> list[Job]:
    """The jobs and all that they need, each once, needed ones first."""
    found: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.key not in found:
            for needed in job.needs.values():
                add(needed)
            found[job.key] = job

    for job in wanted:
        add(job)
    return list(found.values())


def _do(job: Job, store: Store, report: jobs.Report) -> None:
    with store.working_on(job.key) as needed:
        if needed:
            store.write(job.key, jobs.run(job, store.read, report))


def _failed(job: Job, error: BaseException) -> JobFailed:
    return JobFailed(f"{job.label}: {type(error).__name__}: {error}")


def _in_pool(missing: list[Job], store: Store, count: int, bar: Any) -> None:
    context = multiprocessing.get_context("spawn")  # a fork after torch has made threads can hang
    lines, stop = context.SimpleQueue(), context.Event()
    pool = ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(lines, stop))
    listener = threading.Thread(target=_listen, args=(lines, bar), daemon=True)
    listener.start()
    waiting, running = list(missing), dict[Future[None], Job]()
    unfinished = {job.key for job in missing}
    try:
        while waiting or running:
            ready = [job for job in waiting if not any(needed.key in unfinished for needed in job.needs.values())]
            for job in ready[: count + 1 - len(running)]:  # one in reserve, so that no process waits for this one
                waiting.remove(job)
                running[pool.submit(_work, job, store.root)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool as error:
                    reason = (
                        "its process died (killed, or out of memory?); what was finished is kept, run again to go on"
                    )
                    raise JobFailed(f"{job.label}: {reason}") from error
                except Exception as error:
                    raise _failed(job, error) from error
                unfinished.discard(job.key)
                bar.update()
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        lines.put(None)
        listener.join(timeout=5)


_lines: Any = None


def _start_worker(lines: Any, stop: Any) -> None:
    """Runs in each new process: it ends with its parent, or when told to, and leaves Ctrl-C to the parent."""
    global _lines
    _lines = lines
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        while not stop.wait(0.5) and parent is not None and parent.is_alive():
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(job: Job, root: Path) -> None:
    _do(job, Store(root), lambda line: _lines.put(f"{job.label}: {line}"))


def _listen(lines: Any, bar: Any) -> None:
    while (line := lines.get()) is not None:
        bar.set_postfix_str(line)
