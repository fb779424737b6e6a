"""The processes that torchrun starts: how they meet, and agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch

from sj_cka.cka.processes import in_group
from sj_cka.training.distributed import world

Value = TypeVar("Value")
# the others wait while the first does alone what cannot be shared
_PATIENCE = timedelta(days=7)


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


def agreed(value: Value) -> Value:
    """What the first process of a group has for a value; without a group the value itself.

    Example:
        >>> agreed("mine")
        'mine'
    """
    if world()[1] == 1:
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held, 0)
    return held[0]
