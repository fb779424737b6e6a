"""Accuracies of trained spiking networks that are run with other numbers of steps."""

from collections.abc import Iterator

import pandas as pd

from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs.accuracies import ACCURACY, accuracies, splits
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.moments import trained
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName


def job(graph: Graph, network: NetworkName, T: int, seed: int) -> Job:
    """What knows the accuracy of a spiking network with T steps: its training, where these are its own."""
    training = trained(graph, network, seed)
    if T == graph.study.steps_of(network):
        return training
    label = f"{network} at T = {T}, seed {seed}"
    return Job("evaluate", {"T": T}, {"network": training}, graph.block(network), None, training.threads, label)


def rows(graph: Graph) -> Iterator[Row]:
    """Every network under `evaluate` with the steps given there and its own, with every seed."""
    study = graph.study
    asked = {name for block in study.recipe.evaluate for name in study.networks(block.network)}
    for network in graph.networks:
        for T in sorted({study.steps_of(network), *study.evaluated(network)}) if network in asked else ():
            for seed in study.seeds:
                yield Row({"network": network, "T": T, "seed": seed}, job(graph, network, T, seed))


def check(preflight: Preflight) -> None:
    """What changes the number of steps does not go with recordings.

    Raises:
        RecipeError: the first network on them.
    """
    study = preflight.study
    for i, block in enumerate(study.recipe.evaluate):
        for name in study.networks(block.network):
            if preflight.samples(name).T is not None:
                message = f"{name} cannot run with another number of steps: {OF_RECORDINGS}"
                raise study.error(("evaluate", i, "network"), message)


OF_RECORDINGS = "of recordings it has the steps of its data: sweep data.T to vary them"


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """Accuracies."""
    network = read_network(inputs["network"](weights_of()), job.args["T"], context.device)
    return {ACCURACY: accuracies(network, job.data.samples)}


def _read(row: Row, read: Read) -> pd.DataFrame:
    """Columns split, accuracy."""
    return splits(read)


KIND = Kind(run, lambda job: (ACCURACY,), rows, check, {"evaluated": _read})
