"""What networks have in common, as tidy tables: every comparison of a study with its result."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from sj_cka.cka import CKAResult
from sj_cka.cka.statistics import with_given
from sj_cka.claims import ORIGINS, contrast, grid, hanging_on
from sj_cka.claims.arms import CONTROLS
from sj_cka.figures import State
from sj_cka.job import Job
from sj_cka.jobs import origins
from sj_cka.jobs.compare import RESULT, read_result
from sj_cka.over_seeds import crossed_half_width
from sj_cka.plan import Plan
from sj_cka.recipe import Sides
from sj_cka.store import Store


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
    job: Job | None = None

    @property
    def at(self) -> dict[str, Any]:
        """What it is of, as columns."""
        return {name: value for name, value in self._asdict().items() if name not in ("result", "job")}


def compared(plan: Plan, store: Store) -> list[Compared]:
    """Every comparison of a study with its result."""
    results: dict[str, CKAResult] = {}
    for row in plan.rows["compare"]:
        if row.job.key not in results:
            results[row.job.key] = read_result(store.read(row.job.key, RESULT), trusted=True)
    return [Compared(**row.at, result=results[row.job.key], job=row.job) for row in plan.rows["compare"]]


Together = Literal["concatenated", "mean of steps", "rate"]
"""How the steps of a layer are taken together."""
_KEYS = ["comparison", "variant", "state", "kind", "seed", "seed_y"]
_HELD = ["partial", *CONTROLS, "permuted"]  # beside CKA, where a comparison holds it
_OF_PAIRS = ["cka", "contrast", "grid", "wrong", "best", *_HELD]


def paired(results: Iterable[Compared], together: Together = "concatenated") -> pd.DataFrame:
    """Layers of the same name: columns comparison, variant, state, kind, seed, seed_y, layer and those of `_of_pair`.

    In the column cka stands the measure of the comparison, which is CKA unless the recipe says otherwise. Comparisons
    that know no such steps are left out. With `origins`: what random numbers each row hangs on.
    """
    matrices = ((c, _matrix(c, together)) for c in results)
    return _joined(((c, _of_pairs(c, matrix, together)) for c, matrix in matrices if matrix is not None), _OF_PAIRS)


def _joined(parts: Iterable[tuple[Compared, pd.DataFrame]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows of layers of comparisons: what they are of, layer, columns and, where jobs are known, `origins`."""
    placed = []
    for c, part in parts:
        of = part.assign(**{key: c.at[key] for key in _KEYS})
        placed.append(of if c.job is None else hanging_on(of, origins(c.job)))
    names = [*_KEYS, "layer", *columns]
    if not placed:
        return pd.DataFrame(columns=names)
    table = pd.concat(placed, ignore_index=True)
    return table[names + ([ORIGINS] if ORIGINS in table else [])]


def _matrix(c: Compared, together: Together) -> pd.DataFrame | None:
    """Layers of x by layers of y; None where a comparison has no such steps."""
    if together == "concatenated":
        return c.result.matrix(measure=c.measure)
    if c.measure != "cka":
        return None
    if together == "rate":
        return c.result.matrix("rate") if "rate" in c.result.also else None
    steps = [matrix for name, matrix in c.result.frames().items() if name != "all steps"]
    return sum(steps[1:], steps[0]) / len(steps) if steps else None


def _of_pairs(c: Compared, matrix: pd.DataFrame, together: Together) -> pd.DataFrame:
    """What is known of layers of the same name.

    contrast and grid are those of its place in the heatmap, see `sj_cka.claims.block_patterns`. `wrong` is the mean
    over the other layers of either network; `best` is 1 where no layer of y is more like it. `partial` is given the
    input, `pixels` the geometric mean of what both layers have in common with it; the two halves are of the samples;
    `permuted` is with the samples of y in another order. NaN where a comparison does not hold it, and of other steps
    than all concatenated.
    """
    own = diagonal(matrix)
    values = matrix.loc[own.index, own.index].to_numpy(float)
    off = np.where(np.eye(len(own), dtype=bool), np.nan, values)
    others = np.concatenate([off, off.T], axis=1) if len(own) else off
    known = np.isfinite(others).any(1) if len(own) else np.zeros(0, bool)
    wrong = np.full(len(own), np.nan)
    wrong[known] = np.nanmean(others[known], axis=1)
    table = pd.DataFrame({"layer": own.index, "cka": own.to_numpy(), "wrong": wrong})
    rows = matrix.loc[own.index]
    table["best"] = np.where(own.isna(), np.nan, own >= rows.max(axis=1)).astype(float)
    table["contrast"], table["grid"] = (table["layer"].map(of(matrix)) for of in (contrast, grid))
    held = _controls(c) if together == "concatenated" and c.measure == "cka" else {}
    for name in _HELD:
        table[name] = diagonal(held[name]).to_numpy() if name in held else np.nan
    return table


def _controls(c: Compared) -> dict[str, pd.DataFrame]:
    """Name -> layers of x by layers of y, of what a result holds beside its CKA."""
    data, result, held = c.result.data, c.result, {}
    if "hsic_zz" in data:
        x, y = (of.clip(min=0) for of in with_given(data))
        held["pixels"] = result.framed(np.sqrt(x[:, None] * y[None]))
        held["partial"] = result.partial()
    if "group" in data:
        held |= {half: result.matrix(group=half) for half in CONTROLS[1:]}
    if "permuted_xy" in data:
        chance = result.baseline()["chance"].to_numpy()
        held["permuted"] = result.framed(chance.reshape(len(result.layers_x), -1))
    return held


def dynamics(results: Iterable[Compared]) -> pd.DataFrame:
    """How much every layer of x changes over time, see `sj_cka.cka.dynamics`.

    Columns comparison, variant, state, kind, seed, seed_y, layer and those of `CKAResult.dynamics`; a row for each
    layer of networks that are compared with themselves, and of comparisons with permuted steps.
    """
    changing = (
        c
        for c in results
        if c.result.permuted_steps is not None or (_of_itself(c.job) and c.result.data.sizes["step_x"] > 1)
    )
    columns = ["split", "reliability", "split_undefined", "cka", "null", "pairs", "undefined"]
    table = _joined(((c, c.result.dynamics().reset_index()) for c in changing), columns)
    # x is the same whatever other seed it is compared with
    return table.drop_duplicates(["comparison", "variant", "state", "seed", "layer"])


def _of_itself(job: Job | None) -> bool:
    """Whether a network is compared with itself, both shown the same."""
    return job is not None and job.inputs["x"].key == job.inputs["y"].key and "under" not in job.inputs


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

    def values(variant: str, state: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
        rows = [(s[layers].mean(), (c.seed, c.seed_y)) for c, s in shared if (c.variant, c.state) == (variant, state)]
        return np.array([value for value, _ in rows]), [seeds for _, seeds in rows]

    for variant, (x, y, *_) in sides.items():
        for row, column in ((x, y), (y, x)):
            mean.loc[row, column] = values(variant, "trained")[0].mean()
            spread.loc[row, column] = crossed_half_width(*values(variant, "trained"))
            floor.loc[row, column] = values(variant, "untrained")[0].mean()
        for name in (x, y):
            pairs = [s[layers].mean() for c, s in shared if (c.variant, c.state, c.kind) == (variant, "ceiling", name)]
            mean.loc[name, name] = np.mean(pairs) if pairs else np.nan
    return Between(mean, spread, floor, len(layers))


def mean_frames(
    results: Mapping[tuple[int, int], CKAResult], measure: str = "cka"
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """A heatmap's matrices, mean over seeds, and half-widths of their 95 % intervals; NaN where any is undefined.

    Args:
        results: by seeds of x and y.
        measure: of similarity.
    """
    frames = [result.frames(measure) for result in results.values()]
    means, spread = {}, {}
    for label, first in frames[0].items():
        values = np.stack([frame[label].to_numpy() for frame in frames])
        means[label] = pd.DataFrame(values.mean(0), index=first.index, columns=first.columns)
        half = crossed_half_width(values, list(results))
        spread[label] = pd.DataFrame(half, index=first.index, columns=first.columns)
    return means, spread


def diagonal(matrix: pd.DataFrame) -> pd.Series:
    """Values of layers of the same name; empty where there are none."""
    layers = [layer for layer in matrix.index if layer in matrix.columns]
    return pd.Series(matrix.loc[layers, layers].to_numpy(float).diagonal(), index=layers, dtype=float)
