"""All engines by name; and the one that is this process itself."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager

from sj_cka.engine.pool import processes
from sj_cka.engine.work import Engine, JobFailed, do
from sj_cka.job import Job
from sj_cka.store import Store


@contextmanager
def here(store: Store, missing: Sequence[Job], workers: int | None) -> Iterator[Engine]:
    """The engine that is this process itself, or with others of a `torch.distributed` group the group.

    It does a job when it is given; one worker is all that it has.

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


# name -> `engine(store, missing, workers)`: where finished jobs lie, those to be done, and how many at once at most
# (None for what the engine thinks right). Where an error ends the study, the engine ends all that it started.
ENGINES: dict[str, Callable[[Store, Sequence[Job], int | None], AbstractContextManager[Engine]]] = {
    "here": here,
    "processes": processes,
}
