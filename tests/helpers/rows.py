"""The measurements of a plan as tests ask for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sj_cka.job import Job
from sj_cka.plan import Plan


def pairs(plan: Plan) -> list[SimpleNamespace]:
    """Every comparison: comparison, variant, state, seed, seed_y, kind, job."""
    return [SimpleNamespace(**row.at, job=row.job) for row in plan.rows["compare"]]


def by(plan: Plan, kind: str, *columns: str) -> dict[tuple[Any, ...], Job]:
    """Values of columns -> the job of that measurement."""
    return {tuple(row.at[column] for column in columns): row.job for row in plan.rows[kind]}
