"""Products of features with themselves, as fast as a device takes them: float32, bytes, or split into bfloat16."""

import timeit
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# The error of a float32 Gram is about 1e-9 q, q = |K off the diagonal| / |K~|, more for few samples; beyond the
# smaller of this q and n it is taken again.
Q_MAX = 300.0
_Q_MAX_SPLIT = 30.0  # of split products, whose features are column-centred first
_BYTES_FROM = 64  # features that bytes pay for; torch's int8 product is wrong for 1
_ROWS = 32
_BLOCK = 96  # columns of a symmetric product that the CPU takes at once
_WIDE_BLOCK, _WIDE_FROM = 128, 512  # the same from so many samples on


def launch_bound(device: torch.device) -> bool:
    """Whether a device waits for what it is to do, and not the processor for what it does: CUDA.

    There few large operations are faster than many small ones, and what stops the processor is put off.
    """
    return device.type == "cuda"


class Product(NamedTuple):
    """Grams of S steps before they are centred.

    Args:
        K: `[S, n, n]`; on the CPU lower triangles alone.
        exact: bool `[S]`, whether each is the product of X itself; None: all are.
        common: float64 `[S]`, the root of |K| of the mean over samples, where it was taken out of X; else None.
        q_max: the q from which digits are lost.
    """

    K: Tensor
    exact: Tensor | None = None
    common: Tensor | None = None
    q_max: float = Q_MAX


def product(X: Tensor, spikes: bool) -> Product:
    """X X^T of features `[S, n, D]`; spikes are believed to be 0 or 1."""
    if torch.is_autocast_enabled(X.device.type):  # it would take the Gram in bfloat16
        with torch.autocast(X.device.type, enabled=False):
            return product(X, spikes)
    if launch_bound(X.device):
        if X.dtype != torch.float32 or not half_products(X.device):
            return Product(X @ X.mT)
        if not spikes:
            return split_grams(X)
        half = X.to(torch.bfloat16)
        return Product(_wide(half, half), exact=(half == X).flatten(1).all(1))
    if X.shape[1] <= _BLOCK:
        return Product(X @ X.mT)
    K = X.new_zeros(*X.shape[:2], X.shape[1])
    for step, x in enumerate(X):
        small = _as_bytes(x) if spikes and x.shape[1] >= _BYTES_FROM and byte_products() else None
        if small is not None:
            K[step] = torch._int_mm(small, small.mT)
            continue
        block = _BLOCK if len(x) < _WIDE_FROM else _WIDE_BLOCK
        for i in range(0, len(x), block):
            K[step, i:, i : i + block] = x[i:] @ x[i : i + block].mT
    return Product(K)


def split_grams(X: Tensor) -> Product:
    """Grams of column-centred float32 features `[S, n, D]` from bfloat16 products with float32 sums.

    X - m = H + L + rest, H and L in bfloat16, m near the mean over samples, so that the sums of the product do not lose
    what the samples do not share: (X - m)(X - m)^T = H H^T + H L^T + (H L^T)^T up to 2^-17 of each product. Tensor
    cores take the three, of which one is the transpose of another, in a tenth of a float32 product's time. X - m is
    exact where an offset dominates.
    """
    mean = X.mean(1, keepdim=True)
    X = X - mean
    high = X.to(torch.bfloat16)
    low = X.sub_(high).to(torch.bfloat16)
    cross = _wide(high, low)
    K = _wide(high, high).add_(cross).add_(cross.mT)
    common = torch.linalg.vector_norm(mean, dim=(1, 2), dtype=torch.float64) * X.shape[1] ** 0.5
    return Product(K, common=common, q_max=_Q_MAX_SPLIT)


def _wide(X: Tensor, Y: Tensor) -> Tensor:
    """float32 X Y^T of bfloat16 matrices `[S, n, D]`, whose products are exact in float32."""
    return torch.bmm(X, Y.mT, out_dtype=torch.float32) if X.is_cuda else X.float() @ Y.float().mT


def _as_bytes(x: Tensor) -> Tensor | None:
    """The same numbers as int8, None where they are others."""
    small = torch.empty(x.shape, dtype=torch.int8)
    for rows, into in zip(x.split(_ROWS), small.split(_ROWS), strict=True):  # pieces that stay in the cache
        into.copy_(rows)
        if not torch.equal(into.to(x.dtype), rows):
            return None
    return small


@lru_cache
def half_products(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 with float32 sums and a float32 result, so that counts stay exact."""
    x = torch.ones(16, 4112, device=device, dtype=torch.bfloat16)
    try:  # 4112 needs 13 bits; a bfloat16 result has 8
        return bool((torch.bmm(x[None], x.mT[None], out_dtype=torch.float32) == 4112).all())
    except (RuntimeError, TypeError):  # no such kernel for this device
        return False


@lru_cache
def byte_products() -> bool:
    """Whether this CPU multiplies int8 with int32 sums, exactly and faster than float32 (VNNI, AMX and the like)."""
    x = torch.ones(128, 4112, dtype=torch.int8)
    y = x.float()
    try:
        if not (torch._int_mm(x, x.mT) == 4112).all():
            return False
    except RuntimeError:  # no such kernel in this build
        return False
    products = (lambda: torch._int_mm(x, x.mT)), (lambda: y @ y.mT)
    of_bytes, of_floats = (min(timeit.repeat(product, number=1)) for product in products)
    return of_bytes < of_floats / 2
