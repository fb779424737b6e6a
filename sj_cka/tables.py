"""From finished jobs to tidy tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pandas as pd

from sj_cka.attacks import Backdoor, attack_named
from sj_cka.attacks.transfer import inside
from sj_cka.cka import CKAResult
from sj_cka.claims import Evidence, Finding, Interval, contrast, grid
from sj_cka.cost import Cost
from sj_cka.jobs import read_result
from sj_cka.jobs.attack import unit
from sj_cka.over_seeds import paired_layers
from sj_cka.plan import Pair, Plan
from sj_cka.store import Store

_ATTACKED = [
    "eps",
    "unit",
    "reached",
    "clean",
    "accuracy",
    "success",
    "loss_before",
    "loss",
    "linf",
    "l2",
    "changed",
    "masked",
]
CEILING_SEED = -1  # a ceiling belongs to all seeds together


class Compared(NamedTuple):
    """A comparison of two networks with its result."""

    pair: Pair
    result: CKAResult


def compared(plan: Plan, store: Store) -> list[Compared]:
    """Every comparison of a study with its result."""
    read: dict[str, CKAResult] = {}
    for pair in plan.pairs:
        if pair.job.key not in read:
            read[pair.job.key] = read_result(store.read(pair.job.key, "cka.nc"), trusted=True)
    return [Compared(pair, read[pair.job.key]) for pair in plan.pairs]


def accuracies(plan: Plan, store: Store) -> pd.DataFrame:
    """Columns network, variant, kind, seed, split, accuracy."""
    rows = []
    for (network, seed), job in plan.trained.items():
        variant, kind = network.variant, network.kind
        for split, value in json.loads(store.read(job.key, "accuracy.json")).items():
            rows.append((network, variant, kind, seed, split, value))
    return pd.DataFrame(rows, columns=["network", "variant", "kind", "seed", "split", "accuracy"])


def evaluated(plan: Plan, store: Store) -> pd.DataFrame:
    """Columns network, T, seed, split, accuracy: of trained networks run with other numbers of steps too."""
    rows = [
        (network, T, seed, split, value)
        for (network, T, seed), job in plan.evaluated.items()
        for split, value in json.loads(store.read(job.key, "accuracy.json")).items()
    ]
    return pd.DataFrame(rows, columns=["network", "T", "seed", "split", "accuracy"])


def histories(plan: Plan, store: Store) -> pd.DataFrame:
    """Columns network, seed, epoch, loss, accuracy, firing_rate, lr, seconds, images_s, memory_mb."""
    return _of_trainings(plan, store, "history.csv")


def firing_rates(plan: Plan, store: Store) -> pd.DataFrame:
    """Columns network, seed, epoch, layer, rate: spikes per neuron and step while the networks trained."""
    return _of_trainings(plan, store, "firing_rates.csv")


def _of_trainings(plan: Plan, store: Store, name: str) -> pd.DataFrame:
    """A table that every training leaves, with network and seed in front."""
    parts = [
        pd.read_csv(BytesIO(store.read(job.key, name))).assign(network=network, seed=seed)
        for (network, seed), job in plan.trained.items()
        if job.kind == "train"
    ]
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return table[["network", "seed", *table.columns[:-2]]]


def costs(plan: Plan, store: Store) -> pd.DataFrame:
    """Columns network, seed, synops, macs, energy_nj, parameters: of one image, means over test images."""
    rows = [
        (network, seed, *Cost(**json.loads(store.read(job.key, "cost.json"))))
        for (network, seed), job in plan.costs.items()
    ]
    return pd.DataFrame(rows, columns=["network", "seed", *Cost._fields])


def attacks(plan: Plan, store: Store) -> pd.DataFrame:
    """What every attack did, a row for each network, strength and seed.

    Columns network, attack (the entry of attack.by), function, strength (in words), rate (wanted success, NaN where eps
    was given), linf_ball (whether eps is the radius of an L-inf ball in pixels), seed, eps, clean, accuracy, success,
    loss_before, loss, linf, l2, changed (means over the samples, measured), masked; unit: of eps, linf and l2 (pixels,
    normalised, counts); reached: False where the wanted success was not, so that the attack is that of the largest eps.
    """
    rows = []
    for (network, name, eps, seed), job in plan.attacks.items():
        entry = plan.study.attacks[name]
        function, options = inside(entry.attack, entry.options)
        in_ball = entry.like is None and attack_named(function).ball(options) == "linf"
        told = json.loads(store.read(job.key, "attack.json"))
        rate = (entry if entry.like is None else plan.study.attacks[entry.like]).rate
        strength = f"eps {eps:g}" if eps is not None else f"success {rate:g}"
        if entry.like is not None:
            strength = f"norm of {entry.like}" + (f", {strength}" if eps is not None else "")
        told["eps"] = float("nan") if told["eps"] is None else told["eps"]
        wanted = float("nan") if rate is None else rate
        told["unit"] = unit(plan.data[network.variant].samples, job.args["attack"]).name
        rows.append((network, name, entry.attack, strength, wanted, in_ball, seed, *(told[key] for key in _ATTACKED)))
    columns = ["network", "attack", "function", "strength", "rate", "linf_ball", "seed", *_ATTACKED]
    return pd.DataFrame(rows, columns=columns)


def backdoors(plan: Plan, store: Store) -> pd.DataFrame:
    """Columns network, seed, accuracy, success_rate, unprompted: of networks that were trained on poisoned samples."""
    rows = [
        (network, seed, *Backdoor(**json.loads(store.read(job.key, "backdoor.json"))))
        for (network, seed), job in plan.backdoors.items()
    ]
    return pd.DataFrame(rows, columns=["network", "seed", *Backdoor._fields])


def paired(results: Iterable[Compared]) -> pd.DataFrame:
    """Columns comparison, variant, state, seed, layer, cka, contrast, grid: layers of the same name, all steps.

    Contrast and grid of a layer are those of its place in the heatmap, see `sj_cka.claims.blocks`. A ceiling is the
    geometric mean of the two networks' similarity to other seeds of themselves, NaN where one of the two is negative;
    it has no place in a heatmap.
    """
    columns = ["comparison", "variant", "state", "seed", "layer", "cka", "contrast", "grid"]
    rows = []
    for p, result in results:
        matrix = result.matrix()
        contrasts, grids = contrast(matrix).to_dict(), grid(matrix).to_dict()
        rows += [
            (p.comparison, p.variant, p.state, p.kind, p.seed, layer, value, contrasts[layer], grids[layer])
            for layer, value in paired_layers(result, matrix).items()
        ]
    table = pd.DataFrame(rows, columns=[*columns[:3], "kind", *columns[3:]])
    plain = table[table.state != "ceiling"]
    # over the other seeds of a seed, where a comparison is of different seeds
    keys = ["comparison", "variant", "state", "seed", "layer"]
    plain = plain.groupby(keys, sort=False)[["cka", "contrast", "grid"]].mean().reset_index()
    own = table[table.state == "ceiling"]
    if own.empty:
        return plain[columns]
    means = own.groupby(["comparison", "variant", "layer", "kind"], sort=False)["cka"].mean()
    two = means.groupby(level=["comparison", "variant", "layer"], sort=False)
    ceiling = (two.prod(min_count=2).where(two.min() >= 0) ** 0.5).rename("cka").reset_index()
    ceiling = ceiling.assign(state="ceiling", seed=CEILING_SEED, contrast=np.nan, grid=np.nan)
    return pd.concat([plain, ceiling], ignore_index=True)[columns]


def dynamics(results: Iterable[Compared]) -> pd.DataFrame:
    """Mean CKA between different steps inside each layer of x, and in its timing null.

    Columns comparison, variant, state, seed, layer, cka, null, pairs (of steps, that both are means over), undefined
    (pairs that are left out); a row for each layer with time of the comparisons that have a null.
    """
    keys = ["comparison", "variant", "state", "seed", "layer"]
    parts = [
        result.dynamics().reset_index().assign(comparison=p.comparison, variant=p.variant, state=p.state, seed=p.seed)
        for p, result in results
        if result.permuted_steps is not None
    ]
    columns = [*keys, "cka", "null", "pairs", "undefined"]
    if not parts:
        return pd.DataFrame(columns=columns)
    table = pd.concat(parts, ignore_index=True)[columns]
    return table.drop_duplicates(keys)  # x is the same whatever other seed it is compared with


def tidy(results: Iterable[Compared]) -> pd.DataFrame:
    """Paired layers, all steps and each: comparison, variant, state, seed, seed_y, layer_x, layer_y, time, cka."""
    parts = []
    for p, result in results:
        for time, matrix in result.frames().items():
            shared = paired_layers(result, matrix)
            part = pd.DataFrame({"layer_x": shared.index, "layer_y": shared.index, "cka": shared.to_numpy()})
            state = f"ceiling, {p.kind}" if p.kind else p.state
            parts.append(
                part.assign(
                    comparison=p.comparison, variant=p.variant, state=state, seed=p.seed, seed_y=p.seed_y, time=time
                )
            )
    columns = ["comparison", "variant", "state", "seed", "seed_y", "layer_x", "layer_y", "time", "cka"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def undefined(results: Iterable[Compared]) -> pd.DataFrame:
    """Columns comparison, variant, state, seed, seed_y, side, layer, step, reason: all that has no CKA."""
    parts = [
        result.undefined.assign(comparison=p.comparison, variant=p.variant, state=p.state, seed=p.seed, seed_y=p.seed_y)
        for p, result in results
        if len(result.undefined)
    ]
    columns = ["comparison", "variant", "state", "seed", "seed_y", "side", "layer", "step", "reason"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def evidence(
    plan: Plan,
    accuracy: pd.DataFrame,
    pairs: pd.DataFrame,
    steps: pd.DataFrame,
    at_other_T: pd.DataFrame,
    attacked: pd.DataFrame,
    backdoored: pd.DataFrame,
) -> Evidence:
    """What the claims of a study are judged on."""
    study = plan.study
    networks = {
        (comparison.name, variant): (sides.x, sides.y)
        for comparison in study.recipe.compare
        for variant, sides in study.sides(comparison).items()
    }
    swept = {name: c.value for name, c in study.conditions.items() if c.value is not None}
    trained_at, unequal = study.recipe.train.trained_at, unequal_success(plan, attacked)
    return Evidence(accuracy, pairs, networks, trained_at, swept, steps, at_other_T, attacked, backdoored, unequal)


def unequal_success(plan: Plan, attacked: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(comparison, variant) under an attack that missed the success rate that it was to have -> which one, in words."""
    found: dict[tuple[str, str], str] = {}
    for comparison in plan.study.recipe.compare:
        entry = plan.study.attacks.get(comparison.attack_y or "")
        while entry is not None and entry.like is not None:
            entry = plan.study.attacks[entry.like]
        if entry is None or entry.rate is None:
            continue
        for variant, sides in plan.study.sides(comparison).items():
            own = attacked[(attacked["attack"] == entry.name) & (attacked["network"] == sides.y)]
            missed = own[~own["reached"].astype(bool)]
            if len(missed):
                seeds = ", ".join(map(str, missed["seed"]))
                found[comparison.name, variant] = (
                    f"{entry.name} did not reach success {entry.rate:g} on {sides.y} within eps {entry.eps_max:g} "
                    f"(seeds {seeds}: {missed['success'].mean():.2f})"
                )
    return found


def claims(findings: Iterable[Finding]) -> pd.DataFrame:
    """The claims with their verdicts; effects are positive where a is larger, intervals are 95 % over seeds."""
    nothing = Interval(float("nan"), float("nan"), float("nan"), 0)
    rows = [
        [
            *(f.says, f.test, f.verdict, f.learned or ""),
            *(*f.estimate[:3], *(f.learned_estimate or nothing)[:3], f.estimate.n),
            *(f.measured, f.note, f.source),
        ]
        for f in findings
    ]
    effects = ["effect", "low", "high", "learned_effect", "learned_low", "learned_high", "seeds"]
    return pd.DataFrame(rows, columns=["claim", "test", "verdict", "learned", *effects, "measured", "note", "source"])
