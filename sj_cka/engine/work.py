"""What an engine is, how one job is done wherever that is, and the engine that does it in this process."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from sj_cka import jobs
from sj_cka.job import Context, Job, silent
from sj_cka.plugins import lookup
from sj_cka.processes import agreed, world
from sj_cka.store import Store
from sj_cka.training import NotFinite


class JobFailed(RuntimeError):
    """A job that could not be done; the message says which and why. What was finished before stays in the store."""


class Engine(NamedTuple):
    """What jobs are given to.

    Args:
        submit: has a job done, wherever, by `do(job, store)`: when the future is done its files are in the store, or
            it raises JobFailed. What the job builds on is there when it is submitted.
        room: how many it takes at once.
    """

    submit: Callable[[Job], Future[None]]
    room: int


def do(job: Job, store: Store) -> None:
    """Does a job, unless it is finished; what it says meanwhile is in its log.

    In a `torch.distributed` group all processes call this: the first holds the job against other runs and writes it,
    the others help where they can.

    Raises:
        JobFailed: it could not be done.
    """
    rank, processes = world()
    with _named(job), store.working_on(job.key) if rank == 0 else nullcontext(False) as needed:
        if not agreed(needed):
            return
        kind = lookup(jobs.KINDS, job.kind, "kind of job")
        if rank == 0 or kind.together:
            report = store.log(job.key).begin() if rank == 0 else silent
            files = jobs.run(job, store.read, Context(report, store.slot(job.key), jobs.device(), rank, processes))
            if rank == 0:
                if missing := [name for name in kind.leaves(job) if name not in files]:
                    raise ValueError(f"expected the files that a job of kind {job.kind!r} leaves, without {missing}")
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
