"""The order of jobs: each after those that it builds on, and which may be done now."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter

from sj_cka.job import Job


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
