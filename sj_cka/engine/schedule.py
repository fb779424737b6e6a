"""Which job when: those that are missing, each after what it builds on, on whatever engine."""

import heapq
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from graphlib import TopologicalSorter

from sj_cka.engine.engines import ENGINES
from sj_cka.engine.pool import default_workers
from sj_cka.engine.standing import stand
from sj_cka.engine.work import Engine, JobFailed
from sj_cka.job import Job
from sj_cka.plugins import lookup
from sj_cka.processes import agreed, world
from sj_cka.progress import Progress, repeated
from sj_cka.store import Log, Store

logger = logging.getLogger(__name__)
_SECONDS = 0.2  # between two looks at what the jobs say


def in_order(wanted: Iterable[Job]) -> list[Job]:
    """The jobs and all that they need, each once, needed ones first."""
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.key not in ordered:
            for needed in job.inputs.values():
                add(needed)
            ordered[job.key] = job

    for job in wanted:
        add(job)
    return list(ordered.values())


class Waiting:
    """Jobs that wait for others, given out in their order as soon as what they need is done.

    Which may be done now is known without looking at all of them each time one is done.

    Args:
        missing: jobs, needed ones first.
    """

    def __init__(self, missing: Sequence[Job]) -> None:
        self.jobs = missing
        self.place = {job.key: i for i, job in enumerate(missing)}
        needs = {job.key: {needed.key for needed in job.inputs.values()} & self.place.keys() for job in missing}
        self.sorter = TopologicalSorter(needs)
        self.sorter.prepare()
        self.ready: list[int] = []  # a heap of places
        self._more()

    def _more(self) -> None:
        for key in self.sorter.get_ready():
            heapq.heappush(self.ready, self.place[key])

    def next(self) -> Job:
        """The first job that is ready."""
        return self.jobs[heapq.heappop(self.ready)]

    def done(self, job: Job) -> None:
        """Sets free what waited for a job alone."""
        self.sorter.done(job.key)
        self._more()


def execute(
    wanted: Sequence[Job],
    store: Store,
    *,
    workers: int | None = None,
    progress: bool = True,
    engine: str | None = None,
) -> int:
    """Does the jobs that the store lacks, each after those that it builds on.

    In a `torch.distributed` group all processes call this: a training is done by all of them together, see
    `sj_cka.training.train`, what cannot be shared by the first alone; only the first writes.

    Args:
        wanted: jobs, in the order in which they are started where they may.
        store: where finished jobs lie.
        workers: how many at once; None for what the engine thinks right: as many processes as the cores hold at the
            threads of a job. In a group there are no others.
        progress: show how far it is.
        engine: a name of ENGINES; None for "processes" of this machine, or with one worker, one job or in a group
            "here", this process itself.

    Returns:
        How many jobs were done.

    Raises:
        JobFailed: a job raised, its process died, or none can be started from here.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"expected at least 1 worker, got {workers}")
    ordered = in_order(wanted)
    rank, group = world()
    missing = agreed(_to_do(ordered, store) if rank == 0 else [])
    if engine is None:
        alone = group > 1 or min(workers or default_workers(missing), len(missing)) < 2
        engine, workers = ("here", None) if alone else ("processes", workers)
    if group > 1 and engine != "here":
        raise JobFailed(f"expected the engine 'here' in the {group} processes of a group, got {engine!r}")
    entered = lookup(ENGINES, engine, "engine")(store, missing, workers)
    with Progress(len(ordered), len(ordered) - len(missing), show=progress and rank == 0) as shown:
        if missing:
            with entered as at_work:
                if at_work.room < 1:
                    raise JobFailed(f"expected room for a job at least in the engine {engine!r}, got {at_work.room}")
                _schedule(missing, store, at_work, shown)
    return len(missing)


def _to_do(ordered: Sequence[Job], store: Store) -> list[Job]:
    standing = stand(ordered, store)
    for job, wrong in standing.damaged:
        logger.warning("%s: %s; it is set aside in %s and made again", job.label, wrong, store.aside)
    if standing.open:
        store.try_out()
    return [job for job in ordered if job.key in standing.open]


def _schedule(missing: Sequence[Job], store: Store, engine: Engine, shown: Progress) -> None:
    waiting, running, logs = Waiting(missing), dict[Future[None], Job](), dict[str, tuple[str, Log]]()

    def tell() -> None:
        for label, log in list(logs.values()):
            if news := log.news():
                shown.say(f"{label}: {news[-1]['says']}")

    with repeated(tell, _SECONDS):
        while waiting.ready or running:
            while waiting.ready and len(running) < engine.room:
                job = waiting.next()
                logs[job.key] = job.label, store.log(job.key)
                logs[job.key][1].news()  # of a run that was killed
                running[engine.submit(job)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                job = running.pop(future)
                del logs[job.key]
                waiting.done(job)
                shown.finished(job.label)
