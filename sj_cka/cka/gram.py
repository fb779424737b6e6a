"""Gram matrices of features, U-centred, with an exact account of what is undefined."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.products import Product, launch_bound, product

_COMMON_MAX = 1e9  # what samples have in common, over |K~|, beyond which float64 decides whether they differ
# |K~| at or below this fraction of |K| is rounding, not structure.
_UNDEFINED = 1e-12
_EQUAL = "all pairs of samples are equally similar"
# |K~|_F beyond which sums of its squares leave the range of float64
_SMALLEST, _LARGEST = 1e-145, 1e145
BEYOND = "beyond the range of float64"
_CHUNK = 1 << 20  # numbers of an intermediate that are held at once
LARGE_CHUNK = 1 << 25  # the same where launches cost more than memory


class RawGrams(NamedTuple):
    """Centred Grams of S steps as the dtype of the features gives them, and which of them must be taken again.

    Args:
        rows: float64 `[S, n(n-1)/2]`, see `pack`.
        diagonal: float64 `[S, n]`: the K_ii, less twice the shift that centring took from row i; with them squared
            distances are d_ij^2 = diagonal_i + diagonal_j - 2 row_ij.
        redo: bool `[S]`, on the device of the features: digits were lost, or the Gram may be undefined.
    """

    rows: Tensor
    diagonal: Tensor
    redo: Tensor


class CentredGrams(NamedTuple):
    """Centred Grams of S steps: rows and diagonal as in `RawGrams`, and one reason for each step.

    A reason is None where the Gram is defined; otherwise it says why the row is zero or NaN.
    """

    rows: Tensor
    diagonal: Tensor
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
    K = K.to(torch.float64, copy=True)
    K.diagonal(dim1=-2, dim2=-1).zero_()
    _centre(K, K.sum(-1))
    K.diagonal(dim1=-2, dim2=-1).zero_()
    return K


def centred_grams(X: Tensor, *, spikes: bool = False, out: Tensor | None = None) -> CentredGrams:
    """U-centred Grams of features at S steps, at the accuracy of float64 for the cost of the features' dtype.

    The raw Gram is taken first: for spikes it holds exact integers. Where the offset of the features dominates, so that
    the raw Gram has lost digits, or where it overflowed, it is taken again from column-centred features in float64 (the
    unbiased HSIC does not change when a constant vector is added to all samples).

    Args:
        X: features `[S, n, D]` of n >= 4 samples; floating point, integer or bool.
        spikes: they are believed to be 0 or 1, which can be multiplied faster; the values are the same.
        out: float64 `[S, n(n-1)/2]` that the rows are written to, on any device.

    Returns:
        CentredGrams; the row of an undefined step is 0, and NaN where the features are not finite or their Gram is so
        large or small that float64 does not hold its HSIC.
    """
    X = as_real(X)
    rows, diagonal, redo = raw_grams(X, spikes=spikes, out=out)
    reasons: list[str | None] = [None] * X.shape[0]
    for step, again in enumerate(redo.tolist()):
        if again:
            rows[step], diagonal[step], reasons[step] = _redo(X[step])
    return CentredGrams(rows, diagonal, tuple(reasons))


def raw_grams(X: Tensor, *, spikes: bool = False, out: Tensor | None = None) -> RawGrams:
    """U-centred Grams of features at S steps, without a second try and without waiting for the device.

    Args:
        X: features `[S, n, D]` as `as_real` gives them.
        spikes: they are believed to be 0 or 1, and may be multiplied as bytes or in half precision where that is fast;
            what is not exact in them is marked for `redo`, or multiplied as it is.
        out: float64 `[S, n(n-1)/2]` that the rows are written to, on any device.
    """
    S, n, _ = X.shape
    steps = max(1, (LARGE_CHUNK if launch_bound(X.device) else _CHUNK) // n**2)
    if out is None:
        out = X.new_empty((S, n * (n - 1) // 2), dtype=torch.float64)
    parts = [centred([product(X[s : s + steps], spikes)], out[s : s + steps]) for s in range(0, S, steps)]
    if len(parts) == 1:
        return RawGrams(out, *parts[0])
    return RawGrams(out, *map(torch.cat, zip(*parts, strict=True)))


def centred(products: list[Product], out: Tensor) -> tuple[Tensor, Tensor]:
    """Centres Grams of the same samples, all steps of one after those of another.

    Args:
        products: of S steps in all; they are taken out of the list, whose memory is free before more is needed.
        out: float64 `[S, n(n-1)/2]` that the rows are written to, on any device.

    Returns:
        Their diagonal and `redo`, as of `RawGrams`.
    """
    n = products[0].K.shape[-1]
    q_max = _by_step([float(min(own.q_max, n)) for own in products], products)
    exact = _by_step([True if own.exact is None else own.exact for own in products], products)
    common = _by_step([0.0 if own.common is None else own.common for own in products], products)
    K = products[0].K if len(products) == 1 else torch.cat([own.K for own in products])
    products.clear()
    low = K.to(torch.float64)
    del K
    diagonal = low.diagonal(dim1=-2, dim2=-1).clone()
    low.tril_(-1)  # the upper triangle may be missing
    off = torch.linalg.vector_norm(low.flatten(1), dim=1)
    shift = _centre(low, low.sum(-1) + low.sum(-2))
    rows = pack(low, out if out.device == low.device else None)
    size = torch.linalg.vector_norm(rows, dim=1)
    if rows is not out:
        out.copy_(rows)
    # a float32 Gram below 1e-25 may have lost entries to underflow
    sound = (off <= q_max * size) & (off > 1e-25 * n / 2**0.5) & (size < _LARGEST / 2)
    sound &= exact & (common.square() <= _COMMON_MAX * size)
    return diagonal - 2 * shift, ~sound


def _by_step(values: list[Tensor | float], products: list[Product]) -> Tensor:
    """What products have, a number or a number a step, of all their steps; nothing is sent to the device."""
    device = products[0].K.device
    parts = (value if isinstance(value, Tensor) else _constant(value, device) for value in values)
    return torch.cat([part.expand(len(own.K)) for part, own in zip(parts, products, strict=True)])


@lru_cache(maxsize=64, typed=True)  # True is no 1.0
def _constant(value: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        kind = torch.bool if isinstance(value, bool) else torch.float64
        return torch.full((), value, dtype=kind, device=device)


def pack(K: Tensor, out: Tensor | None = None) -> Tensor:
    """Lower triangles `[..., n(n-1)/2]` of symmetric `[..., n, n]`; <K, L> = 2 pack(K) . pack(L) for diagonals of 0.

    They go row by row, so that the first m samples are the first m(m-1)/2 numbers.
    """
    low = _below(K.shape[-1], K.device)
    # index_select takes two to three times as long
    return torch.gather(K.flatten(-2), -1, low.expand(*K.shape[:-2], -1), out=out)


def unpack(rows: Tensor, n: int) -> Tensor:
    """Symmetric `[..., n, n]` with a diagonal of 0 from what `pack` gave."""
    low = _below(n, rows.device)
    K = rows.new_zeros(*rows.shape[:-1], n * n)
    K[..., low] = rows
    K = K.unflatten(-1, (n, n))
    return K + K.mT


@lru_cache(maxsize=4)
def _below(n: int, device: torch.device) -> Tensor:
    """Where the entries below the diagonal lie in a flat `[n, n]`, row by row."""
    i, j = torch.tril_indices(n, n, offset=-1, device=device)
    return torch.add(j, i, alpha=n)


def places(n: int, rows: slice, device: torch.device) -> Tensor:
    """Where some rows of a Gram lie in what `pack` gave, int64 `[rows, n]`; 0 on the diagonal, which is not there."""
    j = torch.arange(n, device=device)
    i = j[rows].unsqueeze(1)
    start = (j * (j - 1)) // 2
    at = torch.where(j < i, start[rows].unsqueeze(1) + j, start + i)
    at.diagonal(rows.start).zero_()
    return at


def _centre(K: Tensor, r: Tensor) -> Tensor:
    """Takes r_i/(n-2) - s/(2(n-1)(n-2)) from row i and column i, in place, and gives it; r are the sums of rows."""
    n = r.shape[-1]
    shift = r / (n - 2) - (r.sum(-1, keepdim=True) / (2 * (n - 1) * (n - 2)))
    K -= shift.unsqueeze(-1)
    K -= shift.unsqueeze(-2)
    return shift


def as_tensor(X: Any) -> Tensor:
    """Features as a tensor without a gradient, from a tensor or anything that NumPy reads.

    Arrays of the other byte order, that run backwards or that are read-only are copied: PyTorch does not take them.
    """
    if isinstance(X, Tensor):
        return X.detach()
    array = np.asarray(X)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def as_real(X: Tensor) -> Tensor:
    """Features in a dtype that can be multiplied: float32 and float64 as they are, others in the one that holds them.

    Raises:
        TypeError: complex features.
    """
    if X.is_complex():
        raise TypeError(
            f"expected real features, got {X.dtype}; pass the modulus, or real and imaginary parts as features"
        )
    if X.dtype in (torch.float32, torch.float64):
        return X
    wide = (torch.int64, torch.int32, torch.uint32, torch.uint64)
    return X.to(torch.float64 if X.dtype in wide else torch.float32)


def _redo(X: Tensor) -> tuple[Tensor, Tensor, str | None]:
    """Centred Gram of one step `[n, D]` from column-centred float64 features, and the reason if it is undefined."""
    n, D = X.shape
    none = X.new_zeros(n * (n - 1) // 2, dtype=torch.float64), X.new_zeros(n, dtype=torch.float64)
    finite = torch.isfinite(X).all(1)
    if not finite.all():
        at = int((~finite).nonzero()[0])
        return none[0] + float("nan"), none[1] + float("nan"), f"NaN or infinite at sample {at}"
    largest = float(X.abs().max()) if D else 0.0
    if largest == 0.0:
        return *none, "silent"
    K = X.new_zeros((n, n), dtype=torch.float64)
    offset, along = K.new_zeros(()), K.new_zeros(n)  # m . m and m . (x_i - m), m the mean over samples
    for chunk in X.split(max(1, _CHUNK // n), dim=1):
        chunk = chunk.to(torch.float64) / largest
        mean = chunk.mean(0)
        chunk -= mean
        K.addmm_(chunk, chunk.mT)
        offset += mean @ mean
        along += chunk @ mean
    centred_size = torch.linalg.matrix_norm(K)
    # the Gram before centring is K_ij + along_i + along_j + offset, and rows of K and `along` sum to 0
    size = (centred_size.square() + 2 * n * along.square().sum() + (n * offset).square()).sqrt()
    diagonal = K.diagonal().clone()
    K.fill_diagonal_(0.0)
    shift = _centre(K, K.sum(-1))
    rows = pack(K)
    diagonal = (diagonal - 2 * shift) * largest * largest
    structure = 2**0.5 * torch.linalg.vector_norm(rows)
    if structure <= _UNDEFINED * size:
        reason = _why_undefined(X)
        if reason == _EQUAL and structure > 2**0.5 * _UNDEFINED * centred_size:
            reason = "samples differ by less than a millionth of what they have in common"
        return none[0], diagonal, reason  # distances may be there all the same
    if not _SMALLEST < float(structure) * largest * largest < _LARGEST:
        return none[0] + float("nan"), none[1] + float("nan"), BEYOND
    return rows * largest**2, diagonal, None


def _why_undefined(X: Tensor) -> str:
    differing = [int((X != X[i]).any(1).sum()) for i in (0, 1)]
    if differing[0] == 0:
        return "constant"
    if 1 in differing:
        return "fewer than two samples differ"
    return _EQUAL
