"""What each sample contributes to a CKA, and the interval that follows from leaving each one out."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from sj_cka.cka.gram import places
from sj_cka.cka.layer_grams import Whole

MIN_BATCHES = 8  # of a jackknife over batches: fewer say too little about their spread
_CHUNK = 1 << 21  # numbers of an intermediate that are held at once


def contributions(x: Whole, y: Whole) -> tuple[Tensor, Tensor, Tensor]:
    """h_i = sum_j K~_ij L~_ij of every sample, for all pairs of layers; sum_i h_i = S = n (n-3) HSIC_1.

    Returns:
        xy: float32 `[n, Lx, Ly]`, shares of sqrt(S_xx S_yy); they add up to the CKA of the minibatch.
        xx, yy: float32 `[n, Lx]` and `[n, Ly]`, shares of S; they add up to 1.

    It costs about as much as the product of all pairs. A layer without structure in this minibatch contributes 0.
    """
    n, device = x.n, x.rows.device
    sides = (x,) if x is y else (x, y)
    norms = [side.norms for side in sides]
    # where space is bounded, a block at a time
    rows = [side.rows if side.allocate else _shares(side.rows, norm) for side, norm in zip(sides, norms, strict=True)]
    xy = torch.empty((n, len(x.layers), len(y.layers)), dtype=torch.float32, device=device)
    sums = [torch.empty((n, len(side.layers)), dtype=torch.float32, device=device) for side in sides]
    chunk = _CHUNK // 4 if any(side.allocate for side in sides) else _CHUNK
    step = max(1, chunk // (n * max(map(len, rows))))
    for first in range(0, n, step):
        block = slice(first, min(first + step, n))
        at = places(n, block, device).flatten()
        blocks = []
        for i, packed in enumerate(rows):
            K = packed.index_select(1, at.to(packed.device))
            K = (_shares(K, norms[i]) if sides[i].allocate else K).to(device).view(len(packed), -1, n)
            K.diagonal(first, 1, 2).zero_()
            sums[i][block] = torch.linalg.vector_norm(K, dim=-1).square_().T
            blocks.append(K.transpose(0, 1))
        torch.bmm(blocks[0], blocks[-1].mT, out=xy[block])
    return xy, sums[0], sums[-1]


def _shares(rows: Tensor, norms: Tensor) -> Tensor:
    """K~ / |K~|_F of every layer: products of these are shares already, and float32 is enough for them."""
    shares = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    return torch.div(rows, torch.where(norms > 0, norms, 1.0).unsqueeze(1), out=shares)


def without_each_sample(data: xr.Dataset) -> np.ndarray:
    """CKA without each sample, `[N, Lx, Ly]`, to first order, of a result with what every sample contributes.

    HSIC_1 of a minibatch of n without sample i is (S - 2 h_i) / ((n-1)(n-4)); with the weight n - 1 of what is left, a
    minibatch then adds (S - 2 h_i) / (n - 4) in place of S / (n - 3).
    """
    share_xy, share_xx, share_yy = (data[f"sample_{part}"].values.astype(np.float64) for part in ("xy", "xx", "yy"))
    total_xy, total_xx, total_yy = (data[f"batch_{part}"].values for part in ("xy", "xx", "yy"))
    n = data.batch_n.values.astype(float)
    batch = np.repeat(np.arange(len(n)), n.astype(int))

    def sums(total: np.ndarray, h: np.ndarray) -> np.ndarray:
        size = n.reshape(-1, *[1] * (total.ndim - 1))
        of_batch = (total / (size - 3))[batch]
        # of a minibatch of 4 nothing is left that HSIC_1 is defined for
        left = np.where(size > 4, 1 / np.maximum(size - 4, 1), 0.0)[batch] * (total[batch] - 2 * h)
        return np.asarray((total / (size - 3)).sum(0) - of_batch + left)

    root_x, root_y = (np.sqrt(np.where(S > 0, S, 1.0)) for S in (total_xx, total_yy))
    xy = sums(total_xy, share_xy * root_x[batch][:, :, None] * root_y[batch][:, None])
    xx = sums(total_xx, share_xx * root_x[batch] ** 2)
    yy = sums(total_yy, share_yy * root_y[batch] ** 2)
    return _ratio(xy, xx, yy)


def without_each_batch(data: xr.Dataset) -> np.ndarray:
    """CKA without each minibatch, `[B, Lx, Ly]`.

    Raises:
        ValueError: fewer than 8 minibatches.
    """
    total_xy, total_xx, total_yy, n = (data[f"batch_{part}"].values for part in ("xy", "xx", "yy", "n"))
    if len(n) < MIN_BATCHES:
        raise ValueError(
            f"expected at least {MIN_BATCHES} minibatches for an interval over minibatches, got {len(n)}; compare with "
            "CKA(samples=True) for an interval over samples"
        )

    def sums(total: np.ndarray) -> np.ndarray:
        weighted = total / (n.reshape(-1, *[1] * (total.ndim - 1)) - 3.0)
        return np.asarray(weighted.sum(0) - weighted)

    return _ratio(sums(total_xy), sums(total_xx), sums(total_yy))


def half_width(left_out: np.ndarray, level: float) -> np.ndarray:
    """Half of the interval that delete-one values `[n, ...]` give: t_{n-1} sqrt((n-1)/n sum (theta_-i - mean)^2)."""
    n = len(left_out)
    spread = ((left_out - left_out.mean(0)) ** 2).sum(0)
    return np.asarray(stats.t.ppf(0.5 + level / 2, n - 1) * np.sqrt((n - 1) / n * spread))


def _ratio(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    root_x, root_y = (np.sqrt(np.where(hsic > 0, hsic, np.nan)) for hsic in (xx, yy))
    return np.asarray(xy / root_x[..., :, None] / root_y[..., None, :])
