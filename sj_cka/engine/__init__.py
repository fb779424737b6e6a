"""Where jobs run: one file an engine, behind `submit(job) -> Future`; `schedule` says which job when."""

from sj_cka.engine.engines import ENGINES
from sj_cka.engine.pool import refuse_unguarded
from sj_cka.engine.schedule import execute, in_order
from sj_cka.engine.standing import stand
from sj_cka.engine.work import Engine, JobFailed, do

__all__ = ["ENGINES", "Engine", "JobFailed", "do", "execute", "in_order", "refuse_unguarded", "stand"]
