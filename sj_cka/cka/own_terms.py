"""Own terms of the units of a layer: what HSIC between its steps holds beside products of different units.

The Gram of a layer is the sum of those of its units, K_t = sum_u k_ut, so HSIC(K_t, K_s) = sum_uv HSIC(k_ut, k_vs). A
split into halves keeps the u in one half and the v in the other. Over all splits the mean is, up to a factor that is
the same for all steps, HSIC(K_t, K_s) - sum_u HSIC(k_ut, k_us): no split has to be drawn. A unit is one index of the
first axis behind the samples: a neuron of a dense layer, a channel of maps with all its pixels, a token of
`[T, N, L, D]`.

HSIC_1 is unbiased for any samples, so the own terms are taken over some of them alone, as many as cost a fraction of
the Gram: `[m]` at once of units of one number, blocks of 16 of units of several (pixels).
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sj_cka.cka.products import launch_bound

MIN_UNITS = 8  # with fewer, halves are too few and too small to stand for the layer
_ALL = 32  # samples up to which all are taken, and together
_BLOCK, _PIXELS = 16, 32  # samples of a block; of fewer pixels than so many, fewer blocks
_OVERHEAD = 320  # features that cost as much as what a Gram costs whatever they are
_CHUNK, _LARGE_CHUNK = 1 << 18, 1 << 24  # numbers of an intermediate that are held at once; where launches cost more
_PRODUCTS = 1 << 20


class Samples(NamedTuple):
    """How many samples own terms are taken over: blocks of b."""

    blocks: int
    b: int


class Units(NamedTuple):
    """What own terms need of S steps of one layer.

    Args:
        values: column-centred features `[S, m, C]`, or Grams of each unit `[S, blocks, C, b, b]` of such features.
        scale: float64 `[S]`, what the features were divided by.
    """

    values: Tensor
    scale: Tensor


def samples_for(n: int, D: int, P: int, T: int) -> Samples:
    """The samples, of n, that own terms of D features, P for each unit, at T steps are taken over.

    Of units of one number products of all pairs of steps are taken, of others Grams of the blocks; their number of
    samples is such that they cost up to .3 of the Gram, n^2 (D + 320), where it is not of bytes.
    """
    if n <= _ALL:
        return Samples(1, n)
    gram = n * n * (D + _OVERHEAD) // D
    if P == 1:
        return Samples(1, min(n, max(_ALL, gram // (128 * (T + 4)))))
    return Samples(max(_ALL, min(n // 4, gram * min(P, _PIXELS) // (1024 * _PIXELS))) // _BLOCK, _BLOCK)


def numbers_held(n: int, D: int, C: int, T: int) -> int:
    """Numbers that are held of every step of C units where the steps come one by one."""
    if T == 1 or C < MIN_UNITS or not D:
        return 0
    blocks, b = samples_for(n, D, D // C, T)
    return b * C if C == D else blocks * C * b * b


def units_of(X: Tensor, C: int, T: int, size: Tensor) -> Units:
    """What own terms need of some steps.

    Args:
        X: features `[S, n, D]`, float32 or float64, those of a unit one after the other.
        C: number of units.
        T: steps of the layer in all.
        size: float64 `[S]`, how large the features of a sample are, about: they are divided by it, as their fourth
            powers leave the range of float32.
    """
    S, n, D = X.shape
    blocks, b = samples_for(n, D, D // C, T)
    scale = torch.where(size > 0, size, 1.0)
    values = X.new_empty((S, b, C) if C == D else (S, blocks, C, b, b))
    steps = together = 1  # pieces that stay in the cache
    if launch_bound(X.device):
        together = max(1, min(blocks, _LARGE_CHUNK // (b * D)))
        whole = together == blocks and X.stride(0) == n * X.stride(1)  # else all of X would be copied
        steps = max(1, min(S, _LARGE_CHUNK // (blocks * b * D))) if whole else 1
    rows = chosen(n, X.device, steps)[:, : blocks * b]
    sizes = scale.to(X.dtype)  # a division by another dtype takes eight times as long
    for x, size, into in zip(X.split(steps), sizes.split(steps), values.split(steps), strict=True):
        x = x.flatten(0, 1)
        if C == D:
            torch.index_select(x, 0, rows.flatten(), out=into.view(-1, D))
            _centre(into, size.view(-1, 1, 1))
            continue
        for some, grams in zip(rows.split(together * b, 1), into.split(together, 1), strict=True):
            part = x.index_select(0, some.flatten()).view(len(size), -1, b, D)
            part = _centre(part, size.view(-1, 1, 1, 1)).unflatten(3, (C, -1)).transpose(2, 3)
            torch.matmul(part, part.mT, out=grams)
    return Units(values, scale)


def own_terms(units: Units) -> Tensor:
    """sum_u HSIC_1(k_ut, k_us) between S steps, float64 `[S, S]`.

    Rows of the Grams K and L of centred features sum to 0; with q_i = K_ii, Q the sum of them, p and P those of L, the
    trace formula (Song et al. 2012, eq. 5) is n (n-3) HSIC_1 = <K, L> - n/(n-2) q . p + Q P / ((n-1)(n-2)).
    """
    values, scale = units
    if values.ndim == 3:
        n, blocks = values.shape[1], 1
        products, q, Q = _products(values)
    else:
        n, blocks = values.shape[-1], values.shape[1]
        diagonal = values.diagonal(0, 3, 4)
        products, q, Q = _pairs(values), _pairs(diagonal), _pairs(diagonal.sum(-1))
    hsic = products.sub(q, alpha=n / (n - 2)).add_(Q, alpha=1 / ((n - 1) * (n - 2)))
    size = scale.square()
    return hsic.mul_(size.unsqueeze(1) * size / (n * (n - 3) * blocks))


@lru_cache(maxsize=16)
def chosen(n: int, device: torch.device, steps: int = 1) -> Tensor:
    """The n samples in an order of their own: those of a class may lie together, or come at equal distances.

    Row s of `[steps, n]` are places in features `[steps * n, D]`.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n)) + n * torch.arange(steps).unsqueeze(1)
    return order.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else order


def _centre(X: Tensor, scale: Tensor) -> Tensor:
    """Takes the mean over samples from features `[..., m, D]` and divides them by a scale, in place."""
    m = X.shape[-2]
    X -= X.new_full((1, m), 1 / m) @ X  # a third of the time of `mean`
    return X.div_(scale)


def _pairs(values: Tensor) -> Tensor:
    """Products of all pairs of S rows `[S, ...]`, float64 `[S, S]`."""
    rows = values.flatten(1)
    return (rows @ rows.mT).to(torch.float64)


def _products(X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """<K, L>, q . p and Q P of features `[S, m, C]`, summed over units, between all steps, float64 `[S, S]` each."""
    S = len(X)
    sums = X.new_zeros(3, S, S, dtype=torch.float64)
    chunk = _LARGE_CHUNK if launch_bound(X.device) else _CHUNK
    for units in X.split(max(1, _PRODUCTS // S**2), 2):
        dots = X.new_zeros(S, S, units.shape[2])  # x_ut . x_us
        for some in units.split(max(1, chunk // units[:, 0].numel()), 1):  # pieces that stay in the cache
            for t, x in enumerate(some):
                both = x * some[t:]
                dots[t, t:] += both.sum(1)
                sums[1, t, t:] += torch.linalg.vector_norm(both.flatten(1), dim=1).square()
        sums[0] += dots.square().sum(2)
        sums[2] += _pairs(dots.diagonal().T)
    sums[:2] += sums[:2].triu(1).mT
    return sums[0], sums[1], sums[2]
