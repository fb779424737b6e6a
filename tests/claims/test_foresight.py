"""What seeds can decide, before they are run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sj_cka.claims import TESTS, Claim, Evidence
from sj_cka.claims.foresight import demoted, design_of, foreseen, in_words
from sj_cka.claims.power import ENOUGH, beyond

SWEPT = {"w-1": 1.0, "w-2": 2.0, "w-4": 4.0}
ARM = {"measure": "accuracy", "network": "a.snn"}


def claim(test: str, **keys: object) -> Claim:
    arms = {"a": ARM} | ({"b": ARM | {"network": "b.snn"}} if test in ("greater", "same") else {})
    made: Claim = TESTS[test].block.model_validate({"test": test, "says": f"{test}.", "source": "-", **arms, **keys})
    return made


def test_a_design_is_that_of_its_arms() -> None:
    assert design_of(claim("greater"), {}) == pytest.approx((0.01 * 2**0.5, 2))
    assert design_of(claim("above", value=0.5, spread=0.03), {}) == pytest.approx((0.03, 1))
    trend = design_of(claim("trend", direction="up", a=ARM | {"network": "snn"}), SWEPT)
    assert trend == pytest.approx((0.01 / 2**0.5, 2))  # weights -1/2, 0, 1/2: two arms have all of the variance


def test_only_sameness_is_demoted_for_want_of_power() -> None:
    same = claim("same", primary=True)
    assert demoted(same, 8, {}).startswith("exploratory: with 8 seeds its power is 0.2")
    assert demoted(same, 40, {}) == ""
    assert demoted(claim("same"), 3, {}) == demoted(claim("greater", primary=True), 3, {}) == ""
    near = claim("near_ceiling", primary=True, a={"measure": "paired_cka", "comparison": "twins"})
    assert demoted(near, 2, {}) == "exploratory: with 2 seeds its power is 0.00, 0.8 was needed"
    assert demoted(near, 4, {}) == ""


def accuracies(seeds: int, spread: float) -> Evidence:
    rng = np.random.default_rng(0)
    rows = [
        (network, seed, "test", 0.8 + spread * value)
        for network in ("a.snn", "b.snn")
        for seed, value in enumerate(rng.standard_normal(seeds))
    ]
    table = pd.DataFrame(rows, columns=["network", "seed", "split", "accuracy"])
    return Evidence({"accuracy": table}, {}, 0.9)


def test_the_spread_of_what_is_finished_goes_before_what_is_expected() -> None:
    (expected,) = foreseen([claim("greater")], 8, {})
    (known,) = foreseen([claim("greater")], 8, {}, accuracies(5, 0.002))
    assert expected.spread.endswith("expected")
    assert known.spread.endswith("of 5 seeds")
    assert 0.01 < known.least < expected.least
    assert beyond(design_of(claim("greater"), {}), expected.least, 0.01, 8) == pytest.approx(ENOUGH, abs=1e-3)


def test_a_line_a_claim_says_what_can_be_decided() -> None:
    found = foreseen([claim("greater", primary=True), claim("same", primary=True)], 3, {})
    _, one, two = in_words(found).splitlines()
    assert one.split()[0] == "primary"
    assert "an effect from 0.0" in one
    assert one.endswith(": greater.")
    assert two.split()[0] == "exploratory"
    assert "sameness, within 0.01: power 0.0" in two
    assert "that takes two seeds" in in_words(foreseen([claim("greater")], 1, {}))
