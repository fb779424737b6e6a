"""Judging claims: intervals over seeds, and verdicts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from sj_cka.claims.measurements import MEASUREMENTS, Evidence
from sj_cka.claims.statements import (
    Above,
    Arm,
    Below,
    Greater,
    GreaterInAll,
    Less,
    NearCeiling,
    Single,
    Trend,
    TwoArms,
)
from sj_cka.over_seeds import Interval, interval

Verdict = Literal["holds", "contradicted", "undecided", "not trained"]
MIN_SEEDS = 3
_STATES = ("trained", "untrained")
# CKA of float32 features is good to about 1e-7: equal arms whose last digits differ alike for every seed are equal
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Finding:
    """A claim with what was measured and how it was judged."""

    says: str
    source: str
    test: str
    verdict: Verdict
    learned: Verdict | None
    measured: str
    estimate: Interval
    learned_estimate: Interval | None
    note: str = ""


def verdict_of(estimate: Interval, *, two_sided: bool = False) -> Verdict:
    """Whether an effect that is claimed to be positive (or, two-sided, not zero) is: by its interval over seeds."""
    if estimate.n < MIN_SEEDS or not np.isfinite([estimate.low, estimate.high]).all():
        return "undecided"
    if estimate.low > _ROUNDING or (two_sided and estimate.high < -_ROUNDING):
        return "holds"
    return "contradicted" if estimate.high < -_ROUNDING and not two_sided else "undecided"


def verdict_on(claim: Single | GreaterInAll, evidence: Evidence) -> Finding:
    """The verdict on one claim, on the value itself and on what training added to it (`learned`)."""
    if isinstance(claim, GreaterInAll):
        return _in_all(claim, evidence)
    effects, measured, note = _effects(claim, evidence)
    two_sided = claim.test == "differs"
    sign = -1.0 if claim.test in ("less", "below") or (claim.test == "trend" and claim.direction == "down") else 1.0
    estimate = interval(effects["value"])
    verdict = verdict_of(interval(sign * effects["value"] + _margin(claim)), two_sided=two_sided)
    learned_estimate, learned = None, None
    if "learned" in effects:
        learned_estimate = interval(effects["learned"])
        learned = verdict_of(interval(sign * effects["learned"]), two_sided=two_sided)
    missing = evidence.not_trained(_networks(claim, evidence))
    if missing and MEASUREMENTS[claim.a.measure].of != "network":
        verdict = "not trained"
        learned = None if learned is None else "not trained"
        note = f"training accuracy below {evidence.trained_at:g}: {', '.join(missing)}; {note}".removesuffix("; ")
    missed = [
        evidence.unequal[place]
        for m in claim.arms().values()
        for name in (m.comparison, m.minus)
        for variant in (evidence.swept if isinstance(claim, Trend) else [m.variant or ""])
        if (place := (str(name), variant)) in evidence.unequal
    ]
    if missed:
        verdict = "undecided" if verdict != "not trained" else verdict
        note = f"{'; '.join(dict.fromkeys(missed))}; {note}".removesuffix("; ")
    measured = evidence.named(measured, claim.a)
    return Finding(claim.says, claim.source, claim.test, verdict, learned, measured, estimate, learned_estimate, note)


def _in_all(claim: GreaterInAll, evidence: Evidence) -> Finding:
    """The verdict on pairs that must all hold; the estimate is that of the pair that holds least."""
    found = [verdict_on(part, evidence) for part in claim.parts()]
    weakest = min(found, key=lambda finding: (finding.estimate.low, finding.estimate.mean))
    verdicts = [finding.verdict for finding in found]
    verdict: Verdict = "undecided"
    if "not trained" in verdicts:
        verdict = "not trained"
    elif "contradicted" in verdicts:
        verdict = "contradicted"
    elif set(verdicts) == {"holds"}:
        verdict = "holds"
    measured = "; ".join(f"{i}: {finding.measured} ({finding.verdict})" for i, finding in enumerate(found, 1))
    note = "; ".join(dict.fromkeys(finding.note for finding in found if finding.note))
    return Finding(claim.says, claim.source, claim.test, verdict, None, measured, weakest.estimate, None, note)


def _effects(claim: Single, evidence: Evidence) -> tuple[dict[str, pd.Series], str, str]:
    """Per-seed effects, positive where a is larger: "value" and, for representations, "learned"; in words; a note."""
    if isinstance(claim, Trend):
        return _slopes(claim, evidence)
    arms = claim.arms()
    if MEASUREMENTS[claim.a.measure].of == "network":
        values = {arm: evidence.of_network(m) for arm, m in arms.items()}
        return {"value": _against(claim, values)}, _in_words(claim, values), ""
    tables = {(arm, state): evidence.layers(m, state) for arm, m in arms.items() for state in _STATES}
    for arm in [arm for arm, state in tables if tables[arm, state].empty and state == "untrained"]:
        del tables[arm, "untrained"]  # under attack there is no floor
    layers = _layers(claim, tables)
    if isinstance(claim, NearCeiling):
        return _way_to_ceiling(claim, evidence, tables, layers["a"])
    found = {
        state: {
            arm: MEASUREMENTS[m.measure].value(tables[arm, state][layers[arm]])
            for arm, m in arms.items()
            if (arm, state) in tables
        }
        for state in _STATES
    }
    values, floors = found["trained"], found["untrained"]
    value = _against(claim, values)
    words = _in_words(claim, values)
    if beside := MEASUREMENTS[claim.a.measure].beside:
        name, column = beside
        shown = [evidence.beside(m, column, layers[arm]).mean(axis=1).mean() for arm, m in arms.items()]
        words += f"; {name} {' against '.join(f'{mean:.3f}' for mean in shown)}"
    effects = {"value": value}
    if floors.keys() == values.keys():
        effects["learned"] = value - _against(claim, floors)
    return effects, words, _used(claim, layers)


def _layers(claim: Single, tables: Mapping[tuple[str, str], pd.DataFrame]) -> dict[str, list[str]]:
    """The layers of each arm: arms that name the same ones share those that are defined in all of them.

    Arms may have different layers (no shortcut, no downsampling), and a layer may be undefined in one of them.
    """
    arms = claim.arms()
    return {
        arm: _defined_in_all(table for (other, _), table in tables.items() if arms[other].layers == m.layers)
        for arm, m in arms.items()
    }


def _way_to_ceiling(
    claim: NearCeiling, evidence: Evidence, tables: Mapping[tuple[str, str], pd.DataFrame], shared: list[str]
) -> tuple[dict[str, pd.Series], str, str]:
    """How far beyond half of the way from the floor to the ceiling."""
    measure = MEASUREMENTS[claim.a.measure]
    ceiling = evidence.layers(claim.a, "ceiling")
    if not ceiling.empty:
        shared = _defined_in_all([tables["a", "trained"][shared], ceiling])
    value, floor = (measure.value(tables["a", state][shared]) for state in _STATES)
    top = float("nan") if ceiling.empty else float(measure.value(ceiling[shared]).mean())
    share = (value - floor) / (top - floor).where(top > floor)
    note = _used(claim, {"a": shared})
    if ceiling.empty:
        words = f"{value.mean():.3f}, floor {floor.mean():.3f}, no ceiling (that takes two seeds)"
    elif share.isna().any():
        words = f"{value.mean():.3f}, floor {floor.mean():.3f}, ceiling {top:.3f}"
    else:
        way = f"{share.mean():.2f} of the way from the floor {floor.mean():.3f} to the ceiling {top:.3f}"
        words = f"{value.mean():.3f}, {way}"
    if (top <= floor).any():
        note = f"the ceiling does not lie above the floor, so there is no scale; {note}"
    return {"value": share - 0.5, "learned": value - floor}, f"{measure.label} {words}", note


def _against(claim: Single, values: Mapping[str, pd.Series]) -> pd.Series:
    if isinstance(claim, TwoArms):
        return values["a"] - values["b"]
    return values["a"] - (claim.value if isinstance(claim, Above | Below) else 0.0)


class Swept(NamedTuple):
    """A measure of a comparison over a sweep.

    Args:
        trained, untrained: `[seed, variant]`; the latter empty where there is no floor.
        ceiling: by swept value, of those variants that have one at all their layers.
        layers: variant -> the layers that it is made of.
    """

    trained: pd.DataFrame
    untrained: pd.DataFrame
    ceiling: pd.Series
    layers: dict[str, list[str]]


def swept(m: Arm, evidence: Evidence) -> Swept:
    """A measure of every variant of a sweep, over the layers that are defined at every value that has them."""
    tables = {v: [evidence.layers(m, state, v) for state in _STATES] for v in evidence.swept}
    if all(untrained.empty for _, untrained in tables.values()):  # under attack there is no floor
        tables = {v: [trained] for v, (trained, _) in tables.items()}
    # a layer that one value lacks (a shallower network) is no fault; one undefined there would bend the trend
    gaps = {layer for pair in tables.values() for table in pair for layer in table if table[layer].isna().any()}
    layers = {v: [layer for layer in _defined_in_all(pair) if layer not in gaps] for v, pair in tables.items()}
    trained, *others = (
        pd.DataFrame({v: MEASUREMENTS[m.measure].value(pair[i][layers[v]]) for v, pair in tables.items()})
        for i in range(min(map(len, tables.values())))
    )
    untrained = others[0] if others else pd.DataFrame()
    measure, ceiling = MEASUREMENTS[m.measure], {}
    for v, value in evidence.swept.items():
        top = evidence.layers(m, "ceiling", v).reindex(columns=layers[v])
        if len(top) and top.notna().all(axis=None):
            ceiling[value] = float(measure.value(top).iloc[0])
    return Swept(trained, untrained, pd.Series(ceiling, dtype=float), layers)


def _slopes(claim: Trend, evidence: Evidence) -> tuple[dict[str, pd.Series], str, str]:
    measure, m = MEASUREMENTS[claim.a.measure], claim.a
    x = np.log2(list(evidence.swept.values()))
    x -= x.mean()
    curves: dict[str, pd.DataFrame] = {}
    note = ""
    if measure.of == "network":
        of_variant = {v: m.model_copy(update={"network": f"{v}.{m.network}"}) for v in evidence.swept}
        curves["value"] = pd.DataFrame({v: evidence.of_network(arm) for v, arm in of_variant.items()})
    else:
        found = swept(m, evidence)
        counts = ", ".join(str(len(layers)) for layers in found.layers.values())
        note = f"over {counts} layers, those that are defined at every value that has them"
        curves = {"value": found.trained}
        if not found.untrained.empty:
            curves["learned"] = found.trained - found.untrained
    slopes = {key: (table * x).sum(axis=1, skipna=False) / (x**2).sum() for key, table in curves.items()}
    means = ", ".join(
        f"{value:g}: {mean:.3f}" for value, mean in zip(evidence.swept.values(), curves["value"].mean(), strict=True)
    )
    return slopes, f"{measure.label} by swept value {means}; slope per doubling {slopes['value'].mean():+.4f}", note


def _in_words(claim: Single, values: Mapping[str, pd.Series]) -> str:
    label = MEASUREMENTS[claim.a.measure].label
    if taken := list(dict.fromkeys(m.minus for m in claim.arms().values() if m.minus is not None)):
        label += f" (less that of {' and '.join(taken)})"
    if isinstance(claim, TwoArms):
        margin = f", margin {_margin(claim):g}" if _margin(claim) else ""
        return f"{label} {values['a'].mean():.3f} against {values['b'].mean():.3f}{margin}"
    against = f" against the fixed {claim.value:g}" if isinstance(claim, Above | Below) else ""
    return f"{label} {values['a'].mean():.3f}{against}"


def _margin(claim: Single) -> float:
    return claim.margin if isinstance(claim, Greater | Less) else 0.0


def _defined_in_all(tables: Iterable[pd.DataFrame]) -> list[str]:
    """Layers that every table `[seed, layer]` has, defined for every seed, in the order of the first."""
    first, *others = tables
    return [
        layer
        for layer in first.columns
        if all(layer in table.columns and table[layer].notna().all() for table in (first, *others))
    ]


def _used(claim: Single, layers: Mapping[str, list[str]]) -> str:
    measure = MEASUREMENTS[claim.a.measure]
    parts = [measure.parts(own) for own in layers.values()]
    if not all(parts):
        return "no layer is defined in all arms"
    if parts[1:] and parts[0] != parts[1]:
        return f"over {len(parts[0])} and {len(parts[1])} {measure.unit}, those that are defined trained and untrained"
    return f"over the {len(parts[0])} {measure.unit} defined in all arms"


def _networks(claim: Single, evidence: Evidence) -> tuple[str, ...]:
    """The networks whose representations a claim is about."""
    found: list[str] = []
    for m in claim.arms().values():
        if MEASUREMENTS[m.measure].of != "network":
            variants = evidence.swept if isinstance(claim, Trend) else [m.variant or ""]
            for variant in variants:
                found += evidence.networks[str(m.comparison), variant]
    return tuple(dict.fromkeys(found))
