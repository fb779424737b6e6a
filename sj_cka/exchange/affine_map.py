"""Affine maps between features, by ridge least squares: sums over minibatches, so that no features are kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AffineMap(NamedTuple):
    """x -> (x - mean_x) W + mean_y, one for each of S steps.

    Args:
        weight: W `[S, D, D']`, float64.
        mean_x: `[S, 1, D]`.
        mean_y: `[S, 1, D']`.
    """

    weight: Tensor
    mean_x: Tensor
    mean_y: Tensor

    def __call__(self, X: Tensor) -> Tensor:
        """Features `[S, M, D]`, M rows of each step, as features `[S, M, D']`, float64."""
        return (X.double() - self.mean_x) @ self.weight + self.mean_y

    @property
    def blind(self) -> AffineMap:
        """The map that knows nothing of x: mean_y, whatever it is given."""
        return self._replace(weight=torch.zeros_like(self.weight))


class RidgeFit:
    """Fits the affine map that takes features X to features Y, for each of S steps, in float64.

    It minimises |Yc - Xc W|^2 + lambda |W|^2, where Xc and Yc are the features less their means over the rows (the
    offset is not shrunk), and lambda = ridge tr(Xc^T Xc) / D, the mean over features of their sum of squares, so that
    scaling all of X changes nothing (Hoerl & Kennard 1970). `add` sums (Xc^T Xc, Xc^T Yc) over minibatches, around
    the means of the first one, so that an offset costs no digits: memory is S D (D + D') numbers, whatever the rows.

    Features without any variance are mapped to mean_y.

    Args:
        ridge: above 0, no unit. With as many rows as features or fewer it makes the solution one.

    Example:
        >>> X = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0))
        >>> fit = RidgeFit(ridge=1e-9)
        >>> fit.add(X, 2 * X + 1)
        >>> fit.solve().weight.round(decimals=3).abs()[0].tolist()
        [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]
    """

    def __init__(self, ridge: float) -> None:
        if not ridge > 0:
            raise ValueError(f"expected a ridge above 0, got {ridge}")
        self.ridge, self.rows = ridge, 0
        self.around: tuple[Tensor, Tensor] | None = None
        self.sums: list[Tensor] = []  # of X, Y, X^T X, X^T Y, less what they are taken around

    def add(self, X: Tensor, Y: Tensor) -> None:
        """A minibatch of M rows.

        Args:
            X: `[S, M, D]`.
            Y: `[S, M, D']`, of the same rows.
        """
        X, Y = X.double(), Y.double()
        if self.around is None:
            self.around = X.mean(1, keepdim=True), Y.mean(1, keepdim=True)
        X, Y = X - self.around[0], Y - self.around[1]
        new = [X.sum(1, keepdim=True), Y.sum(1, keepdim=True), X.mT @ X, X.mT @ Y]
        self.sums = [a + b for a, b in zip(self.sums, new, strict=True)] if self.sums else new
        self.rows += X.shape[1]

    def solve(self) -> AffineMap:
        """The map that fits what was added.

        Raises:
            ValueError: nothing was, features that are not finite, or a ridge that is lost in rounding.
        """
        if self.around is None:
            raise ValueError("expected features to fit a map to, got none")
        x, y, xx, xy = (total / self.rows for total in self.sums)
        if not all(bool(total.isfinite().all()) for total in (x, y, xx, xy)):
            raise ValueError("expected finite features to fit a map to, got NaN or infinity")
        covariance, cross = xx - x.mT @ x, xy - x.mT @ y
        variance = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=0)  # [S]
        shrinking = torch.where(variance > 0, self.ridge * variance, 1.0)
        eye = torch.eye(covariance.shape[-1], dtype=torch.float64, device=covariance.device)
        factor, failed = torch.linalg.cholesky_ex(covariance + shrinking[:, None, None] * eye)
        if failed.any():
            raise ValueError(
                f"expected a ridge that rounding leaves, got {self.ridge}: features are collinear; take 1e-12 or more"
            )
        weight = torch.cholesky_solve(cross, factor)
        return AffineMap(weight, self.around[0] + x, self.around[1] + y)
