"""Gram matrices of features, U-centred, with an exact account of what is undefined."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# The error of a float32 Gram is about 1e-9 q, q = |K off the diagonal| / |K~|, more for few samples; beyond the
# smaller of this q and n it is taken again.
_Q_MAX = 300.0
# |K~| at or below this fraction of |K| is rounding, not structure.
_UNDEFINED = 1e-12
_CHUNK = 1 << 22  # elements of float64 features that a redo holds at once


class CentredGrams(NamedTuple):
    """Centred Grams of S steps: `rows` float64 [S, n(n-1)/2] (upper triangles), `reasons` one for each step.

    A reason is None where the Gram is defined; otherwise it says why the row is zero or NaN.
    """

    rows: Tensor
    reasons: tuple[str | None, ...]


def gram(X: Tensor) -> Tensor:
    """Gram matrix K = X X^T of a feature matrix.

    Args:
        X: features `[..., N, D]`.

    Returns:
        `[..., N, N]`, in the dtype of X.

    Example:
        >>> gram(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
        tensor([[1., 1.],
                [1., 5.]])
    """
    return X @ X.mT


def u_centre(K: Tensor) -> Tensor:
    """U-centred Gram, for i != j: K~_ij = K_ij - r_i/(n-2) - r_j/(n-2) + s/((n-1)(n-2)), and 0 on the diagonal.

    r_i is the sum of row i without the diagonal and s the sum of all r_i (Szekely & Rizzo 2014, eq. 2.6). The mean
    product of two U-centred Grams, <K~, L~> / (n (n-3)), is the unbiased HSIC_1 of Song et al. 2012.

    Args:
        K: Gram matrices `[..., n, n]`, n >= 4; computed in float64 whatever the dtype.

    Returns:
        float64 `[..., n, n]`; every row sums to 0.
    """
    n = K.shape[-1]
    K = K.to(torch.float64, copy=True)
    K.diagonal(dim1=-2, dim2=-1).zero_()
    r = K.sum(-1)
    s = r.sum(-1)
    shift = r / (n - 2) - (s / (2 * (n - 1) * (n - 2))).unsqueeze(-1)
    K -= shift.unsqueeze(-1)
    K -= shift.unsqueeze(-2)
    K.diagonal(dim1=-2, dim2=-1).zero_()
    return K


def centred_grams(X: Tensor) -> CentredGrams:
    """U-centred Grams of features at S steps, at the accuracy of float64 for the cost of the features' dtype.

    The raw Gram is taken first: for spikes it holds exact integers. Where the offset of the features dominates, so that
    the raw Gram has lost digits, or where it overflowed, it is taken again from column-centred features in float64 (the
    unbiased HSIC does not change when a constant vector is added to all samples).

    Args:
        X: features `[S, n, D]` of n >= 4 samples; floating point, integer or bool.

    Returns:
        CentredGrams; the row of an undefined step is 0, and NaN where the features are not finite.
    """
    X = _as_real(X)
    n = X.shape[1]
    with torch.autocast(X.device.type, enabled=False):  # it would take the Gram in bfloat16
        return _centred_grams(X, n)


def _centred_grams(X: Tensor, n: int) -> CentredGrams:
    K = gram(X).to(torch.float64)
    K.diagonal(dim1=-2, dim2=-1).zero_()
    centred = u_centre(K)
    off = torch.linalg.matrix_norm(K)
    q = off / torch.linalg.matrix_norm(centred)
    rows = pack(centred)
    # a float32 Gram below 1e-25 may have lost entries to underflow
    redo = ~((q <= min(_Q_MAX, n)) & (off / n > 1e-25))
    reasons: list[str | None] = [None] * X.shape[0]
    for step in redo.nonzero().flatten().tolist():
        rows[step], reasons[step] = _redo(X[step])
    return CentredGrams(rows, tuple(reasons))


def pack(K: Tensor) -> Tensor:
    """Upper triangles `[..., n(n-1)/2]` of symmetric `[..., n, n]`; <K, L> = 2 pack(K) . pack(L) for diagonals of 0."""
    n = K.shape[-1]
    i, j = torch.triu_indices(n, n, offset=1, device=K.device)
    return K.flatten(-2).index_select(-1, i * n + j)


def _as_real(X: Tensor) -> Tensor:
    if X.is_complex():
        raise TypeError(
            f"expected real features, got {X.dtype}; pass the modulus, or real and imaginary parts as features"
        )
    if X.dtype in (torch.float32, torch.float64):
        return X
    return X.to(torch.float64 if X.dtype in (torch.int64, torch.int32) else torch.float32)


def _redo(X: Tensor) -> tuple[Tensor, str | None]:
    """Centred Gram of one step `[n, D]` from column-centred float64 features, and the reason if it is undefined."""
    n, D = X.shape
    finite = torch.isfinite(X).all(1)
    if not finite.all():
        at = int((~finite).nonzero()[0])
        return X.new_full((n * (n - 1) // 2,), float("nan"), dtype=torch.float64), f"NaN or infinite at sample {at}"
    zero = X.new_zeros(n * (n - 1) // 2, dtype=torch.float64)
    largest = float(X.abs().max()) if D else 0.0
    if largest == 0.0:
        return zero, "silent"
    K = X.new_zeros((n, n), dtype=torch.float64)
    centred = torch.zeros_like(K)
    for chunk in X.split(max(1, _CHUNK // n), dim=1):
        chunk = chunk.to(torch.float64) / largest
        K += gram(chunk)
        centred += gram(chunk - chunk.mean(0))
    centred = u_centre(centred)
    if torch.linalg.matrix_norm(centred) <= _UNDEFINED * torch.linalg.matrix_norm(K):
        return zero, _why_undefined(X)
    return pack(centred) * largest**2, None


def _why_undefined(X: Tensor) -> str:
    differing = [int((X != X[i]).any(1).sum()) for i in (0, 1)]
    if differing[0] == 0:
        return "constant"
    if 1 in differing:
        return "fewer than two samples differ"
    return "all pairs of samples are equally similar"
