"""Measures of similarity that are functions of two Grams, from one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from sj_cka.cka.gram import unpack
from sj_cka.cka.hsic import hsic
from sj_cka.cka.layers import Whole

_TIE = 1e-10  # part of the largest distance by which two must differ to count as different


class Measure(NamedTuple):
    """A measure of all pairs of layers on one minibatch.

    Args:
        of: (x, y) -> float64 `[Lx, Ly]`; NaN where it is undefined.
        label: what it is, for axes and tables.
        adds: whether its parts add over minibatches, so that the value is that of all of them; otherwise the value is
            the mean of the minibatches' own, weighted by their samples, and depends on the batch size.
        distance: whether 0, not 1, means equal.
    """

    of: Callable[[Whole, Whole], Tensor]
    label: str
    adds: bool
    distance: bool = False


def linear_cka(x: Whole, y: Whole) -> Tensor:
    """Linear CKA with the unbiased HSIC, see `cka`."""
    own = [hsic_of_each(side) for side in (x, y)]
    return hsic(x.rows, y.rows.to(x.rows.device), x.n) / own[0].sqrt().unsqueeze(1) / own[1].sqrt().to(x.rows.device)


def rsa(x: Whole, y: Whole) -> Tensor:
    """Spearman rank correlation of the Euclidean distances of all pairs of samples (Kriegeskorte et al. 2008).

    Equal distances share their mean rank; equal are those that differ by less than about 1e-10 of the largest, so that
    rounding parts no ties. Undefined (NaN) where all distances of a layer are equal.
    """
    ranks = []
    for side in (x, y):
        d = side.squared_distances().cpu().numpy()
        largest = d.max(1, keepdims=True)
        defined = np.isfinite(largest) & (largest > 0)
        ranked = _ranks(np.where(defined, d, 0.0), _TIE * np.where(defined, largest, 0.0))
        ranked -= ranked.mean(1, keepdims=True)
        size = np.linalg.norm(ranked, axis=1, keepdims=True)
        ranks.append(np.where(defined & (size > 0), ranked / np.where(size > 0, size, 1.0), np.nan))
    return torch.from_numpy(ranks[0] @ ranks[1].T)


def _ranks(values: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, mean ranks where values follow each other within a tolerance."""
    order = values.argsort(axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    level = np.zeros(values.shape)
    level[:, 1:] = np.cumsum(np.diff(ordered, axis=1) > tolerance, axis=1)
    found = np.empty(values.shape)
    np.put_along_axis(found, order, level, axis=1)
    return np.asarray(stats.rankdata(found, axis=1))


def procrustes(x: Whole, y: Whole) -> Tensor:
    """Procrustes distance min_Q |X - Y Q|_F of centred features scaled to |X|_F = |Y|_F = 1, Q orthogonal.

    It is sqrt(2 - 2 |X^T Y|_*) (Williams et al. 2021; Ding et al. 2021), from 0 to sqrt(2), and the nuclear norm that
    of K^1/2 L^1/2, so that it takes a singular value decomposition `[n, n]` for every pair of layers. Undefined (NaN)
    where a layer is constant.
    """
    roots = [_roots(side) for side in (x, y)]
    found = torch.full((len(x.layers), len(y.layers)), float("nan"), dtype=torch.float64)
    for i, K in enumerate(roots[0]):
        for j, L in enumerate(roots[1]):
            if K is not None and L is not None:
                nuclear = torch.linalg.svdvals(K.mT @ L.to(K.device)).sum()
                found[i, j] = (2 - 2 * nuclear).clamp(min=0).sqrt().cpu()
    return found


def _roots(side: Whole) -> list[Tensor | None]:
    """A with A A^T = K for the double-centred Gram K of each layer, scaled to |A|_F = 1; None where K is 0."""
    found: list[Tensor | None] = []
    for d in unpack(side.squared_distances(), side.n):
        centred = d - d.mean(0)
        K = -0.5 * (centred - centred.mean(1, keepdim=True))
        trace = K.trace()
        if not torch.isfinite(trace) or trace <= 0:
            found.append(None)
            continue
        values, vectors = torch.linalg.eigh(K / trace)
        keep = values > 1e-13
        found.append(vectors[:, keep] * values[keep].sqrt())
    return found


def hsic_of_each(side: Whole) -> Tensor:
    """HSIC_1 of every layer with itself, float64 `[L]`; NaN where it has no structure."""
    own = side.rows.square().sum(1) * (2.0 / (side.n * (side.n - 3)))
    return torch.where(own > 0, own, torch.nan)


MEASURES: dict[str, Measure] = {
    "cka": Measure(linear_cka, "CKA", adds=True),
    "rsa": Measure(rsa, "rank correlation of distances", adds=False),
    "procrustes": Measure(procrustes, "Procrustes distance", adds=False, distance=True),
}
