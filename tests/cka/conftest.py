"""An independent float64 CKA: the trace formula, written out, without anything of the package."""

import sys

import numpy as np
import pytest


def _hsic(K, L):
    n = len(K)
    K, L = K.copy(), L.copy()
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    one = np.ones(n)
    first = np.sum(K * L)  # tr(K L) of symmetric matrices, without their product
    second = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * ((one @ K) @ (L @ one))
    return (first + second - third) / (n * (n - 3))


def _gram(X):
    # the unbiased HSIC does not change with a constant added to all samples; float64 keeps its digits without it
    X = np.asarray(X, dtype=np.float64).reshape(len(X), -1)
    X = X - X.mean(0)
    return X @ X.T


def _cka(X, Y):
    K, L = _gram(X), _gram(Y)
    kk, ll = _hsic(K, K), _hsic(L, L)
    if kk <= 1e-20 * np.trace(K) ** 2 or ll <= 1e-20 * np.trace(L) ** 2:
        return float("nan")
    return _hsic(K, L) / np.sqrt(kk * ll)


@pytest.fixture(scope="session")
def trace_hsic():
    """HSIC of two Grams by the trace formula."""
    return _hsic


@pytest.fixture(scope="session")
def trace_cka():
    """CKA of two feature arrays [n, ...] by the trace formula; NaN where a side has no structure."""
    return _cka


@pytest.fixture(scope="session")
def trace_matrix():
    """CKA matrix of lists of feature arrays, each Gram made once."""

    def matrix(xs, ys):
        sides = [[_gram(X) for X in side] for side in (xs, ys)]
        own = [[(_hsic(K, K), np.trace(K)) for K in side] for side in sides]
        out = np.full((len(xs), len(ys)), np.nan)
        for i, K in enumerate(sides[0]):
            for j, L in enumerate(sides[1]):
                (kk, k), (ll, tr) = own[0][i], own[1][j]
                if kk > 1e-20 * k**2 and ll > 1e-20 * tr**2:
                    out[i, j] = _hsic(K, L) / np.sqrt(kk * ll)
        return out

    return matrix


@pytest.fixture
def launches(monkeypatch):
    """Takes the CPU for a device that launches cost more than arithmetic, as CUDA is, or (False) for what it is."""
    having = [module for name, module in sys.modules.items() if name.startswith("sj_cka.cka.")]

    def take(bound):
        for module in having:
            if hasattr(module, "launch_bound"):
                monkeypatch.setattr(module, "launch_bound", lambda device: bound)

    return take
