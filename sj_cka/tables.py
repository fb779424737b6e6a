"""From finished jobs to tidy tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pandas as pd

from sj_cka.cka import CKAResult
from sj_cka.claims import Evidence, Finding, Interval, half_width, interval
from sj_cka.jobs import read_result
from sj_cka.plan import Pair, Plan
from sj_cka.recipe import network_of
from sj_cka.store import Store

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
            read[pair.job.key] = read_result(store.read(pair.job.key, "cka.nc"))
    return [Compared(pair, read[pair.job.key]) for pair in plan.pairs]


def accuracies(plan: Plan, store: Store) -> pd.DataFrame:
    """Columns network, variant, kind, seed, split, accuracy."""
    rows = []
    for (network, seed), job in plan.trained.items():
        variant, kind, _ = network_of(network)
        for split, value in json.loads(store.read(job.key, "accuracy.json")).items():
            rows.append((network, variant, kind, seed, split, value))
    return pd.DataFrame(rows, columns=["network", "variant", "kind", "seed", "split", "accuracy"])


def accuracy_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Columns network, split, mean, low, high, seeds: means with 95 % intervals over seeds, in the study's order."""
    rows = []
    for (network, split), group in table.groupby(["network", "split"], sort=False):
        over = interval(group["accuracy"].to_numpy())
        rows.append((network, split, over.mean, over.low, over.high, over.n))
    return pd.DataFrame(rows, columns=["network", "split", "mean", "low", "high", "seeds"])


def histories(plan: Plan, store: Store) -> pd.DataFrame:
    """Columns network, seed, epoch, loss, accuracy, firing_rate, lr, seconds."""
    parts = []
    for (network, seed), job in plan.trained.items():
        history = pd.read_csv(BytesIO(store.read(job.key, "history.csv")))
        parts.append(history.assign(network=network, seed=seed))
    return pd.concat(parts, ignore_index=True)


def paired(results: Iterable[Compared]) -> pd.DataFrame:
    """Columns comparison, variant, state, seed, layer, cka: layers of the same name, concatenated over time.

    A ceiling is the geometric mean of the SNN's and the ANN's similarity to other seeds of itself, NaN where one of the
    two is negative.
    """
    columns = ["comparison", "variant", "state", "seed", "layer", "cka"]
    rows = [
        (p.comparison, p.variant, p.state, p.kind, p.seed, layer, value)
        for p, result in results
        for layer, value in _shared(result).items()
    ]
    table = pd.DataFrame(rows, columns=["comparison", "variant", "state", "kind", "seed", "layer", "cka"])
    plain = table[table.state != "ceiling"]
    # over the other seeds of a seed, where a comparison is of different seeds
    plain = plain.groupby(["comparison", "variant", "state", "seed", "layer"], sort=False)["cka"].mean().reset_index()
    own = table[table.state == "ceiling"]
    if own.empty:
        return plain[columns]
    means = own.groupby(["comparison", "variant", "layer", "kind"], sort=False)["cka"].mean().unstack("kind")
    product = means["snn"] * means["ann"]
    ceiling = (product.where((means["snn"] >= 0) & (means["ann"] >= 0)) ** 0.5).rename("cka").reset_index()
    return pd.concat([plain, ceiling.assign(state="ceiling", seed=CEILING_SEED)], ignore_index=True)[columns]


def tidy(results: Iterable[Compared]) -> pd.DataFrame:
    """Paired layers, all steps and each: comparison, variant, state, seed, seed_y, layer_x, layer_y, time, cka."""
    parts = []
    for p, result in results:
        for time, matrix in result.frames().items():
            shared = _shared(result, matrix)
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


def evidence(plan: Plan, accuracy: pd.DataFrame, pairs: pd.DataFrame) -> Evidence:
    """What the claims of a study are judged on."""
    study = plan.study
    networks = {
        (comparison.name, variant): sides
        for comparison in study.recipe.compare
        for variant, sides in study.sides(comparison).items()
    }
    swept = {name: c.value for name, c in study.conditions.items() if c.value is not None}
    return Evidence(accuracy, pairs, networks, study.recipe.train.trained_at, swept)


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


def curve(pairs: pd.DataFrame, comparison: str, variant: str, state: str) -> pd.DataFrame:
    """Mean, low, high of the paired CKA of each layer over seeds; a ceiling has no interval."""
    rows = pairs[(pairs.comparison == comparison) & (pairs.variant == variant) & (pairs.state == state)]
    layers = rows["layer"].drop_duplicates()
    over = [interval(rows[rows.layer == layer]["cka"].to_numpy())[:3] for layer in layers]
    return pd.DataFrame(over, index=pd.Index(layers, name="layer"), columns=["mean", "low", "high"])


def mean_frames(
    by_seed: Sequence[Sequence[CKAResult]],
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """A heatmap's matrices, mean over seeds, and half-widths of their 95 % intervals; NaN where any is undefined.

    Args:
        by_seed: the results of each seed: one, or one for each other seed that it is compared with.
    """
    frames = [[result.frames() for result in results] for results in by_seed]
    means, spread = {}, {}
    for label, first in frames[0][0].items():
        values = np.stack([np.mean([frame[label].to_numpy() for frame in own], axis=0) for own in frames])
        means[label] = pd.DataFrame(values.mean(0), index=first.index, columns=first.columns)
        spread[label] = pd.DataFrame(half_width(values), index=first.index, columns=first.columns)
    return means, spread


def _shared(result: CKAResult, matrix: pd.DataFrame | None = None) -> pd.Series:
    """CKA of layers of the same name; empty where there are none."""
    matrix = result.matrix() if matrix is None else matrix
    layers = [layer for layer in matrix.index if layer in matrix.columns]
    return pd.Series([matrix.loc[layer, layer] for layer in layers], index=layers, dtype=float)
