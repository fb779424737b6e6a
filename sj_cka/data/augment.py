"""Random changes of training images, each image its own, on the device where the images are.

All work on images as they are stored, `[N, C, H, W]` of any dtype, before normalising: what is shifted in is black, as
in the code of Li et al. 2023. Random numbers are drawn on the CPU, so that every device gives the same images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Augmentation = Callable[..., Tensor]


def crop(images: Tensor, generator: Generator, *, padding: int = 4) -> Tensor:
    """A window of the image's own size out of the image with a black border.

    Args:
        images: `[N, C, H, W]`.
        generator: what the windows are drawn from.
        padding: pixels of the border, from 1; the shift is uniform from -padding to padding along each axis.

    Raises:
        ValueError: padding below 1.

    Example:
        >>> crop(torch.ones(2, 1, 5, 4), torch.Generator().manual_seed(0), padding=1).shape
        torch.Size([2, 1, 5, 4])
    """
    if padding < 1:
        raise ValueError(f"expected padding from 1, in pixels, got {padding}")
    N, _, H, W = images.shape
    top, left = torch.randint(2 * padding + 1, (2, N, 1), generator=generator).to(images.device)
    padded = torch.nn.functional.pad(images, [padding] * 4)
    rows = top + torch.arange(H, device=images.device)
    columns = left + torch.arange(W, device=images.device)
    samples = torch.arange(N, device=images.device).view(N, 1, 1)
    # channels last while pixels are gathered, so that each index moves a whole pixel
    gathered = padded.permute(0, 2, 3, 1)[samples, rows.unsqueeze(2), columns.unsqueeze(1)]
    return gathered.permute(0, 3, 1, 2)


def flip(images: Tensor, generator: Generator, *, share: float = 0.5) -> Tensor:
    """Left and right exchanged, for a share of the images.

    Args:
        images: `[N, C, H, W]`.
        generator: what tells which images are flipped.
        share: probability of each image, 0 to 1.

    Raises:
        ValueError: a share outside 0 to 1.

    Example:
        >>> flip(torch.tensor([[[[1, 2, 3]]]]), torch.Generator(), share=1.0).flatten().tolist()
        [3, 2, 1]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected share, a probability from 0 to 1, got {share}")
    chosen = (torch.rand(len(images), generator=generator) < share).to(images.device)
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)


AUGMENTATIONS: dict[str, Augmentation] = {"crop": crop, "flip": flip}
