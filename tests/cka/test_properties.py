"""Properties of CKA over shapes, scales and batches that nobody picked by hand."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sj_cka import CKA, cka
from sj_cka.cka.gram import centred_grams, gram, pack, u_centre, unpack
from sj_cka.cka.layer_grams import grams
from sj_cka.cka.observables import permuted_steps

quickly = settings(max_examples=40, deadline=None, derandomize=True)
samples = st.integers(4, 40)
seeds = st.integers(0, 2**31)


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_hsic(K, L):
    """The mean over all ordered quadruples of different samples that HSIC_1 is, by the trace formula."""
    n = len(K)
    K, L = (M - M.diag().diag() for M in (K, L))
    one = torch.ones(n, dtype=torch.float64)
    terms = (K * L).sum() + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * ((one @ K) @ (L @ one))
    return float(terms) / (n * (n - 3))


@quickly
@given(n=samples, D=st.integers(1, 30), E=st.integers(1, 30), seed=seeds)
def test_fast_is_slow(n, D, E, seed):
    X, Y = randn(n, D, seed=seed), randn(n, E, seed=seed + 1)
    K, L = (gram(side - side.mean(0)) for side in (X, Y))
    expected = slow_hsic(K, L) / np.sqrt(slow_hsic(K, K) * slow_hsic(L, L))
    assert abs(cka(X, Y) - expected) < 1e-9


@quickly
@given(n=samples, D=st.integers(1, 20), log=st.floats(-12, 12), offset=st.floats(-1e3, 1e3), seed=seeds)
def test_scale_shift_and_order_of_the_features_change_nothing(n, D, log, offset, seed):
    X, Y = randn(n, D, seed=seed), randn(n, 5, seed=seed + 1)
    order = torch.randperm(D, generator=torch.Generator().manual_seed(seed))
    changed = 10.0**log * (X[:, order] + offset)
    assert abs(cka(changed, Y) - cka(X, Y)) < 1e-6


@quickly
@given(n=samples, T=st.integers(1, 6), S=st.integers(1, 3), D=st.integers(1, 9), seed=seeds)
def test_block_sums_are_the_cka_of_concatenated_steps_and_every_entry_that_of_its_steps(n, T, S, D, seed):
    X, Y = randn(T, n, D, seed=seed), randn(S, n, D + 1, seed=seed + 1)
    found = CKA(samples=False)
    found.update({"a": X}, {"a": Y})
    result = found.compute()
    joined = [side.transpose(0, 1).flatten(1) for side in (X, Y)]
    assert abs(result.matrix().iloc[0, 0] - cka(*joined)) < 1e-9
    t, s = seed % T, seed % S
    assert abs(float(result.data.cka[0, t, 0, s]) - cka(X[t], Y[s])) < 1e-9


@quickly
@given(parts=st.lists(st.integers(4, 12), min_size=1, max_size=5), cut=st.integers(0, 5), seed=seeds)
def test_merged_parts_are_the_whole_wherever_it_is_cut(parts, cut, seed):
    batches = [(randn(2, n, 4, seed=seed + i), randn(1, n, 3, seed=seed - i)) for i, n in enumerate(parts)]
    whole, left, right = CKA(), CKA(), CKA()
    for i, (x, y) in enumerate(batches):
        for state in (whole, left if i < cut else right):
            state.update({"a": x}, {"a": y})
    left.merge(right)
    a, b = whole.compute(), left.compute()
    assert a.data.sizes == b.data.sizes
    assert np.allclose(a.data.cka, b.data.cka, rtol=0, atol=1e-12)
    assert np.array_equal(a.data.sample_xy, b.data.sample_xy)


@quickly
@given(n=samples, chosen=st.sets(st.integers(0, 39), min_size=4), seed=seeds)
def test_some_samples_of_centred_grams_are_those_samples_alone(n, chosen, seed):
    members = torch.tensor(sorted(i for i in chosen if i < n))
    if len(members) < 4:
        return
    X = randn(n, 6, seed=seed)
    found = grams({"a": X[None]}).whole.part(members)[0]
    assert torch.allclose(found, pack(u_centre(gram(X[members]))), rtol=0, atol=1e-10)


@quickly
@given(n=st.integers(2, 30), S=st.integers(1, 3), seed=seeds)
def test_unpacking_undoes_packing(n, S, seed):
    K = randn(S, n, n, seed=seed).tril(-1)
    K = K + K.mT
    assert torch.equal(unpack(pack(K), n), K)


@quickly
@given(n=samples, D=st.integers(1, 200), rate=st.floats(0, 1), seed=seeds)
def test_spikes_are_exact_however_they_are_multiplied(n, D, rate, seed):
    g = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(1, n, D, generator=g) < rate).float()
    exact = centred_grams(spikes.double())
    for hint in (False, True):
        found = centred_grams(spikes, spikes=hint)
        assert found.reasons == exact.reasons
        assert torch.allclose(found.rows, exact.rows, rtol=0, atol=1e-12 * D)


@quickly
@given(T=st.integers(2, 9), n=st.integers(1, 6), D=st.integers(1, 6), seed=seeds)
def test_permuted_steps_hold_the_same_values_at_every_unit(T, n, D, seed):
    X = randn(T, n, D, seed=seed)
    found = permuted_steps(X, torch.Generator().manual_seed(seed))
    assert torch.equal(found.sort(0).values, X.sort(0).values)
