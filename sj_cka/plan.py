"""From a recipe to the graph of its jobs, known before anything runs; and that in words."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from pydantic import BaseModel

from sj_cka.claims import MEASUREMENTS, path_of
from sj_cka.data.samples import IMAGINED
from sj_cka.engine import in_order, stand
from sj_cka.job import Job
from sj_cka.jobs import KINDS, Graph, Row
from sj_cka.jobs.graph import TAKEN
from sj_cka.jobs.machine import threads
from sj_cka.plugins import UnknownName, load_plugins, lookup, named
from sj_cka.preflight import Data, Preflight, Size, read_data
from sj_cka.processes import world
from sj_cka.recipe import NetworkName, Study
from sj_cka.recipe.faults import validated
from sj_cka.recipe.network_checks import check_network
from sj_cka.recording import is_neuron
from sj_cka.store import Store


@dataclass(frozen=True)
class Plan:
    """All jobs of a study.

    Args:
        study: the recipe as read.
        data: variant -> its data.
        rows: kind of job -> the measurements that are asked for of it, in order.
        neurons: network name -> its layers of spiking neurons, in order.
        sizes: network name -> its parameters and multiply-accumulates.
    """

    study: Study
    data: Mapping[str, Data]
    rows: Mapping[str, tuple[Row, ...]]
    neurons: Mapping[NetworkName, tuple[str, ...]]
    sizes: Mapping[NetworkName, Size]

    @property
    def jobs(self) -> list[Job]:
        """The jobs to do, trainings first."""
        return [row.job for rows in self.rows.values() for row in rows]

    @property
    def sets(self) -> list[Data]:
        """The data sets of the study, each once."""
        return list({id(data): data for data in self.data.values()}.values())

    @cached_property
    def trained(self) -> dict[tuple[NetworkName, int], Job]:
        """(network name, seed) -> the job that trains it, or converts it from a trained one."""
        rows = [row for kind in ("train", "convert") for row in self.rows[kind]]
        return {(row.at["network"], row.at["seed"]): row.job for row in rows}

    def for_all(self, network: NetworkName) -> bool:
        """Whether a network is one and the same for every variant: what varies does not concern its kind."""
        seed = self.study.seeds[0]
        alike = [self.trained.get((NetworkName(f"{v}.{network.kind}"), seed)) for v in self.study.conditions]
        return len(alike) > 1 and None not in alike and len({job.key for job in alike if job}) == 1

    def counted(self, store: Store) -> str:
        """The jobs, counted by kind, and how many of them are finished."""
        study, ordered = self.study, in_order(self.jobs)
        by_kind = Counter(job.kind for job in ordered)
        counts = ", ".join(f"{by_kind[kind]} {kind}" for kind in KINDS if by_kind[kind])
        standing = stand(ordered, store)
        finished = len(ordered) - len(standing.open)
        damaged = f", {len(standing.damaged)} damaged" if standing.damaged else ""
        seeds = ", ".join(map(str, study.seeds))
        return (
            f"{study.name} ({study.profile}): {len(study.conditions)} variants, seeds {seeds}\n"
            f"{len(ordered)} jobs ({counts}), {finished} finished before{damaged}"
        )

    def costs(self) -> str:
        """Data and networks, with what training them takes."""
        lines = [_described(data) for data in self.sets]
        lines += [
            "",
            f"{'network':24} {'parameters':>12} {'MMAC a sample':>14} {'trainings':>10} {'epochs':>7} {'PMAC':>10}",
        ]
        trainings = {row.job.key: row.at["network"] for row in self.rows["train"]}
        counts, total = Counter(trainings.values()), 0.0
        for network, size in self.sizes.items():
            epochs = self.study.conditions[network.variant].train.of(network.kind)["epochs"]
            images = len(self.data[network.variant].samples.x_train)
            work = 3 * size.macs * images * epochs * counts[network] / 1e15
            total += work
            counted = f"{counts[network]:10d} {epochs if counts[network] else 0:7d} {work:10.4g}"
            lines.append(f"{network:24} {size.parameters:12,d} {size.macs / 1e6:14.1f} {counted}")
        lines.append(f"{'all trainings':71} {total:10.4g}  (10^15 multiply-accumulates; backward counts twice)")
        return "\n".join(lines)


def _described(data: Data) -> str:
    samples = data.samples
    held = samples.x_train.numel() * samples.x_train.element_size() / 1e6
    missing = " (not here, or not to be read: only its shape was used, and nothing is known to be finished)"
    note = missing if samples.fingerprint == IMAGINED else ""
    return f"data: {data.described}, {samples.classes} classes; training split as stored: {held:.0f} MB{note}"


def plan(study: Study, *, imagined: bool = False) -> Plan:
    """The jobs of a study. Reads its data and builds and probes every network once, so that faults come before work.

    Args:
        study: the recipe as read.
        imagined: take random samples of a data set's shape where it is not there (keys are then not those of a run).

    Raises:
        RecipeError: data that cannot be read, options out of range, layers that are not there, too few test images.
    """
    load_plugins()
    for name, kind in KINDS.items():
        if taken := TAKEN & kind.tables.keys():
            raise ValueError(f"expected tables of names of their own from kind of job {name}, got {', '.join(taken)}")
    blocks = _blocks(study)
    preflight = Preflight(study, read_data(study, imagined=imagined), blocks)
    with threads(1):  # of few samples: more threads wait for each other longer than they work
        for name, kind in KINDS.items():
            with named(f"check of kind of job {name!r}"):
                kind.check(preflight)
        networks = {name: preflight.network(name) for name in preflight.names}
    graph = Graph(preflight, world()[1])
    rows: dict[str, tuple[Row, ...]] = {}
    for name, kind in KINDS.items():
        with named(f"rows of kind of job {name!r}"):
            rows[name] = tuple(kind.rows(graph))
    _check_measured(study, rows)
    neurons = {
        name: tuple(layer for layer, module in network.named_modules() if is_neuron(module))
        for name, network in networks.items()
    }
    return Plan(study, preflight.data, rows, neurons, {name: preflight.size(name) for name in networks})


def _check_measured(study: Study, rows: Mapping[str, tuple[Row, ...]]) -> None:
    """Claims on networks, and those on comparisons that kinds of job measure, are on what is measured of them.

    Raises:
        RecipeError: one is not.
    """
    measured: dict[tuple[str, str], set[str]] = {}
    for kind, of_kind in rows.items():
        for table, of in product(KINDS[kind].tables, ("network", "comparison")):
            measured.setdefault((table, of), set()).update(row.at[of] for row in of_kind if of in row.at)
    for i, claim in enumerate(study.recipe.claims):
        for name, arm in claim.arms().items():
            table = MEASUREMENTS[arm.measure].table
            of = MEASUREMENTS[arm.measure].of
            asked = [(of, getattr(arm, of)), ("minus", arm.minus)]
            if (of == "network" and claim.test == "trend") or (of == "comparison" and table in TAKEN):
                asked = []
            for key, got in asked:
                if got is not None and got not in measured.get((table, of), ()):
                    message = f"expected a {of} whose {arm.measure} is measured, see jobs; got {got!r}"
                    raise study.error(("claims", i, *path_of(name), key), message)


def _blocks(study: Study) -> dict[str, BaseModel]:
    """What the recipe says under `jobs`, by kind of job.

    Raises:
        RecipeError: no such kind, one that has its keys elsewhere, a block that does not fit, or a network in it that
            the study does not have.
    """
    blocks = {}
    for name in study.recipe.jobs:
        try:
            kind = lookup(KINDS, name, "kind of job")
        except UnknownName as error:
            raise study.error(("jobs", name), str(error)) from error
        if kind.block is None:
            raise study.error(("jobs", name), f"expected no key: what concerns {name} stands elsewhere in a recipe")
        blocks[name] = block = validated(kind.block, study.source, ("jobs", name))
        for i, wanted in enumerate(getattr(block, "networks", ())):
            for network in study.networks(wanted):
                check_network(study, ("jobs", name, "networks", i), network)
    return blocks
