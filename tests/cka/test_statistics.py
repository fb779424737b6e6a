"""Intervals, differences, seeds, chance, other sizes, groups, heavy samples."""

import warnings

import numpy as np
import pytest
import torch
from drawn import accumulated, randn, related
from scipy import stats

from sj_cka import CKA, cka, pool
from sj_cka.cka.gram import pack, u_centre
from sj_cka.cka.layer_grams import Whole, grams


def population(A, B, noise):
    """CKA of X = Z A and Y = Z B + noise E for standard normal Z, E: |S_xy|^2 / (|S_xx| |S_yy|)."""
    Sxx, Syy = A.T @ A, B.T @ B + noise**2 * np.eye(B.shape[1])
    return ((A.T @ B) ** 2).sum() / np.linalg.norm(Sxx) / np.linalg.norm(Syy)


# how noisy y must be for a population CKA of .15, .5 and .98
@pytest.mark.parametrize(("wanted", "noise", "same"), [(0.15, 5.4, False), (0.5, 0.85, False), (0.98, 0.62, True)])
def test_a_95_percent_interval_covers_the_population_value_in_90_to_99_of_100_draws(wanted, noise, same):
    g = np.random.default_rng(0)
    A = g.normal(size=(8, 10))
    B = A if same else g.normal(size=(8, 10))
    truth = population(A, B, noise)
    assert truth == pytest.approx(wanted, abs=0.02)
    covered = 0
    for _ in range(200):
        Z = g.normal(size=(128, 8))
        X, Y = torch.from_numpy(Z @ A), torch.from_numpy(Z @ B + noise * g.normal(size=(128, 10)))
        row = accumulated((X, Y)).interval().iloc[0]
        covered += row.low < truth < row.high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize("D", [5, 100])
def test_for_independent_data_the_interval_covers_zero_in_at_least_95_of_100_draws(D):
    covered = 0
    for seed in range(200):
        row = accumulated((randn(96, D, seed=seed), randn(96, D, seed=seed + 10**6))).interval().iloc[0]
        covered += row.low < 0 < row.high
    assert covered / 200 >= 0.95


def half_width(row):
    """Of the jackknife, from the upper end of its interval on Fisher's z."""
    return (np.arctanh(row.high) - np.arctanh(row.cka)) * (1 - row.cka**2)


def left_out_exactly(X, Y):
    keep = [[j for j in range(len(X)) if j != i] for i in range(len(X))]
    return np.array([cka(X[k], Y[k]) for k in keep])


def test_leaving_out_to_first_order_is_leaving_out_up_to_the_second():
    for n, tolerance in ((64, 0.05), (256, 0.02)):
        X, Y = related(n, 0)
        exact = left_out_exactly(X, Y)
        width = np.sqrt((n - 1) / n * ((exact - exact.mean()) ** 2).sum())
        row = accumulated((X, Y)).interval().iloc[0]
        assert half_width(row) / stats.t.ppf(0.975, n - 1) == pytest.approx(width, rel=tolerance)


def test_contributions_add_up_to_the_value_and_are_row_products_of_centred_grams():
    X, Y = related(20, 0)
    data = accumulated((X, Y)).data
    K, L = (u_centre(side @ side.T) for side in (X, Y))
    h = (K * L).sum(1) / ((K**2).sum() * (L**2).sum()).sqrt()
    assert np.allclose(data.sample_xy.values[:, 0, 0], h.numpy(), atol=1e-6)
    assert data.sample_xy.values.sum() == pytest.approx(data.cka.values.item(), abs=1e-5)
    assert data.sample_xx.values.sum() == pytest.approx(1, abs=1e-5)


def test_samples_of_several_minibatches_are_left_out_each_in_its_own():
    parts = [related(40, seed) for seed in range(3)]
    joint = accumulated(*parts).interval().iloc[0]

    def without(b, i):
        batches = [
            tuple(s[[j for j in range(40) if j != i]] for s in part) if k == b else part for k, part in enumerate(parts)
        ]
        return accumulated(*batches, samples=False).matrix().iloc[0, 0]

    exact = np.array([without(b, i) for b in range(3) for i in range(40)])
    half = stats.t.ppf(0.975, 119) * np.sqrt(119 / 120 * ((exact - exact.mean()) ** 2).sum())
    assert half_width(joint) == pytest.approx(half, rel=0.08)


def test_minibatches_serve_only_from_eight_on_and_agree_with_the_samples():
    few = accumulated(*[related(32, s) for s in range(7)], samples=False)
    with pytest.raises(ValueError, match=r"at least 8 minibatches.*got 7.*samples=True"):
        few.interval()
    many = accumulated(*[related(32, s) for s in range(40)])
    by_sample, by_batch = many.interval(), many.interval(over="batches")
    ratio = (by_batch.high - by_batch.low) / (by_sample.high - by_sample.low)
    assert 0.6 < ratio.iloc[0] < 1.6
    with pytest.raises(ValueError, match='over="samples" or over="batches"'):
        many.interval(over="seeds")


def test_a_wider_level_is_a_wider_interval_and_one_beyond_1_is_refused():
    result = accumulated(related(40, 0))
    narrow, wide = result.interval(0.5).iloc[0], result.interval(0.99).iloc[0]
    assert wide.low < narrow.low < narrow.cka < narrow.high < wide.high
    with pytest.raises(ValueError, match=r"level between 0 and 1, e\.g\. 0\.95, got 95"):
        result.interval(95)


def test_a_difference_of_pairs_is_narrower_than_that_of_two_intervals_where_both_move_together():
    X, Y = related(80, 0)
    Y2 = Y + 0.05 * randn(80, 8, seed=4)
    a, b = accumulated((X, Y)), accumulated((X, Y2))
    row = a.difference(b).iloc[0]
    assert row.difference == pytest.approx(a.matrix().iloc[0, 0] - b.matrix().iloc[0, 0], abs=1e-12)
    apart = a.interval().iloc[0]
    assert row.high - row.low < 0.3 * (apart.high - apart.low)
    same = a.difference(a).iloc[0]
    assert (same.difference, same.low, same.high) == (0, 0, 0)


def test_a_difference_covers_the_true_one():
    g = np.random.default_rng(1)
    A, B = g.normal(size=(6, 9)), g.normal(size=(6, 9))
    truth = population(A, B, 0.5) - population(A, B, 1.5)
    covered = 0
    for _ in range(200):
        Z = g.normal(size=(128, 6))
        E = g.normal(size=(128, 9))
        X, Y, Y2 = (torch.from_numpy(v) for v in (Z @ A, Z @ B + 0.5 * E, Z @ B + 1.5 * E))
        row = accumulated((X, Y)).difference(accumulated((X, Y2))).iloc[0]
        covered += row.low < truth < row.high
    assert 0.90 <= covered / 200 <= 0.99


def test_a_difference_takes_the_same_samples_and_shared_layers():
    a = accumulated(related(40, 0))
    with pytest.raises(ValueError, match=r"same samples.*minibatches of \[40\] and \[30\]"):
        a.difference(accumulated(related(30, 0)))
    other = CKA()
    other.update({"b": randn(1, 40, 3)}, {"b": randn(1, 40, 3, seed=1)})
    with pytest.raises(ValueError, match="results that share layers"):
        a.difference(other.compute())


def test_no_interval_goes_beyond_1_and_a_cka_of_1_has_no_width():
    X = randn(40, 6)
    Y = X + 0.1 * randn(40, 6, seed=1)
    found = CKA()
    found.update({"a": X[None], "b": Y[None]}, {"a": X[None], "b": Y[None]})
    result = found.compute()
    table = result.interval(1 - 1e-9)
    one, high = table.loc[("a", "a")], table.loc[("a", "b")]
    assert (one.low, one.high) == (one.cka, one.cka)
    assert one.cka == pytest.approx(1, abs=1e-12)
    assert 0.9 < high.cka < high.high < 1
    assert high.cka + half_width(high) > 1  # on the scale of CKA itself it would
    pooled = pool([result, result], 1 - 1e-9).loc[("a", "a")]
    assert (pooled.low, pooled.high) == (pooled.cka, pooled.cka)
    apart = pool([accumulated(related(40, seed, noise=0.1 + 0.2 * seed)) for seed in range(3)], 0.999).loc[("a", "a")]
    assert -1 <= apart.low < apart.cka < apart.high <= 1


def of_tails(g, heavy, n=512):
    """A comparison of features of 8 latents, the same in both, each sample as large as Student's t of 3 or Gaussian."""
    A = g.normal(size=(8, 10))
    Z = g.normal(size=(n, 8)) * (1 / np.sqrt(g.chisquare(3, size=(n, 1)) / 3) if heavy else 1)
    return accumulated(tuple(torch.from_numpy(Z @ A + 0.62 * g.normal(size=(n, 10))) for _ in range(2)))


def test_an_interval_that_rests_on_few_samples_says_so():
    g, said = np.random.default_rng(0), {True: 0, False: 0}
    for heavy in said:
        for _ in range(30):
            result = of_tails(g, heavy)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result.interval()
            said[heavy] += len(caught)
    assert said[True] >= 24
    assert said[False] == 0
    with pytest.warns(
        UserWarning, match=r"1 of 1 pairs .* that of 'a' with 'a' on about \d+ of 512\. Look .* influence"
    ):
        of_tails(np.random.default_rng(1), True).interval()
    two = [of_tails(np.random.default_rng(seed), True) for seed in (1, 2)]
    with pytest.warns(UserWarning, match="may cover less than their level"):
        two[0].difference(two[1])


def test_pooling_is_student_s_t_over_seeds():
    results = [accumulated(related(40, seed)) for seed in range(4)]
    values = np.array([r.matrix().iloc[0, 0] for r in results])
    row, z = pool(results).loc[("a", "a")], np.arctanh(values)
    assert row.cka == pytest.approx(values.mean())
    for end, sign in ((row.low, -1), (row.high, 1)):
        assert end == pytest.approx(np.tanh(z.mean() + sign * 3.182446 * z.std(ddof=1) / 2), rel=1e-6)
    assert row.seeds == 4
    assert np.isnan(pool(results[:1]).loc[("a", "a")].low)
    with pytest.raises(ValueError, match="at least one result"):
        pool([])
    stranger = CKA()
    stranger.update({"b": randn(1, 40, 3)}, {"b": randn(1, 40, 3)})
    with pytest.raises(ValueError, match="result 1 has others"):
        pool([results[0], stranger.compute()])


def test_the_value_against_n_is_that_of_the_first_samples_of_every_minibatch():
    parts = [related(300, 0), related(200, 1)]
    table = accumulated(*parts).against_n()
    assert table.index.tolist() == [64, 128, 256, 300]
    first = accumulated(*[(X[:64], Y[:64]) for X, Y in parts])
    assert table.loc[64, "a"] == pytest.approx(first.matrix().iloc[0, 0], abs=1e-12)
    assert table.loc[300, "a"] == accumulated(*parts).matrix().iloc[0, 0]


def test_groups_are_compared_for_themselves_from_the_same_pass():
    parts = [related(30, 0), related(20, 1)]
    odd = [torch.arange(len(X)) % 2 == 1 for X, _ in parts]
    found = CKA()
    for (X, Y), mask in zip(parts, odd, strict=True):
        found.update({"a": X[None]}, {"a": Y[None]}, groups={"odd": mask, "all": torch.ones(len(X), dtype=torch.bool)})
    result = found.compute()
    alone = accumulated(*[(X[m], Y[m]) for (X, Y), m in zip(parts, odd, strict=True)])
    assert result.matrix(group="odd").iloc[0, 0] == pytest.approx(alone.matrix().iloc[0, 0], abs=1e-12)
    assert result.matrix(group="all").iloc[0, 0] == pytest.approx(result.matrix().iloc[0, 0], abs=1e-12)
    assert result.data.group_n.values.tolist() == [25, 50]
    with pytest.raises(ValueError, match="a group of odd, all, got 'even'"):
        result.matrix(group="even")


def test_a_layer_that_is_constant_within_a_group_is_undefined_there():
    _, Y = related(40, 0)
    classes = (torch.arange(40) % 2).double()
    found = CKA()
    one = torch.stack([classes, 1 - classes], 1) * 3.7
    found.update({"a": one.float()[None]}, {"a": Y[None]}, groups={"first": classes == 0})
    assert np.isfinite(found.compute().matrix().iloc[0, 0])
    assert np.isnan(found.compute().matrix(group="first").iloc[0, 0])


def test_wrong_masks_are_refused_and_the_sums_stay():
    found = CKA()
    X, Y = related(20, 0)
    found.update({"a": X[None]}, {"a": Y[None]})
    before = found.compute().data
    with pytest.raises(
        ValueError, match=r"group 'g': expected one bool for each of 20 samples, got torch.bool of shape"
    ):
        found.update({"a": X[None]}, {"a": Y[None]}, groups={"g": torch.ones(19, dtype=torch.bool)})
    assert before.equals(found.compute().data)


def test_the_most_influential_sample_is_the_one_whose_loss_moves_the_value_most():
    X, Y = related(40, 0)
    X[7] *= 8
    Y[7] *= 8
    table = accumulated((X, Y)).influence("a")
    assert len(table) == 5
    assert table["sample"].iloc[0] == 7
    exact = left_out_exactly(X, Y)
    value = cka(X, Y)
    assert table.cka_without.iloc[1] == pytest.approx(exact[table["sample"].iloc[1]], abs=0.01)
    assert table.influence.iloc[0] == pytest.approx(value - table.cka_without.iloc[0], abs=1e-9)
    assert (table.influence.abs().diff().dropna() <= 0).all()


def test_partial_cka_takes_out_what_a_third_gram_explains():
    Z, own = randn(80, 5), randn(80, 5, seed=1)
    X = Z @ randn(5, 9, seed=2) + 0.3 * randn(80, 9, seed=3)
    Y = Z @ randn(5, 7, seed=4) + 0.3 * randn(80, 7, seed=5)
    shared = own @ randn(5, 9, seed=6)
    found = CKA()
    found.update(
        {"a": X[None], "b": (X + shared)[None], "z": Z[None]},
        {"a": Y[None], "b": shared[None]},
        given={"input": Z[None]},
    )
    result = found.compute()
    K = [u_centre(side @ side.T).flatten() for side in (X, Y, Z)]
    left = [k - (k @ K[2]) / (K[2] @ K[2]) * K[2] for k in K[:2]]
    expected = float(left[0] @ left[1] / left[0].norm() / left[1].norm())
    assert result.partial().loc["a", "a"] == pytest.approx(expected, abs=1e-12)
    assert result.matrix().loc["a", "a"] > 0.3 > abs(result.partial().loc["a", "a"])  # nothing but Z in common
    assert result.partial().loc["b", "b"] > 0.3  # something else in common
    assert result.partial().loc["z"].isna().all()


def test_some_samples_of_a_centred_gram_centred_anew_are_those_samples_alone():
    X = randn(12, 5)
    whole = grams({"a": X[None]}).whole
    chosen = torch.tensor([1, 2, 5, 7, 11])
    assert np.allclose(whole.part(chosen)[0], pack(u_centre(X[chosen] @ X[chosen].T)), atol=1e-12)


def test_distances_come_back_from_centred_rows_and_their_diagonal():
    X = randn(2, 9, 5) + 3
    whole = grams({"a": X}).whole
    flat = X.transpose(0, 1).flatten(1)
    expected = torch.cdist(flat, flat) ** 2
    assert np.allclose(next(whole.squared_distances()), pack(expected), atol=1e-10)
    assert isinstance(whole, Whole)


def test_an_interval_over_steps_and_minibatches_covers_the_population_value():
    g = np.random.default_rng(0)
    A, B = g.normal(size=(8, 10)), g.normal(size=(8, 12))  # the features of two steps of 5, of three of 4
    truth = population(A, B, 0.85)
    covered = 0
    for _ in range(100):
        found = CKA()
        for n in (48, 48, 32):
            Z = g.normal(size=(n, 8))
            X, Y = Z @ A, Z @ B + 0.85 * g.normal(size=(n, 12))
            x, y = (V.reshape(n, T, -1).transpose(1, 0, 2) for V, T in ((X, 2), (Y, 3)))
            found.update({"a": x}, {"a": y})
        row = found.compute().interval().iloc[0]
        covered += row.low < truth < row.high
    assert 0.90 <= covered / 100 <= 0.99


def test_a_difference_of_other_inputs_is_told_with_the_first_minibatch():
    def seen(*seeds):
        found = CKA()
        for seed in range(3):
            X, Y = related(20, seed)
            found.update({"a": X[None]}, {"a": Y[None]}, **({"seed": seeds[seed]} if seeds else {}))
        return found.compute()

    a = seen(5, 6, 7)
    with pytest.warns(UserWarning, match=r"differ in 2 of 3 minibatches, first in minibatch 1 \(samples 20 to 39\)"):
        row = a.difference(seen(5, -1, 2**62)).iloc[0]
    assert row.difference == 0
    for other in (seen(5, 6, 7), seen()):
        assert a.difference(other).difference.tolist() == [0.0]  # the same, and unknown: no warning
    with pytest.raises(ValueError, match="a seed of at most 63 bits"):
        CKA().update({"a": randn(1, 8, 3)}, seed=2**63)
