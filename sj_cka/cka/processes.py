"""Several processes that compare their shares of the batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def in_group() -> bool:
    """Whether this process is one of a `torch.distributed` group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def together() -> Iterator[None]:
    """Ends the work of all processes of a group where one fails, so that none waits for it for ever.

    Raises:
        RuntimeError: in the processes that did not fail themselves, with the rank and the words of the one that did.
    """
    try:
        yield
    except Exception as error:
        _failures(f"{type(error).__name__}: {error}")
        raise
    for rank, failure in enumerate(_failures("")):
        if failure:
            raise RuntimeError(f"the comparison ended because process {rank} failed: {failure}")


def _failures(own: str) -> list[str]:
    """What ended each process, '' for one that did its share."""
    if not in_group():
        return []
    found: list[str] = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return found
