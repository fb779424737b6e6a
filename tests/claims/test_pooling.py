"""Claims of a study that was run twice: what the table keeps of them, pooled estimates and their verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sj_cka.claims import TESTS, Claimed, Evidence, claims_table, findings, read_claims
from sj_cka.claims.inference import Estimate, chances
from sj_cka.claims.judging import READINGS, verdict_of
from sj_cka.claims.pooling import REPEATED, difference, over_runs, pooled
from sj_cka.over_seeds import Interval

SWEPT = {"w-1": 1.0, "w-2": 2.0, "w-4": 4.0}


def of_accuracy(seed: int, n: int = 4) -> Evidence:
    """Accuracies of three swept networks, five points apart, and of two others, ten points apart."""
    draw = np.random.default_rng(seed)
    means = {"a.snn": 0.9, "b.snn": 0.8, "w-1.snn": 0.7, "w-2.snn": 0.75, "w-4.snn": 0.8}
    rows = [
        (network, i, split, mean + 0.004 * draw.normal())
        for network, mean in means.items()
        for i in range(n)
        for split in ("train", "test")
    ]
    accuracy = pd.DataFrame(rows, columns=["network", "seed", "split", "accuracy"])
    return Evidence({"accuracy": accuracy}, {}, 0.0, SWEPT)


def claim(test: str, **keys: Any) -> Any:
    arms = {"a": {"measure": "accuracy", "network": "a.snn"}, "b": {"measure": "accuracy", "network": "b.snn"}}
    if test in ("above", "below"):
        arms = {"a": arms["a"]}
        keys = {"value": 0.85, **keys}
    if test == "trend":
        arms, keys = {"a": {"measure": "accuracy", "network": "snn"}}, {"direction": "up", **keys}
    if test == "greater_in_all":
        arms, keys = {}, {"pairs": [arms, arms], **keys}
    said = {"test": test, "says": f"It is {test}.", "source": "nobody", **arms, **keys}
    return TESTS[test].block.model_validate(said)


def run(seed: int, *claims: Any, n: int = 4) -> list[Claimed]:
    """What a report keeps of a run."""
    return read_claims(claims_table(findings(claims, of_accuracy(seed, n))).to_csv(index=False).encode())


ONE_EFFECT = ["greater", "less", "differs", "same", "above", "below", "trend"]


@pytest.mark.parametrize("test", ONE_EFFECT)
def test_a_claim_of_one_effect_can_be_judged_again_from_the_table_alone(test: str) -> None:
    (found,), (kept,) = findings([claim(test)], of_accuracy(0)), run(0, claim(test))
    assert (kept.says, kept.test, kept.verdict, kept.source) == (found.says, test, found.verdict, "nobody")
    assert kept.found == pytest.approx(found.found)
    answers = READINGS[kept.direction](chances(kept.found, kept.margin))
    assert min(answers) == pytest.approx(found.p)
    assert verdict_of(answers, kept.p) == found.verdict != "undecided"
    over = kept.found.interval(kept.confidence / 100)
    assert (over.low, over.high) == pytest.approx((kept.estimate.low, kept.estimate.high))


def test_what_rests_on_several_effects_and_what_an_earlier_version_wrote_tell_no_direction() -> None:
    (kept,) = run(0, claim("greater_in_all"))
    assert (kept.direction, kept.gates) == ("", "")
    table = claims_table(findings([claim("greater")], of_accuracy(0)))
    of_before = table.drop(columns=["se", "df", "direction", "value", "gates", "missed"])
    (kept,) = read_claims(of_before.to_csv(index=False).encode())
    assert (kept.verdict, kept.direction, kept.gates) == ("holds", "", None)
    assert np.isnan(kept.found.se)
    with pytest.raises(ValueError, match="expected a table of claims, got one without the columns claim, test"):
        read_claims(b"layer,cka\nlif,1\n")


def estimate(values: np.ndarray) -> Estimate:
    n = len(values)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / n**0.5), n - 1.0, n)


@pytest.mark.parametrize("n", [3, 8])
def test_two_runs_of_one_arm_are_told_apart_by_welch_s_test(n: int) -> None:
    draw = np.random.default_rng(n)
    one, other = draw.normal(size=n), 2 + 3 * draw.normal(size=n + 1)
    expected = stats.ttest_ind(one, other, equal_var=False)
    assert difference(estimate(one), estimate(other)) == pytest.approx(expected.pvalue)


def test_pooled_estimates_weigh_by_seeds() -> None:
    one, other = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 7.0, 8.0, 9.0])
    found = pooled([estimate(one), estimate(other)])
    assert (found.value, found.n) == (pytest.approx(np.concatenate([one, other]).mean()), 8)
    # by hand: variances 1 / 3 and 4.3 / 5, weights 3 / 8 and 5 / 8
    parts = 9 / 64 / 3, 25 / 64 * 4.3 / 5
    assert found.se**2 == pytest.approx(sum(parts))
    assert found.df == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 4))


def test_runs_without_any_spread_have_the_degrees_of_freedom_of_both() -> None:
    same = Estimate(0.5, 0.0, 2.0, 3)
    assert pooled([same, same]) == Estimate(0.5, 0.0, 4.0, 6)
    assert difference(same, same) == 1
    assert difference(same, same._replace(value=0.6)) < 1e-6


@pytest.mark.parametrize("n", [3, 4, 8])
def test_runs_that_differ_by_their_seeds_alone_are_seldom_called_not_repeated_and_intervals_cover(n: int) -> None:
    draw, runs = np.random.default_rng(n), 3000
    apart, covered, far = 0, 0, 0
    for values in draw.normal(size=(runs, 2, n)):
        of_run = [estimate(values[0]), estimate(values[1])]
        over = pooled(of_run).interval()
        apart += difference(*of_run) < REPEATED
        covered += over.low <= 0 <= over.high
        far += difference(of_run[0], of_run[1]._replace(value=of_run[1].value + 6)) < REPEATED
    assert 0.002 < apart / runs < 0.015
    assert 0.94 < covered / runs < 0.975
    assert far / runs > 0.7


def kept(value: float = 0.1, **changes: Any) -> Claimed:
    """A primary claim that a is greater by more than .02, as one of two runs of 4 seeds found it."""
    found = Estimate(value, 0.01, 3.0, 4)
    over = Interval(value, value - 0.03, value + 0.03, 4)
    made = Claimed(
        "It is so.", "nobody", "greater", "holds", True, found, over, 95, 0.01, 0.02, "up", "", "", "", "", ""
    )
    return made._replace(**changes)


def verdicts(*claims: tuple[Claimed, ...]) -> list[str | None]:
    return [None if over is None else over.verdict for over in over_runs(claims)]


def test_two_undecided_runs_may_decide_together_and_the_pooled_estimate_is_judged_by_holm() -> None:
    weak = kept(0.06, verdict="undecided")
    p = chances(pooled([weak.found, weak.found]), 0.02).above
    (one,) = over_runs([(weak, weak)])
    assert one is not None
    assert (one.verdict, one.p, one.differing) == ("holds", pytest.approx(p), 1)
    exploratory = weak._replace(primary=False)
    found = over_runs([(weak, weak), (weak, weak), (weak, exploratory)])
    assert [(over.primary, over.p) for over in found if over is not None] == [
        *[(True, pytest.approx(2 * p))] * 2,
        (False, pytest.approx(p)),  # primary in one run alone
    ]


def test_runs_that_found_another_effect_are_not_repeated() -> None:
    assert verdicts((kept(0.1), kept(0.12))) == ["holds"]
    assert verdicts((kept(0.1), kept(0.2))) == ["not repeated"]
    assert verdicts((kept(0.1), kept(-0.1))) == ["not repeated"]
    # one says more than the margin, the other that it is within: too far apart in spread for Welch to say so
    wide, narrow = kept(found=Estimate(0.5, 0.1, 3.0, 4)), Estimate(-0.03, 0.001, 3.0, 4)
    against = kept(found=narrow, verdict="contradicted")
    assert difference(wide.found, narrow) > REPEATED
    assert verdicts((wide, against)) == ["not repeated"]
    assert verdicts((wide, against._replace(verdict="undecided"))) == ["holds"]
    # of three runs the least of three p-values counts three times
    (three,) = over_runs([(kept(0.1), kept(0.1), kept(0.16))])
    assert three is not None
    assert three.differing == pytest.approx(3 * difference(kept(0.1).found, kept(0.16).found))


def test_negative_answers_are_pooled_like_positive_ones() -> None:
    assert verdicts((kept(-0.1), kept(-0.09))) == ["contradicted"]
    narrow = Estimate(0.001, 0.002, 3.0, 4)
    assert verdicts((kept(found=narrow), kept(found=narrow))) == ["equivalent"]


def test_controls_must_hold_in_every_run() -> None:
    same = {"test": "same", "direction": "together", "confidence": 90}
    narrow = kept(found=Estimate(0.001, 0.002, 3.0, 4), gates="held", **same)
    passing = narrow._replace(gates="permuted samples pass as well")
    assert verdicts((narrow, narrow)) == ["holds"]
    assert verdicts((narrow, passing)) == ["undecided"]
    # what passes for the same says nothing against what differs
    wide = kept(0.2, gates="held", **same)
    assert verdicts((wide, wide._replace(gates="permuted samples pass as well"))) == ["contradicted"]
    assert verdicts((wide, wide._replace(missed="pgd did not reach success 0.5"))) == ["undecided"]
    assert verdicts((narrow, narrow._replace(verdict="not trained"))) == ["not trained"]


def test_what_is_not_pooled_keeps_its_place_among_the_primary_claims() -> None:
    several = kept(test="near_ceiling", direction="")
    without = kept(found=Estimate(0.1, np.nan, np.nan, 4))
    (first, second, third, alone) = over_runs([(kept(), kept()), (several, several), (kept(), without), (kept(),)])
    assert (second, third, alone) == (None, None, None)
    assert verdicts((kept(), kept(margin=0.1)), (kept(), kept(confidence=90))) == [None, None]
    assert first is not None
    assert first.p == pytest.approx(4 * chances(pooled([kept().found] * 2), 0.02).above)
