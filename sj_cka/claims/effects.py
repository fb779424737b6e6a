"""What a claim is about, as one number: the effect over its arms, with its standard error."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sj_cka.claims.arms import (
    STATES,
    Sample,
    ceiling_of,
    defined_in_all,
    high_layers,
    of_comparison,
    of_network,
    shared_layers,
)
from sj_cka.claims.ceilings import low_layers
from sj_cka.claims.evidence import Evidence
from sj_cka.claims.inference import ALL, Estimate, estimate
from sj_cka.claims.measurements import MEASUREMENTS, Column
from sj_cka.claims.statements import Above, Arm, Below, Claim, OneArm, Trend, TwoArms


class Effect(NamedTuple):
    """The effect of a claim.

    Args:
        estimate: positive where a is larger, above its value, or grows.
        words: what was measured.
        note: what a reader must know of it.
        arms: its arms, by key, or the variants of a trend.
    """

    estimate: Estimate
    words: str
    note: str
    arms: Mapping[str, Sample]


def effect_of(claim: OneArm, evidence: Evidence, columns: Mapping[str, Column] | None = None) -> Effect:
    """The effect of a claim with one arm or two, or over a sweep.

    Args:
        claim: of the study.
        evidence: its numbers.
        columns: key of an arm -> column in place of that of its measurement.
    """
    if isinstance(claim, Trend):
        return _slope(claim, evidence, (columns or {}).get("a"))
    arms, of = claim.arms(), MEASUREMENTS[claim.a.measure].of
    if of == "network":
        samples, note = {key: of_network(arm, evidence) for key, arm in arms.items()}, ""
    else:
        shared = shared_layers(arms, evidence)
        layers = _of_high_ceilings(arms, evidence, shared) if MEASUREMENTS[claim.a.measure].over_ceiling else shared
        samples = {
            key: of_comparison(arm, evidence, layers[key], column=(columns or {}).get(key)) for key, arm in arms.items()
        }
        low = [low_layers(shared[key], layers[key]) for key in arms]
        notes = [used(claim, samples), *low, *(sample.note for sample in samples.values())]
        note = "; ".join(dict.fromkeys(filter(None, notes)))
    value = claim.value if isinstance(claim, Above | Below) else 0.0
    found = weighted([(_WEIGHTS[key], sample) for key, sample in samples.items()], value)
    return Effect(found, evidence.named(_in_words(claim, samples), claim.a), note, samples)


_WEIGHTS = {"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}


def _of_high_ceilings(
    arms: Mapping[str, Arm], evidence: Evidence, layers: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Layers of high noise ceilings: arms that name the same ones share those that are high in all of them."""
    high = {key: high_layers(arm, evidence, layers[key]) for key, arm in arms.items()}
    alike = {key: [high[other] for other in arms if arms[other].layers == arms[key].layers] for key in arms}
    return {key: [layer for layer in own if all(layer in of for of in alike[key])] for key, own in layers.items()}


def weighted(samples: Sequence[tuple[float, Sample]], minus: float = 0.0) -> Estimate:
    """A weighted sum of arms, less a number."""
    return estimate(
        lambda gone: sum(weight * sample.number(gone) for weight, sample in samples) - minus,
        [sample.cells for _, sample in samples],
    )


class Swept(NamedTuple):
    """A measure of a comparison over a sweep.

    Args:
        trained: `[seed, variant]`; of every seed of x, mean over those of y.
        untrained: alike; empty where there is no floor.
        ceiling: by swept value, of those variants that have one at all their layers.
        layers: variant -> the layers that it is made of.
    """

    trained: pd.DataFrame
    untrained: pd.DataFrame
    ceiling: pd.Series
    layers: dict[str, list[str]]


def swept(m: Arm, evidence: Evidence) -> Swept:
    """A measure of every variant of a sweep, over the layers that are defined at every value that has them."""
    tables, layers = _over_variants(m, evidence)
    value = MEASUREMENTS[m.measure].value
    trained, untrained = (
        pd.DataFrame({v: value(pair[i][layers[v]]).groupby(level="seed").mean() for v, pair in tables.items()})
        if all(len(pair) > i for pair in tables.values())
        else pd.DataFrame()
        for i in range(2)
    )
    tops = {value: ceiling_of(m, evidence, layers[v], v) for v, value in evidence.swept.items()}
    return Swept(trained, untrained, pd.Series(tops, dtype=float).dropna(), layers)


def _over_variants(m: Arm, evidence: Evidence) -> tuple[dict[str, list[pd.DataFrame]], dict[str, list[str]]]:
    """Variant -> its tables, trained and, where there is a floor, untrained; and its layers."""
    tables = {v: [evidence.layers(m, state, v) for state in STATES] for v in evidence.swept}
    if all(untrained.empty for _, untrained in tables.values()):  # under attack there is no floor
        tables = {v: [trained] for v, (trained, _) in tables.items()}
    # a layer that one value lacks (a shallower network) is no fault; one undefined there would bend the trend
    gaps = {layer for pair in tables.values() for table in pair for layer in table if table[layer].isna().any()}
    return tables, {v: [layer for layer in defined_in_all(pair) if layer not in gaps] for v, pair in tables.items()}


def _slope(claim: Trend, evidence: Evidence, column: Column | None) -> Effect:
    """Slope against log2 of the swept value, over the networks of all variants at once."""
    measure, m, note = MEASUREMENTS[claim.a.measure], claim.a, ""
    if measure.of == "network":
        samples = {v: of_network(arm, evidence) for v, arm in network_arms(claim, evidence).items()}
    else:
        layers = _over_variants(m, evidence)[1]
        low = set[str]()
        if measure.over_ceiling:  # one that is low at one value would bend the trend
            low = {one for v, own in layers.items() for one in own if one not in high_layers(m, evidence, own, v)}
        kept = {v: [layer for layer in own if layer not in low] for v, own in layers.items()}
        samples = {v: of_comparison(m, evidence, kept[v], variant=v, column=column) for v in evidence.swept}
        counts = ", ".join(str(len(own)) for own in kept.values())
        over = f"over {counts} layers, those that are defined at every value that has them"
        notes = [over, low_layers(sorted(low), [])]
        note = "; ".join(dict.fromkeys(filter(None, [*notes, *(sample.note for sample in samples.values())])))
    x = np.log2(list(evidence.swept.values()))
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    found = weighted(list(zip(weights.tolist(), samples.values(), strict=True)))
    means = ", ".join(
        f"{value:g}: {sample.number(ALL):.3f}"
        for value, sample in zip(evidence.swept.values(), samples.values(), strict=True)
    )
    words = f"{evidence.label(m)} by swept value {means}"
    return Effect(found, words, note, samples)


def network_arms(claim: Claim, evidence: Evidence) -> dict[str, Arm]:
    """The arms of a claim on networks, by key; those of a trend by variant."""
    if not isinstance(claim, Trend):
        return dict(claim.arms())
    named = {key: name for key in ("network", "minus") if (name := getattr(claim.a, key)) is not None}
    return {v: claim.a.model_copy(update={key: f"{v}.{kind}" for key, kind in named.items()}) for v in evidence.swept}


def _in_words(claim: OneArm, samples: Mapping[str, Sample]) -> str:
    label = MEASUREMENTS[claim.a.measure].label
    if taken := list(dict.fromkeys(m.minus for m in claim.arms().values() if m.minus is not None)):
        label += f" (less that of {' and '.join(taken)})"
    of = {key: sample.number(ALL) for key, sample in samples.items()}
    if "c" in of:
        return f"{label} {of['a']:.3f} less {of['b']:.3f}, against {of['c']:.3f} less {of['d']:.3f}"
    if isinstance(claim, TwoArms):
        return f"{label} {of['a']:.3f} against {of['b']:.3f}"
    against = f" against the fixed {claim.value:g}" if isinstance(claim, Above | Below) else ""
    return f"{label} {of['a']:.3f}{against}"


def used(claim: Claim, samples: Mapping[str, Sample]) -> str:
    """The layers that the arms of a claim are made of, in words."""
    measure = MEASUREMENTS[claim.arms()["a"].measure]
    parts = [measure.parts(list(sample.layers)) for sample in samples.values()]
    if not all(parts):
        return "no layer is defined in all arms"
    if any(others != parts[0] for others in parts):
        *counts, last = (str(len(own)) for own in parts)
        return f"over {', '.join(counts)} and {last} {measure.unit}, those that are defined trained and untrained"
    return f"over the {len(parts[0])} {measure.unit} defined in all arms"


def networks_of(claim: Claim, evidence: Evidence) -> tuple[str, ...]:
    """The networks whose representations a claim is about."""
    return tuple(dict.fromkeys(name for place in compared_in(claim, evidence) for name in evidence.networks[place]))


def compared_in(claim: Claim, evidence: Evidence) -> Iterator[tuple[str, str]]:
    """The comparisons that a claim is about, also those that are taken off, each with its variant."""
    for m in claim.arms().values():
        for comparison in filter(None, (m.comparison, m.minus)) if m.comparison is not None else ():
            for variant in evidence.swept if isinstance(claim, Trend) else [m.variant or ""]:
                yield comparison, variant
