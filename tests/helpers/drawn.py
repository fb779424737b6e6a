"""Features drawn from a seed, and their CKA."""

import torch

from sj_cka import CKA


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def accumulated(*batches, **options):
    found = CKA(**options)
    for x, y in batches:
        found.update({"a": x[None]}, {"a": y[None]})
    return found.compute()


def related(n, seed, noise=1.0, D=6):
    X = randn(n, D, seed=seed)
    return X, X @ randn(D, 8, seed=777) + noise * randn(n, 8, seed=seed + 5000)
