"""From a recipe to the graph of its jobs, known before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Literal, NamedTuple

from sj_cka.data import AUGMENTATIONS, Samples
from sj_cka.jobs import DataBlock, Job
from sj_cka.materials import Data, check_converted, check_time, read_data
from sj_cka.models import MODELS, NEURONS
from sj_cka.recipe import Comparison, Condition, Sides, Study, network_of, without_defaults
from sj_cka.recipe.attacks import Attacking, Poison
from sj_cka.recording import is_neuron
from sj_cka.training import Settings
from sj_cka.trial import (
    Size,
    attack_block,
    check_attacks,
    check_augmentations,
    check_layers,
    check_poison,
    network_options,
    size,
    tried,
)

State = Literal["trained", "untrained", "ceiling"]
_UNTRAINED = ("init", "0")  # moments of a network's training


class Pair(NamedTuple):
    """One CKA of the study: of which comparison and variant, in which state, of which seeds.

    `kind` tells the two parts of a ceiling apart: "snn" against other seeds of itself, and "ann" likewise; of two
    networks of one kind, their names do.
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
        data: variant -> its data.
        trained: (network name, seed) -> the job that trains it.
        evaluated: (network name, T, seed) -> the job that knows its accuracy with T steps: its training, where T is
            that of its training.
        costs: (network name, seed) -> the job that counts its operations.
        backdoors: (network name, seed) -> the job that measures the backdoor in it.
        attacks: (network name, entry of attack.by, eps, seed) -> the job that attacks it so; eps is None where the
            entry gives a success rate.
        pairs: every comparison of two networks.
        neurons: network name -> its layers of spiking neurons, in order.
        sizes: network name -> its parameters and multiply-accumulates.
    """

    study: Study
    data: dict[str, Data]
    trained: dict[tuple[str, int], Job]
    evaluated: dict[tuple[str, int, int], Job]
    costs: dict[tuple[str, int], Job]
    backdoors: dict[tuple[str, int], Job]
    attacks: dict[tuple[str, str, float | None, int], Job]
    pairs: tuple[Pair, ...]
    neurons: dict[str, tuple[str, ...]]
    sizes: dict[str, Size]

    @property
    def sets(self) -> list[Data]:
        """The data sets of the study, each once."""
        return list({id(data): data for data in self.data.values()}.values())

    def for_all(self, network: str) -> bool:
        """Whether a network is one and the same for every variant: what varies does not concern its kind."""
        kind, study = network_of(network)[1], self.study
        alike = [self.trained.get((f"{v}.{kind}", study.seeds[0])) for v in study.conditions]
        return len(alike) > 1 and None not in alike and len({job.key for job in alike if job}) == 1

    @property
    def jobs(self) -> list[Job]:
        """The jobs to do, trainings first."""
        others = (*self.evaluated.values(), *self.costs.values(), *self.backdoors.values(), *self.attacks.values())
        return [*self.trained.values(), *others, *(pair.job for pair in self.pairs)]


def plan(study: Study, *, imagined: bool = False) -> Plan:
    """The jobs of a study. Reads its data and builds and probes every network once, so that faults come before work.

    Args:
        study: the recipe as read.
        imagined: take random samples of a data set's shape where it is not there (keys are then not those of a run).

    Raises:
        RecipeError: data that cannot be read, options out of range, layers that are not there, too few test images.
    """
    study, data = read_data(study, imagined=imagined)
    check_time(study, data)
    check_augmentations(study, data)
    check_poison(study, data)
    networks = _networks(study)
    check_converted(networks, study, data)
    built = {network: tried(study, network, _samples(data, network)) for network in networks}
    check_layers(study, built, data)
    check_attacks(study, built, data)
    jobs = _Jobs(study, data)
    trained = {(network, seed): jobs.train(network, seed) for network in networks for seed in study.seeds}
    evaluated = {
        (network, T, seed): jobs.evaluate(network, T, seed)
        for network in networks
        if network in [name for block in study.recipe.evaluate for name in study.networks(block.network)]
        for T in sorted({study.steps_of(network), *study.evaluated(network)})
        for seed in study.seeds
    }
    costs = {key: jobs.cost(*key) for key in trained}
    backdoors = {key: jobs.backdoor(*key) for key in trained if study.conditions[network_of(key[0])[0]].train.poison}
    attacks = {
        (network, entry.name, eps, seed): jobs.attack(network, entry, eps, seed)
        for network in study.attacked()
        for entry in study.attacks.values()
        if entry.concerns(network)
        for eps in entry.eps
        for seed in study.seeds
    }
    pairs = [pair for comparison in study.recipe.compare for pair in _pairs(study, comparison, jobs)]
    neurons = {
        network: tuple(name for name, module in made.named_modules() if is_neuron(module))
        for network, made in built.items()
    }
    sizes = {network: size(made, _samples(data, network)) for network, made in built.items()}
    return Plan(study, data, trained, evaluated, costs, backdoors, attacks, tuple(pairs), neurons, sizes)


def _pairs(study: Study, comparison: Comparison, jobs: _Jobs) -> Iterator[Pair]:
    """A comparison of every variant: trained, its floor (untrained) and, where it has one, its ceiling."""
    seeds = [(s, s) for s in study.seeds] if comparison.seeds == "same" else list(permutations(study.seeds, 2))
    # an attack on a network that knows nothing has nothing to overcome
    states: tuple[State, ...] = ("trained", "untrained") if comparison.data_y is None else ("trained",)
    for variant, sides in study.sides(comparison).items():
        title = f"{comparison.name} {variant}".strip()
        for state in states:
            for i, j in seeds:
                of_seeds = f"seed {i}" if i == j else f"seed {i} against {j}"
                job = jobs.compare(comparison, sides, (i, j), state, f"{title}, {state}, {of_seeds}")
                yield Pair(comparison.name, variant, state, i, j, "", job)
        if study.has_ceiling(comparison):
            for name, T in ((sides.x, sides.T_x), (sides.y, sides.T_y)):
                kind = ceiling_kind(comparison, name)
                for i, j in combinations(study.seeds, 2):
                    own = Sides(name, name, T, T)
                    job = jobs.compare(comparison, own, (i, j), "ceiling", f"{own.titles[0]}, seed {i} against {j}")
                    yield Pair(comparison.name, variant, "ceiling", i, j, kind, job)


def ceiling_kind(comparison: Comparison, network: str) -> str:
    """What tells the two parts of a ceiling apart, see `Pair`."""
    return network if comparison.variants == "pairs" else network_of(network)[1]


@dataclass(frozen=True)
class _Jobs:
    """Makes the jobs of one study."""

    study: Study
    data: dict[str, Data]

    def block(self, network: str) -> DataBlock:
        """The data of a network."""
        return self.data[network_of(network)[0]].block

    def train(self, network: str, seed: int) -> Job:
        """The training of a network, or its conversion from a trained one."""
        variant, kind, _ = network_of(network)
        if kind == "converted":
            return self.convert(network, self.train(f"{variant}.ann", seed), seed)
        condition, defaults = self.study.conditions[variant], Settings()
        settings = {k: v for k, v in condition.train.of(kind).items() if v != getattr(defaults, k)}
        epochs = condition.train.of(kind)["epochs"]
        args = _network_args(condition, kind) | {"settings": settings}
        if condition.train.augment:
            blocks = (block.options() for block in condition.train.augment)
            args["augment"] = [without_defaults(AUGMENTATIONS[block["name"]], block) for block in blocks]
        if condition.train.poison is not None:
            poison = condition.train.poison
            args["poison"] = {"target": poison.target, "share": poison.share, **self.trigger(network, poison)}
        if kept := [epoch for epoch in condition.train.keep if 0 < epoch < epochs]:
            args["keep"] = kept
        label, checkpoint = f"{network}, seed {seed}", condition.train.checkpoint
        return Job("train", args, {}, self.block(network), seed, condition.train.threads, label, checkpoint)

    def convert(self, network: str, ann: Job, seed: int) -> Job:
        """The conversion of an artificial network."""
        options = self.study.recipe.converted.model_dump()
        label = f"{network}{' untrained' if ann.kind == 'init' else ''}, seed {seed}"
        return Job("convert", options, {"network": ann}, self.block(network), None, ann.threads, label)

    def evaluate(self, network: str, T: int, seed: int) -> Job:
        """What knows the accuracy of a spiking network with T steps."""
        training = self.train(network, seed)
        if T == self.study.steps_of(network):
            return training
        label = f"{network} at T = {T}, seed {seed}"
        return Job("evaluate", {"T": T}, {"network": training}, self.block(network), None, training.threads, label)

    def cost(self, network: str, seed: int) -> Job:
        """The count of a trained network's operations."""
        training = self.train(network, seed)
        return Job(
            "cost", {}, {"network": training}, self.block(network), None, training.threads, f"cost of {training.label}"
        )

    def backdoor(self, network: str, seed: int) -> Job:
        """The measurement of the backdoor in a trained network."""
        training, poison = self.train(network, seed), self.study.conditions[network_of(network)[0]].train.poison
        assert poison is not None  # only poisoned networks are measured
        args = {"target": poison.target, **self.trigger(network, poison)}
        label = f"backdoor in {training.label}"
        return Job("backdoor", args, {"network": training}, self.block(network), None, training.threads, label)

    def trigger(self, network: str, poison: Poison) -> dict[str, Any]:
        """The trigger of a network's backdoor."""
        return poison.trigger(counts=self.data[network_of(network)[0]].samples.T is not None)

    def attack(self, network: str, entry: Attacking, eps: float | None, seed: int) -> Job:
        """An attack of one strength on a trained network."""
        block, training = self.study.recipe.attack, self.train(network, seed)
        assert block is not None  # else there are no entries
        attack = attack_block(self.study, entry)
        args: dict[str, Any] = {"attack": attack, "images": block.images, "batch_size": block.batch_size}
        args |= {"rate": entry.rate, "most": entry.most} if entry.rate is not None else {"eps": eps}
        needs = {"network": training}
        if (source := entry.source_of(network)) is not None:
            needs["source"] = self.train(source, seed)
            if needs["source"].key == training.key:
                message = (
                    f"expected another network than {network}: {source} is the same, what varies does not concern it"
                )
                raise self.study.error(("attack", "by", entry.name, "source"), message)
        if entry.like is not None:
            needs["like"] = self.attack(network, self.study.attacks[entry.like], eps, seed)
        label = f"{entry.label(eps)} on {network}, seed {seed}"
        return Job("attack", args, needs, self.block(network), seed, training.threads, label)

    def network(self, name: str, seed: int, state: State) -> Job:
        """What leaves the weights of a network: its training, or its first weights."""
        network, _, moment = name.partition("@")
        if state != "untrained" and moment not in _UNTRAINED:
            return self.train(network, seed)
        variant, kind, _ = network_of(name)
        if kind == "converted":
            return self.convert(network, self.network(f"{variant}.ann", seed, "untrained"), seed)
        condition = self.study.conditions[variant]
        args, label = _network_args(condition, kind), f"{network} untrained, seed {seed}"
        return Job("init", args, {}, self.block(network), seed, condition.train.threads, label)

    def compare(self, comparison: Comparison, sides: Sides, seeds: tuple[int, int], state: State, label: str) -> Job:
        """A comparison of two networks on the test split."""
        alignment = self.study.recipe.cka
        args: dict[str, Any] = {"batch_size": alignment.batch_size}
        options: dict[str, Any] = {"batches": alignment.batches, "layers": comparison.layers or alignment.layers}
        if state != "ceiling":  # the steps inside a layer are no matter of two networks
            options["null"] = "timing" if comparison.timing_null else None
        for side, name, T in (("x", sides.x, sides.T_x), ("y", sides.y, sides.T_y)):
            options[f"T_{side}"] = T if T is not None and T != self.study.steps_of(name) else None
            options[f"epoch_{side}"] = self._epoch(name) if state != "untrained" else None
        args |= {key: value for key, value in options.items() if value is not None}
        x, y = (self.network(name, seed, state) for name, seed in zip(sides[:2], seeds, strict=True))
        needs = {"x": x, "y": y}
        if sides.under is not None:
            name, eps = sides.under
            needs["under"] = self.attack(sides.y, self.study.attacks[name], eps, seeds[1])
            args.pop("batches", None)
            del args["batch_size"]  # all samples under attack are one minibatch
        return Job("compare", args, needs, self.block(sides.x), None, self.study.recipe.train.threads, label)

    def _epoch(self, name: str) -> int | None:
        """The epoch in which a name means a network, None for the last."""
        variant, kind, moment = network_of(name)
        if moment in ("", *_UNTRAINED) or int(moment) == self.study.conditions[variant].train.of(kind)["epochs"]:
            return None
        return int(moment)


def _samples(data: dict[str, Data], network: str) -> Samples:
    return data[network_of(network)[0]].samples


def _networks(study: Study) -> list[str]:
    """Every network that something names; both kinds of every variant where nothing is compared."""
    compared = [name for c in study.recipe.compare for sides in study.sides(c).values() for name in sides[:2]]
    named = compared or [f"{variant}.{kind}" for variant in study.conditions for kind in ("snn", "ann")]
    named += [name for block in study.recipe.evaluate for name in study.networks(block.network)]
    named += study.attacked()
    for entry in study.attacks.values():
        named += [source for network in study.attacked() if (source := entry.source_of(network)) is not None]
    for claim in study.recipe.claims:
        for measurement in claim.arms().values():
            if measurement.network is not None:  # in a trend it is a kind, of every variant
                trend = claim.test == "trend"
                named += [f"{v}.{measurement.network}" for v in study.conditions] if trend else [measurement.network]
    return list(dict.fromkeys(name.partition("@")[0] for name in named))


def _network_args(condition: Condition, kind: str) -> dict[str, Any]:
    """The same as part of a spec: options equal to their default left out."""
    options = network_options(condition, kind)
    args = {"kind": kind, **options}
    for key, table in (("model", MODELS), ("neuron", NEURONS)):
        if key in options:
            args[key] = without_defaults(table[options[key]["name"]], options[key])
    if condition.train.init == "same":
        args["init"] = "same"
    return args
