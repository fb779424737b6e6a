"""How the updates of a learning rule lie to BPTT's, at every kept epoch; see `sj_cka.training.alignment`.

Its cost is 2 (T + 1) forward and backward passes of the samples in float64, for each network, seed and epoch.
"""

import json
from collections.abc import Iterator

import pandas as pd
from pydantic import Field

from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.moments import epoch, network
from sj_cka.jobs.rules import check_rules, rule_of
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName
from sj_cka.training import alignment
from sj_cka.typed import Int, Strict

ALIGNMENT = "alignment.json"


class AlignmentBlock(Strict):
    """What a recipe says under `jobs.alignment`."""

    networks: list[str] = Field(
        ["*.snn"], min_length=1, description="<variant>.snn, at every kept epoch and the last; `*`: every variant"
    )
    samples: Int = Field(64, ge=1, description="the first so many training samples")


def rows(graph: Graph) -> Iterator[Row]:
    """The networks that the recipe names, with every seed, at every kept epoch."""
    if not isinstance(block := graph.blocks.get("alignment"), AlignmentBlock):
        return
    for name in graph.study.every(block.networks):
        for at in graph.study.epochs(name):
            for seed in graph.study.seeds:
                moment = graph.study.at(NetworkName(f"{name}@*"), at)
                yield Row({"network": name, "seed": seed, "epoch": at}, _job(graph, moment, seed, block))


def _job(graph: Graph, name: NetworkName, seed: int, block: AlignmentBlock) -> Job:
    args = {"samples": block.samples, "rule": rule_of(graph.study, name)}
    if (moment := epoch(graph.study, name)) is not None:
        args["epoch"] = moment
    weights = network(graph, name, seed)
    return Job(
        "alignment",
        args,
        {"network": weights},
        graph.block(name),
        None,
        weights.threads,
        f"alignment of {name} with BPTT, seed {seed}",
    )


def check(preflight: Preflight) -> None:
    """There are so many samples, every network spikes, and its rule has a definition and goes with it.

    Raises:
        RecipeError: the first that does not.
    """
    if isinstance(block := preflight.blocks.get("alignment"), AlignmentBlock):
        check_rules(preflight, "alignment", block.networks, block.samples)


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """Cosine and ratio of norms, by layer: of all steps together, and of each."""
    data, args = job.data.samples, job.args
    measured = read_network(inputs["network"](weights_of(args.get("epoch"))), device=context.device)
    x, y = (part[: args["samples"]].to(context.device) for part in (data.x_train, data.y_train))
    whole, by_step, hidden = alignment(args["rule"], measured, data.as_input(x), y)
    tables = {"whole": whole.to_dict("list"), "by_step": by_step.to_dict("list")}
    return {ALIGNMENT: json.dumps(tables | {"hidden": hidden}).encode()}


def _whole(row: Row, read: Read) -> pd.DataFrame:
    """Columns layer, hidden (it does not classify), cosine, norm_ratio."""
    found = json.loads(read(ALIGNMENT))
    whole = pd.DataFrame(found["whole"])
    whole.insert(1, "hidden", whole["layer"].isin(found["hidden"]))
    return whole


def _by_step(row: Row, read: Read) -> pd.DataFrame:
    """Columns layer, step, cosine, norm_ratio."""
    return pd.DataFrame(json.loads(read(ALIGNMENT))["by_step"])


def _at_end(row: Row, read: Read) -> pd.DataFrame:
    """Of the last epoch: cosine, mean over the layers that do not classify; NaN where one is."""
    if "epoch" in row.job.args or row.job.inputs["network"].kind == "init":
        return pd.DataFrame({"cosine": []})
    whole = _whole(row, read)
    return pd.DataFrame({"cosine": [whole.loc[whole["hidden"], "cosine"].mean(skipna=False)]})


TABLES = {"alignment": _whole, "alignment_by_step": _by_step, "alignment_at_end": _at_end}
KIND = Kind(run, lambda job: (ALIGNMENT,), rows, check, TABLES, block=AlignmentBlock)
