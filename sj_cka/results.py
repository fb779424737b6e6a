"""The numbers of a finished study, as tables by name."""

import functools
from dataclasses import dataclass, field, replace
from typing import get_args

import pandas as pd

from sj_cka import comparison_tables
from sj_cka.cka import MEASURES, CKAResult
from sj_cka.claims import ORIGINS, Evidence, hanging_on
from sj_cka.comparison_tables import Between, Compared
from sj_cka.figures import Figure, Section
from sj_cka.jobs import KINDS, Row, origins
from sj_cka.plan import Plan
from sj_cka.plugins import named
from sj_cka.recipe import Comparison, FigureBlock, NetworkName, Sides, Study
from sj_cka.recipe.choices import FIGURE, options_of
from sj_cka.store import Store


@dataclass(frozen=True)
class Results:
    """All numbers of a finished study.

    Args:
        plan: of the study.
        compared: every comparison with its result.
        tables: name -> table: those of every kind of job (see `Kind.tables`), and of what is compared `cka`, `paired`,
            `dynamics` and `undefined`; empty where a study has nothing of it.
        evidence: what the claims are judged on.
    """

    plan: Plan
    compared: list[Compared] = field(repr=False)
    tables: dict[str, pd.DataFrame] = field(repr=False)
    evidence: Evidence = field(repr=False)

    @property
    def study(self) -> Study:
        """The study that they are of."""
        return self.plan.study

    def of(self, comparison: str, variant: str, state: str = "trained", kind: str = "") -> list[list[CKAResult]]:
        """The results of a comparison by seed: one, or one for each other seed; of a noise ceiling those of a kind."""
        by_seed: dict[int, list[CKAResult]] = {}
        for c in self.compared:
            if (c.comparison, c.variant, c.state, c.kind) == (comparison, variant, state, kind):
                by_seed.setdefault(c.seed, []).append(c.result)
        return list(by_seed.values())

    def frames(
        self, block: FigureBlock, variant: str, kind: str = ""
    ) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
        """The matrices of a comparison in the state of a figure, as `mean_frames` gives them; empty where it has none.

        Of a noise ceiling all pairs of seeds are as one: they are not independent, so there is no interval over them.
        """
        comparison = self.comparison(block)
        which = (comparison.name, variant, block.state, kind)
        found = [c for c in self.compared if (c.comparison, c.variant, c.state, c.kind) == which]
        if not found:
            return {}, {}
        means, spread = comparison_tables.mean_frames({(c.seed, c.seed_y): c.result for c in found}, comparison.measure)
        return means, {} if block.state == "ceiling" else spread

    def between(self, block: FigureBlock) -> Between:
        """Every variant with every other, of a comparison of pairs of variants."""
        return comparison_tables.between(self.compared, str(block.comparison), self.sides(block))

    def comparison(self, block: FigureBlock) -> Comparison:
        """The comparison that a figure shows."""
        comparison = self.study.comparison(block.comparison)
        assert comparison is not None  # its recipe was checked
        return comparison

    def similarity(self, block: FigureBlock) -> str:
        """What its measure of similarity is called, e.g. "CKA"."""
        return MEASURES[self.comparison(block).measure].title

    def by_distance(self, block: FigureBlock) -> bool:
        """Whether its measure is a distance, and no correlation as CKA is."""
        return MEASURES[self.comparison(block).measure].distance

    def sides(self, block: FigureBlock) -> dict[str, Sides]:
        """The networks that a figure shows, by variant."""
        return self.study.sides(self.comparison(block))

    def section(self, block: FigureBlock) -> Section:
        """The section of the page that a figure block of the recipe asks for."""
        figure: Figure = FIGURE.entry(block.name)
        with named(f"figure {block.name!r}"):
            return figure.function(block, self, **options_of(FIGURE.typed(block.options())))

    def for_all(self, name: str) -> pd.DataFrame:
        """A table of networks in which one that is the same for every variant stands once, as `*.<kind>`."""
        table = self.tables[name]
        networks = map(NetworkName, table["network"].unique())
        alike = {n: f"*{n.removeprefix(n.variant)}" for n in networks if self.plan.for_all(n)}
        first = {alike[network]: network for network in reversed(alike)}
        once = table[table["network"].isin(first.values())]
        return pd.concat([table[~table["network"].isin(alike)], once.assign(network=once["network"].map(alike))])


def read_results(plan: Plan, store: Store) -> Results:
    """The numbers that the finished jobs of a study left."""
    names = dict.fromkeys(name for kind in KINDS.values() for name in kind.tables)
    believed = {name: table(plan, store, name) for name in names}
    compared = comparison_tables.compared(plan, store)
    times = {time: comparison_tables.paired(compared, time) for time in get_args(comparison_tables.Together)}
    believed |= {"paired": times["concatenated"], "dynamics": comparison_tables.dynamics(compared)}
    tables = {name: table.drop(columns=ORIGINS, errors="ignore") for name, table in believed.items()}
    tables |= {"cka": comparison_tables.tidy(compared), "undefined": comparison_tables.undefined(compared)}
    study = plan.study
    networks = {
        (comparison.name, variant): (sides.x, sides.y)
        for comparison in study.recipe.compare
        for variant, sides in study.sides(comparison).items()
    }
    unequal = _unequal_success(study, tables["attacks"])
    titles = {c.name: MEASURES[c.measure].title for c in study.recipe.compare}
    neurons = frozenset(layer for layers in plan.neurons.values() for layer in layers)
    trained_at = study.recipe.train.trained_at
    evidence = Evidence(believed, networks, trained_at, study.swept, unequal, titles, times, neurons)
    return Results(plan, compared, tables, evidence)


def evidence_so_far(plan: Plan, store: Store) -> Evidence | None:
    """What is known of the seeds that are finished; None under two of them."""
    done = {job.key: store.has(job.key) for job in plan.jobs}

    def of_seeds(row: Row, seeds: set[int]) -> bool:
        return {row.at.get("seed"), row.at.get("seed_y")} - {None} <= seeds

    seeds, rows_of_all = set(plan.study.seeds), [row for rows in plan.rows.values() for row in rows]
    while open_ := [row for row in rows_of_all if of_seeds(row, seeds) and not done[row.job.key]]:
        latest = max(max(row.at.get("seed", -1), row.at.get("seed_y", -1)) for row in open_)
        if latest not in seeds:
            return None
        seeds.remove(latest)
    if len(seeds) < 2:
        return None
    rows = {kind: tuple(row for row in of if of_seeds(row, seeds)) for kind, of in plan.rows.items()}
    return read_results(replace(plan, rows=rows), store).evidence


def table(plan: Plan, store: Store, name: str) -> pd.DataFrame:
    """A table of measurements, in the study's order of networks; empty where nothing was measured.

    Its column `origins` tells what random numbers a row hangs on.
    """
    parts = []
    for kind, rows in plan.rows.items():
        if (reader := KINDS[kind].tables.get(name)) is None:
            continue
        for row in rows:
            with named(f"table {name!r} of kind of job {kind!r}"):
                part = reader(row, functools.partial(store.read, row.job.key))
            front = [column for column in row.at if column not in part]
            part = part.assign(**{column: row.at[column] for column in front})[[*front, *part.columns]]
            parts.append(hanging_on(part, origins(row.job)))
    if not parts:
        return pd.DataFrame()
    joined = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    if "network" not in joined:
        return joined
    order = {network: i for i, network in enumerate(plan.sizes)}
    places = joined["network"].map(lambda name: order.get(NetworkName(name).trained))
    return joined.loc[places.sort_values(kind="stable").index].reset_index(drop=True)


def _unequal_success(study: Study, attacked: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(comparison, variant) under an attack that missed the success rate that it was to have -> which one, in words."""
    missed_by: dict[tuple[str, str], str] = {}
    for comparison in study.recipe.compare:
        entry = study.attacks.get(comparison.attack_y or "")
        while entry is not None and entry.like is not None:
            entry = study.attacks[entry.like]
        if entry is None or entry.rate is None:
            continue
        for variant, sides in study.sides(comparison).items():
            rows = attacked[(attacked["attack"] == entry.name) & (attacked["network"] == sides.y)]
            missed = rows[~rows["reached"].astype(bool)]
            if len(missed):
                seeds = ", ".join(map(str, missed["seed"]))
                missed_by[comparison.name, variant] = (
                    f"{entry.name} did not reach success {entry.rate:g} on {sides.y} within eps {entry.eps_max:g} "
                    f"(seeds {seeds}: {missed['success'].mean():.2f})"
                )
    return missed_by
