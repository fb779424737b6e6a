"""Untrained networks, whose batch normalisation has seen the training split once."""

from sj_cka.job import Context, Files, Inputs, Job
from sj_cka.jobs.graph import Graph, Kind
from sj_cka.jobs.weights import network_args, network_spec, saved, weights_of
from sj_cka.models import build
from sj_cka.recipe import NetworkName
from sj_cka.training import calibrate


def job(graph: Graph, network: NetworkName, seed: int) -> Job:
    """The first weights of a network."""
    condition = graph.study.conditions[network.variant]
    args = network_args(condition, network.kind, graph.samples(network))
    return Job(
        "init", args, {}, graph.block(network), seed, condition.train.threads, f"{network} untrained, seed {seed}"
    )


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """Weights."""
    data = job.data.samples
    spec = network_spec(job, data)
    network = build(**spec, device=context.device)
    calibrate(network, data.x_train, prepare=data.as_input)
    return {weights_of(): saved(network, spec)}


KIND = Kind(run, lambda job: (weights_of(),))
