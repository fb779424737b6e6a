"""Time in a result: growing spans, shares of steps, change between steps."""

import numpy as np
import pytest
import torch

from sj_cka import CKA, CKAResult


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(T, seed=0, n=14):
    base = randn(1, n, 6, seed=seed + 40)
    return {"a": base + randn(T, n, 6, seed=seed), "b": base + 0.1 * randn(T, n, 6, seed=seed + 1), "stem": base}


def accumulated(*batches):
    cka = CKA()
    for x, y in batches:
        cka.update(x, y)
    return cka.compute()


def joined(X, first, T):
    X = X.expand(T, *X.shape[1:])[:first]
    return X.transpose(0, 1).flatten(1).numpy()


@pytest.mark.parametrize("Ty", [1, 4])
def test_the_first_steps_together_are_the_cka_of_their_concatenation(trace_cka, Ty):
    x, y = features(4), features(Ty, seed=9)
    result = accumulated((x, y))
    cumulative = result.cumulative()
    assert cumulative.columns.tolist() == [1, 2, 3, 4]
    for t in (1, 2, 3, 4):
        for layer in x:
            other = joined(y[layer], t, 4)
            assert cumulative.loc[layer, t] == pytest.approx(trace_cka(joined(x[layer], t, 4), other), abs=1e-12)
            assert result.matrix(upto=t).loc[layer, layer] == cumulative.loc[layer, t]
    assert np.allclose(cumulative[4], result.paired(), rtol=0, atol=1e-15)


def test_shares_of_the_steps_add_up_to_the_value_and_may_be_negative():
    x = features(3)
    x["a"][1] = -5 * randn(14, 14, seed=3)[:, :6]
    result = accumulated((x, features(3, seed=9)), (features(3, seed=5), features(3, seed=6)))
    shares = result.attribution()
    assert np.allclose(shares.sum(axis=1), result.paired(), rtol=0, atol=1e-12)
    one = result.attribution("a", "stem")
    assert one.sum() == pytest.approx(result.matrix().loc["a", "stem"], abs=1e-12)
    assert result.attribution("a").equals(shares.loc["a"].rename("share"))


def test_a_share_is_the_step_s_own_part_of_the_numerator(trace_hsic):
    x, y = features(3), features(3, seed=9)
    shares = accumulated((x, y)).attribution("a", "b")

    def gram(X):
        return (X @ X.T).numpy()

    K, L = ([gram(X) for X in side[name]] for side, name in ((x, "a"), (y, "b")))
    scale = np.sqrt(trace_hsic(sum(K), sum(K)) * trace_hsic(sum(L), sum(L)))
    assert shares[2] == pytest.approx(sum(trace_hsic(K[1], other) for other in L) / scale, abs=1e-12)


def test_dynamics_is_the_mean_over_pairs_of_different_steps(trace_cka):
    x = features(4)
    table = accumulated((x, x)).dynamics()
    for layer in ("a", "b"):
        pairs = [trace_cka(x[layer][t].numpy(), x[layer][s].numpy()) for t in range(4) for s in range(t)]
        assert table.loc[layer, "cka"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert table.loc["stem", "cka"] == pytest.approx(1, abs=1e-12)
    assert table.loc["a", "cka"] < table.loc["b", "cka"] < 1
    assert table["null"].isna().all()
    assert (table["pairs"] == 6).all()


def test_a_network_of_one_step_has_no_dynamics():
    table = accumulated((features(4), features(1, seed=3))).dynamics("y")
    assert table["cka"].isna().all()
    assert (table["pairs"] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.matrix(upto=5), "a step from 1 to 4, got 5"),
        (lambda r: r.matrix(1, upto=2), "one of time, upto, group and measure"),
        (lambda r: r.attribution("c"), "a layer of x, got 'c'"),
        (lambda r: r.matrix(group="1"), "with groups="),
        (lambda r: r.matrix(measure="rsa"), "it has cka; ask for more by compare"),
        (lambda r: r.partial(), 'given="input"'),
        (lambda r: r.baseline(), "permutations="),
    ],
)
def test_what_is_not_there_is_refused_and_says_how_to_have_it(call, message):
    with pytest.raises(ValueError, match=message):
        call(accumulated((features(4), features(4, seed=2))))


def test_a_result_without_minibatches_says_so():
    ones = np.ones((1, 1, 1))
    bare = CKAResult.from_hsic(["a"], ["a"], hsic_xy=np.ones((1, 1, 1, 1)), hsic_xx=ones, hsic_yy=ones, n=8)
    with pytest.raises(ValueError, match=r"with its minibatches, .* got one without"):
        bare.interval()
    with pytest.raises(ValueError, match=r"samples=True\), got one without"):
        bare.influence("a")
