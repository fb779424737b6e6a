"""What is independent in the arms of a claim, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from sj_cka.claims.inference import ALL, LEVEL, Cells, Chances, Estimate, chances, estimate, holm, units


def same_seeds(x: str, y: str, n: int) -> Cells:
    return Cells([(i, i) for i in range(n)], [frozenset({f"{x}{i}", f"{y}{i}"}) for i in range(n)])


def across(x: str, y: str, n: int) -> Cells:
    seeds = [(i, j) for i in range(n) for j in range(n) if x != y or i != j]
    return Cells(seeds, [frozenset({f"{x}{i}", f"{y}{j}"}) for i, j in seeds])


def mean(values: np.ndarray, cells: Cells) -> Callable[[frozenset[str]], float]:
    return lambda gone: float(values.ravel()[[not own & gone for own in cells.origins]].mean())


def effect(a: np.ndarray, b: np.ndarray, cells: list[Cells]) -> Estimate:
    one, other = mean(a, cells[0]), mean(b, cells[1])
    return estimate(lambda gone: one(gone) - other(gone), cells)


RNG = np.random.default_rng(16)


@pytest.mark.parametrize("n", [3, 8])
def test_arms_without_a_network_in_common_are_welch_s_two_samples(n: int) -> None:
    a, b = RNG.normal(size=n), 3.5 * RNG.normal(size=n)
    found = effect(a, b, [same_seeds("s", "a", n), same_seeds("t", "b", n)])
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert (found.value / found.se, found.df) == pytest.approx((expected.statistic, expected.df))
    over = expected.confidence_interval()
    assert found.interval()[1:3] == pytest.approx((over.low, over.high))
    p = chances(found, 0.0)
    assert (p.above if found.value > 0 else p.below) == pytest.approx(expected.pvalue)


def test_arms_of_other_sizes_are_welch_s_too() -> None:
    a, b = RNG.normal(size=3), RNG.normal(size=7)
    found = effect(a, b, [same_seeds("s", "a", 3), same_seeds("t", "b", 7)])
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert (found.value / found.se, found.df, found.n) == pytest.approx((expected.statistic, expected.df, 3))


def test_arms_that_share_a_network_of_each_seed_are_paired() -> None:
    a, b = RNG.normal(size=5), RNG.normal(size=5)
    found = effect(a, b, [same_seeds("s4-", "a", 5), same_seeds("s8-", "a", 5)])  # one ANN for both
    expected = stats.ttest_rel(a, b)
    assert (found.value / found.se, found.df) == pytest.approx((expected.statistic, 4))


def test_first_weights_in_common_pair_as_well() -> None:
    cells = [same_seeds("s", "first", 4), same_seeds("t", "first", 4)]
    assert [len(group) for group in units(cells)] == [4]


def test_every_seed_with_every_seed_is_two_crossed_samples_with_the_interaction_left_in() -> None:
    n = 4
    values = RNG.normal(size=(n, 1)) + RNG.normal(size=n) + 0.3 * RNG.normal(size=(n, n))
    found = estimate(mean(values, across("s", "a", n)), [across("s", "a", n)])
    ms_x, ms_y = n * values.mean(1).var(ddof=1), n * values.mean(0).var(ddof=1)
    assert found.se**2 == pytest.approx((ms_x + ms_y) / n**2)
    assert found.df == pytest.approx((ms_x + ms_y) ** 2 / ((ms_x**2 + ms_y**2) / (n - 1)))


def test_networks_of_one_kind_across_seeds_are_one_group() -> None:
    pairs = [(i, j) for i in range(4) for j in range(i)]  # each pair once
    upper = Cells(pairs, [frozenset({f"s{i}", f"s{j}"}) for i, j in pairs])
    for cells in (across("s", "s", 4), upper):
        (group,) = units([cells])
        assert sorted(next(iter(unit.origins)) for unit in group) == ["s0", "s1", "s2", "s3"]


def test_crossed_arms_that_share_one_network_leave_it_out_of_both_at_once() -> None:
    cells = [across("s4-", "a", 3), across("s8-", "a", 3)]
    groups = units(cells)
    assert sorted(len(group) for group in groups) == [3, 3, 3]
    (shared,) = [group for group in groups if all({arm for arm, _ in unit.places} == {0, 1} for unit in group)]
    assert {origin for unit in shared for origin in unit.origins} == {"a0", "a1", "a2"}
    # what differs between seeds of the shared network alone is no difference between the arms
    of_ann = np.tile(RNG.normal(size=3), (3, 1))
    found = effect(of_ann + 1, of_ann, cells)
    assert (found.value, found.se) == pytest.approx((1, 0), abs=1e-12)


def test_networks_of_a_seed_count_once_where_they_stand_across_seeds_too() -> None:
    n, runs = 5, 400
    cells = [same_seeds("s", "a", n), across("s", "a", n)]
    (group,) = units(cells)
    assert len(group) == n
    rng, variances, values = np.random.default_rng(0), [], []
    for _ in range(runs):
        cka = rng.standard_normal((n, 1)) + rng.standard_normal(n) + rng.standard_normal((n, n))
        found = effect(np.diag(cka), cka, cells)
        variances.append(found.se**2)
        values.append(found.value)
    assert np.mean(variances) == pytest.approx(np.var(values), rel=0.25)


def test_an_effect_over_one_seed_has_no_standard_error() -> None:
    found = estimate(lambda gone: 1.0 if not gone else np.nan, [same_seeds("s", "a", 1)])
    assert (found.value, found.n) == (1.0, 1)
    assert np.isnan(found.se)
    assert np.isnan(found.interval()[1:3]).all()
    assert chances(found, 0.02) == (1, 1, 1)


def test_nothing_gone_is_the_effect_itself() -> None:
    seen: list[frozenset[str]] = []
    estimate(lambda gone: float(len(seen.append(gone) or seen)), [same_seeds("s", "a", 3)])
    assert seen[0] == ALL
    assert len(seen) == 4


@pytest.mark.parametrize("df", [2.0, 14.0])
def test_chances_are_those_of_t(df: float) -> None:
    found = Estimate(0.05, 0.01, df, 3)
    p = chances(found, 0.02)
    assert p.above == pytest.approx(2 * stats.t.sf(3, df))
    assert p.below == pytest.approx(1)
    assert p.within == pytest.approx(stats.t.cdf(3, df))
    assert chances(found._replace(value=-0.05), 0.02).below == pytest.approx(p.above)
    assert chances(found, 0.0).within == 1


def test_an_answer_needs_three_seeds() -> None:
    assert chances(Estimate(1.0, 1e-3, 5.0, 2), 0.02) == (1, 1, 1)
    assert chances(Estimate(1.0, 1e-3, 5.0, 3), 0.02).above < LEVEL


def test_rounding_that_is_alike_for_every_seed_decides_nothing_but_sameness() -> None:
    p = chances(Estimate(1e-8, 0.0, 4.0, 3), 0.0)
    assert min(p) > LEVEL
    assert chances(Estimate(1e-8, 0.0, 4.0, 3), 0.02).within < 1e-6


def test_holm_by_hand() -> None:
    # ordered .01 .02 .03 .5: times 4, 3, 2, 1, never below the one before
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


# simulations: the yardsticks do what they say


def shares(by: float, n: int, runs: int = 1500, sd: float = 0.02) -> Chances:
    """How often each answer is given to an effect of `by`, with a margin of .02."""
    rng, cells = np.random.default_rng(n), [same_seeds("s", "a", n), same_seeds("t", "b", n)]
    given = np.zeros(3)
    for _ in range(runs):
        a, b = sd * rng.standard_normal((2, n))
        given += np.array(chances(effect(a + by, b, cells), 0.02)) <= LEVEL
    return Chances(*(given / runs))


@pytest.mark.sampled
@pytest.mark.parametrize("n", [5, 3, 8])
def test_false_answers_at_the_margin_are_no_more_than_the_level(n: int) -> None:
    at = shares(0.02, n)
    assert at.above < LEVEL / 2 + 0.012  # 3 standard errors of a rate of .025 over 1,500 runs
    assert at.within < LEVEL + 0.017
    assert at.below == 0


@pytest.mark.sampled
@pytest.mark.parametrize(("n", "interaction"), [(3, 1.0), (3, 0.0), (5, 1.0), (8, 1.0)])
def test_the_crossed_interval_covers_at_least_93_of_100(n: int, interaction: float) -> None:
    rng, cells, covered, runs = np.random.default_rng(n), across("s", "a", n), 0, 1000
    for _ in range(runs):
        a, b, c = rng.standard_normal((n, 1)), rng.standard_normal(n), rng.standard_normal((n, n))
        over = estimate(mean(a + b + interaction * c, cells), [cells]).interval()
        covered += over.low <= 0 <= over.high
    assert covered / runs >= 0.93
