"""The engine that is a pool of processes on this machine."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from tqdm import tqdm

from sj_cka import jobs
from sj_cka.engine.work import Engine, JobFailed, do
from sj_cka.job import Job
from sj_cka.store import Store

_HOW = (
    'Call sj_cka.run from a script in a file, under if __name__ == "__main__":, or with workers=1 (--workers 1 on the '
    "command line), which needs no other process"
)
_OF_DATA = ("sklearn.datasets", "sklearn.model_selection")  # imported where data are read
_ON_ONE_GPU = 4  # processes: each holds a CUDA context of its own


def default_workers(missing: Sequence[Job]) -> int:
    """As many as the cores hold at the threads of a job, and few on a GPU."""
    cores = len(_cores() or ()) or os.cpu_count() or 1
    cores = max(1, cores // max((job.threads for job in missing), default=1))
    return cores if jobs.device().type == "cpu" else min(cores, _ON_ONE_GPU)


@contextmanager
def processes(store: Store, missing: Sequence[Job], workers: int | None) -> Iterator[Engine]:
    """The engine of processes that are started here; they end with this process, or with an error inside.

    Raises:
        JobFailed: none can be started from here, or one died.
    """
    count = max(1, min(workers or default_workers(missing), len(missing)))
    with _startable():
        context = _context()
        # only this process holds its end: that it is closed, or gone with this process, tells the workers to end
        hand, leash = context.Pipe()
        executor = ProcessPoolExecutor(
            count, context, initializer=_start_worker, initargs=(leash, dict(os.environ), _cores())
        )
    given: dict[Future[None], Job] = {}

    def submit(job: Job) -> Future[None]:
        with _startable(), _without_interrupt():
            future = executor.submit(do, job, Store(store.root))
        given[future] = job
        return future

    try:
        yield Engine(submit, room=count + 1)  # one in reserve, so that no process waits for this one
    except BaseException as error:
        started = hand.poll()
        hand.close()
        if isinstance(error, BrokenProcessPool):
            lost = "; ".join(job.label for future, job in given.items() if not future.done() or future.exception())
            died = (
                f"a process died (killed, or out of memory?) while these were at work: {lost}. What was finished is "
                "kept, run again to go on; --workers 1 needs no other process."
            )
            raise JobFailed(died if started else f"no process could be started. {_HOW}") from error
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        hand.close()


def _context() -> Any:
    """How processes are started: never as a fork of this one, which can hang once torch has made threads.

    On Linux they are forks of one that has imported all that jobs need, and has done nothing with it; that takes 3 CPU
    seconds once in place of once each. It stays until this process ends, with the umask, the limits and the open files
    of the first time; a fork has this one's environment and cores. It may use no CUDA if what it came from looked for a
    device.
    """
    told = not sys.flags.ignore_environment and not any(os.pathsep in path for path in _places())
    if sys.platform != "linux" or not told or jobs.device().type != "cpu":
        return multiprocessing.get_context("spawn")
    return forks(*(name for name in _OF_DATA if name in sys.modules), "sj_cka.preload")


def forks(*modules: str) -> Any:
    """Starts processes from one that has imported modules, from where this one has them; the first call decides."""
    from multiprocessing import forkserver  # which Windows has not

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    paths = {"PYTHONPATH": os.pathsep.join(_places()), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ[name] for name in paths if name in os.environ}
    os.environ |= paths  # there is no other way to tell it where modules are
    try:
        resource_tracker.ensure_running()  # it would let Ctrl-C through again
        with _without_interrupt():
            forkserver.ensure_running()
    finally:
        for name in paths:
            del os.environ[name]
        os.environ |= before
    return context


def _places() -> list[str]:
    """Where this process looks for modules."""
    return [path or os.getcwd() for path in sys.path if isinstance(path, str)]


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


def _cores() -> set[int] | None:
    """The cores that this process may use, which can be fewer than the machine has; None where that is not known."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _start_worker(leash: Connection, environment: Mapping[str, str], cores: set[int] | None) -> None:
    """Runs in each new process: it ends with its parent, or when told to, and leaves Ctrl-C to the parent."""
    os.environ.clear()  # it has that of the process that it is a fork of
    os.environ.update(environment)
    if cores is not None and cores != _cores():
        os.sched_setaffinity(0, cores)
    np.random.seed()  # forks begin with the same state
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # tqdm's own lock is a semaphore of the system, which outlives a process that is ended
    tqdm.set_lock(threading.RLock())

    def watch() -> None:
        leash.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with suppress(OSError):  # told to end before it began
        leash.send("started")
