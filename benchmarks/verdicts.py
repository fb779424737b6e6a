"""What the yardsticks of verdicts are worth: how often each says something false, and how often something true.

    python benchmarks/verdicts.py [--runs 2000] [--only rates crossed ...] [--seeds 4] [--tiny]

Everything is drawn from known distributions and judged by the functions that judge a study (`sj_cka.claims`: inference,
arms, power), beside what was used before: a paired t over seeds without a margin. Rates are shares of the runs; with
2,000 of them a rate of .05 is known to .01 (two standard errors). CPU seconds stand behind each part. The last part,
`networks`, trains those of residual_ablation and timesteps, where the store of finished jobs does not have them.
"""

from __future__ import annotations

import argparse
import os
import runpy
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from sj_cka import CKA, compare_features, run
from sj_cka.claims import Arm, Evidence, judge
from sj_cka.claims.arms import over_ceiling
from sj_cka.claims.effects import weighted
from sj_cka.claims.inference import LEVEL, Cells, Chances, Estimate, chances, estimate, holm
from sj_cka.claims.pooling import REPEATED, pooled
from sj_cka.claims.pooling import difference as differing
from sj_cka.claims.power import Design, beyond, inside, least_difference, seeds_needed
from sj_cka.claims.statements import NEAR, NearCeiling

ROOT = Path(__file__).resolve().parents[1]
MARGIN, SD = 0.02, 0.02
SEEDS = (3, 5, 8, 10)
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
SPREADS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "left skew": lambda rng, shape: 1 - rng.standard_exponential(shape),
    "right skew": lambda rng, shape: rng.standard_exponential(shape) - 1,
}


def of_seeds(arm: str, n: int) -> Cells:
    """An arm of n networks of its own."""
    return Cells([(i, i) for i in range(n)], [frozenset({f"{arm}{i}"}) for i in range(n)])


def mean_of(values: np.ndarray, cells: Cells) -> Callable[[frozenset[str]], float]:
    """The mean of what hangs on nothing that is gone."""
    return lambda gone: float(values[[not (own & gone) for own in cells.origins]].mean())


def difference(a: np.ndarray, b: np.ndarray, cells: tuple[Cells, Cells]) -> Estimate:
    """Mean of a minus mean of b."""
    one, other = mean_of(a, cells[0]), mean_of(b, cells[1])
    return estimate(lambda gone: one(gone) - other(gone), cells)


def paired_t(a: np.ndarray, b: np.ndarray) -> float:
    """What was used before: two-sided p of a paired t over seeds, of an effect that is positive; 1 of another."""
    difference = a - b
    t = difference.mean() / (difference.std(ddof=1) / len(a) ** 0.5)
    return float(2 * stats.t.sf(t, len(a) - 1))


def fisher(a: np.ndarray, b: np.ndarray, margin: float) -> float:
    """The same as `difference` on Fisher's z: Welch's t, with the margin taken at the mean of b."""
    za, zb = np.arctanh(a), np.arctanh(b)
    at = np.tanh(zb.mean()) + margin
    if at >= 1:
        return 1.0
    se2, n = (za.var(ddof=1) + zb.var(ddof=1)) / len(a), len(a)
    df = se2**2 * (n - 1) / ((za.var(ddof=1) / n) ** 2 + (zb.var(ddof=1) / n) ** 2)
    return float(2 * stats.t.sf((za.mean() - np.arctanh(at)) / se2**0.5, df))


def rates(runs: int, rng: np.random.Generator) -> None:
    """False and true `holds` of "a is greater than b": a paired t, as before, and what is used now."""
    print("share of 'holds' of 'a > b by more than .02' around CKA .8, sd .02 (b 3.5 times as wide where unequal)")
    print("  false: a is greater by just the margin (before: not at all); else by so many sd more")
    print(f"{'':25}{'------- false -------':^23}{'---- 1 sd ----':^16}{'--- 2.3 sd ---':^16}")
    print(f"{'spread':21} {'n':>3}    before    now   on z   before    now   before    now")
    for (name, draw), ratio, n in product(SPREADS.items(), (1.0, 3.5), SEEDS):
        cells, held = (of_seeds("a", n), of_seeds("b", n)), np.zeros(7)
        for _ in range(runs):
            a, b = (np.clip(0.8 + SD * scale * draw(rng, (n,)), -1, 0.93) for scale in (1.0, ratio))
            held += [
                *(paired_t(a, b) <= LEVEL, _holds(a, b, cells), fisher(a + MARGIN, b, MARGIN) <= LEVEL),
                *(paired_t(a + SD, b) <= LEVEL, _holds(a + SD, b, cells)),
                *(paired_t(a + 2.3 * SD, b) <= LEVEL, _holds(a + 2.3 * SD, b, cells)),
            ]
        label = f"{name}, {'equal' if ratio == 1 else 'unequal'}"
        widths = (9, 6, 6, 8, 6, 8, 6)
        print(f"{label:21} {n:3d} " + " ".join(f"{x:{w}.3f}" for x, w in zip(held / runs, widths, strict=True)))


def _holds(a: np.ndarray, b: np.ndarray, cells: tuple[Cells, Cells]) -> bool:
    return chances(difference(a + MARGIN, b, cells), MARGIN).above <= LEVEL


def sameness(runs: int, rng: np.random.Generator) -> None:
    """How often two arms are found to be the same within the margin: where they are, and where they just are not."""
    print(f"share of 'same within {MARGIN:g}', sd of an arm .02 and .01")
    print(f"{'sd':>5} {'n':>3}   {'nothing differs':>15}   {'differs by the margin':>21}   formula")
    for sd, n in product((0.02, 0.01), SEEDS):
        cells, found = (of_seeds("a", n), of_seeds("b", n)), np.zeros(2)
        for _ in range(runs):
            a, b = 0.8 + sd * rng.standard_normal((2, n))
            found += [chances(difference(a + by, b, cells), MARGIN).within <= LEVEL for by in (0.0, MARGIN)]
        formula = inside(Design(sd * 2**0.5, 2), 0.0, MARGIN, n)
        print(f"{sd:5g} {n:3d}   {found[0] / runs:15.3f}   {found[1] / runs:21.3f}   {formula:7.3f}")


def crossed(runs: int, rng: np.random.Generator) -> None:
    """Coverage of the interval over every seed of x against every seed of y."""
    print("coverage of 95 % intervals over crossed seeds: y_ij = a_i + b_j + c_ij")
    print(f"{'sd of a, b, c':18} {'spread':10} {'n':>3}   {'jackknife':>9}   {'interaction taken off':>21}")
    for (sds, (name, draw)), n in product(
        product(((1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 0, 1)), list(SPREADS.items())[:2]), (3, 5, 8)
    ):
        seeds = [(i, j) for i in range(n) for j in range(n)]
        cells = Cells(seeds, [frozenset({f"x{i}", f"y{j}"}) for i, j in seeds])
        covered = np.zeros(2)
        for _ in range(runs):
            a, b, c = (sd * draw(rng, (n, n if k == 2 else 1)) for k, sd in enumerate(sds))
            values = a + b.T + c
            found = estimate(mean_of(values.ravel(), cells), [cells])
            over = found.interval()
            rows, columns = values.mean(1), values.mean(0)
            rest = values - rows[:, None] - columns + values.mean()
            ms = n * rows.var(ddof=1), n * columns.var(ddof=1), (rest**2).sum() / (n - 1) ** 2
            variance = max(ms[0] + ms[1] - ms[2], 1e-12) / n**2
            bound = stats.t.ppf(0.975, 2 * (n - 1)) * variance**0.5
            covered += [over.low <= 0 <= over.high, abs(found.value) <= bound]
        print(f"{sds!s:18} {name:10} {n:3d}   {covered[0] / runs:9.3f}   {covered[1] / runs:21.3f}")


def families(runs: int, rng: np.random.Generator) -> None:
    """How often any of several claims says something false: uncorrected, and after Holm."""
    print("share of studies with a false answer among 4 claims of 8 seeds, at the margin and with nothing between arms")
    cells = (of_seeds("a", 8), of_seeds("b", 8))
    for by in (MARGIN, 0.0):
        false = np.zeros(2)
        for _ in range(runs):
            found = []
            for a, b in 0.8 + SD * rng.standard_normal((4, 2, 8)):
                p = chances(difference(a + by, b, cells), MARGIN)
                # at the margin itself an effect is not beyond it, and not below minus it; it counts as within
                found.append(min(p.above, p.below))
            false += [min(found) <= LEVEL, min(holm(found)) <= LEVEL]
        print(f"  differing by {by:4g}: {false[0] / runs:.3f} uncorrected, {false[1] / runs:.3f} after Holm")


def answers(runs: int, rng: np.random.Generator) -> None:
    """How often the answer to one claim is false, whatever the effect is."""
    print("share of false answers (holds, contradicted, equivalent) to one claim, margin .02, sd .02")
    print(f"{'effect':>7}   " + "  ".join(f"n = {n:2d}" for n in SEEDS))
    for by in (0.0, 0.01, 0.019, 0.021, 0.04):
        shares = []
        for n in SEEDS:
            cells, false = (of_seeds("a", n), of_seeds("b", n)), 0
            for _ in range(runs):
                a, b = 0.8 + SD * rng.standard_normal((2, n))
                false += _false(chances(difference(a + by, b, cells), MARGIN), by)
            shares.append(false / runs)
        print(f"{by:7g}   " + "  ".join(f"{share:6.3f}" for share in shares))


def _false(p: Chances, effect: float) -> bool:
    least = min(p)
    true = p.above if effect > MARGIN else p.within
    return least <= LEVEL and least < true


def foreseen(runs: int, rng: np.random.Generator) -> None:
    """Whether the power that is foretold is the power that is had."""
    print("power: formula and simulation; an effect of the margin and d sd, sd .02")
    print(f"{'d':>4} {'n':>3}   formula   simulated")
    design = Design(SD * 2**0.5, 2)
    for d, n in product((1.0, 2.3), SEEDS):
        cells, held = (of_seeds("a", n), of_seeds("b", n)), 0
        for _ in range(runs):
            a, b = 0.8 + SD * rng.standard_normal((2, n))
            held += chances(difference(a + MARGIN + d * SD, b, cells), MARGIN).above <= LEVEL
        formula = beyond(design, MARGIN + d * SD, MARGIN, n)
        print(f"{d:4g} {n:3d}   {formula:7.3f}   {held / runs:9.3f}")
    for n in SEEDS:
        least, cells, held = least_difference(design, MARGIN, n), (of_seeds("a", n), of_seeds("b", n)), 0
        for _ in range(runs):
            a, b = 0.8 + SD * rng.standard_normal((2, n))
            held += chances(difference(a + least, b, cells), MARGIN).above <= LEVEL
        print(f"  {n:2d} seeds are said to decide {least:.4f} with power .8: {held / runs:.3f}")
    needed = seeds_needed(Estimate(0.05, 0.02 * (2 / 3) ** 0.5, 4.0, 3), MARGIN)
    had = beyond(design, 0.05, MARGIN, needed or 3)
    print(f"  an effect of .05 found with 3 seeds is said to need {needed} for a power of .8: {had:.3f}")
    print(f"  sameness within .02 at 8 seeds, sd .02: {inside(design, 0.0, MARGIN, 8):.3f}")


def repeated(runs: int, rng: np.random.Generator) -> None:
    """Two runs of one study that differ by their seeds alone, and by so many sd: told apart, and pooled."""
    print(f"two runs of n seeds: share 'not repeated' (p < {REPEATED:g}); coverage of the pooled 95 % interval")
    print(f"{'arms, spread':35} {'n':>3}   {'alike':>6}   {'3 sd apart':>10}   {'coverage':>8}")
    kinds = {"one": 1, "two": 2, "two, one 3.5 times as wide": 2}
    for (kind, arms), (name, draw), n in product(kinds.items(), list(SPREADS.items())[:2], (3, 4, 8)):
        if name != "normal" and arms == 2:
            continue  # the skew of one arm is taken off by that of the other
        cells, found = tuple(of_seeds(arm, n) for arm in "ab"[:arms]), np.zeros(3)
        scale = np.array([[1.0], [3.5 if "wide" in kind else 1.0]])[:arms]
        for _ in range(runs):
            of_run = [_run(scale * SD * draw(rng, (arms, n)), cells) for _ in range(2)]
            apart = of_run[1]._replace(value=of_run[1].value + 3 * SD)
            over = pooled(of_run).interval()
            found += [
                *(differing(of_run[0], other) < REPEATED for other in (of_run[1], apart)),
                over.low <= 0 <= over.high,
            ]
        alike, told, covered = found / runs
        print(f"{f'{kind}, {name}':35} {n:3d}   {alike:6.3f}   {told:10.3f}   {covered:8.3f}")


def _run(values: np.ndarray, cells: tuple[Cells, ...]) -> Estimate:
    """What one run finds of an arm, or of the difference of two."""
    means = [mean_of(arm, own) for arm, own in zip(values, cells, strict=True)]
    return estimate(lambda gone: means[0](gone) - (means[1](gone) if len(means) > 1 else 0.0), cells)


def ceilings(runs: int, rng: np.random.Generator) -> None:
    """Value over ceiling of networks of which the true share is known: its mean, and what the test makes of it."""
    print("value over ceiling: x_i = cos(angle) shared + sin(angle) own of the kind, and noise of each training")
    print(f"{'true share':>10} {'n':>3}   {'mean':>6}   {'coverage':>8}   share that pass .95")
    for share, n in product((0.90, 0.95, 1.0), (3, 5, 8)):
        found, covered, passed = [], 0, 0
        for _ in range(max(2, runs // 5)):
            sample = over_ceiling(_ARM, _trainings(rng, share, n), ["lif"])
            effect = weighted([(1.0, sample)], 0.95)
            over = effect.interval()
            found.append(effect.value + 0.95)
            covered += over.low <= share - 0.95 <= over.high
            passed += chances(effect, 0.0).above / 2 <= LEVEL
        rest = f"{covered / len(found):8.3f} {passed / len(found):9.3f}"
        print(f"{share:10.2f} {n:3d}   {np.nanmean(found):6.3f}   {rest}")


_ARM = Arm(measure="paired_cka", comparison="twins")
_PARTS = 60  # independent directions in which a Gram may lie


def _trainings(rng: np.random.Generator, share: float, n: int) -> Evidence:
    """One layer of twins: unit vectors stand for normalised Grams, whose inner product is the CKA."""
    common = np.eye(_PARTS)[:3]
    half = np.arccos(share) / 2
    kinds = {"snn": np.cos(half) * common[0] + np.sin(half) * common[1]}
    kinds["ann"] = np.cos(half) * common[0] - np.sin(half) * common[1]
    grams = {}
    for kind, shared in kinds.items():
        noise = rng.standard_normal((n, _PARTS)) * (0.5 + 0.2 * rng.random((n, 1))) / _PARTS**0.5
        grams[kind] = shared + noise
        grams[kind] /= np.linalg.norm(grams[kind], axis=1, keepdims=True)
    rows = [("trained", "", i, i, float(grams["snn"][i] @ grams["ann"][i])) for i in range(n)]
    for kind, own in grams.items():
        rows += [("ceiling", kind, i, j, float(own[i] @ own[j])) for i in range(n) for j in range(i)]
    table = pd.DataFrame(rows, columns=["state", "kind", "seed", "seed_y", "cka"])
    table = table.assign(comparison="twins", variant="", layer="lif")
    return Evidence({"paired": table}, {("twins", ""): ("snn", "ann")}, 0.0)


def trains(runs: int, rng: np.random.Generator) -> None:
    """Change between steps of constructed trains, whose generators stand in the test, beside the timing null."""
    made = runpy.run_path(str(ROOT / "tests" / "cka" / "test_split_dynamics.py"))["trains"]
    print("change between steps of trains of known dynamics: split halves; null less value, as before (1 - mean CKA)")
    for name, (X, known) in made(0).items():
        into = CKA(samples=False, permutations={"steps": 1})
        found = compare_features({"a": X}, into=into, progress=False).dynamics().loc["a"]
        asked = "" if known is None else f"   ({known:.3f} asked for)"
        print(f"  {name:10} {found['split']:6.3f}   {found['null'] - found['cka']:6.3f}{asked}")


def networks(runs: int, rng: np.random.Generator) -> None:
    """What must not pass for near its ceiling: layers of other names, T = 1 for 8, a network without shortcuts."""
    recipes, store = ROOT / "recipes", os.environ.get("SJ_CKA_STORE")
    text = (recipes / "residual_ablation.yaml").read_text().replace("x: all.snn, y: none.snn", _PAIRS)
    with tempfile.TemporaryDirectory() as folder:
        shortcuts = Path(folder) / "shortcuts.yaml"
        shortcuts.write_text(text.replace("  - {name: heatmap, comparison: shortcuts, title: SNN with", "  # "))
        settings = [f"seeds={runs}"]
        of = [(shortcuts, "twins", "all"), (shortcuts, "twins", "none"), (shortcuts, "shortcuts", "all and none")]
        of += [(recipes / "timesteps.yaml", "across", f"T-{one} and T-{two}") for one, two in ((1, 8), (4, 8))]
        evidence = {
            path: run(path, store=store, out=Path(folder) / path.stem, settings=settings).results.evidence
            for path in dict.fromkeys(path for path, _, _ in of)
        }
        print(f"share of the ceiling, {runs} seeds: near from {NEAR:g}, with layers of one name above those of others")
        for path, comparison, variant in of:
            _near(evidence[path], comparison, variant)


_PAIRS = 'x: "*.snn", y: "*.snn", variants: pairs'


def _near(evidence: Evidence, comparison: str, variant: str) -> None:
    keys = {"measure": "paired_cka", "comparison": comparison, "variant": variant}
    claim = NearCeiling.model_validate({"test": "near_ceiling", "says": "-", "source": "-", "a": keys})
    print(f"{comparison}, {variant}")
    controls = {"layers of other names": {"a": "wrong"}, "permuted samples": {"a": "permuted"}}
    for name, columns in {"as it is": None, **controls}.items():
        found = judge(claim, evidence, columns)
        over, p = found.estimate.interval(), found.answers
        verdict = "near" if p.holds <= LEVEL else "not near" if p.contradicted <= LEVEL else "undecided"
        print(f"  {name:22} {over.mean + NEAR:.3f} ({over.low + NEAR:.3f} to {over.high + NEAR:.3f}): {verdict}")


PARTS: dict[str, Callable[[int, np.random.Generator], None]] = {
    "rates": rates,
    "answers": answers,
    "sameness": sameness,
    "crossed": crossed,
    "families": families,
    "foreseen": foreseen,
    "repeated": repeated,
    "ceilings": ceilings,
    "trains": trains,
    "networks": networks,
}


def main() -> None:
    """Prints one part after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=4, help="of trained networks")
    parser.add_argument("--tiny", action="store_true", help="two runs of each, no networks")
    given = parser.parse_args()
    for name in given.only:
        if name == "networks" and given.tiny:
            continue
        began = time.process_time()
        runs = 2 if given.tiny else given.seeds if name == "networks" else given.runs
        PARTS[name](runs, np.random.default_rng(16))
        print(f"({name}: {time.process_time() - began:.1f} CPU s)\n")


if __name__ == "__main__":
    main()
