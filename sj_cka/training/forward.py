"""How the forward pass runs: in which layout in memory, in which precision, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sj_cka.training.settings import Settings

# sides of images from which channels-last convolutions are the faster ones on the CPU: benchmarks/training.py
_CHANNELS_LAST_FROM = 16


def channels_last(settings: Settings, image: Tensor, device: torch.device) -> bool:
    """Whether images and convolutions lie in memory channel by channel of a pixel, which "auto" takes where it pays.

    That is on CUDA, and on the CPU from 16 pixels a side.

    Args:
        image: one as the network is given it, `[C, H, W]` if it is one.
    """
    if settings.layout != "auto" or image.ndim != 3:
        return settings.layout == "channels_last"
    return device.type == "cuda" or min(image.shape[-2:]) >= _CHANNELS_LAST_FROM


@contextmanager
def in_layout(network: nn.Module, settings: Settings, device: torch.device) -> Iterator[Callable[[Tensor], Tensor]]:
    """Lays the network out in memory as settings say, and back at the end; yields what does so with images."""
    chosen: list[bool] = []

    def as_laid_out(x: Tensor) -> Tensor:
        if not chosen:
            chosen.append(channels_last(settings, x[0, 0] if x.ndim == 5 else x[0], device))
            if chosen[0]:
                _lay_out(network, torch.channels_last)
        if not chosen[0] or x.ndim not in (4, 5):
            return x
        images = x.flatten(0, 1) if x.ndim == 5 else x  # frames of recordings
        return images.contiguous(memory_format=torch.channels_last).view(x.shape)

    try:
        yield as_laid_out
    finally:
        if chosen and chosen[0]:
            _lay_out(network, torch.contiguous_format)


def _lay_out(network: Any, layout: torch.memory_format) -> None:
    network.to(memory_format=layout)


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of the forward pass."""
    dtype = settings.autocast_dtype(device)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def check_precision(network: nn.Module, settings: Settings, device: torch.device) -> None:
    """Raises ValueError where the network's neurons cannot compute in the settings' precision."""
    if settings.autocast_dtype(device) == torch.bfloat16 and device.type == "cuda":
        named = [name for name, module in network.named_modules() if getattr(module, "backend", None) == "cupy"]
        if named:
            raise ValueError(
                f"expected precision fp16 or float32, since the CuPy kernels of {named[0]!r} know no bf16; for bf16 "
                'take another backend of the neurons, e.g. "triton"'
            )


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network's forward, compiled at its first call."""
    optimised: Any = torch.compile(network)

    def forward(x: Tensor) -> Tensor:
        try:
            logits: Tensor = optimised(x)
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).strip().splitlines()[0]
                raise RuntimeError(
                    f"train.compile: torch.compile cannot compile {type(network).__name__} here ({reason}): leave it "
                    "out"
                ) from error
            raise
        return logits

    return forward
