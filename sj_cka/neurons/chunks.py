"""Steps of neurons in memory: dense results like the input, and chunks of neurons that fit into a cache."""

import torch
from torch import Tensor

# Neurons per pass and thread: the half dozen buffers of a chunk stay in a second-level cache of 2 MiB, while torch's
# own 1 to 2 us a call stay small beside the work.
_CHUNK = 65_536


def is_channels_last(x: Tensor) -> bool:
    """Whether one step [N, C, H, W] lies in memory as [N, H, W, C]."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def empty_step(x: Tensor) -> Tensor:
    """Uninitialised [N, *] like x, dense."""
    return torch.empty_like(x, memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)


def empty_steps(T: int, x: Tensor) -> Tensor:
    """Uninitialised [T, N, *], dense, for T steps like x [N, *]."""
    return x.new_empty_strided((T, *x.shape), (x.numel(), *empty_step(x).stride()))


def flat(x_seq: Tensor, channels_last: bool) -> Tensor:
    """[T, N, *] -> [T, M], M neurons in the order of memory. A view, also of one expanded over T, where it exists."""
    if channels_last:
        x_seq = x_seq.movedim(2, -1)
    return x_seq.reshape(x_seq.shape[0], x_seq[0].numel())


def dense(x_seq: Tensor, channels_last: bool) -> Tensor:
    """As `flat`, but with steps that follow one another without gaps, or one for all (expanded over T)."""
    steps = flat(x_seq, channels_last)
    return steps if steps.is_contiguous() or steps.stride() == (0, 1) else steps.contiguous()


def shaped(steps: Tensor, x: Tensor) -> Tensor:
    """[T, M] or [M], as `flat` gives it -> [T, N, *] or [N, *], dense, for steps like x [N, *]."""
    if is_channels_last(x):
        return steps.unflatten(-1, x.movedim(1, -1).shape).movedim(-1, -3)
    return steps.reshape(*steps.shape[:-1], *x.shape)


def chunks(x_seq: Tensor, channels_last: bool) -> list[tuple[Tensor, ...]]:
    """[T, N, *] -> for each chunk of neurons its T steps. Views, also of a tensor expanded over T, where they exist."""
    steps = flat(x_seq, channels_last)
    size = _CHUNK * torch.get_num_threads()
    return [chunk.unbind(0) for chunk in (steps.split(size, 1) if steps.shape[1] > size else (steps,))]
