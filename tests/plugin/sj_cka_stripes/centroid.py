"""A kind of job: when a network's weights matter, as two numbers of the Fisher information over time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from pydantic import Field

from sj_cka.figures import Panel, Section
from sj_cka.fisher import fisher_information, information_centroid
from sj_cka.job import Context, Files, Inputs, Job
from sj_cka.jobs import Graph, Kind, Row, trained
from sj_cka.jobs.graph import one_row
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.over_seeds import over_seeds
from sj_cka.preflight import Preflight
from sj_cka.typed import Int, Strict

if TYPE_CHECKING:
    from sj_cka.recipe import FigureBlock
    from sj_cka.results import Results

CENTROID = "centroid.json"


class CentroidBlock(Strict):
    """What a recipe says under `jobs.centroid`."""

    networks: list[str] = Field(["*.snn"], min_length=1)
    samples: Int = Field(8, ge=1)


def rows(graph: Graph) -> Iterator[Row]:
    """The networks that the recipe names, with every seed."""
    block = graph.blocks.get("centroid")
    if not isinstance(block, CentroidBlock):
        return
    for name in block.networks:
        for network in graph.study.networks(name):
            for seed in graph.study.seeds:
                needed, args = {"network": trained(graph, network, seed)}, {"samples": block.samples}
                job = Job("centroid", args, needed, graph.block(network), label=f"centroid of {network}, seed {seed}")
                yield Row({"network": network, "seed": seed}, job)


def check(preflight: Preflight) -> None:
    """Tries it on a sample of every spiking network."""
    for name in preflight.names if "centroid" in preflight.blocks else ():
        if name.kind == "snn":
            samples = preflight.samples(name)
            fisher_information(preflight.network(name), samples.as_input(samples.x_test[:1]))


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """Columns trace (of all weights in all steps), centroid (from 1)."""
    data = job.data.samples
    network = read_network(inputs["network"](weights_of()), device=context.device)
    found = fisher_information(network, data.as_input(data.x_test[: job.args["samples"]].to(context.device)))
    numbers = {"trace": float(found["fisher"].iloc[-1]), "centroid": float(information_centroid(found)["all"])}
    return {CENTROID: json.dumps(numbers).encode()}


def section(block: FigureBlock, results: Results, *, column: str = "centroid") -> Section:
    """A bar a network."""
    line = over_seeds(results.tables["centroids"], "network", column)
    figure = go.Figure(go.Bar(x=list(map(str, line.index)), y=line["mean"].tolist()))
    return Section(block.title or f"Over time: {column}", "Means over seeds.", (Panel("centroid", figure),))


KIND = Kind(run, lambda job: (CENTROID,), rows, check, {"centroids": one_row(CENTROID)}, block=CentroidBlock)
