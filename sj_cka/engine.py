"""Where jobs run: in this process, or in a pool of processes on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sj_cka import jobs
from sj_cka.jobs import Job
from sj_cka.progress import Progress
from sj_cka.standing import stand
from sj_cka.store import Store
from sj_cka.training import Epoch, NotFinite
from sj_cka.training.distributed import world
from sj_cka.training.torchrun import agreed
from sj_cka.waiting import Waiting

logger = logging.getLogger(__name__)
OnEpoch = Callable[[Job, Epoch], None]
_STARTED = ""  # what a new process says first, in place of the key of a job
_HOW = (
    'Call sj_cka.run from a script in a file, under if __name__ == "__main__":, or with workers=1 (--workers 1 on the '
    "command line), which needs no other process"
)
_ON_ONE_GPU = 4  # processes: each holds a CUDA context of its own


class JobFailed(RuntimeError):
    """A job that could not be done; the message says which and why. What was finished before stays in the store."""


def execute(
    wanted: Sequence[Job],
    store: Store,
    *,
    workers: int | None = None,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
) -> int:
    """Does the jobs that the store lacks, each after those that it builds on.

    In a `torch.distributed` group all processes call this: a training is done by all of them together, see
    `sj_cka.training.train`, what cannot be shared by the first alone; only the first writes.

    Args:
        wanted: jobs, in the order in which they are started where they may.
        store: where finished jobs lie.
        workers: processes; None for as many as the cores hold at the threads of a job, 1 for this process itself. In a
            group there are no others.
        progress: show how far it is.
        on_epoch: called in this process after each epoch of a training.

    Returns:
        How many jobs were done.

    Raises:
        JobFailed: a job raised, its process died, or none can be started from here.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"expected at least 1 worker, got {workers}")
    ordered = in_order(wanted)
    rank, processes = world()
    missing = agreed(_to_do(ordered, store) if rank == 0 else [])
    count = 1 if processes > 1 else min(workers or _default_workers(missing), len(missing))
    with Progress(len(ordered), len(ordered) - len(missing), show=progress and rank == 0) as shown:
        if count > 1:
            _in_pool(missing, store, count, shown, on_epoch)
        else:
            for job in missing:

                def report(line: str, epoch: Epoch | None = None, job: Job = job) -> None:
                    shown.say(f"{job.label}: {line}")
                    if epoch is not None and on_epoch is not None:
                        on_epoch(job, epoch)

                (_do if processes == 1 else _do_together)(job, store, report)
                shown.finished(job.label)
    return len(missing)


def _to_do(ordered: Sequence[Job], store: Store) -> list[Job]:
    standing = stand(ordered, store)
    for job, wrong in standing.damaged:
        logger.warning("%s: %s; it is set aside in %s and made again", job.label, wrong, store.aside)
    if standing.open:
        store.try_out()
    return [job for job in ordered if job.key in standing.open]


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


def _default_workers(missing: Sequence[Job]) -> int:
    # the cores that this process may use: a container often has fewer than its machine
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = max(1, cores // max((job.threads for job in missing), default=1))
    return cores if jobs.device().type == "cpu" else min(cores, _ON_ONE_GPU)


def _do(job: Job, store: Store, report: jobs.Report) -> None:
    with _named(job), store.working_on(job.key) as needed:
        if needed:
            store.write(job.key, jobs.run(job, store.read, jobs.Context(report, store.slot(job.key), jobs.device())))


def _do_together(job: Job, store: Store, report: jobs.Report) -> None:
    """A job in a group of processes: the first holds it against other runs, and writes it."""
    with _named(job), ExitStack() as held:
        rank, processes = world()
        first = rank == 0
        needed = held.enter_context(store.working_on(job.key)) if first else False
        if not agreed(needed):
            return
        if first or jobs.KINDS[job.kind].together:
            said = report if first else jobs.silent
            context = jobs.Context(said, store.slot(job.key), jobs.device(), rank, processes)
            files = jobs.run(job, store.read, context)
            if first:
                store.write(job.key, files)
        agreed(None)  # the others may read it only now


@contextmanager
def _named(job: Job) -> Iterator[None]:
    """Says of a failure which job it was."""
    try:
        yield
    except NotFinite as error:
        raise JobFailed(f"{job.label}: {error}") from error
    except OSError as error:
        raise JobFailed(f"{job.label}: {error.strerror or error}: {error.filename or ''}".rstrip(": ")) from error
    except Exception as error:
        raise JobFailed(f"{job.label}: {type(error).__name__}: {error}") from error


def _in_pool(missing: list[Job], store: Store, count: int, shown: Progress, on_epoch: OnEpoch | None) -> None:
    context = multiprocessing.get_context("spawn")  # a fork after torch has made threads can hang
    started, over = threading.Event(), threading.Event()
    with _startable():
        lines = context.SimpleQueue()
        # only this process holds the other end: that it is closed, or gone with this process, tells the workers to end
        leash, hand = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(lines, leash))
    by_key = {job.key: job for job in missing}

    def heard(key: str, line: str, epoch: Epoch | None) -> None:
        if key == _STARTED:
            started.set()
            return
        shown.say(f"{by_key[key].label}: {line}")
        if epoch is not None and on_epoch is not None:
            on_epoch(by_key[key], epoch)

    listener = threading.Thread(target=_listen, args=(lines, heard, over), daemon=True)
    listener.start()
    waiting, running = Waiting(missing), dict[Future[None], Job]()
    try:
        while waiting.ready or running:
            while waiting.ready and len(running) <= count:  # one in reserve, so that no process waits for this one
                job = waiting.next()
                with _startable(), _without_interrupt():
                    running[pool.submit(_work, job, store.root)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    future.result()
                except BrokenProcessPool as error:
                    over.set()
                    listener.join(timeout=1)  # all that was said is heard
                    message = _died(running.values()) if started.is_set() else f"no process could be started. {_HOW}"
                    raise JobFailed(message) from error
                job = running.pop(future)
                waiting.done(job)
                shown.finished(job.label)
    except BaseException:
        hand.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        hand.close()
        over.set()
        listener.join(timeout=1)


def _died(running: Iterable[Job]) -> str:
    labels = "; ".join(job.label for job in running)
    return (
        f"a process died (killed, or out of memory?) while these were at work: {labels}. What was finished is kept, "
        "run again to go on; --workers 1 needs no other process."
    )


def refuse_unguarded() -> None:
    """Ends a process that runs a study while it is being started: its script does so wherever it is imported.

    Raises:
        SystemExit: it is such a process; the one that starts it says why.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


@contextmanager
def _startable() -> Iterator[None]:
    """Says of processes that cannot be started why, and what to do.

    Raises:
        JobFailed: this one may start none, has no file that they could import, or the system refuses.
    """
    if multiprocessing.current_process().daemon:
        raise JobFailed(f"expected a process that may start others, this is a daemonic one, as those of a Pool. {_HOW}")
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and file is not None and not os.path.exists(file):
        raise JobFailed(f"expected a program in a file, got {file}: other processes cannot import it. {_HOW}")
    try:
        yield
    except (OSError, ImportError, MemoryError) as error:  # no semaphores at all are an ImportError
        why = getattr(error, "strerror", None) or error
        raise JobFailed(
            f"the system starts no other process ({why}): is /dev/shm full, or a limit reached? {_HOW}"
        ) from error


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """Processes started here never get a Ctrl-C, not even before they can say that they leave it to their parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_lines: Any = None


def _start_worker(lines: Any, leash: Connection) -> None:
    """Runs in each new process: it ends with its parent, or when told to, and leaves Ctrl-C to the parent."""
    global _lines
    _lines = lines
    lines.put((_STARTED, "", None))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(
        threading.RLock()
    )  # its own lock is a semaphore of the system, which outlives a process that is ended

    def watch() -> None:
        leash.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(job: Job, root: Path) -> None:
    _do(job, Store(root), lambda line, epoch=None: _lines.put((job.key, line, epoch)))


def _listen(lines: Any, heard: Callable[[str, str, Epoch | None], None], over: threading.Event) -> None:
    # never waits inside get, and nobody else puts: a process that was killed may have left the queue's locks behind
    while not over.wait(0.1):
        while not lines.empty():
            heard(*lines.get())
    while not lines.empty():
        heard(*lines.get())
