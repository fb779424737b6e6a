"""The jackknife of a result: CKA without each sample or minibatch, and what intervals that gives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

import numpy as np
import xarray as xr
from scipy.special import stdtrit  # quantiles of Student's t

Over = Literal["samples", "batches"]
OF_SAMPLES = "what every sample contributes, into=CKA(samples=True)"
MIN_BATCHES = 8  # of a jackknife over batches: fewer say too little about their spread
FEW = 0.03  # part of the samples under which those that carry an interval are called few
_ROOM = 1e-12  # 1 - c^2 at or below which a CKA is 1, up to the rounding of what samples contribute
_PARTS = ("xy", "xx", "yy")


def left_out(data: xr.Dataset, over: Over | None) -> np.ndarray:
    """CKA without each sample, or each minibatch, `[n, Lx, Ly]`; None for samples where they were kept.

    Raises:
        ValueError: another `over`, samples that were not kept, fewer than 8 minibatches.
    """
    if over not in (None, "samples", "batches"):
        raise ValueError(f'expected over="samples" or over="batches", got {over!r}')
    if over == "samples" or (over is None and "sample_xy" in data):
        expect_held(data, "sample_xy", OF_SAMPLES)
        return without_each_sample(data)
    expect_held(data, "batch_xy", "its minibatches, as compare() and CKA() keep them")
    return _without_each_batch(data)


def without_each_sample(data: xr.Dataset) -> np.ndarray:
    """CKA without each sample, `[N, Lx, Ly]`, to first order, of a result with what every sample contributes.

    HSIC_1 of a minibatch of n without sample i is (S - 2 h_i) / ((n-1)(n-4)); with the weight n - 1 of what is left, a
    minibatch then adds (S - 2 h_i) / (n - 4) in place of S / (n - 3).
    """
    share_xy, share_xx, share_yy = (data[f"sample_{part}"].values.astype(np.float64) for part in _PARTS)
    batch = np.repeat(np.arange(data.sizes["batch"]), data.batch_n.values)
    root_x, root_y = (np.sqrt(np.where(S > 0, S, 1.0)) for S in (data.batch_xx.values, data.batch_yy.values))
    h = share_xy * root_x[batch][:, :, None] * root_y[batch][:, None]
    return _without(data, batch, (h, share_xx * root_x[batch] ** 2, share_yy * root_y[batch] ** 2))


def _without_each_batch(data: xr.Dataset) -> np.ndarray:
    """CKA without each minibatch, `[B, Lx, Ly]`."""
    count = data.sizes["batch"]
    if count < MIN_BATCHES:
        raise ValueError(
            f"expected at least {MIN_BATCHES} minibatches for an interval over minibatches, got {count}; compare with "
            "CKA(samples=True) for an interval over samples"
        )
    return _without(data, np.arange(count))


def _without(data: xr.Dataset, batch: np.ndarray, contributions: Sequence[np.ndarray] = ()) -> np.ndarray:
    """CKA without each of some minibatches, or, where its contributions are given, without a sample of each."""
    left = []
    for part, h in zip_longest(_PARTS, contributions):
        total = data[f"batch_{part}"].values
        n = data.batch_n.values.astype(float).reshape(-1, *[1] * (total.ndim - 1))
        weighted = total / (n - 3)
        rest = weighted.sum(0) - weighted[batch]
        if h is not None:
            # of a minibatch of 4 nothing is left that HSIC_1 is defined for
            rest = rest + np.where(n > 4, 1 / np.maximum(n - 4, 1), 0.0)[batch] * (total[batch] - 2 * h)
        left.append(rest)
    xy, xx, yy = left
    root_x, root_y = (np.sqrt(np.where(hsic > 0, hsic, np.nan)) for hsic in (xx, yy))
    return np.asarray(xy / root_x[..., :, None] / root_y[..., None, :])


def half_width(left: np.ndarray, level: float) -> np.ndarray:
    """Half of the interval that delete-one values `[n, ...]` give: t_{n-1} sqrt((n-1)/n sum (theta_-i - mean)^2)."""
    n = len(left)
    spread = ((left - left.mean(0)) ** 2).sum(0)
    return np.asarray(stdtrit(n - 1, 0.5 + level / 2) * np.sqrt((n - 1) / n * spread))


def fisher_z(values: np.ndarray) -> np.ndarray:
    """artanh of CKAs; of 1, which rounding may even pass, that of the largest number below."""
    largest = np.nextafter(1.0, 0.0)
    return np.asarray(np.arctanh(np.clip(values, -largest, largest)))


def on_z(values: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of intervals of CKAs from half widths, by way of Fisher's z."""
    room = 1 - values**2
    z, width = fisher_z(values), half / np.where(room > _ROOM, room, np.inf)
    # no other rounding where there is no width
    low, high = (np.where(width == 0, values, np.tanh(z + sign * width)) for sign in (-1, 1))
    return low, high


def warn_of_few(data: xr.Dataset, left: np.ndarray, values: np.ndarray | None = None) -> None:
    """Warns where few of the delete-one values `[n, Lx, Ly]` carry the variance of the jackknife; not for CKAs of 1."""
    n = len(left)
    squares = (left - left.mean(0)) ** 2
    total, fourth = squares.sum(0), (squares**2).sum(0)
    carrying = total**2 / np.where(fourth > 0, fourth, np.nan)
    if values is not None:
        carrying = np.where(1 - values**2 > _ROOM, carrying, np.nan)
    few = carrying < FEW * n
    if few.any():
        i, j = np.unravel_index(np.nanargmin(carrying), carrying.shape)
        names = f"{str(data.layer_x.values[i])!r} with {str(data.layer_y.values[j])!r}"
        warnings.warn(
            f"intervals of {int(few.sum())} of {few.size} pairs of layers rest on few samples, as where features have "
            f"long tails, and may cover less than their level: that of {names} on about {carrying[i, j]:.0f} of {n}. "
            "Look at them by influence(), take more samples, or compare by ranks, CKA(measures='rsa')",
            stacklevel=3,
        )


def expect_held(data: xr.Dataset, variable: str, what: str) -> None:
    """Raises ValueError where a result lacks what had to be asked for."""
    if variable not in data:
        raise ValueError(f"expected a result of a comparison with {what}, got one without")
