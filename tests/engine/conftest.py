"""Kinds of job that do next to nothing."""

from __future__ import annotations

from typing import Any

import pytest

from sj_cka import jobs
from sj_cka.job import Files, Job
from sj_cka.jobs import Kind


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two kinds of job that do next to nothing; gives the order in which jobs ran."""
    ran: list[str] = []

    def add(job: Job, needs: Any, context: Any) -> Files:
        ran.append(job.args["name"])
        context.report("at work")
        return {"sum": str(1 + sum(int(read("sum")) for read in needs.values())).encode()}

    def fail(job: Job, needs: Any, context: Any) -> Files:
        raise ZeroDivisionError("nothing is nothing")

    monkeypatch.setitem(jobs.KINDS, "add", Kind(add, lambda job: ()))
    monkeypatch.setitem(jobs.KINDS, "fail", Kind(fail, lambda job: ()))
    return ran
