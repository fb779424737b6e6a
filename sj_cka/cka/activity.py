"""How the units of layers of neurons fire: summed over minibatches, for `CKA`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sj_cka.cka.layer_steps import LayerSteps
from sj_cka.cka.sums import Accumulator, Centred

FIRING = ("rate", "silent", "saturated")  # of the units of a layer of neurons


class Activity(Accumulator):
    """Spikes `[S, D]` of each unit over the samples, by (side, layer).

    A layer whose number of units is not the same in all minibatches is forgotten, as a tensor of no units: shares of
    units have no meaning there.
    """

    def update(self, batch: Centred) -> None:
        for side, grams in (("x", batch.x), ("y", batch.y)):
            for layer, counts in grams.counts.items():
                self.add((side, layer), counts)

    def add(self, key: Any, value: Tensor) -> None:
        before = self.tensors.get(key, [value])[0]
        if before.shape[-1] == value.shape[-1]:
            super().add(key, value)
        else:
            self.tensors[key] = [value[:, :0]]

    def variables(self, n: int, x: LayerSteps, y: LayerSteps) -> dict[str, tuple[Any, ...]]:
        """Firing rate, share of units that never fire and of those that fire for every sample; NaN without neurons."""
        variables: dict[str, tuple[Any, ...]] = {}
        for side, layers, T in (("x", x.layers, x.index.shape[1]), ("y", y.layers, y.index.shape[1])):
            shares = np.full((len(FIRING), len(layers), T), np.nan)
            for i, layer in enumerate(layers):
                if (side, layer) in self.tensors and (counts := self.array((side, layer))).size:
                    always = counts > n * (1 - 1e-6)  # counts over all steps are divided by their number
                    shares[:, i] = [counts.mean(1) / n, (counts == 0).mean(1), always.mean(1)]
            if np.isfinite(shares).any():
                dims = (f"layer_{side}", f"step_{side}")
                variables |= {f"{name}_{side}": (dims, share) for name, share in zip(FIRING, shares, strict=True)}
        return variables
