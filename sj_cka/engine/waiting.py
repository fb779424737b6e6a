"""The order of jobs: each after those that it builds on, and which may be done now."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from sj_cka.jobs import Job


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


class Waiting:
    """Jobs that wait for others, given out in their order as soon as what they need is done.

    Which may be done now is known without looking at all of them each time one is done.

    Args:
        missing: jobs, needed ones first.
    """

    def __init__(self, missing: Sequence[Job]) -> None:
        self.place = {job.key: i for i, job in enumerate(missing)}
        self.jobs = missing
        self.open: dict[str, int] = {}  # key -> needs that are not done
        self.after: dict[str, list[str]] = {}  # key -> jobs that need it
        for job in missing:
            needs = {needed.key for needed in job.needs.values()} & self.place.keys()
            self.open[job.key] = len(needs)
            for key in needs:
                self.after.setdefault(key, []).append(job.key)
        self.ready = [self.place[key] for key, count in self.open.items() if count == 0]  # a heap

    def next(self) -> Job:
        """The first job that is ready."""
        return self.jobs[heapq.heappop(self.ready)]

    def done(self, job: Job) -> None:
        """Sets free what waited for a job alone."""
        for key in self.after.get(job.key, ()):
            self.open[key] -= 1
            if self.open[key] == 0:
                heapq.heappush(self.ready, self.place[key])
