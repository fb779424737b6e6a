"""From a recipe to the graph of its jobs, known before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Literal, NamedTuple

import torch
from pydantic_core import to_jsonable_python
from torch import nn

from sj_cka import recording
from sj_cka.data import DATASETS, DataError, Images
from sj_cka.jobs import DataBlock, Job
from sj_cka.models import MODELS, NEURONS, Kind, build
from sj_cka.plugins import OptionError, closest, lookup
from sj_cka.recipe import Comparison, Condition, RecipeError, Study, network_of, typed, without_defaults
from sj_cka.training import Settings

State = Literal["trained", "untrained", "ceiling"]


class Pair(NamedTuple):
    """One CKA of the study: of which comparison and variant, in which state, of which seeds.

    `kind` tells the two parts of a ceiling apart: "snn" against other seeds of itself, and "ann" likewise.
    """

    comparison: str
    variant: str
    state: State
    seed: int
    seed_y: int
    kind: str
    job: Job


@dataclass(frozen=True)
class Plan:
    """All jobs of a study.

    Args:
        study: the recipe as read.
        data: its data.
        trained: (network name, seed) -> the job that trains it.
        pairs: every comparison of two networks.
    """

    study: Study
    data: Images
    trained: dict[tuple[str, int], Job]
    pairs: tuple[Pair, ...]

    @property
    def jobs(self) -> list[Job]:
        """The jobs to do, trainings first."""
        return [*self.trained.values(), *(pair.job for pair in self.pairs)]


def plan(study: Study) -> Plan:
    """The jobs of a study. Reads its data and builds and probes every network once, so that faults come before work.

    Raises:
        RecipeError: data that cannot be read, options out of range, layers that are not there, too few test images.
    """
    block, data = _data(study)
    networks = _networks(study)
    layers = {network: _layers(study, network, data) for network in networks}
    _check_steps(study, layers)
    jobs = _Jobs(study, data, block)
    trained = {(network, seed): jobs.train(network, seed) for network in networks for seed in study.seeds}
    pairs = [pair for comparison in study.recipe.compare for pair in _pairs(study, comparison, jobs)]
    return Plan(study, data, trained, tuple(pairs))


def _pairs(study: Study, comparison: Comparison, jobs: _Jobs) -> Iterator[Pair]:
    """A comparison of every variant: trained, its floor (untrained) and, of an SNN with an ANN, its ceiling."""
    seeds = [(s, s) for s in study.seeds] if comparison.seeds == "same" else list(permutations(study.seeds, 2))
    states: tuple[State, ...] = ("trained", "untrained")
    for variant, (x, y) in study.sides(comparison).items():
        title = f"{comparison.name} {variant}".strip()
        for state in states:
            for i, j in seeds:
                of_seeds = f"seed {i}" if i == j else f"seed {i} against {j}"
                sides = [jobs.network(name, seed, state) for name, seed in ((x, i), (y, j))]
                job = jobs.compare(sides, f"{title}, {state}, {of_seeds}")
                yield Pair(comparison.name, variant, state, i, j, "", job)
        if {network_of(x)[1], network_of(y)[1]} == {"snn", "ann"}:
            for name in (x, y):
                for i, j in combinations(study.seeds, 2):
                    sides = [jobs.network(name, seed, "trained") for seed in (i, j)]
                    job = jobs.compare(sides, f"{name}, seed {i} against {j}")
                    yield Pair(comparison.name, variant, "ceiling", i, j, network_of(name)[1], job)


@dataclass(frozen=True)
class _Jobs:
    """Makes the jobs of one study."""

    study: Study
    data: Images
    block: DataBlock

    def train(self, network: str, seed: int) -> Job:
        """The training of a network."""
        variant, kind, _ = network_of(network)
        condition, defaults = self.study.conditions[variant], Settings()
        settings = {k: v for k, v in condition.train.of(kind).items() if v != getattr(defaults, k)}
        args = _network_args(condition, kind) | {"settings": settings}
        return Job("train", args, {}, self.block, seed, condition.train.threads, f"{network}, seed {seed}")

    def network(self, name: str, seed: int, state: State) -> Job:
        """What leaves the weights of a network: its training, or its first weights."""
        network, _, moment = name.partition("@")
        if state == "trained" and moment != "init":
            return self.train(network, seed)
        variant, kind, _ = network_of(name)
        condition = self.study.conditions[variant]
        args, label = _network_args(condition, kind), f"{network} untrained, seed {seed}"
        return Job("init", args, {}, self.block, seed, condition.train.threads, label)

    def compare(self, sides: list[Job], label: str) -> Job:
        """A comparison of two networks on the test split."""
        alignment = self.study.recipe.cka
        args: dict[str, Any] = {"batch_size": alignment.batch_size}
        args |= {key: value for key in ("batches", "layers") if (value := getattr(alignment, key)) is not None}
        needs = {"x": sides[0], "y": sides[1]}
        return Job("compare", args, needs, self.block, None, self.study.recipe.train.threads, label)


def _data(study: Study) -> tuple[DataBlock, Images]:
    named = study.recipe.data.options()
    function = lookup(DATASETS, named["name"], "data set")
    options = typed(function, named)
    path = options.get("path")
    where = ("data", "path") if path is not None else ("data",)
    if path is not None:
        options["path"] = path.expanduser().absolute()
    try:
        data = function(**{key: value for key, value in options.items() if key != "name"})
    except DataError as error:
        raise study.error(where, str(error)) from error
    for split, images, least in (("test", data.x_test, 4), ("training", data.x_train, 2)):
        if len(images) < least:
            raise study.error(where, f"expected at least {least} {split} images, got {len(images)}")
    return DataBlock(to_jsonable_python(options), without_defaults(function, named), data.fingerprint), data


def _networks(study: Study) -> list[str]:
    """Every network that a comparison or a claim names; both kinds of every variant where nothing is compared."""
    compared = [name for c in study.recipe.compare for sides in study.sides(c).values() for name in sides]
    named = compared or [f"{variant}.{kind}" for variant in study.conditions for kind in ("snn", "ann")]
    for claim in study.recipe.claims:
        for measurement in claim.arms().values():
            if measurement.network is not None:  # in a trend it is a kind, of every variant
                trend = claim.test == "trend"
                named += [f"{v}.{measurement.network}" for v in study.conditions] if trend else [measurement.network]
    return list(dict.fromkeys(name.partition("@")[0] for name in named))


def _layers(study: Study, network: str, data: Images) -> tuple[str, ...]:
    """The layers that will be compared, found by a trial on a few images, so that a bad option costs nothing."""
    variant, kind, _ = network_of(network)
    condition = study.conditions[variant]
    made = _built(condition, "snn" if kind == "snn" else "ann", data)
    try:
        with torch.no_grad():
            made.eval()(data.x_test[:2])
    except (ValueError, RuntimeError) as error:
        shape = list(data.x_test.shape)
        message = f"{network} does not run on images of shape {shape}: {str(error).splitlines()[0]}"
        raise condition.source.error(("model",), message) from error
    try:
        return recording.plan(made, data.x_test[:4], layers=study.recipe.cka.layers).layers
    except ValueError as error:
        raise study.error(("cka", "layers"), f"{network}: {str(error).removeprefix('layers: ')}") from error


def _built(condition: Condition, kind: Kind, data: Images) -> nn.Module:
    options = _network_options(condition, kind)
    try:
        if kind == "snn":
            neuron = dict(options["neuron"])
            lookup(NEURONS, neuron.pop("name"), "neuron")(**neuron)
    except ValueError as error:
        raise _option_error(condition, ("snn", "neuron"), error) from error
    try:
        return build(kind, in_channels=data.channels, num_classes=data.classes, **options)
    except ValueError as error:
        raise _option_error(condition, ("model",), error) from error


def _option_error(condition: Condition, block: tuple[str, ...], error: ValueError) -> RecipeError:
    """The error at the option that it is about, where it says so by its kind or names one that the recipe gives."""
    message, source = str(error), condition.source
    if isinstance(error, OptionError):
        message, options = message.partition(": ")[2], [error.option]
    else:
        options = [option for option in source.at(block) or {} if re.search(rf"\b{re.escape(option)}\b", message)]
    keys = [(*block, option) for option in options] + [("snn", option) for option in options]
    return source.error(next((key for key in keys if key in source.written), block), message)


def _check_steps(study: Study, layers: dict[str, tuple[str, ...]]) -> None:
    """The layers that a figure of time steps names must be in a network that it shows."""
    for i, figure in enumerate(study.recipe.figures):
        if figure.name != "steps":
            continue
        comparison = next(c for c in study.recipe.compare if c.name == figure.comparison)
        there = [layer for x, _ in study.sides(comparison).values() for layer in layers[x.partition("@")[0]]]
        for j, layer in enumerate(figure.layers or []):
            if layer not in there:
                hint = closest(layer, dict.fromkeys(there))
                raise study.error(("figures", i, "layers", j), f"{layer!r} is no layer of {comparison.x}{hint}")


def _network_options(condition: Condition, kind: str) -> dict[str, Any]:
    """What `build` gets, but for the shape of the data and the seed."""
    options: dict[str, Any] = {"model": typed(lookup(MODELS, condition.model["name"], "model"), condition.model)}
    if kind == "snn":
        neuron = condition.snn.neuron.options()
        options["neuron"] = typed(lookup(NEURONS, neuron["name"], "neuron"), neuron)
        options["T"] = condition.snn.T
    return options


def _network_args(condition: Condition, kind: str) -> dict[str, Any]:
    """The same as part of a spec: options equal to their default left out."""
    options = _network_options(condition, kind)
    args = {"kind": kind, **options}
    for key, table in (("model", MODELS), ("neuron", NEURONS)):
        if key in options:
            args[key] = without_defaults(table[options[key]["name"]], options[key])
    if condition.train.init == "same":
        args["init"] = "same"
    return args
