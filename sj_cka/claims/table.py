"""The table of claims that a report keeps, claims.csv, and reading it back."""

import io
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sj_cka.claims.arms import Levels
from sj_cka.claims.inference import Estimate
from sj_cka.claims.verdicts import Finding
from sj_cka.over_seeds import Interval


def claims_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """The claims with their verdicts; effects are positive where a is larger.

    low and high are the interval over seeds that a claim is judged by, of 95 %, or of 90 % where it says that two
    things are alike (confidence); low_all and high_all those of all primary claims together (Bonferroni), p_holm is p
    after Holm over them. se and df are the standard error of the effect and its degrees of freedom; direction tells
    where the claim puts it (up, down, apart, together), and is empty where a verdict rests on several effects. agree
    tells how many specifications of how many say the same. Columns of a and b are of the first two arms. layers is of
    each arm on layers their number and the first 8 digits of the SHA-256 of their names: equal where layers are.
    """
    return pd.DataFrame([_row(finding) for finding in findings], columns=list(_row(_NONE)))


_NONE = Finding("", "", "", "undecided", False, "", Interval(np.nan, np.nan, np.nan, 0))


def _row(f: Finding) -> dict[str, object]:
    """A finding by column."""
    levels = [*f.arms.values(), *[Levels(np.nan)] * 2][:2]
    return {
        **{"claim": f.says, "test": f.test, "role": f.role, "verdict": f.verdict},
        **{"effect": f.estimate.mean, "se": f.found.se, "df": f.found.df},
        **{"low": f.estimate.low, "high": f.estimate.high},
        **{"low_all": f.corrected.low, "high_all": f.corrected.high, "p": f.p, "p_holm": f.p_corrected},
        **{"confidence": f.confidence, "margin": f.margin, "direction": f.direction, "value": f.value},
        **{"seeds": f.estimate.n},
        **{f"{name}_{arm}": getattr(levels[i], name) for i, arm in enumerate("ab") for name in _LEVELS},
        **{"agree": "" if f.agreement is None else str(f.agreement), "seeds_needed": f.needed},
        **{"measured": f.measured, "gates": f.gates, "missed": f.missed, "controls": "; ".join(f.controls)},
        **{"layers": ", ".join(_short(arm.layers) for arm in f.arms.values() if arm.layers)},
        **{"note": f.note, "reason": f.reason, "source": f.source},
    }


def _short(layers: tuple[str, ...]) -> str:
    """Tells layers from others."""
    return f"{len(layers)} ({sha256(chr(10).join(layers).encode()).hexdigest()[:8]})"


_LEVELS = ("value", "floor", "ceiling", "change")


class Claimed(NamedTuple):
    """A claim as a report keeps it; attributes as of `Finding`.

    Args:
        p: after Holm, if the claim is primary.
        gates: None in a report of an earlier version, which does not tell; its `found` has no standard error.
        agree: "8 of 10", or "".
        layers: of each arm how many, and what tells them from others; "" in a report of an earlier version.
    """

    says: str
    source: str
    test: str
    verdict: str
    primary: bool
    found: Estimate
    estimate: Interval
    confidence: int
    p: float
    margin: float
    direction: str
    gates: str | None
    missed: str
    controls: str
    agree: str
    layers: str


def read_claims(content: bytes) -> list[Claimed]:
    """The claims in the content of a claims.csv, in order.

    Raises:
        ValueError: it is no such table.
    """
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    if missing := [name for name in _EXPECTED if name not in table]:
        raise ValueError(f"expected a table of claims, got one without the columns {', '.join(missing)}")
    return [_claimed(row) for row in table.to_dict("records")]


_NUMBERS = ("effect", "se", "df", "low", "high", "p_holm", "confidence", "margin", "seeds")
_EXPECTED = ("claim", "test", "role", "verdict", "effect", "low", "high", "p_holm", "confidence", "margin", "seeds")


def _claimed(row: dict[Any, Any]) -> Claimed:
    number = {name: float(row.get(name) or "nan") for name in _NUMBERS}
    if not np.isfinite([number["seeds"], number["confidence"]]).all():
        raise ValueError(f"expected numbers of seeds and confidence, got {row['seeds']!r} and {row['confidence']!r}")
    effect, seeds = number["effect"], int(number["seeds"])
    return Claimed(
        row["claim"],
        row.get("source", ""),
        row["test"],
        row["verdict"],
        row["role"] == "primary",
        Estimate(effect, number["se"], number["df"], seeds),
        Interval(effect, number["low"], number["high"], seeds),
        int(number["confidence"]),
        number["p_holm"],
        number["margin"],
        row.get("direction", ""),
        row.get("gates"),
        row.get("missed", ""),
        row.get("controls", ""),
        row.get("agree", ""),
        row.get("layers", ""),
    )
