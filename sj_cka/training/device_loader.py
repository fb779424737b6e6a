"""Batches of samples that are gathered and changed where they live, or where the network is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from sj_cka.data.samples import sent
from sj_cka.processes import world
from sj_cka.training.distributed import own_share

Change = Callable[[Tensor, Generator], Tensor]


class DeviceLoader:
    """Batches of samples as they are stored, gathered where they live, then augmented and prepared beside the labels.

    Each iteration is an epoch: every sample once, in an order from the seed alone, so that all networks of a seed see
    the same. Among several processes each gets its share of every batch.

    Args:
        samples: `[N, ...]`, of any dtype; on the device of the labels, or, where they are too large for it, elsewhere.
        labels: int64 `[N]`, on the network's device.
        batch_size: samples a batch, over all processes. A last batch of one sample is left out, since batch
            normalisation needs two, or of fewer than there are processes.
        seed: of order and augmentation.
        classes: number of classes.
        prepare: from samples as stored to what the network is given, e.g. `sj_cka.data.Samples.as_input`; None for as
            they are.
        augment: `change(samples, generator)`, e.g. of `sj_cka.data.AUGMENTATIONS`, in turn, before preparing.

    Raises:
        ValueError: labels outside the classes, or not one for each sample.

    Example:
        >>> batches = DeviceLoader(torch.zeros(5, 1, 8, 8), torch.arange(5), batch_size=2, seed=0, classes=5)
        >>> [len(y) for x, y in batches]
        [2, 2]
    """

    def __init__(
        self,
        samples: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int,
        classes: int,
        prepare: Callable[[Tensor], Tensor] | None = None,
        augment: Sequence[Change] = (),
    ) -> None:
        if labels.shape != (len(samples),):
            raise ValueError(f"expected a label for each of {len(samples)} samples, got labels {list(labels.shape)}")
        check_labels(labels, classes)
        self.samples, self.labels, self.batch_size = samples, labels, batch_size
        self.prepare, self.augment = prepare, tuple(augment)
        self._order = Generator().manual_seed(seed)
        # a stream of its own for each process; that of order is the same with and without augmentation
        self._draws = Generator().manual_seed((seed << 16) + world()[0] + 1)

    def __len__(self) -> int:
        whole, left = divmod(len(self.samples), self.batch_size)
        return whole + (left >= max(2, world()[1]))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.samples), generator=self._order).to(self.samples.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = own_share(order[start : start + self.batch_size])
            x = sent(self.samples[chosen], self.labels.device)
            for change in self.augment:
                x = change(x, self._draws)
            yield x if self.prepare is None else self.prepare(x), self.labels[sent(chosen, self.labels.device)]

    def state_dict(self) -> dict[str, Any]:
        """Where the random streams are, between two epochs."""
        return {"order": self._order.get_state(), "draws": self._draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self._order.set_state(state["order"])
        self._draws.set_state(state["draws"])


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises ValueError unless all labels are classes."""
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, since the network has {classes} classes; got labels from "
            f"{int(labels.min())} to {int(labels.max())}"
        )
