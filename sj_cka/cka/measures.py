"""Measures of similarity of two Grams: the unbiased HSIC and CKA, and those that stand beside them, from one table."""

import warnings
from collections.abc import Callable
from math import frexp
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.gram import as_tensor, centred_grams, unpack
from sj_cka.cka.layer_grams import Whole
from sj_cka.cka.products import launch_bound

_CHUNK = 1 << 20  # numbers of one side that another device is sent at once
_PIECE = 1 << 12  # shortest piece of a row in a batched product
_PIECES = 1 << 24  # numbers of all pieces' products together
_TIE = 1e-10  # part of the largest distance by which two must differ to count as different


class UndefinedCKA(RuntimeWarning):
    """A CKA is undefined (NaN); the message says why."""


def hsic(rows_x: Tensor, rows_y: Tensor, n: int) -> Tensor:
    """Unbiased HSIC_1 = <K~, L~> / (n (n-3)) of all pairs of centred Grams (Song et al. 2012, eq. 5), as one product.

    Args:
        rows_x: packed centred Grams `[P, n(n-1)/2]`, float64.
        rows_y: the same `[Q, n(n-1)/2]`, or both with a leading batch axis; on the device of x or sent there in parts.
        n: number of samples, at least 4.

    Returns:
        float64 `[P, Q]`.
    """
    return pair_products(rows_x, rows_y) * (2.0 / (n * (n - 3)))


def ratio(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), NaN where a side has no structure."""
    # two roots: the product of two tiny or huge HSICs leaves the range of float64
    scale = np.sqrt(np.where(xx > 0, xx, np.nan)) * np.sqrt(np.where(yy > 0, yy, np.nan))
    return np.asarray(xy / scale)


def pair_products(rows_x: Tensor, rows_y: Tensor) -> Tensor:
    """`rows_x @ rows_y.mT` on the device of x; rows of another device are never there as a whole."""
    if rows_x.device == rows_y.device:
        return _in_pieces(rows_x, rows_y) if launch_bound(rows_x.device) else rows_x @ rows_y.mT
    step = max(1, _CHUNK // rows_y.shape[-2])
    return sum(
        (x @ y.to(x.device).mT for x, y in zip(rows_x.split(step, -1), rows_y.split(step, -1), strict=True)),
        start=rows_x.new_zeros(()),
    )


def _in_pieces(rows_x: Tensor, rows_y: Tensor) -> Tensor:
    """`rows_x @ rows_y.mT` of few long rows, as one batched product of their pieces: it keeps all of a device busy."""
    M = rows_x.shape[-1]
    pieces = min(M // _PIECE, _PIECES // max(1, rows_x[..., 0].numel() * rows_y.shape[-2]))
    if pieces < 2:
        return rows_x @ rows_y.mT
    end = M // pieces * pieces
    x, y = (rows[..., :end].unflatten(-1, (pieces, -1)).movedim(-2, -3) for rows in (rows_x, rows_y))
    return (x @ y.mT).sum(-3) + rows_x[..., end:] @ rows_y[..., end:].mT


def cka(X: Tensor | np.ndarray, Y: Tensor | np.ndarray) -> float:
    """Linear centred kernel alignment of two feature matrices, with the unbiased HSIC.

    CKA = HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)), K = X X^T, L = Y Y^T (Kornblith et al. 2019, eq. 4, with the
    estimator of Song et al. 2012, eq. 5, as in Nguyen et al. 2021). Invariant to rotation, isotropic scale and shift of
    either side; 1 for equal features; near 0, and possibly slightly negative, for independent ones.

    Args:
        X: features `[N, D]`, N >= 4 samples.
        Y: features `[N, D']` of the same samples in the same order.

    Returns:
        The CKA; NaN, with an `UndefinedCKA` warning that says why, where a side has no structure.

    Raises:
        ValueError: the shapes do not fit, or N < 4.

    Example:
        >>> X = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> round(cka(X, 3 * X + 1), 6)
        1.0
    """
    sides = [_scaled(as_tensor(side)) for side in (X, Y)]
    for name, side in zip("XY", sides, strict=True):
        if side.ndim != 2:
            raise ValueError(
                f"{name}: expected features [N, D], got shape {tuple(side.shape)}; flatten all but the samples"
            )
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"expected the same samples on both sides, got N = {len(sides[0])} and {len(sides[1])}")
    n = len(sides[0])
    if n < 4:
        raise ValueError(f"expected at least 4 samples (the unbiased HSIC divides by n - 3), got N = {n}")
    grams = [centred_grams(side.unsqueeze(0)) for side in sides]
    for name, centred in zip("XY", grams, strict=True):
        if centred.reasons[0] is not None:
            warnings.warn(f"CKA is undefined, {name}: {centred.reasons[0]}", UndefinedCKA, stacklevel=2)
            return float("nan")
    K, L = (centred.rows for centred in grams)
    # two roots: the product of two tiny or huge HSICs leaves the range of float64
    return float(hsic(K, L, n) / hsic(K, K, n).sqrt() / hsic(L, L, n).sqrt().to(K.device))


def _scaled(X: Tensor) -> Tensor:
    """Float64 features near 1, by a power of two: the HSIC of tiny or huge ones leaves its range."""
    if X.dtype != torch.float64 or not X.numel():
        return X
    largest = float(X.abs().max())
    return X * 2.0 ** min(1000, -frexp(largest)[1]) if 0 < largest < float("inf") else X


class Measure(NamedTuple):
    """A measure of all pairs of layers on one minibatch; a plugin adds one to MEASURES.

    Args:
        of: (x, y) -> float64 `[Lx, Ly]`; NaN where it is undefined.
        title: what figures and tables call it; a result keeps it in its file.
        adds: whether its parts add over minibatches, so that the value is that of all of them; otherwise the value is
            the mean of the minibatches' own, weighted by their samples, and depends on the batch size.
        distance: whether 0, not 1, means equal.
    """

    of: Callable[[Whole, Whole], Tensor]
    title: str
    adds: bool
    distance: bool = False


def linear_cka(x: Whole, y: Whole) -> Tensor:
    """Linear CKA with the unbiased HSIC, see `cka`."""
    norms = [torch.where(side.norms > 0, side.norms, torch.nan).to(x.rows.device) for side in (x, y)]
    return 2 * pair_products(x.rows, y.rows) / norms[0].unsqueeze(1) / norms[1]  # n (n-3) HSIC_1 in all three


def rsa(x: Whole, y: Whole) -> Tensor:
    """Spearman rank correlation of the Euclidean distances of all pairs of samples (Kriegeskorte et al. 2008).

    Equal distances share their mean rank; equal are those that differ by less than about 1e-10 of the largest, so that
    rounding parts no ties. Undefined (NaN) where all distances of a layer are equal.
    """
    ranks = [_ranks(side) for side in ((x,) if x is y else (x, y))]
    return pair_products(ranks[0], ranks[-1])


def _ranks(side: Whole) -> Tensor:
    """Ranks of the distances of every layer `[L, n(n-1)/2]`, centred, of norm 1; NaN where all are equal."""
    ranks = side.space(*side.rows.shape, device="cpu")
    for distances, into in zip(side.squared_distances(), ranks, strict=True):
        d = distances.cpu().numpy()
        largest = d.max()
        if not 0 < largest < np.inf:
            into.fill_(torch.nan)
            continue
        order = d.argsort()
        d = d[order]
        level = np.zeros(len(d), dtype=np.int64)  # equal ones share one, and their mean rank
        np.cumsum(np.diff(d) > _TIE * largest, out=level[1:])
        ends = np.bincount(level).cumsum()
        middle = 0.5 * (ends + np.concatenate([[0], ends[:-1]]) - len(d))
        size = np.sqrt((np.diff(ends, prepend=0) * middle**2).sum())
        d[order] = (middle / size if size > 0 else np.full_like(middle, np.nan))[level]
        into.copy_(torch.from_numpy(d))
    return ranks


def procrustes(x: Whole, y: Whole) -> Tensor:
    """Procrustes distance min_Q |X - Y Q|_F of centred features scaled to |X|_F = |Y|_F = 1, Q orthogonal.

    It is sqrt(2 - 2 |X^T Y|_*) (Williams et al. 2021; Ding et al. 2021), from 0 to sqrt(2), and the nuclear norm that
    of K^1/2 L^1/2, so that it takes a singular value decomposition `[n, n]` for every pair of layers. Undefined (NaN)
    where a layer is constant.
    """
    roots = [_roots(side) for side in ((x,) if x is y else (x, y))]
    distances = torch.full((len(x.layers), len(y.layers)), float("nan"), dtype=torch.float64)
    for i, K in enumerate(roots[0]):
        for j, L in enumerate(roots[-1]):
            if K is not None and L is not None:
                nuclear = torch.linalg.svdvals(K.mT @ L.to(K.device)).sum()
                distances[i, j] = (2 - 2 * nuclear).clamp(min=0).sqrt().cpu()
    return distances


def _roots(side: Whole) -> list[Tensor | None]:
    """A with A A^T = K for the double-centred Gram K of each layer, scaled to |A|_F = 1; None where K is 0."""
    roots: list[Tensor | None] = []
    for distances in side.squared_distances():
        d = unpack(distances, side.n)
        centred = d - d.mean(0)
        K = -0.5 * (centred - centred.mean(1, keepdim=True))
        trace = K.trace()
        if not torch.isfinite(trace) or trace <= 0:
            roots.append(None)
            continue
        values, vectors = torch.linalg.eigh(K / trace)
        keep = values > 1e-13
        root = vectors[:, keep] * values[keep].sqrt()
        roots.append(root if side.allocate is None else side.space(*root.shape).copy_(root))
    return roots


MEASURES: dict[str, Measure] = {
    "cka": Measure(linear_cka, "CKA", adds=True),
    "rsa": Measure(rsa, "rank correlation of distances", adds=False),
    "procrustes": Measure(procrustes, "Procrustes distance", adds=False, distance=True),
}
