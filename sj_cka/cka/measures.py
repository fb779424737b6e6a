"""Measures of similarity that are functions of two Grams, from one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.gram import unpack
from sj_cka.cka.hsic import pair_products
from sj_cka.cka.layer_grams import Whole

_TIE = 1e-10  # part of the largest distance by which two must differ to count as different


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
