"""Where a training stands, as bytes, so that one that was killed goes on to the same weights."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

import torch

from sj_cka.integrity import Damaged, sealed, unsealed

logger = logging.getLogger(__name__)
_SECONDS = 60.0


class CheckpointSlot(Protocol):
    """Where one checkpoint lies; a new one takes the place of the old, whole or not at all."""

    def load(self) -> bytes | None:
        """What was saved last, None if nothing was."""

    def save(self, content: bytes) -> None:
        """Puts a checkpoint in the place of the last one."""

    def set_aside(self) -> str:
        """Takes a damaged checkpoint out of the way without deleting it; where it lies now, in words."""


@dataclass
class Checkpoints:
    """When a training saves where it stands.

    Args:
        slot: where to.
        every: epochs between two; None: at the end of an epoch, where a minute has gone by since the last.
        writes: whether this process saves, or only reads (of several processes one saves).
        of: which training it is, e.g. the key of a job: a checkpoint of another is not gone on from.
    """

    slot: CheckpointSlot
    every: int | None = None
    writes: bool = True
    of: str = ""

    def __post_init__(self) -> None:
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state of the training when it was saved, None if it never was.

        One that is not what was saved, or that of another training, is set aside and told in the log: None.
        """
        content = self.slot.load()
        if content is None:
            return None
        try:
            state = unsealed(content, self.of)
        except Damaged as error:
            if self.writes:
                where = self.slot.set_aside()
                logger.warning("a checkpoint is set aside in %s, training begins anew: %s", where, error)
            return None
        return dict(torch.load(BytesIO(state), map_location="cpu", weights_only=True))

    def offer(self, epoch: int, state: Callable[[], dict[str, Any]]) -> None:
        """Saves the state after an epoch, if it is time."""
        due = time.monotonic() - self.last >= _SECONDS if self.every is None else epoch % self.every == 0
        if due and self.writes:
            content = BytesIO()
            torch.save(state(), content)
            self.slot.save(sealed(content.getvalue(), self.of))
            self.last = time.monotonic()


def random_state() -> dict[str, Any]:
    """The state of torch's own random numbers, on the CPU and the current CUDA device."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Goes on from a `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
