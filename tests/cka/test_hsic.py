"""CKA of two feature matrices: its theorems."""

import math

import numpy as np
import pytest
import torch

from sj_cka import UndefinedCKA, cka
from sj_cka.cka.measures import _in_pieces


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(size):
    return torch.linalg.qr(randn(size, size, seed=9)).Q


def test_equal_features_give_one():
    X = randn(20, 6)
    assert cka(X, X) == pytest.approx(1, abs=1e-12)


def test_it_is_the_trace_formula(trace_cka):
    X, Y = randn(20, 6), randn(20, 9, seed=1) + 2 * randn(20, 6)[:, :1]
    assert cka(X, Y) == pytest.approx(trace_cka(X.numpy(), Y.numpy()), abs=1e-12)


@pytest.mark.parametrize(
    "change",
    [lambda X: X @ orthogonal(6), lambda X: -3.5 * X, lambda X: X + randn(6, seed=4)],
    ids=["rotation", "scale", "shift"],
)
def test_rotation_scale_and_shift_change_nothing(change):
    X, Y = randn(20, 6), randn(20, 4, seed=1)
    assert cka(change(X), Y) == pytest.approx(cka(X, Y), abs=1e-12)


def test_a_general_linear_map_does_change_it():
    X = randn(20, 6)
    assert cka(X, X @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1, 1], dtype=torch.float64))) < 0.9


def test_it_is_symmetric():
    X, Y = randn(20, 6), randn(20, 4, seed=1)
    assert cka(X, Y) == pytest.approx(cka(Y, X), abs=1e-14)


def test_independent_features_lie_near_zero_on_both_sides_of_it():
    values = [cka(randn(40, 200, seed=s), randn(40, 200, seed=s + 1000)) for s in range(60)]
    assert abs(np.mean(values)) < 0.02
    assert min(values) < 0 < max(values)


def test_the_order_of_the_samples_matters_only_against_each_other():
    X, Y = randn(30, 5), randn(30, 5) + 0.1 * randn(30, 5, seed=2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    assert cka(X[order], Y[order]) == pytest.approx(cka(X, Y), abs=1e-12)
    assert cka(X[order], Y) < 0.5 < cka(X, Y)


def test_numpy_arrays_are_taken_too():
    X, Y = randn(20, 6), randn(20, 4, seed=1)
    assert cka(X.numpy(), Y.numpy()) == cka(X, Y)


def test_undefined_is_nan_with_a_warning_that_says_why():
    with pytest.warns(UndefinedCKA, match="Y: constant"):
        assert math.isnan(cka(randn(8, 3), torch.ones(8, 2)))


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (randn(3, 4), randn(3, 4), "at least 4 samples.*got N = 3"),
        (randn(8, 4), randn(9, 4), "same samples on both sides, got N = 8 and 9"),
        (randn(8, 4, 2), randn(8, 4), r"X: expected features \[N, D\], got shape \(8, 4, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(X, Y, message):
    with pytest.raises(ValueError, match=message):
        cka(X, Y)


@pytest.mark.parametrize("scale", [1e-40, 1e-12, 1e15])
def test_tiny_and_huge_features_on_both_sides_change_nothing(scale):
    X, Y = randn(20, 6), randn(20, 6) + randn(20, 6, seed=1)
    assert cka(X * scale, Y * scale) == pytest.approx(cka(X, Y), abs=1e-9)


@pytest.mark.parametrize(("a", "b"), [(1e-90, 1e-90), (1e80, 1e80), (1e-300, 1e300), (5e-324, 1.0)])
def test_float64_features_of_any_scale_have_the_cka_of_plain_ones(a, b):
    g = np.random.default_rng(0)
    X, Y = g.integers(-50, 50, size=(20, 5)).astype(float), g.normal(size=(20, 5))
    assert cka(a * X, b * Y) == pytest.approx(cka(X, Y), abs=1e-12)


def test_features_are_taken_from_any_array_and_from_tensors_with_a_gradient():
    X, Y = np.random.default_rng(0).normal(size=(2, 20, 5)).astype("f4")
    expected = cka(X, Y)
    fixed = X.copy()
    fixed.flags.writeable = False
    for same in (X.astype(">f4"), X[::-1].copy()[::-1], fixed, torch.from_numpy(X).requires_grad_(), X.tolist()):
        assert cka(same, Y) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("rows", "length"), [((5, 3), 50_001), ((1, 1), 8192), ((4, 4), 100)])
def test_a_product_in_pieces_is_the_product(rows, length):
    x, y = (torch.randn(n, length, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in rows)
    torch.testing.assert_close(_in_pieces(x, y), x @ y.mT, rtol=1e-12, atol=1e-10)
