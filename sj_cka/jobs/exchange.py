"""Layers of one network in the place of the other's, both ways, and the accuracy left; see `sj_cka.exchange`.

Its cost is about 4 forward passes of the test samples for every layer, and one for each order of its steps, for each
pair of networks and both ways.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from sj_cka.exchange import RIDGE, exchange, exchangeable
from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs.compare import seeds_of
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.moments import epoch, network
from sj_cka.jobs.weights import read_network, weights_of
from sj_cka.preflight import Preflight
from sj_cka.recipe import Comparison, NetworkName, Sides
from sj_cka.recipe.network_checks import comparison_named
from sj_cka.recipe.source import KeyPath
from sj_cka.typed import Float, Int, Strict

EXCHANGE = "exchange.json"


class ExchangeBlock(Strict):
    """What a recipe says under `jobs.exchange`."""

    comparisons: list[str] = Field(
        min_length=1, description="names of comparisons: whose layers are put in each other's place, both ways"
    )
    fit: Int = Field(512, ge=3, description="the first so many training samples: what the maps are fitted on")
    samples: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="the first so many test samples: what accuracy is measured on; all by default"
    )
    layers: list[str] | None = Field(
        None, min_length=1, description="dotted names or globs; by default those of the comparison"
    )
    orders: Int = Field(3, ge=1, description="orders that the time steps of a layer are put into")
    ridge: Float = Field(RIDGE, ge=1e-12, description="of the maps, in units of the mean variance of features")


def job(graph: Graph, comparison: Comparison, sides: Sides, seeds: tuple[int, int], block: ExchangeBlock) -> Job:
    """Layers of x of a pair in the place of y's."""
    study = graph.study
    names = dict(zip("xy", sides[:2], strict=True))
    args: dict[str, Any] = {"fit": block.fit}
    usual = ExchangeBlock(comparisons=block.comparisons)
    for key in ("samples", "orders", "ridge"):
        if getattr(block, key) != getattr(usual, key):
            args[key] = getattr(block, key)
    args |= {f"epoch_{side}": at for side, name in names.items() if (at := epoch(study, name)) is not None}
    if layers := block.layers or comparison.layers or study.recipe.cka.layers:
        args["layers"] = layers
    inputs = {side: network(graph, name, seed) for (side, name), seed in zip(names.items(), seeds, strict=True)}
    inputs["untrained"] = network(graph, sides.x, seeds[0], "untrained")
    label = f"layers of {sides.x} in {sides.y}, seeds {seeds[0]} and {seeds[1]}"
    return Job("exchange", args, inputs, graph.block(sides.x), None, study.recipe.train.threads, label)


def rows(graph: Graph) -> Iterator[Row]:
    """Every pair of the comparisons that the recipe names, both ways.

    Columns comparison, variant, state, kind, seed and seed_y as of a comparison; into: "y" where y gets a layer of x,
    "x" where x gets one of y; source and target: the networks that gives and that gets it.
    """
    if not isinstance(block := graph.blocks.get("exchange"), ExchangeBlock):
        return
    for comparison in (c for c in graph.study.recipe.compare if c.name in block.comparisons):
        for variant, sides in graph.study.sides(comparison).items():
            for i, j in seeds_of(graph, comparison, sides, "trained"):
                at = {"comparison": comparison.name, "variant": variant, "state": "trained", "kind": ""}
                for into, one_way, seeds in (("y", sides, (i, j)), ("x", Sides(sides.y, sides.x), (j, i))):
                    ends = {"into": into, "source": one_way.x, "target": one_way.y}
                    made = job(graph, comparison, one_way, seeds, block)
                    yield Row(at | {"seed": i, "seed_y": j} | ends, made)


def check(preflight: Preflight) -> None:
    """There are so many samples, and the pairs are of two networks as they were trained, whose layers go together.

    Raises:
        RecipeError: the first fault.
    """
    if not isinstance(block := preflight.blocks.get("exchange"), ExchangeBlock):
        return
    study = preflight.study
    for i, name in enumerate(block.comparisons):
        key: KeyPath = ("jobs", "exchange", "comparisons", i)
        comparison = comparison_named(study, key, name)
        study.refuse_if(name in block.comparisons[:i], key, f"expected comparisons, each once, got {name!r} again")
        changed = [option for option in ("attack_y", "T_x", "T_y") if getattr(comparison, option) is not None]
        message = f"expected a comparison of networks as they were trained, {name!r} has {' and '.join(changed)}"
        study.refuse_if(changed, key, message)
        tried = set[tuple[NetworkName, NetworkName]]()
        for sides in study.sides(comparison).values():
            message = f"expected a comparison of two networks, {name!r} is of {sides.x} with itself"
            study.refuse_if(sides.x == sides.y and comparison.seeds == "same", key, message)
            if (pair := (sides.x.trained, sides.y.trained)) not in tried:
                _check_pair(preflight, key, comparison, *pair, block)
                tried.add(pair)


def _check_pair(
    preflight: Preflight, key: KeyPath, comparison: Comparison, x: NetworkName, y: NetworkName, block: ExchangeBlock
) -> None:
    study, data = preflight.study, preflight.samples(x)
    message = f"expected networks on the same data, those of {x} and of {y} differ"
    study.refuse_if(data.fingerprint != preflight.samples(y).fingerprint, key, message)
    for option, there, split in (("fit", data.x_train, "training"), ("samples", data.x_test, "test")):
        asked = getattr(block, option)
        message = f"expected at most {len(there)}, so many {split} {data.called} there are of {x}, got {asked}"
        study.refuse_if(asked is not None and asked > len(there), ("jobs", "exchange", option), message)
    layers = block.layers or comparison.layers or study.recipe.cka.layers
    batch = data.as_input(data.x_test[:4])
    for source, target in dict.fromkeys([(x, y), (y, x)]):
        try:
            exchangeable(preflight.network(source), preflight.network(target), batch, layers=layers, layout=data.layout)
        except ValueError as error:
            at = ("jobs", "exchange", "layers") if block.layers else key
            raise study.error(at, f"{source} and {target}: {str(error).removeprefix('layers: ')}") from error


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """What `sj_cka.exchange.exchange` finds, of maps that are fitted on the first training samples."""
    data, args = job.data.samples, dict(job.args)
    files = {side: weights_of(args.pop(f"epoch_{side}", None)) for side in "xy"} | {"untrained": weights_of()}
    x, y, untrained = (read_network(inputs[name](file), device=context.device) for name, file in files.items())
    fit, samples = args.pop("fit"), args.pop("samples", None)
    found = exchange(
        x,
        y,
        data.x_train[:fit],
        data.x_test[:samples],
        data.y_test[:samples],
        untrained=untrained,
        layout=data.layout,
        prepare=data.as_input,
        **args,
    )
    context.report(f"{len(found.layers)} layers")
    return {EXCHANGE: json.dumps(found._asdict() | {"layers": found.layers.to_dict("list")}).encode()}


def _read(row: Row, read: Read) -> pd.DataFrame:
    """Columns of `exchange`, and whole, the accuracy of the network that gets the layers."""
    found = json.loads(read(EXCHANGE))
    return pd.DataFrame(found["layers"]).assign(whole=found["whole"])


def _left_out(row: Row, read: Read) -> pd.DataFrame:
    """Columns layer, why: the layers that both have and that do not go together."""
    return pd.DataFrame(json.loads(read(EXCHANGE))["left_out"].items(), columns=["layer", "why"])


TABLES = {"exchange": _read, "not_exchanged": _left_out}
KIND = Kind(run, lambda job: (EXCHANGE,), rows, check, TABLES, block=ExchangeBlock)
