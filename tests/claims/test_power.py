"""What so many seeds can decide: against simulation, and against what is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sj_cka.claims.inference import LEVEL, Estimate, chances
from sj_cka.claims.power import ENOUGH, Design, beyond, inside, least_difference, seeds_needed

SD, MARGIN = 0.02, 0.02
TWO = Design(SD * 2**0.5, 2)


def simulated(by: float, n: int, runs: int = 4000) -> tuple[float, float]:
    """Shares of runs in which Welch's t finds an effect beyond the margin, and within."""
    a, b = SD * np.random.default_rng(n).standard_normal((2, runs, n))
    difference, variances = (a + by).mean(1) - b.mean(1), (a.var(1, ddof=1) / n, b.var(1, ddof=1) / n)
    total = sum(variances)
    df = total**2 / sum(v**2 / (n - 1) for v in variances)
    found = [chances(Estimate(*values, n), MARGIN) for values in zip(difference, total**0.5, df, strict=True)]
    return float(np.mean([p.above <= LEVEL for p in found])), float(np.mean([p.within <= LEVEL for p in found]))


@pytest.mark.parametrize("n", [3, 8])
def test_power_is_within_5_points_of_what_is_had(n: int) -> None:
    for d in (1.0, 2.3):
        assert beyond(TWO, MARGIN + d * SD, MARGIN, n) == pytest.approx(simulated(MARGIN + d * SD, n)[0], abs=0.05)
    assert inside(TWO, 0.0, MARGIN, n) == pytest.approx(simulated(0.0, n)[1], abs=0.05)


def test_the_power_of_one_sample_is_that_of_the_noncentral_t() -> None:
    one = Design(SD, 1)
    expected = stats.nct.sf(stats.t.ppf(0.975, 7), 7, (0.03 - 0.0) / (SD / 8**0.5))
    assert beyond(one, 0.03, 0.0, 8) == pytest.approx(float(expected), abs=0.01)


def test_sameness_at_8_seeds_has_the_little_power_that_is_known() -> None:
    assert inside(TWO, 0.0, MARGIN, 8) == pytest.approx(0.23, abs=0.02)
    assert beyond(TWO, 0.0, MARGIN, 8) < LEVEL  # nothing differs: nothing is found


@pytest.mark.parametrize("n", [3, 8])
def test_the_least_difference_is_decided_with_the_power_that_is_said(n: int) -> None:
    least = least_difference(TWO, MARGIN, n)
    assert beyond(TWO, least, MARGIN, n) == pytest.approx(ENOUGH, abs=1e-3)
    assert simulated(least, n)[0] == pytest.approx(ENOUGH, abs=0.05)
    assert np.isnan(least_difference(TWO, MARGIN, 1))
    assert least_difference(Design(1e-18, 2), MARGIN, n) == MARGIN  # without spread any difference is found


def test_the_seeds_that_are_missing() -> None:
    found = Estimate(0.05, SD * (2 / 3) ** 0.5, 4.0, 3)
    needed = seeds_needed(found, MARGIN)
    assert needed is not None
    assert beyond(TWO, 0.05, MARGIN, needed) >= ENOUGH > beyond(TWO, 0.05, MARGIN, needed - 1)
    # an effect inside the margin asks for sameness
    same = seeds_needed(found._replace(value=0.0), MARGIN)
    assert same is not None
    assert inside(TWO, 0.0, MARGIN, same) >= ENOUGH > inside(TWO, 0.0, MARGIN, same - 1)
    assert seeds_needed(found._replace(value=MARGIN), MARGIN) is None  # at the margin no number of seeds decides
    assert seeds_needed(found._replace(se=np.nan), MARGIN) is None
    assert seeds_needed(found._replace(n=1), MARGIN) is None
