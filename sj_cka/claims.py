"""Claims of the papers as checkable statements: measurements, intervals over seeds, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

Verdict = Literal["holds", "contradicted", "undecided", "not trained"]
MIN_SEEDS = 3


class Measure(NamedTuple):
    """A number for each seed. `of` says of what: a network's accuracy, or a comparison's paired CKA `[seed, layer]`."""

    of: Literal["network", "comparison"]
    value: Callable[[pd.DataFrame], pd.Series]
    label: str


def _mean_paired(paired: pd.DataFrame) -> pd.Series:
    """Mean over the paired layers."""
    return paired.mean(axis=1)


def _restoration(paired: pd.DataFrame) -> pd.Series:
    """Mean over residual blocks of CKA at the block's output minus CKA at its last convolution."""
    blocks = [layer for layer in paired.columns if f"{layer}.conv2" in paired.columns]
    if not blocks:
        return pd.Series(np.nan, index=paired.index)
    return pd.concat([paired[block] - paired[f"{block}.conv2"] for block in blocks], axis=1).mean(axis=1)


MEASUREMENTS: dict[str, Measure] = {
    "accuracy": Measure("network", lambda table: table["accuracy"], "accuracy"),
    "paired_cka": Measure("comparison", _mean_paired, "mean CKA of paired layers"),
    "restoration": Measure("comparison", _restoration, "CKA at block outputs minus CKA at their last convolutions"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measurement(_Strict):
    """What is measured, of which network or comparison."""

    measure: str = Field(description="a name of MEASUREMENTS")
    network: str | None = Field(None, description="<variant>.<snn|ann>, for accuracy; <kind> alone in a trend")
    comparison: str | None = Field(None, description="the comparison whose layers are meant")
    variant: str | None = Field(None, description="the variant, where the comparison is over all")
    split: Literal["train", "test"] = "test"


class _Claim(_Strict):
    says: str = Field(description="the statement, in a sentence")
    source: str = Field(description="who states it, and how surely that is known")


class OneArm(_Claim):
    """A measurement against a fixed value, against the ceiling, or over a sweep."""

    a: Measurement

    def arms(self) -> dict[str, Measurement]:
        """The measurements, by key."""
        return {"a": self.a}


class TwoArms(OneArm):
    """A measurement against another."""

    b: Measurement

    def arms(self) -> dict[str, Measurement]:
        """The measurements, by key."""
        return {"a": self.a, "b": self.b}


class Greater(TwoArms):
    """a is greater than b."""

    test: Literal["greater"]


class Less(TwoArms):
    """a is less than b."""

    test: Literal["less"]


class Differs(TwoArms):
    """a differs from b, either way."""

    test: Literal["differs"]


class Above(OneArm):
    """a lies above a value."""

    test: Literal["above"]
    value: float


class Below(OneArm):
    """a lies below a value."""

    test: Literal["below"]
    value: float


class NearCeiling(OneArm):
    """(a - floor) / (ceiling - floor) is above 0.5."""

    test: Literal["near_ceiling"]


class Trend(OneArm):
    """a grows, or falls, with log2 of the swept value."""

    test: Literal["trend"]
    direction: Literal["up", "down"]


Claim = Annotated[Greater | Less | Differs | Above | Below | NearCeiling | Trend, Field(discriminator="test")]


class Interval(NamedTuple):
    """Mean and two-sided 95 % Student t interval over n seeds; low and high are NaN under 2."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Evidence:
    """The numbers of a study that claims are judged on.

    Args:
        accuracy: columns network, seed, split, accuracy.
        paired: columns comparison, variant, state, seed, layer, cka; state is "trained", "untrained" (the floor) or
            "ceiling" (seed against the other seeds; no interval: pairs of seeds are not independent).
        networks: (comparison, variant) -> names of the two networks.
        trained_at: training accuracy below which a network counts as not trained.
        swept: variant -> swept value.
    """

    accuracy: pd.DataFrame
    paired: pd.DataFrame
    networks: Mapping[tuple[str, str], tuple[str, str]]
    trained_at: float
    swept: Mapping[str, float] = field(default_factory=dict)

    def accuracies(self, network: str, split: str) -> pd.Series:
        """Accuracy of a network by seed."""
        t = self.accuracy
        return t[(t.network == network) & (t.split == split)].set_index("seed")["accuracy"].sort_index()

    def layers(self, comparison: str, variant: str, state: str) -> pd.DataFrame:
        """Paired CKA `[seed, layer]` of a comparison."""
        t = self.paired
        rows = t[(t.comparison == comparison) & (t.variant == variant) & (t.state == state)]
        order = rows["layer"].drop_duplicates()
        return rows.pivot_table(index="seed", columns="layer", values="cka", aggfunc="mean", dropna=False)[order]

    def not_trained(self, networks: tuple[str, ...]) -> list[str]:
        """The networks, of those named, that miss `trained_at` with any seed."""
        return [n for n in networks if "@" not in n and not self.accuracies(n, "train").min() >= self.trained_at]


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


def interval(values: pd.Series | np.ndarray) -> Interval:
    """Mean and 95 % Student t interval over seeds.

    Example:
        >>> [round(v, 3) for v in interval(np.array([1.0, 2.0, 3.0]))]
        [2.0, -0.484, 4.484, 3]
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    mean = float(values.mean()) if n else float("nan")
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def verdict_of(estimate: Interval, *, two_sided: bool = False) -> Verdict:
    """Whether an effect that is claimed to be positive (or, two-sided, not zero) is: by its interval over seeds."""
    if estimate.n < MIN_SEEDS or not np.isfinite([estimate.low, estimate.high]).all():
        return "undecided"
    if estimate.low > 0 or (two_sided and estimate.high < 0):
        return "holds"
    return "contradicted" if estimate.high < 0 and not two_sided else "undecided"


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """The verdict on one claim, on the value itself and on what training added to it (`learned`)."""
    effects, measured, note = _effects(claim, evidence)
    two_sided = claim.test == "differs"
    sign = -1.0 if claim.test in ("less", "below") or (claim.test == "trend" and claim.direction == "down") else 1.0
    estimate = interval(effects["value"])
    verdict = verdict_of(interval(sign * effects["value"]), two_sided=two_sided)
    learned_estimate, learned = None, None
    if "learned" in effects:
        learned_estimate = interval(effects["learned"])
        learned = verdict_of(interval(sign * effects["learned"]), two_sided=two_sided)
    missing = evidence.not_trained(_networks(claim, evidence))
    if missing and "learned" in effects:
        verdict = learned = "not trained"
        note = f"training accuracy below {evidence.trained_at:g}: {', '.join(missing)}. {note}".strip()
    return Finding(claim.says, claim.source, claim.test, verdict, learned, measured, estimate, learned_estimate, note)


def _effects(claim: Claim, evidence: Evidence) -> tuple[dict[str, pd.Series], str, str]:
    """Per-seed effects, positive where a is larger: "value" and, for representations, "learned"; in words; a note."""
    if isinstance(claim, Trend):
        return _slopes(claim, evidence)
    arms = claim.arms()
    if MEASUREMENTS[claim.a.measure].of == "network":
        values = {arm: evidence.accuracies(str(m.network), m.split) for arm, m in arms.items()}
        return {"value": _against(claim, values)}, _in_words(claim, values), ""
    states = ("trained", "untrained")
    tables = {(arm, state): evidence.layers(*_where(m), state) for arm, m in arms.items() for state in states}
    # arms may have different layers (no shortcut, no downsampling), and a layer may be undefined in one of them
    shared = [
        layer
        for layer in tables["a", "trained"].columns
        if all(layer in table.columns and table[layer].notna().all() for table in tables.values())
    ]
    values, floors = (
        {arm: MEASUREMENTS[m.measure].value(tables[arm, state][shared]) for arm, m in arms.items()} for state in states
    )
    if isinstance(claim, NearCeiling):
        ceiling = evidence.layers(*_where(claim.a), "ceiling").mean()
        shared = [layer for layer in shared if layer in ceiling.index and np.isfinite(ceiling[layer])]
        top = float(MEASUREMENTS[claim.a.measure].value(ceiling[shared].to_frame().T).iloc[0])
        a, floor = (MEASUREMENTS[claim.a.measure].value(tables["a", state][shared]) for state in states)
        share = (a - floor) / (top - floor)
        words = (
            f"{a.mean():.3f}, {share.mean():.2f} of the way from the floor {floor.mean():.3f} to the ceiling {top:.3f}"
        )
        return {"value": share - 0.5, "learned": a - floor}, words, _used(shared)
    if isinstance(claim, TwoArms):
        value, floor = _against(claim, values), _against(claim, floors)
        return {"value": value, "learned": value - floor}, _in_words(claim, values), _used(shared)
    return (
        {"value": _against(claim, values), "learned": values["a"] - floors["a"]},
        _in_words(claim, values),
        _used(shared),
    )


def _against(claim: Claim, values: Mapping[str, pd.Series]) -> pd.Series:
    if isinstance(claim, TwoArms):
        return values["a"] - values["b"]
    return values["a"] - (claim.value if isinstance(claim, Above | Below) else 0.0)


def _slopes(claim: Trend, evidence: Evidence) -> tuple[dict[str, pd.Series], str, str]:
    measure, m = MEASUREMENTS[claim.a.measure], claim.a
    x = np.log2(list(evidence.swept.values()))
    curves: dict[str, pd.DataFrame] = {}
    if measure.of == "network":
        kind = str(m.network).rpartition(".")[2]
        curves["value"] = pd.DataFrame({v: evidence.accuracies(f"{v}.{kind}", m.split) for v in evidence.swept})
    else:
        trained, untrained = (
            pd.DataFrame({v: measure.value(evidence.layers(str(m.comparison), v, state)) for v in evidence.swept})
            for state in ("trained", "untrained")
        )
        curves = {"value": trained, "learned": trained - untrained}
    slopes = {key: table.apply(lambda row: float(np.polyfit(x, row, 1)[0]), axis=1) for key, table in curves.items()}
    means = ", ".join(
        f"{value:g}: {mean:.3f}" for value, mean in zip(evidence.swept.values(), curves["value"].mean(), strict=True)
    )
    return slopes, f"{measure.label} by swept value {means}; slope per doubling {slopes['value'].mean():+.4f}", ""


def _in_words(claim: Claim, values: Mapping[str, pd.Series]) -> str:
    label = MEASUREMENTS[claim.a.measure].label
    if isinstance(claim, TwoArms):
        return f"{label} {values['a'].mean():.3f} against {values['b'].mean():.3f}"
    against = f" against the fixed {claim.value:g}" if isinstance(claim, Above | Below) else ""
    return f"{label} {values['a'].mean():.3f}{against}"


def _used(layers: list[str]) -> str:
    return f"over the {len(layers)} layers defined in all arms" if layers else "no layer is defined in all arms"


def _where(m: Measurement) -> tuple[str, str]:
    return str(m.comparison), m.variant or ""


def _networks(claim: Claim, evidence: Evidence) -> tuple[str, ...]:
    """The networks whose representations a claim is about."""
    found: list[str] = []
    for m in claim.arms().values():
        if MEASUREMENTS[m.measure].of == "comparison":
            variants = evidence.swept if isinstance(claim, Trend) else [_where(m)[1]]
            for variant in variants:
                found += [n for n in evidence.networks[str(m.comparison), variant] if n not in found]
    return tuple(found)
