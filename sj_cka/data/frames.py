"""Event recordings as frames: how many events each pixel had in each time step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sj_cka.data.samples import Samples


@dataclass(frozen=True, eq=False, kw_only=True)
class Frames(Samples):
    """Counts of events; on disk, if they are many: only what is indexed comes into memory.

    Args:
        x_train, x_test: counts `[N, T, 2, H, W]`, channel 0 OFF and 1 ON, or `[N, T, D]` of spikes of D units; of an
            integer type, often memory-mapped.
    """

    called: ClassVar[str] = "recordings"

    @property
    def channels(self) -> int:
        return int(self.x_train.shape[2])

    @property
    def T(self) -> int:  # noqa: N802
        return int(self.x_train.shape[1])

    def as_input(self, x: Tensor) -> Tensor:
        """Frames `[T, N, 2, H, W]`, or spikes `[T, N, D]`: counts as they are, float32.

        Args:
            x: counts as they are stored, `[N, T, ...]`.
        """
        return x.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
