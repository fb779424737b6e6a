"""What networks have in common, as tidy tables: every comparison of a study with its result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sj_cka.cka import CKAResult
from sj_cka.claims import contrast, grid
from sj_cka.jobs.compare import RESULT, read_result
from sj_cka.jobs.networks import State
from sj_cka.over_seeds import diagonal
from sj_cka.plan import Plan
from sj_cka.store import Store

CEILING_SEED = -1  # a noise ceiling belongs to all seeds together


class Compared(NamedTuple):
    """A comparison of two networks with its result; see `sj_cka.jobs.compare.rows`."""

    comparison: str
    measure: str
    variant: str
    state: State
    seed: int
    seed_y: int
    kind: str
    result: CKAResult


def compared(plan: Plan, store: Store) -> list[Compared]:
    """Every comparison of a study with its result."""
    results: dict[str, CKAResult] = {}
    for row in plan.rows["compare"]:
        if row.job.key not in results:
            results[row.job.key] = read_result(store.read(row.job.key, RESULT), trusted=True)
    return [Compared(**row.at, result=results[row.job.key]) for row in plan.rows["compare"]]


def paired(results: Iterable[Compared]) -> pd.DataFrame:
    """Columns comparison, variant, state, seed, layer, cka, contrast, grid: layers of the same name, all steps.

    In the column cka stands the measure of the comparison, which is CKA unless the recipe says otherwise.
    Contrast and grid of a layer are those of its place in the heatmap, see `sj_cka.claims.block_patterns`. A ceiling is
    the geometric mean of the two networks' similarity to other seeds of themselves, NaN where one of the two is
    negative; it has no place in a heatmap.
    """
    columns = ["comparison", "variant", "state", "seed", "layer", "cka", "contrast", "grid"]
    rows = []
    for c in results:
        matrix = c.result.matrix(measure=c.measure)
        contrasts, grids = contrast(matrix).to_dict(), grid(matrix).to_dict()
        rows += [
            (c.comparison, c.variant, c.state, c.kind, c.seed, layer, value, contrasts[layer], grids[layer])
            for layer, value in diagonal(matrix).items()
        ]
    table = pd.DataFrame(rows, columns=[*columns[:3], "kind", *columns[3:]])
    plain = table[table.state != "ceiling"]
    # over the other seeds of a seed, where a comparison is of different seeds
    keys = ["comparison", "variant", "state", "seed", "layer"]
    plain = plain.groupby(keys, sort=False)[["cka", "contrast", "grid"]].mean().reset_index()
    ceilings = table[table.state == "ceiling"]
    if ceilings.empty:
        return plain[columns]
    means = ceilings.groupby(["comparison", "variant", "layer", "kind"], sort=False)["cka"].mean()
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
        c.result.dynamics().reset_index().assign(comparison=c.comparison, variant=c.variant, state=c.state, seed=c.seed)
        for c in results
        if c.result.permuted_steps is not None
    ]
    columns = [*keys, "cka", "null", "pairs", "undefined"]
    if not parts:
        return pd.DataFrame(columns=columns)
    table = pd.concat(parts, ignore_index=True)[columns]
    return table.drop_duplicates(keys)  # x is the same whatever other seed it is compared with


def tidy(results: Sequence[Compared]) -> pd.DataFrame:
    """Paired layers, all steps and each: comparison, variant, state, seed, seed_y, layer_x, layer_y, time, cka.

    Where a comparison has another measure than CKA, the last column is `value`, and `measure` stands before it.
    """
    parts = []
    for c in results:
        for time, matrix in c.result.frames(c.measure).items():
            shared = diagonal(matrix)
            part = pd.DataFrame({"layer_x": shared.index, "layer_y": shared.index, "cka": shared.to_numpy()})
            state = f"ceiling, {c.kind}" if c.kind else c.state
            of_all = {"comparison": c.comparison, "variant": c.variant, "state": state, "time": time}
            parts.append(part.assign(**of_all, seed=c.seed, seed_y=c.seed_y, measure=c.measure, value=part["cka"]))
    columns = ["comparison", "variant", "state", "seed", "seed_y", "layer_x", "layer_y", "time"]
    columns += ["cka"] if all(c.measure == "cka" for c in results) else ["measure", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def undefined(results: Iterable[Compared]) -> pd.DataFrame:
    """Columns comparison, variant, state, seed, seed_y, side, layer, step, reason: all that has no CKA."""
    parts = [
        c.result.undefined.assign(
            comparison=c.comparison, variant=c.variant, state=c.state, seed=c.seed, seed_y=c.seed_y
        )
        for c in results
        if len(c.result.undefined)
    ]
    columns = ["comparison", "variant", "state", "seed", "seed_y", "side", "layer", "step", "reason"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
