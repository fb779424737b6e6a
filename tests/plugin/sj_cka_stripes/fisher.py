"""Fisher information over time as a kind of job, after Kim et al. 2023, "Exploring temporal information dynamics"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go
import torch
from pydantic import Field
from torch import Tensor, nn

from sj_cka.figures import Panel, Section
from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs import Graph, Kind, Row, trained
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.over_seeds import over_seeds
from sj_cka.preflight import Preflight
from sj_cka.recording import reset_states
from sj_cka.typed import Int, Strict

if TYPE_CHECKING:
    from sj_cka.recipe import FigureBlock
    from sj_cka.results import Results

FISHER = "fisher.json"


class FisherBlock(Strict):
    """What a recipe says under `jobs.fisher`."""

    networks: list[str] = Field(["*.snn"], min_length=1)
    samples: Int = Field(8, ge=1)


def fisher_information(network: nn.Module, x: Tensor) -> list[float]:
    """Trace of the Fisher information of all weights in the first t steps, for t = 1..T.

    sum over classes c of p(c|x) |d log p(c|x) / d theta|^2, mean over samples; p is that of the mean logits over t
    steps. The expectation over labels is taken exactly.

    Args:
        network: gives logits `[T, N, classes]`.
        x: `[N, ...]`.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    traces: Tensor | None = None
    for sample in x.split(1):
        reset_states(network)
        logits = network(sample)[:, 0]
        steps = torch.arange(1, len(logits) + 1, device=x.device).unsqueeze(1)
        log_p = (logits.cumsum(0) / steps).log_softmax(-1)
        here = []
        for of_step in log_p:
            squares = [
                sum(
                    g.square().sum()
                    for g in torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
                    if g is not None
                )
                for value in of_step
            ]
            here.append((of_step.exp() * torch.stack(squares)).sum().detach())
        traces = torch.stack(here) + (0 if traces is None else traces)
    reset_states(network)
    assert traces is not None  # there is a sample at least
    return [float(value) for value in traces / len(x)]


def rows(graph: Graph) -> Iterator[Row]:
    """The networks that the recipe names, with every seed."""
    block = graph.blocks.get("fisher")
    if not isinstance(block, FisherBlock):
        return
    for name in block.networks:
        for network in graph.study.networks(name):
            for seed in graph.study.seeds:
                training = trained(graph, network, seed)
                label = f"Fisher information of {training.label}"
                job = Job(
                    "fisher", {"samples": block.samples}, {"network": training}, graph.block(network), label=label
                )
                yield Row({"network": network, "seed": seed}, job)


def check(preflight: Preflight) -> None:
    """Tries it on a sample of every spiking network."""
    for name in preflight.names if "fisher" in preflight.study.recipe.jobs else ():
        if name.kind == "snn":
            samples = preflight.samples(name)
            fisher_information(preflight.network(name), samples.as_input(samples.x_test[:1]))


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """The trace for every number of steps."""
    data = job.data.samples
    network = read_network(inputs["network"](weights_of()), device=context.device)
    x = data.as_input(data.x_test[: job.args["samples"]].to(context.device))
    return {FISHER: json.dumps(fisher_information(network, x)).encode()}


def read(row: Row, read: Read) -> pd.DataFrame:
    """Columns trace (of all steps), centroid (the information centroid, from 1)."""
    traces = json.loads(read(FISHER))
    centroid = sum(t * trace for t, trace in enumerate(traces, 1)) / sum(traces)
    return pd.DataFrame([{"trace": traces[-1], "centroid": centroid}])


def section(block: FigureBlock, results: Results, *, column: str = "centroid") -> Section:
    """A bar a network."""
    line = over_seeds(results.tables["fisher"], "network", column)
    figure = go.Figure(go.Bar(x=list(map(str, line.index)), y=line["mean"].tolist()))
    return Section(block.title or f"Fisher information: {column}", "Means over seeds.", (Panel("fisher", figure),))


KIND = Kind(run, lambda job: (FISHER,), rows, check, {"fisher": read}, block=FisherBlock)
