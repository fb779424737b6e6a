"""From a recipe to the graph of its jobs, known before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from sj_cka.data import DATASETS, DataError, Images
from sj_cka.jobs import Job
from sj_cka.models import MODELS, NEURONS, build
from sj_cka.plugins import OptionError, lookup
from sj_cka.recipe import Condition, Study, network_of, sides_of, without_defaults
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
    """The jobs of a study. Reads its data and builds every network without weights, so that faults come before work.

    Raises:
        RecipeError: data that cannot be read, options out of range, too few test images.
    """
    data = _data(study)
    for name, condition in study.conditions.items():
        _check_network(study, name, condition, data)
    trained = {
        (network, seed): _train_job(study, data, network, seed) for network in _networks(study) for seed in study.seeds
    }
    pairs: list[Pair] = []
    for comparison in study.recipe.compare:
        for variant, (x, y) in sides_of(comparison, study).items():
            seeds = [(s, s) for s in study.seeds] if comparison.seeds == "same" else list(permutations(study.seeds, 2))
            where = (comparison.name, variant)
            title = f"{comparison.name} {variant}".strip()
            for state in ("trained", "untrained"):
                for i, j in seeds:
                    sides = [_side(study, data, trained, name, seed, state) for name, seed in ((x, i), (y, j))]
                    job = _compare_job(
                        study, data, sides, f"{title}, {state}, seed {i}" + (f" against {j}" if i != j else "")
                    )
                    pairs.append(Pair(*where, state, i, j, "", job))
            if {network_of(x)[1], network_of(y)[1]} == {"snn", "ann"}:
                for name in (x, y):
                    for i, j in combinations(study.seeds, 2):
                        sides = [_side(study, data, trained, name, seed, "trained") for seed in (i, j)]
                        job = _compare_job(study, data, sides, f"{name}, seed {i} against {j}")
                        pairs.append(Pair(*where, "ceiling", i, j, network_of(name)[1], job))
    return Plan(study, data, trained, tuple(pairs))


def _data(study: Study) -> Images:
    block = study.recipe.data.options()
    try:
        data = lookup(DATASETS, block.pop("name"), "data set")(**block)
    except DataError as error:
        raise study.error(("data", "path") if "path" in block else ("data",), str(error)) from error
    if len(data.x_test) < 4:
        raise study.error(("data",), f"expected at least 4 test images, got {len(data.x_test)}")
    if len(data.x_train) < 2:
        raise study.error(("data",), f"expected at least 2 training images, got {len(data.x_train)}")
    return data


def _networks(study: Study) -> list[str]:
    """Every network that a comparison names; of a study that compares nothing, both kinds of every variant."""
    named: Iterable[str] = (n for c in study.recipe.compare for sides in sides_of(c, study).values() for n in sides)
    named = [*named, *(m.network for claim in study.recipe.claims for m in claim.arms().values() if m.network)]
    found = dict.fromkeys(n.partition("@")[0] for n in named if network_of(n)[0] in study.conditions)
    return list(found) or [f"{variant}.{kind}" for variant in study.conditions for kind in ("snn", "ann")]


def _check_network(study: Study, name: str, condition: Condition, data: Images) -> None:
    """Builds both kinds on no device at all and runs two images through, so that a bad option costs nothing."""
    for kind in ("snn", "ann"):
        try:
            make = {"T": condition.snn.T, "neuron": condition.snn.neuron.options()} if kind == "snn" else {}
            network = build(kind, condition.model, in_channels=data.channels, num_classes=data.classes, **make)  # type: ignore[arg-type]
            with torch.no_grad():
                network.eval()(data.x_train[:2])
        except OptionError as error:
            raise study.error(_where(study, name, error.option), str(error).partition(": ")[2]) from error
        except (ValueError, RuntimeError) as error:
            raise study.error(
                ("model",), f"{name}.{kind} cannot be built and run on {tuple(data.x_train.shape)}: {error}"
            ) from error


def _where(study: Study, variant: str, option: str) -> tuple[str, ...]:
    """Key path of the place that gave a variant's option."""
    for block in (("model", option), ("snn", option), ("snn", "neuron", option)):
        if ("variants", variant, *block) in study.lines:
            return ("variants", variant, *block)
    if study.recipe.sweep is not None:
        where = next(iter(study.recipe.sweep))
        if where.endswith(f".{option}"):
            return ("sweep", where)
    for block in (("model", option), ("snn", option), ("snn", "neuron", option)):
        if block in study.lines:
            return block
    return ("model",)


def _network_args(study: Study, condition: Condition, kind: str) -> dict[str, Any]:
    model = without_defaults(lookup(MODELS, condition.model["name"], "model"), condition.model)
    args: dict[str, Any] = {"kind": kind, "model": model, "data": _data_block(study)}
    if kind == "snn":
        neuron = condition.snn.neuron.options()
        args["neuron"] = without_defaults(lookup(NEURONS, neuron["name"], "neuron"), neuron)
        args["T"] = condition.snn.T
    if condition.train.init == "same":
        args["init"] = "same"
    return args


def _data_block(study: Study) -> dict[str, Any]:
    block = study.recipe.data.options()
    typed = without_defaults(lookup(DATASETS, block["name"], "data set"), block)
    return {key: str(value) if isinstance(value, Path) else value for key, value in typed.items()}


def _train_job(study: Study, data: Images, network: str, seed: int) -> Job:
    variant, kind, _ = network_of(network)
    condition = study.conditions[variant]
    defaults = Settings()
    settings = {k: v for k, v in condition.train.of(kind).items() if v != getattr(defaults, k)}
    args = _network_args(study, condition, kind) | {"settings": settings}
    return Job("train", args, {}, data.fingerprint, seed, condition.train.threads, f"{network}, seed {seed}")


def _side(study: Study, data: Images, trained: dict[tuple[str, int], Job], name: str, seed: int, state: str) -> Job:
    network, _, moment = name.partition("@")
    if state == "trained" and moment != "init":
        return trained[network, seed]
    variant, kind, _ = network_of(name)
    condition = study.conditions[variant]
    args = _network_args(study, condition, kind)
    return Job("init", args, {}, data.fingerprint, seed, condition.train.threads, f"{network} untrained, seed {seed}")


def _compare_job(study: Study, data: Images, sides: list[Job], label: str) -> Job:
    alignment = study.recipe.cka
    args: dict[str, Any] = {"data": _data_block(study), "batch_size": alignment.batch_size}
    args |= {key: value for key in ("batches", "layers") if (value := getattr(alignment, key)) is not None}
    needs = {"x": sides[0], "y": sides[1]}
    return Job("compare", args, needs, data.fingerprint, None, study.recipe.train.threads, label)
