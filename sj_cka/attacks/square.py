"""The Square attack: random search with square windows of sign noise, without any gradient."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.checks import Bounds
from sj_cka.attacks.promise import promises
from sj_cka.attacks.victim import Victim, attacked, margin
from sj_cka.ranges import Range, clipped

# iterations out of 10,000 after which p is halved, as in the authors' code
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@promises("radius", norm="linf")
def square(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    queries: int = 1000,
    p_init: float = 0.05,
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    """The Square attack, L-inf (Andriushchenko et al. 2020, ECCV, algorithms 1 and 2).

    It starts with vertical stripes of +-eps, one sign for each channel and column. Then each query sets a random window
    of `side(...)` pixels to +-eps, one sign for each channel, and keeps it where the margin, the label's logit minus
    the best other one, gets strictly smaller. So every value is x +- eps, clipped to the bounds. Each image has windows
    of its own; one that is classified wrong is asked no more, and one that was from the start is returned as it is.

    Differences to the authors' code: the query that finds out whether an image is classified right counts; a window
    reaches the last row and column too; and where it would change nothing all its signs are flipped, instead of drawn
    again until it does. Frames have a sign for each step and channel, and one window for all steps.

    Args:
        net: from inputs in attack units to logits `[N, classes]`, e.g. `pixel_model(...)`; run in evaluation mode and
            left as it was.
        x: images `[N, C, H, W]`, or frames `[T, N, C, H, W]` where `net.sample_axis` is 1; floating point.
        y: labels `[N]`.
        eps: radius in units of x, from 0; 0 gives x itself, bit for bit.
        generator: what stripes and windows are drawn from, on the CPU; None for a new one, seeded 0. As much is drawn
            for images that are asked no more, so that no image changes another's windows.
        queries: forward passes of an image at most, from 2.
        p_init: share of the pixels in the first windows, above 0 and up to 1; halved at set times.
        bounds: smallest and largest value of an input, which is clipped to them; None for none.

    Returns:
        Inputs like x.

    Raises:
        ValueError: an argument out of range, or inputs that are no images.
    """
    limits = checks.limits(bounds)
    checks.whole("queries", queries, least=2)
    if checks.number("p_init", p_init, most=1.0) == 0:
        raise ValueError("expected p_init above 0, got 0")
    generator = checks.own(generator)
    with attacked(net, x, y, limits) as victim, torch.no_grad():
        if victim.x.ndim < 4:
            raise ValueError(f"expected images [N, C, H, W] or frames [T, N, C, H, W], got shape {tuple(x.shape)}")
        return victim.as_given(_searched(victim, eps, limits, generator, queries, p_init))


def _searched(
    victim: Victim, eps: float, limits: Range | None, generator: Generator, queries: int, p_init: float
) -> Tensor:
    """The images of the smallest margins that are found, `[N, ...]`."""
    x = victim.x
    H, W = x.shape[-2:]
    N, C = len(x), x[0].numel() // (H * W)

    def made(signs: Tensor, chosen: Tensor) -> Tensor:
        return clipped(x[chosen] + eps * signs.view(-1, *x.shape[1:]), limits)

    def margins(images: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = victim.logits(images), victim.y[chosen]
        return -margin(logits, labels), logits.argmax(1) == labels

    alive = margins(x, torch.arange(N, device=x.device))[1].nonzero().squeeze(1)
    best = x.clone()
    signs = _signs((N, C, 1, W), generator).to(x).expand(N, C, H, W).clone()
    smallest = x.new_full((N,), torch.inf)
    for i in range(queries - 1):
        if len(alive) == 0:
            break
        tried = signs[alive]
        if i > 0:
            windows, drawn = _windows(N, C, H, W, side(i - 1, queries, p_init, H, W), generator)
            windows, drawn = windows.to(x.device)[alive], drawn.to(x)[alive]
            tried = torch.where(windows, drawn, tried)
            same = made(tried, alive).eq(best[alive]).flatten(1).all(1).view(-1, 1, 1, 1)
            tried = torch.where(windows & same, -drawn, tried)
        images = made(tried, alive)
        values, right = margins(images, alive)
        better = values < smallest[alive]
        kept = alive[better]
        signs[kept], best[kept], smallest[kept] = tried[better], images[better], values[better]
        alive = alive[right | ~better]
    return best


def side(i: int, queries: int, p_init: float, H: int, W: int) -> int:
    """Side of the square window in pixels, of iteration i = 0, 1, ... of an attack with so many queries.

    It covers a share p of the pixels. p is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 iterations of
    10,000, at other numbers of queries in proportion.

    Example:
        >>> [side(i, 10_000, 0.05, 32, 32) for i in (0, 11, 51, 201)]
        [7, 5, 4, 3]
    """
    done = int(i / queries * 10_000)
    p = p_init / 2 ** sum(done > after for after in _HALVED_AFTER)
    return min(max(round(math.sqrt(p * H * W)), 1), H, W)


def _signs(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator) * 2 - 1


def _windows(N: int, C: int, H: int, W: int, s: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Which pixels are in the window of each image, [N, 1, H, W], and the signs of its channels, [N, C, 1, 1]."""
    top = torch.randint(H - s + 1, (N, 1), generator=generator)
    left = torch.randint(W - s + 1, (N, 1), generator=generator)
    rows, columns = torch.arange(H), torch.arange(W)
    inside_rows = (rows >= top) & (rows < top + s)
    inside_columns = (columns >= left) & (columns < left + s)
    window = inside_rows.view(N, 1, H, 1) & inside_columns.view(N, 1, 1, W)
    return window, _signs((N, C, 1, 1), generator)
