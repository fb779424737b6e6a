"""What a kind of job is: all that there is to know of it, in one entry of KINDS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
from pydantic import BaseModel

from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs.graph import Graph
from sj_cka.preflight import Preflight


class Row(NamedTuple):
    """One measurement that a study asks for.

    Args:
        at: what it is of: columns in front of its tables, e.g. network, seed, eps, T.
        job: what leaves it; several measurements may share one.
    """

    at: Mapping[str, Any]
    job: Job


Reader = Callable[[Row, Read], pd.DataFrame]


class Kind(NamedTuple):
    """A kind of job.

    Args:
        run: its function, pure: the files depend on the job and on the files of its inputs alone.
        leaves: names of the files that it leaves, besides `spec.json` and `environment.json`.
        rows: what a study asks for of this kind, in order.
        check: tries it before anything runs; a RecipeError names the key that is at fault.
        tables: name of a table -> what reads a measurement's part of it from the files of its job. Columns of `Row.at`
            that it does not place itself stand in front.
        together: whether all processes of a `torch.distributed` group do it together; else the first does it alone.
        block: what a recipe may say of it under `jobs.<kind>`; None where that lies elsewhere.
    """

    run: Callable[[Job, Inputs, Context], Files]
    leaves: Callable[[Job], tuple[str, ...]]
    rows: Callable[[Graph], Iterable[Row]] = lambda graph: ()
    check: Callable[[Preflight], None] = lambda preflight: None
    tables: Mapping[str, Reader] = MappingProxyType({})
    together: bool = False
    block: type[BaseModel] | None = None
