"""What networks have in common, as tidy tables: every comparison of a study with its result."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sj_cka.cka import CKAResult
from sj_cka.claims import contrast, grid
from sj_cka.figures import State
from sj_cka.jobs.compare import RESULT, read_result
from sj_cka.over_seeds import half_width
from sj_cka.plan import Plan
from sj_cka.recipe import Sides
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

    @property
    def at(self) -> dict[str, Any]:
        """What it is of, as columns."""
        return {name: value for name, value in self._asdict().items() if name != "result"}


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
    parts = [c.result.dynamics().reset_index().assign(**c.at) for c in results if c.result.permuted_steps is not None]
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
            parts.append(part.assign(**c.at | {"state": state, "time": time, "value": part["cka"]}))
    columns = ["comparison", "variant", "state", "seed", "seed_y", "layer_x", "layer_y", "time"]
    columns += ["cka"] if all(c.measure == "cka" for c in results) else ["measure", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def undefined(results: Iterable[Compared]) -> pd.DataFrame:
    """Columns comparison, variant, state, seed, seed_y, side, layer, step, reason: all that has no CKA."""
    parts = [c.result.undefined.assign(**c.at) for c in results if len(c.result.undefined)]
    columns = ["comparison", "variant", "state", "seed", "seed_y", "side", "layer", "step", "reason"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


class Between(NamedTuple):
    """Every variant with every other: mean, half-width of its interval and floor `[variant, variant]`."""

    mean: pd.DataFrame
    spread: pd.DataFrame
    floor: pd.DataFrame
    layers: int


def between(results: Iterable[Compared], comparison: str, sides: Mapping[str, Sides]) -> Between:
    """Mean paired CKA of a comparison of pairs of variants, over the layers that are defined in all of it.

    On the diagonal, without interval and floor, is each network against itself from another seed.
    """
    shared = [(c, c.result.paired(measure=c.measure)) for c in results if c.comparison == comparison]
    layers = [layer for layer in shared[0][1].index if all(pd.notna(values.get(layer)) for _, values in shared)]
    names = list(dict.fromkeys(name for pair in sides.values() for name in pair[:2]))
    empty = pd.DataFrame(np.nan, index=names, columns=names)
    mean, spread, floor = empty.copy(), empty.copy(), empty.copy()

    def values(variant: str, state: str, kind: str = "") -> np.ndarray:
        rows = [(c.seed, s[layers].mean()) for c, s in shared if (c.variant, c.state, c.kind) == (variant, state, kind)]
        return pd.DataFrame(rows, columns=["seed", "cka"]).groupby("seed")["cka"].mean().to_numpy()

    for variant, (x, y, *_) in sides.items():
        for row, column in ((x, y), (y, x)):
            mean.loc[row, column] = values(variant, "trained").mean()
            spread.loc[row, column] = half_width(values(variant, "trained"))
            floor.loc[row, column] = values(variant, "untrained").mean()
        for name in (x, y):
            pairs = [s[layers].mean() for c, s in shared if (c.variant, c.state, c.kind) == (variant, "ceiling", name)]
            mean.loc[name, name] = np.mean(pairs) if pairs else np.nan
    return Between(mean, spread, floor, len(layers))


def mean_frames(
    by_seed: Sequence[Sequence[CKAResult]], measure: str = "cka"
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """A heatmap's matrices, mean over seeds, and half-widths of their 95 % intervals; NaN where any is undefined.

    Args:
        by_seed: the results of each seed: one, or one for each other seed that it is compared with.
        measure: of similarity.
    """
    frames = [[result.frames(measure) for result in results] for results in by_seed]
    means, spread = {}, {}
    for label, first in frames[0][0].items():
        values = np.stack([np.mean([frame[label].to_numpy() for frame in of_seed], axis=0) for of_seed in frames])
        means[label] = pd.DataFrame(values.mean(0), index=first.index, columns=first.columns)
        spread[label] = pd.DataFrame(half_width(values), index=first.index, columns=first.columns)
    return means, spread


def diagonal(matrix: pd.DataFrame) -> pd.Series:
    """Values of layers of the same name; empty where there are none."""
    layers = [layer for layer in matrix.index if layer in matrix.columns]
    return pd.Series([matrix.loc[layer, layer] for layer in layers], index=layers, dtype=float)
