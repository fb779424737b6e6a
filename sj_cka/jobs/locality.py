"""Which updates of a learning rule move when layers, or steps, are disturbed; see `sj_cka.training.locality`.

Its cost is about 2 (blocks + T) forward and backward passes of the samples in float64, for each network and seed.
"""

import json
from collections.abc import Iterator

import pandas as pd
from pydantic import Field

from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.moments import trained
from sj_cka.jobs.rules import check_rules, rule_of
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName
from sj_cka.training import locality
from sj_cka.typed import Int, Strict

LOCALITY = "locality.json"


class LocalityBlock(Strict):
    """What a recipe says under `jobs.locality`."""

    networks: list[str] = Field(["*.snn"], min_length=1, description="<variant>.snn; `*`: every variant")
    samples: Int = Field(32, ge=1, description="the first so many training samples")


def rows(graph: Graph) -> Iterator[Row]:
    """The networks that the recipe names, trained, with every seed."""
    if not isinstance(block := graph.blocks.get("locality"), LocalityBlock):
        return
    for name in graph.study.every(block.networks):
        for seed in graph.study.seeds:
            yield Row({"network": name, "seed": seed}, _job(graph, name, seed, block))


def _job(graph: Graph, name: NetworkName, seed: int, block: LocalityBlock) -> Job:
    args = {"samples": block.samples, "rule": rule_of(graph.study, name)}
    weights = trained(graph, name, seed)
    label = f"locality of the rule of {name}, seed {seed}"
    return Job("locality", args, {"network": weights}, graph.block(name), None, weights.threads, label)


def check(preflight: Preflight) -> None:
    """There are so many samples, every network spikes, and its rule has a definition and goes with it.

    Raises:
        RecipeError: the first that does not.
    """
    if isinstance(block := preflight.blocks.get("locality"), LocalityBlock):
        check_rules(preflight, "locality", block.networks, block.samples)


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """The tables of `sj_cka.training.Locality`, and its shares."""
    data, args = job.data.samples, job.args
    measured = read_network(inputs["network"](weights_of()), device=context.device)
    x, y = (part[: args["samples"]].to(context.device) for part in (data.x_train, data.y_train))
    found = locality(args["rule"], measured, data.as_input(x), y)
    shares = {name: getattr(found, name) for name in ("across_blocks", "across_blocks_error_held", "across_steps")}
    tables = {"space": found.space.to_dict("list"), "time": found.time.to_dict("list")}
    return {LOCALITY: json.dumps({"shares": shares, **tables}).encode()}


def _shares(row: Row, read: Read) -> pd.DataFrame:
    """Columns across_blocks, across_blocks_error_held, across_steps: shares of updates that move."""
    return pd.DataFrame([json.loads(read(LOCALITY))["shares"]])


def _space(row: Row, read: Read) -> pd.DataFrame:
    """Columns disturbed, layer, below, change, change_error_held."""
    return pd.DataFrame(json.loads(read(LOCALITY))["space"])


def _time(row: Row, read: Read) -> pd.DataFrame:
    """Columns disturbed, step, layer, remembers, change."""
    return pd.DataFrame(json.loads(read(LOCALITY))["time"])


TABLES = {"locality": _shares, "locality_in_space": _space, "locality_in_time": _time}
KIND = Kind(run, lambda job: (LOCALITY,), rows, check, TABLES, block=LocalityBlock)
