"""From a recipe to the graph of its jobs, known before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import NamedTuple

from sj_cka.data import Samples
from sj_cka.jobs import Job
from sj_cka.jobs.machine import threads
from sj_cka.materials import Data, check_converted, check_time, read_data
from sj_cka.orders import Orders, State
from sj_cka.recipe import Comparison, NetworkName, Sides, Study
from sj_cka.recording import is_neuron
from sj_cka.training.distributed import world
from sj_cka.trial import Size, check_attacks, check_augmentations, check_layers, check_poison, tried


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
    trained: dict[tuple[NetworkName, int], Job]
    evaluated: dict[tuple[NetworkName, int, int], Job]
    costs: dict[tuple[NetworkName, int], Job]
    backdoors: dict[tuple[NetworkName, int], Job]
    attacks: dict[tuple[NetworkName, str, float | None, int], Job]
    pairs: tuple[Pair, ...]
    neurons: dict[NetworkName, tuple[str, ...]]
    sizes: dict[NetworkName, Size]

    @property
    def sets(self) -> list[Data]:
        """The data sets of the study, each once."""
        return list({id(data): data for data in self.data.values()}.values())

    def for_all(self, network: NetworkName) -> bool:
        """Whether a network is one and the same for every variant: what varies does not concern its kind."""
        kind, study = network.kind, self.study
        alike = [self.trained.get((NetworkName(f"{v}.{kind}"), study.seeds[0])) for v in study.conditions]
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
    with threads(1):  # of few samples: more threads wait for each other longer than they work
        made = {network: tried(study, network, _samples(data, network)) for network in networks}
        built = {network: one.network for network, one in made.items()}
        check_layers(study, built, data)
        check_attacks(study, built, data)
    jobs = Orders(study, data, world()[1])
    trained = {(network, seed): jobs.train(network, seed) for network in networks for seed in study.seeds}
    evaluated = {
        (network, T, seed): jobs.evaluate(network, T, seed)
        for network in networks
        if network in [name for block in study.recipe.evaluate for name in study.networks(block.network)]
        for T in sorted({study.steps_of(network), *study.evaluated(network)})
        for seed in study.seeds
    }
    costs = {key: jobs.cost(*key) for key in trained}
    backdoors = {key: jobs.backdoor(*key) for key in trained if study.conditions[key[0].variant].train.poison}
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
        network: tuple(name for name, module in one.named_modules() if is_neuron(module))
        for network, one in built.items()
    }
    sizes = {network: one.size for network, one in made.items()}
    return Plan(study, data, trained, evaluated, costs, backdoors, attacks, tuple(pairs), neurons, sizes)


def _pairs(study: Study, comparison: Comparison, jobs: Orders) -> Iterator[Pair]:
    """A comparison of every variant: trained, its floor (untrained) and, where it has one, its ceiling."""
    seeds = [(s, s) for s in study.seeds] if comparison.seeds == "same" else list(permutations(study.seeds, 2))
    # an attack on a network that knows nothing has nothing to overcome
    states: tuple[State, ...] = ("trained", "untrained") if comparison.attack_y is None else ("trained",)
    for variant, sides in study.sides(comparison).items():
        title = f"{comparison.name} {variant}".strip()
        for state in states:
            for i, j in seeds:
                of_seeds = f"seed {i}" if i == j else f"seed {i} against {j}"
                job = jobs.compare(comparison, sides, (i, j), state, f"{title}, {state}, {of_seeds}")
                yield Pair(comparison.name, variant, state, i, j, "", job)
        if study.has_ceiling(comparison):
            for name, T in ((sides.x, sides.T_x), (sides.y, sides.T_y)):
                kind = comparison.ceiling_of(name)
                for i, j in combinations(study.seeds, 2):
                    own = Sides(name, name, T, T)
                    job = jobs.compare(comparison, own, (i, j), "ceiling", f"{own.titles[0]}, seed {i} against {j}")
                    yield Pair(comparison.name, variant, "ceiling", i, j, kind, job)


def _samples(data: dict[str, Data], network: NetworkName) -> Samples:
    return data[network.variant].samples


def _networks(study: Study) -> list[NetworkName]:
    """Every network that something names; both kinds of every variant where nothing is compared."""
    compared = [name for c in study.recipe.compare for sides in study.sides(c).values() for name in sides[:2]]
    named = compared or [NetworkName(f"{variant}.{kind}") for variant in study.conditions for kind in ("snn", "ann")]
    named += [name for block in study.recipe.evaluate for name in study.networks(block.network)]
    named += study.attacked()
    for entry in study.attacks.values():
        named += [source for network in study.attacked() if (source := entry.source_of(network)) is not None]
    for claim in study.recipe.claims:
        for measurement in claim.arms().values():
            if measurement.network is not None:  # in a trend it is a kind, of every variant
                trend = claim.test == "trend"
                variants = study.conditions if trend else [""]
                named += [NetworkName(f"{v}.{measurement.network}".removeprefix(".")) for v in variants]
    return list(dict.fromkeys(name.trained for name in named))
