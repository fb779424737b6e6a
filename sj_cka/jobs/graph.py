"""The graph of a study's jobs while it is made: each job once, however many others build on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import BaseModel

from sj_cka.data import Samples
from sj_cka.job import DataBlock
from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName

P = ParamSpec("P")
Made = TypeVar("Made")


class Graph:
    """What kinds of job make their jobs with.

    Args:
        preflight: the study, tried.
        blocks: kind of job -> what the recipe says of it under `jobs`.
        processes: among which each training is shared.
    """

    def __init__(self, preflight: Preflight, blocks: Mapping[str, BaseModel] | None = None, processes: int = 1) -> None:
        self.study, self.data, self.networks = preflight.study, preflight.data, preflight.names
        self.blocks, self.processes = blocks or {}, processes
        self._made: dict[tuple[Any, ...], Any] = {}

    def once(self, make: Callable[Concatenate[Graph, P], Made], *args: P.args, **none: P.kwargs) -> Made:
        """`make(graph, *args)`, called once for equal arguments: so that the key of a job is taken once."""
        key = make, *args
        if key not in self._made:
            self._made[key] = make(self, *args, **none)
        made: Made = self._made[key]
        return made

    def block(self, network: NetworkName) -> DataBlock:
        """The data of a network, as a job names them."""
        return self.data[network.variant].block

    def samples(self, network: NetworkName) -> Samples:
        """The data of a network."""
        return self.data[network.variant].samples
