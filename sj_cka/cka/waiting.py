"""Grams that wait to be centred, so that a device centres those of several layers at once."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sj_cka.cka.gram import LARGE_CHUNK, centred
from sj_cka.cka.products import Product


class Waiting:
    """Products of features that are to become rows of the Grams of a network.

    Args:
        rows: float64 `[R, n(n-1)/2]`, on any device.
        diagonal: float64 `[R, n]`, on the same.
    """

    def __init__(self, rows: Tensor, diagonal: Tensor) -> None:
        self.rows, self.diagonal = rows, diagonal
        self.products: list[Product] = []
        self.at: list[int] = []  # the row of each of their steps
        self.names: list[str] = []  # and its layer
        self.then: list[Callable[[], None]] = []  # what needs the rows
        self.marks: list[tuple[list[str], Tensor]] = []  # layers, and bools: true where to take one again

    @property
    def full(self) -> bool:
        """Whether so much waits that it is to be centred."""
        return len(self.at) * self.diagonal.shape[1] ** 2 >= LARGE_CHUNK

    def add(self, layer: str, first: int, product: Product) -> None:
        """Takes the product of some steps of a layer, for the rows from `first` on."""
        S = len(product.K)
        self.products.append(product)
        self.at += range(first, first + S)
        self.names += [layer] * S

    def after(self, change: Callable[[], None]) -> None:
        """Has something done to the rows, now if they are there."""
        if self.products:
            self.then.append(change)
        else:
            change()

    def centre(self) -> None:
        """Centres what waits."""
        if not self.products:
            return
        runs = list(_runs(self.at))
        into = self.rows[runs[0][1]] if len(runs) == 1 else self.rows.new_empty(len(self.at), self.rows.shape[1])
        diagonal, redo = centred(self.products, into)
        diagonal = diagonal.to(self.diagonal.device)
        for part, rows in runs:
            if len(runs) > 1:
                self.rows[rows] = into[part]
            self.diagonal[rows] = diagonal[part]
        self.marks.append((self.names, redo))
        self.at, self.names = [], []
        for change in self.then:
            change()
        self.then.clear()

    def mark(self, layer: str, again: Tensor) -> None:
        """Notes, as a bool `[1]` on its device, whether a layer is to be taken again."""
        self.marks.append(([layer], again))

    def marked(self) -> set[str]:
        """Layers that were marked since the last time; waits for the device, once."""
        self.centre()
        if not self.marks:
            return set()
        flags = torch.cat([own for _, own in self.marks]).tolist()
        layers = [layer for names, _ in self.marks for layer in names]
        self.marks.clear()
        return {layer for layer, again in zip(layers, flags, strict=True) if again}


def _runs(at: list[int]) -> Iterator[tuple[slice, slice]]:
    """Stretches of a list of numbers that follow each other: where in the list, and which numbers."""
    begin = 0
    for i in range(1, len(at) + 1):
        if i == len(at) or at[i] != at[i - 1] + 1:
            yield slice(begin, i), slice(at[begin], at[i - 1] + 1)
            begin = i
