"""Operations and energy of networks for one sample, means over the first of the test split."""

import json
from collections.abc import Iterator

from sj_cka.energy import cost
from sj_cka.job import Context, Files, Inputs, Job
from sj_cka.jobs.graph import Graph, Kind, Row, one_row
from sj_cka.jobs.moments import trained
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.recipe import NetworkName

COST = "cost.json"
_COUNTED = 128  # test samples that operations are counted on


def job(graph: Graph, network: NetworkName, seed: int) -> Job:
    """The count of a trained network's operations."""
    training = trained(graph, network, seed)
    label = f"cost of {training.label}"
    return Job("cost", {}, {"network": training}, graph.block(network), None, training.threads, label)


def rows(graph: Graph) -> Iterator[Row]:
    """Every network with every seed."""
    return graph.of_networks(job)


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """What `sj_cka.energy.cost` counts."""
    data = job.data.samples
    network = read_network(inputs["network"](weights_of()), device=context.device)
    samples = data.as_input(data.x_test[:_COUNTED].to(context.device))
    counted = cost(network, samples, axis=0 if data.T is None else 1)
    return {COST: json.dumps(counted._asdict()).encode()}


KIND = Kind(run, lambda job: (COST,), rows, tables={"cost": one_row(COST)})
