"""The engine that is this process itself, or with others of a `torch.distributed` group the group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from sj_cka.engine.work import Engine, JobFailed, do
from sj_cka.job import Job
from sj_cka.store import Store


@contextmanager
def here(store: Store, missing: Sequence[Job], workers: int | None) -> Iterator[Engine]:
    """An engine that does a job when it is given; one worker is all that it has.

    Raises:
        JobFailed: more workers are asked for.
    """
    if workers not in (None, 1):
        raise JobFailed(f"expected one worker of the engine 'here', which is this process itself, got {workers}")

    def submit(job: Job) -> Future[None]:
        do(job, store)
        done = Future[None]()
        done.set_result(None)
        return done

    yield Engine(submit, room=1)
