"""Random changes of training samples, each sample its own, on the device where the samples are.

All work on samples as they are stored, before they are prepared for a network: images `[N, C, H, W]` of any dtype,
where what is shifted in is black, as in the code of Li et al. 2023; or counts of events `[N, T, 2, H, W]`, whose frames
all change alike. Random numbers are drawn on the CPU, so that every device gives the same samples.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from sj_cka.data.samples import sent
from sj_cka.plugins import check_option

Augmentation = Callable[..., Tensor]


def crop(samples: Tensor, generator: Generator, *, padding: int = 4) -> Tensor:
    """A window of the sample's own size out of the sample with a black border.

    Args:
        samples: `[N, ..., H, W]`.
        generator: what the windows are drawn from.
        padding: pixels of the border, from 1; the shift is uniform from -padding to padding along each axis.

    Raises:
        ValueError: padding below 1, or samples without pixels.

    Example:
        >>> crop(torch.ones(2, 1, 5, 4), torch.Generator().manual_seed(0), padding=1).shape
        torch.Size([2, 1, 5, 4])
    """
    check_option(padding >= 1, "padding", "padding from 1, in pixels", padding)
    images = _as_images(samples)
    N, _, H, W = images.shape
    top, left = sent(torch.randint(2 * padding + 1, (2, N, 1), generator=generator), images.device)
    padded = torch.nn.functional.pad(images, [padding] * 4)
    rows = top + torch.arange(H, device=images.device)
    columns = left + torch.arange(W, device=images.device)
    return _gathered(padded, rows, columns).view(samples.shape)


def roll(samples: Tensor, generator: Generator, *, pixels: int = 5) -> Tensor:
    """A shift of the sample; what leaves it on one side comes in on the other.

    One of the augmentations of event data of Li et al. 2022, "Neuromorphic data augmentation for training spiking
    neural networks".

    Args:
        samples: `[N, ..., H, W]`.
        generator: what the shifts are drawn from.
        pixels: largest shift, from 1; it is uniform from -pixels to pixels along each axis.

    Raises:
        ValueError: pixels below 1, or samples without pixels.

    Example:
        >>> roll(torch.eye(3).view(1, 1, 3, 3), torch.Generator().manual_seed(0), pixels=1).sum().item()
        3.0
    """
    check_option(pixels >= 1, "pixels", "pixels, the largest shift, from 1", pixels)
    images = _as_images(samples)
    N, _, H, W = images.shape
    down, right = sent(torch.randint(-pixels, pixels + 1, (2, N, 1), generator=generator), images.device)
    rows = (torch.arange(H, device=images.device) - down) % H
    columns = (torch.arange(W, device=images.device) - right) % W
    return _gathered(images, rows, columns).view(samples.shape)


def flip(samples: Tensor, generator: Generator, *, share: float = 0.5) -> Tensor:
    """Left and right exchanged, for a share of the samples.

    Args:
        samples: `[N, ..., H, W]`.
        generator: what tells which samples are flipped.
        share: probability of each sample, 0 to 1.

    Raises:
        ValueError: a share outside 0 to 1, or samples without pixels.

    Example:
        >>> flip(torch.tensor([[[[1, 2, 3]]]]), torch.Generator(), share=1.0).flatten().tolist()
        [3, 2, 1]
    """
    _check_share(share)
    images = _as_images(samples)
    chosen = sent(torch.rand(len(images), generator=generator) < share, images.device)
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images).view(samples.shape)


def cutout(samples: Tensor, generator: Generator, *, size: int = 8) -> Tensor:
    """A square of the sample set to zero, part of which may lie outside of it (DeVries & Taylor 2017, "Cutout").

    Args:
        samples: `[N, ..., H, W]`.
        generator: what the places are drawn from; the centre is uniform over the pixels.
        size: pixels a side, from 1.

    Raises:
        ValueError: size below 1, or samples without pixels.

    Example:
        >>> cutout(torch.ones(1, 1, 9, 9), torch.Generator().manual_seed(1), size=1).sum().item()
        80.0
    """
    check_option(size >= 1, "size", "size, pixels a side, from 1", size)
    images = _as_images(samples)
    N, _, H, W = images.shape
    inside = []
    for length in (H, W):
        start = sent(torch.randint(length, (N, 1), generator=generator), images.device) - size // 2
        at = torch.arange(length, device=images.device)
        inside.append((at >= start) & (at < start + size))
    rows, columns = inside
    return images.masked_fill(rows.view(N, 1, H, 1) & columns.view(N, 1, 1, W), 0).view(samples.shape)


def drop_events(samples: Tensor, generator: Generator, *, share: float = 0.25) -> Tensor:
    """Events lost at random, each by itself (the random drop of Gu et al. 2021, "EventDrop").

    Args:
        samples: counts of events `[N, T, 2, H, W]`, or of spikes `[N, T, D]`.
        generator: what tells which are lost.
        share: probability of each event to be lost, 0 to 1.

    Raises:
        ValueError: a share outside 0 to 1, or samples that are no counts of events.

    Example:
        >>> drop_events(torch.full((1, 1, 2, 1, 1), 9), torch.Generator(), share=1.0).flatten().tolist()
        [0, 0]
    """
    _check_share(share)
    if samples.ndim not in (3, 5) or samples.is_floating_point():
        raise ValueError(
            f"expected counts of events [N, T, 2, H, W] or [N, T, D] in whole numbers, got {samples.dtype} "
            f"{list(samples.shape)}; images have no events to drop"
        )
    kept = samples.clone(memory_format=torch.contiguous_format)
    flat = kept.view(-1)
    [there] = flat.nonzero(as_tuple=True)
    counts = flat[there].to("cpu", torch.float32)
    flat[there] = torch.binomial(counts, torch.full_like(counts, 1 - share), generator=generator).to(flat)
    return kept


AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": crop,
    "roll": roll,
    "flip": flip,
    "cutout": cutout,
    "drop_events": drop_events,
}


def _as_images(samples: Tensor) -> Tensor:
    """Samples as `[N, channels of all frames, H, W]`."""
    if samples.ndim < 4:
        raise ValueError(f"expected samples with pixels, [N, ..., H, W], got {list(samples.shape)}")
    return samples.flatten(1, -3)


def _gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of images `[N, C, ...]` at rows `[N, H]` and columns `[N, W]` of their own."""
    samples = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    # channels last while pixels are gathered, so that each index moves a whole pixel
    gathered = images.permute(0, 2, 3, 1)[samples, rows.unsqueeze(2), columns.unsqueeze(1)]
    return gathered.permute(0, 3, 1, 2).contiguous()


def _check_share(share: float) -> None:
    check_option(0 <= share <= 1, "share", "share, a probability from 0 to 1", share)
