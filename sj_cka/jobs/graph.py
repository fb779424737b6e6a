"""The graph that kinds of job make their jobs in, and what a kind is: all there is to know of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

import pandas as pd
from pydantic import BaseModel

from sj_cka.job import Context, DataBlock, Files, Inputs, Job, Read
from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName

P = ParamSpec("P")
Made = TypeVar("Made")


class Graph:
    """What kinds of job make their jobs with.

    Args:
        preflight: the study, tried.
        processes: among which each training is shared.
    """

    def __init__(self, preflight: Preflight, processes: int = 1) -> None:
        self.study, self.data, self.networks = preflight.study, preflight.data, preflight.names
        self.samples, self.blocks, self.processes = preflight.samples, preflight.blocks, processes
        self._made: dict[tuple[Any, ...], Any] = {}

    def once(self, make: Callable[Concatenate[Graph, P], Made], *args: P.args, **none: P.kwargs) -> Made:
        """`make(graph, *args)`, called once for equal arguments: so that the key of a job is taken once."""
        key = make, *args
        if key not in self._made:
            self._made[key] = make(self, *args, **none)
        return cast(Made, self._made[key])

    def block(self, network: NetworkName) -> DataBlock:
        """The data of a network, as a job names them."""
        return self.data[network.variant].block

    def of_networks(
        self, make: Callable[[Graph, NetworkName, int], Job], wanted: Callable[[NetworkName], object] = bool
    ) -> Iterator[Row]:
        """A job of every network that is named and wanted, with every seed: rows of the columns network and seed."""
        for network in filter(wanted, self.networks):
            for seed in self.study.seeds:
                yield Row({"network": network, "seed": seed}, self.once(make, network, seed))


class Row(NamedTuple):
    """One measurement that a study asks for.

    Args:
        at: what it is of: columns in front of its tables, e.g. network, seed, eps, T.
        job: what leaves it; several measurements may share one.
    """

    at: Mapping[str, Any]
    job: Job


Reader = Callable[[Row, Read], pd.DataFrame]


def one_row(name: str) -> Reader:
    """A reader of a JSON file of numbers by column."""
    return lambda row, read: pd.DataFrame([json.loads(read(name))])


# tables that a study makes of comparisons, claims and data
TAKEN = {"cka", "paired", "dynamics", "undefined", "claims", "test_split"}


class Kind(NamedTuple):
    """A kind of job.

    Args:
        run: its function, pure: the files depend on the job and on the files of its inputs alone.
        leaves: names of the files that it leaves, besides `spec.json` and `environment.json`.
        rows: what a study asks for of this kind, in order.
        check: tries it before anything runs; a RecipeError names the key that is at fault.
        tables: name of a table -> what reads a measurement's part of it from the files of its job. Columns of `Row.at`
            that it does not place itself stand in front. TAKEN are not free.
        together: whether all processes of a `torch.distributed` group do it together; else the first does it alone.
        block: what a recipe may say of it under `jobs.<kind>`; None where that lies elsewhere. A list `networks` in it
            names networks of the study, `*` every variant's: these are there, and are trained.
    """

    run: Callable[[Job, Inputs, Context], Files]
    leaves: Callable[[Job], tuple[str, ...]]
    rows: Callable[[Graph], Iterable[Row]] = lambda graph: ()
    check: Callable[[Preflight], None] = lambda preflight: None
    tables: Mapping[str, Reader] = MappingProxyType({})
    together: bool = False
    block: type[BaseModel] | None = None
