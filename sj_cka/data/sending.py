"""Small tensors on their way to a device that must not be waited for."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the CPU to CUDA without waiting for what runs there, through pinned memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@functools.cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers `[len(values)]` on a device, made once; nothing may write to them."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype).to(device)
