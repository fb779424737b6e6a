"""Grams: U-centring, accuracy under offset and scale, and what is undefined."""

import numpy as np
import pytest
import torch

from sj_cka.cka import gram as module
from sj_cka.cka import products
from sj_cka.cka.gram import centred_grams, gram, pack, u_centre, unpack
from sj_cka.cka.measures import hsic
from sj_cka.cka.products import byte_products


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=["product", "split"])
def tolerance(request, monkeypatch):
    """Of rows of Grams; the second time CUDA's products of bfloat16 halves stand in for those of the CPU."""
    if request.param == "product":
        return 1e-6

    def product(X, spikes):
        return products.split_grams(X) if X.dtype == torch.float32 else products.Product(gram(X))

    monkeypatch.setattr(module, "product", product)
    return 1e-5


def centred_in_float64(X):
    X = X.to(torch.float64)
    return pack(u_centre(gram(X - X.mean(0))))


def test_every_row_of_a_u_centred_gram_sums_to_zero_and_its_diagonal_is_zero():
    K = u_centre(gram(randn(3, 9, 5)))
    assert K.sum(-1).abs().max() < 1e-12
    assert torch.equal(K.diagonal(dim1=-2, dim2=-1), torch.zeros(3, 9, dtype=torch.float64))


def test_u_centring_by_hand_on_four_samples():
    K = torch.zeros(4, 4)
    K[0, 1] = K[1, 0] = 6.0
    # r = (6, 6, 0, 0), s = 12: K~_01 = 6 - 3 - 3 + 12/6, K~_02 = 0 - 3 - 0 + 2, K~_23 = 0 + 2
    expected = torch.tensor([[0, 2, -1, -1], [2, 0, -1, -1], [-1, -1, 0, 2], [-1, -1, 2, 0]], dtype=torch.float64)
    assert torch.equal(u_centre(K), expected)


def test_u_centring_leaves_the_gram_it_was_given_as_it_is():
    K = gram(randn(6, 3))
    before = K.clone()
    u_centre(K)
    assert torch.equal(K, before)


def test_the_product_of_centred_grams_is_the_trace_formula(trace_hsic):
    X, Y = randn(11, 4), randn(11, 7, seed=1)
    rows = [centred_grams(side.unsqueeze(0)).rows for side in (X, Y)]
    expected = trace_hsic(gram(X).numpy(), gram(Y).numpy())
    assert hsic(rows[0], rows[1], 11).item() == pytest.approx(expected, rel=1e-12)


def test_spike_grams_are_exact_integers():
    spikes = (randn(2, 12, 300) > 0.5).float()
    assert torch.equal(gram(spikes), gram(spikes.double()).float())


@pytest.mark.parametrize("offset", [0.0, 30.0, 1e3, 1e5])
def test_a_constant_vector_added_to_all_samples_changes_nothing(offset, tolerance):
    X = randn(40, 200, dtype=torch.float32)
    shift = offset * randn(200, seed=3, dtype=torch.float32)
    shifted = (X + shift).double()  # what float32 can hold of it
    found = centred_grams((X + shift).unsqueeze(0)).rows[0]
    error = (found - centred_in_float64(shifted)).norm() / centred_in_float64(shifted).norm()
    assert error < tolerance


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-9, 1.0, 1e12, 1e20, 1e30])
def test_no_scale_overflows_or_underflows(scale, tolerance):
    X = randn(16, 20, dtype=torch.float32) * scale
    found = centred_grams(X.unsqueeze(0))
    expected = centred_in_float64(X)
    assert found.reasons == (None,)
    assert ((found.rows[0] - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(
    ("X", "reason"),
    [
        (torch.zeros(6, 5), "silent"),
        (torch.full((6, 5), -65.3), "constant"),
        (torch.eye(6, 5) * torch.tensor([[0.0], [0], [3], [0], [0], [0]]) + 1.5, "fewer than two samples differ"),
        (torch.eye(6), "all pairs of samples are equally similar"),
        (torch.ones(6, 0), "silent"),
    ],
)
def test_features_without_structure_are_undefined_and_named(X, reason, tolerance):
    found = centred_grams(X.unsqueeze(0))
    assert found.reasons == (reason,)
    assert torch.equal(found.rows, torch.zeros(1, 15, dtype=torch.float64))


def test_samples_that_differ_by_less_than_float32_tells_are_undefined(tolerance):
    X = 1e6 * randn(1, 300, seed=1, dtype=torch.float32) + randn(20, 300, dtype=torch.float32)
    found = centred_grams(X.unsqueeze(0)).reasons[0]
    assert found == centred_grams(X.double().unsqueeze(0)).reasons[0]


@pytest.mark.parametrize("offset", [0.0, 30.0, 1e4])
def test_cka_of_split_products_is_that_of_float64(offset):
    shared = randn(200, 40, dtype=torch.float32)
    X, Y = (torch.cat([shared, randn(200, 500, seed=seed, dtype=torch.float32)], 1) for seed in (1, 2))
    X, Y = (Z + offset * randn(1, 540, seed=3, dtype=torch.float32) for Z in (X, Y))
    found, right = [], []
    for Z in (X, Y):
        found.append(pack(u_centre(products.split_grams(Z.unsqueeze(0)).K)))
        right.append(centred_in_float64(Z).unsqueeze(0))
    values = [hsic(K, L, 200) / (hsic(K, K, 200) * hsic(L, L, 200)).sqrt() for K, L in (found, right)]
    assert values[1] > 0.05
    assert abs(values[0] - values[1]) < 1e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_sample_that_is_not_finite_is_named_and_the_row_is_nan(bad, tolerance):
    X = randn(6, 5)
    X[3, 2] = bad
    found = centred_grams(X.unsqueeze(0))
    assert found.reasons == ("NaN or infinite at sample 3",)
    assert found.rows.isnan().all()


def test_one_undefined_step_leaves_the_others_alone():
    X = randn(3, 6, 5)
    X[1] = 0
    found = centred_grams(X)
    assert found.reasons == (None, "silent", None)
    assert torch.equal(found.rows[0], centred_grams(X[:1]).rows[0])


def test_two_samples_that_differ_are_enough():
    X = torch.zeros(1, 6, 3)
    X[0, 0], X[0, 4] = 1.0, 2.0
    assert centred_grams(X).reasons == (None,)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.bfloat16])
def test_other_number_types_give_the_values_of_float32(dtype):
    X = (randn(1, 8, 20) > 0).to(dtype)
    assert torch.equal(centred_grams(X).rows, centred_grams(X.float()).rows)


def test_complex_features_are_refused():
    with pytest.raises(TypeError, match="expected real features"):
        centred_grams(torch.ones(1, 5, 2, dtype=torch.complex64))


def test_packing_keeps_half_of_the_inner_product():
    K, L = (u_centre(gram(randn(7, 3, seed=s))) for s in (0, 1))
    assert 2 * (pack(K) @ pack(L)) == pytest.approx(float((K * L).sum()), rel=1e-12)
    assert len(pack(K)) == 21


def test_grams_of_steps_add_up_to_the_gram_of_concatenated_features():
    X = randn(4, 9, 6)
    together = centred_grams(X.permute(1, 0, 2).reshape(1, 9, 24)).rows[0]
    assert np.allclose(centred_grams(X).rows.sum(0), together, rtol=0, atol=1e-12)


def test_autocast_does_not_coarsen_the_grams():
    X = randn(2, 9, 50, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = centred_grams(X).rows
    assert torch.equal(inside, centred_grams(X).rows)


@pytest.mark.parametrize("n", [4, 8, 32])
def test_few_samples_keep_their_digits_too(n):
    X = randn(1, n, 4000, dtype=torch.float32) + 8
    expected = centred_in_float64(X[0])
    assert ((centred_grams(X).rows[0] - expected).norm() / expected.norm()) < 1e-6


def test_large_integers_keep_their_digits():
    X = torch.arange(40).reshape(1, 8, 5) ** 2 + 10**8
    assert centred_grams(X).reasons == (None,)
    expected = centred_in_float64(X[0])
    assert ((centred_grams(X).rows[0] - expected).norm() / expected.norm()) < 1e-9


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("shape", [(2, 12, 300), (1, 130, 17), (3, 5, 1), (1, 9, 0), (2, 257, 64), (1, 40, 4097)])
def test_spikes_give_the_same_grams_to_the_bit_as_bytes_and_as_floats(monkeypatch, shape, fast):
    monkeypatch.setattr(products, "byte_products", lambda: fast)
    spikes = (randn(*shape, dtype=torch.float32) > 0.5).float()
    plain, quick = centred_grams(spikes), centred_grams(spikes, spikes=True)
    assert torch.equal(plain.rows, quick.rows)
    assert torch.equal(plain.diagonal, quick.diagonal)
    assert plain.reasons == quick.reasons


@pytest.mark.parametrize("value", [0.5, 300.0, float("nan")])
def test_what_only_believes_to_be_spikes_is_not_cut_to_bytes(monkeypatch, value):
    monkeypatch.setattr(products, "byte_products", lambda: True)
    X = (randn(2, 9, 80, dtype=torch.float32) > 0).float()
    X[1, 3, 5] = value
    expected, found = centred_grams(X), centred_grams(X, spikes=True)
    assert torch.equal(found.rows, expected.rows) or (found.rows[1].isnan().all() and expected.rows[1].isnan().all())
    assert found.reasons == expected.reasons


def test_whether_bytes_pay_is_measured_once_and_is_an_answer():
    assert byte_products() in (True, False)
    assert byte_products.cache_info().currsize == 1


@pytest.mark.parametrize("n", [5, 128, 129, 300])
def test_symmetric_blocks_are_the_whole_product(n):
    X = randn(1, n, 40)
    found = centred_grams(X)
    assert torch.allclose(found.rows[0], centred_in_float64(X[0]), rtol=0, atol=1e-11)
    centred = X[0] - X[0].mean(0)
    distances = torch.cdist(centred, centred) ** 2
    back = found.diagonal[0][:, None] + found.diagonal[0][None] - 2 * unpack(found.rows[0], n)
    back.fill_diagonal_(0)
    assert torch.allclose(back, distances, rtol=0, atol=1e-9)


def test_unpacking_brings_back_what_was_packed():
    K = u_centre(gram(randn(3, 7, 4)))
    K = (K + K.mT) / 2  # to the bit
    assert torch.equal(unpack(pack(K), 7), K)
    assert torch.equal(pack(K[:, :5, :5]), pack(K)[:, :10])  # the first samples come first
