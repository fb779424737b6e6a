"""The processes of a `torch.distributed` group: how those of torchrun meet, what each has, and how they agree."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")
# the others wait while the first does alone what cannot be shared
_PATIENCE = timedelta(days=7)


def in_group() -> bool:
    """Whether this process is one of a `torch.distributed` group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without a group."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if in_group() else (0, 1)


def gathered(mine: Value, group: Any = None) -> list[Value]:
    """What each process of a group has, in the order of their ranks; without a group, of this one."""
    if not in_group():
        return [mine]
    values: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(values, mine, group=group)
    return values


def agreed(value: Value) -> Value:
    """What the first process of a group has for a value; without a group the value itself.

    Example:
        >>> agreed("mine")
        'mine'
    """
    held = [value]
    if in_group():
        torch.distributed.broadcast_object_list(held, 0)
    return held[0]


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


@contextmanager
def joined() -> Iterator[None]:
    """A process that torchrun started is in a `torch.distributed` group meanwhile; any other is left alone.

    With CUDA each process takes the device of its local rank. A group that is there already is used, and left.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or in_group():
        yield
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
