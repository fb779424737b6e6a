"""Several processes that compare their shares of the batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


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
        gathered(f"{type(error).__name__}: {error}")  # what ended each process, '' for one that did its share
        raise
    for rank, failure in enumerate(gathered("")):
        if failure:
            raise RuntimeError(f"the comparison ended because process {rank} failed: {failure}")


def gathered(mine: Value, group: Any = None) -> list[Value]:
    """What each process of a group has, in the order of their ranks; without a group, of this one."""
    if not in_group():
        return [mine]
    values: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(values, mine, group=group)
    return values
