"""A CUDA graph without a GPU: the operations of a call, written down and done again on the same memory.

As in a graph, tensors are taken where they lie, and every number is the one of the recording.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Tape(TorchDispatchMode):
    """Inside the `with` operations are recorded; `replay()` does them again."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    @property
    def names(self) -> list[str]:
        return [str(func) for func, *_ in self.operations]

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            given = {leaf.data_ptr() for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(out), pytree.tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() not in given and not _is_view(func):
                    old.copy_(new)


def _is_view(func: Any) -> bool:
    return any(result.alias_info is not None for result in func._schema.returns)
