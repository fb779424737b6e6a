"""Fisher information of the weights of networks, by layer and number of steps; see `sj_cka.fisher`.

Its cost is samples x steps x classes backward passes a network and seed (`labels: data`: samples x steps), one sample
at a time.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from sj_cka.fisher import ALL, empirical_fisher, fisher_information, information_centroid
from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.moments import epoch, network
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName
from sj_cka.typed import Int, Strict

FISHER = "fisher.json"


class FisherBlock(Strict):
    """What a recipe says under `jobs.fisher`."""

    networks: list[str] = Field(
        ["*.snn"],
        min_length=1,
        description="<variant>.<snn|ann|converted>, with @init or @<epoch>; `*`: every variant",
    )
    samples: Int = Field(128, ge=1, description="the first so many test samples")
    labels: Literal["model", "data"] = Field(
        "model", description="labels that are expected under the network's own probabilities, or those of the data"
    )


def job(graph: Graph, name: NetworkName, seed: int, block: FisherBlock) -> Job:
    """The Fisher information of a network at the moment of its training that its name says."""
    args: dict[str, Any] = {"samples": block.samples}
    if block.labels != "model":
        args["labels"] = block.labels
    if (moment := epoch(graph.study, name)) is not None:
        args["epoch"] = moment
    weights = network(graph, name, seed)
    label = f"Fisher information of {name}, seed {seed}"
    return Job("fisher", args, {"network": weights}, graph.block(name), None, weights.threads, label)


def rows(graph: Graph) -> Iterator[Row]:
    """The networks that the recipe names, with every seed; the column labels says whose labels are meant."""
    if not isinstance(block := graph.blocks.get("fisher"), FisherBlock):
        return
    for name in graph.study.every(block.networks):
        for seed in graph.study.seeds:
            yield Row({"network": name, "seed": seed, "labels": block.labels}, job(graph, name, seed, block))


def check(preflight: Preflight) -> None:
    """There are so many samples, and every network has gradients.

    Raises:
        RecipeError: the first fault.
    """
    if not isinstance(block := preflight.blocks.get("fisher"), FisherBlock):
        return
    for name in dict.fromkeys(name.trained for name in preflight.study.every(block.networks)):
        samples, study = preflight.samples(name), preflight.study
        if (count := len(samples.x_test)) < block.samples:
            expected = f"expected at most {count}, so many test {samples.called} there are of {name}"
            raise study.error(("jobs", "fisher", "samples"), f"{expected}, got {block.samples}")
        x, y = samples.as_input(samples.x_test[:1]), samples.y_test[:1]
        try:
            empirical_fisher(preflight.network(name), x, y, axis=0 if samples.T is None else 1)
        except (ValueError, RuntimeError) as error:
            raise study.error(("jobs", "fisher"), f"{name}: {str(error).splitlines()[0]}") from error


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """The table of `sj_cka.fisher.fisher_information`, on the first test samples."""
    data, args = job.data.samples, job.args
    measured = read_network(inputs["network"](weights_of(args.get("epoch"))), device=context.device)
    x, y = (part[: args["samples"]].to(context.device) for part in (data.x_test, data.y_test))
    x, axis = data.as_input(x), 0 if data.T is None else 1
    of_labels = args.get("labels", "model") == "data"
    found = empirical_fisher(measured, x, y, axis=axis) if of_labels else fisher_information(measured, x, axis=axis)
    return {FISHER: json.dumps(found.to_dict("list")).encode()}


def _read(row: Row, read: Read) -> pd.DataFrame:
    """Columns of `fisher_information`, and log10_fisher, NaN of 0: a table is written with six decimals."""
    found = pd.DataFrame(json.loads(read(FISHER)))
    return found.assign(log10_fisher=np.log10(found["fisher"].where(found["fisher"] > 0)))


def _of_all(row: Row, read: Read) -> pd.DataFrame:
    """Of all weights together: log10_fisher in all steps, and centroid, in steps."""
    found = _read(row, read)
    found = found[found["layer"] == ALL]
    return pd.DataFrame(
        {"log10_fisher": found["log10_fisher"].iloc[-1:].to_numpy(), "centroid": information_centroid(found).to_numpy()}
    )


KIND = Kind(
    run, lambda job: (FISHER,), rows, check, tables={"fisher": _read, "information": _of_all}, block=FisherBlock
)
