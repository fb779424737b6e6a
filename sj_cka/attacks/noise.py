"""Noise on images and counts of events, as a floor for attacks: neither the network nor the label is looked at."""

import torch
from torch import Generator, Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.promise import promises
from sj_cka.attacks.victim import sample_axis
from sj_cka.ranges import clipped


@promises("size")
def gaussian(
    net: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    bounds: checks.Bounds = (0.0, 1.0),
) -> Tensor:
    """Normal noise: x + eps n, n of variance 1, clipped to the bounds.

    Its L2 norm before clipping is eps sqrt(D) in expectation for D values a sample, that of an L-inf attack that uses
    its eps everywhere. The same generator gives the same n for every eps.

    Args:
        net: tells on which axis the samples lie; not run.
        x: inputs, floating point, any shape.
        y: labels `[N]`; not used.
        eps: standard deviation in units of x, from 0.
        generator: what the noise is drawn from, on the CPU; None for a new one, seeded 0.
        bounds: smallest and largest value of an input, which is clipped to them; None for none.

    Returns:
        Inputs like x.

    Raises:
        ValueError: an argument out of range.
    """
    noise = torch.randn(x.shape, generator=checks.own(generator)).to(x)
    return clipped(x.detach() + eps * noise, checks.limits(bounds))


@promises("radius", norm="linf")
def uniform(
    net: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    bounds: checks.Bounds = (0.0, 1.0),
) -> Tensor:
    """Uniform noise: x + u, each u from -eps to eps, clipped to the bounds; a random point of the L-inf ball.

    Its L2 norm before clipping is eps sqrt(D / 3) in expectation. Arguments: see `gaussian`.

    Args:
        eps: largest change of a value in units of x, from 0.

    Raises:
        ValueError: an argument out of range.
    """
    noise = torch.rand(x.shape, generator=checks.own(generator)).mul_(2).sub_(1).to(x)
    return clipped(x.detach() + eps * noise, checks.limits(bounds))


@promises("share", eps_max=1.0)
def salt_and_pepper(
    net: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    bounds: checks.Bounds = (0.0, 1.0),
) -> Tensor:
    """Some pixels become the smallest value in all channels, as many others the largest.

    The pixels that change at one eps change at every larger one, for the same generator. Arguments: see `gaussian`.

    Args:
        x: with four axes or more the third from the end is the channels, and a pixel is all of them; with fewer, each
            value is a pixel.
        eps: share of the pixels, the probability of each, 0 to 1.
        bounds: pepper and salt; has to be given.

    Raises:
        ValueError: an argument out of range.
    """
    limits = checks.limits(bounds)
    checks.continuous(x, limits)
    if limits is None:
        raise ValueError("expected bounds (low, high), the values of pepper and salt, got None")
    shape = [1 if x.ndim >= 4 and axis == x.ndim - 3 else size for axis, size in enumerate(x.shape)]
    drawn = torch.rand(shape, generator=checks.own(generator)).to(x.device)
    low, high = (torch.full_like(x, value) for value in limits)
    return torch.where(drawn < eps / 2, low, torch.where(drawn >= 1 - eps / 2, high, x.detach()))


@promises("share", eps_max=1.0)
def drop_events(
    net: nn.Module | None, x: Tensor, y: Tensor, *, eps: float, generator: Generator | None = None
) -> Tensor:
    """Every event gets lost with the same probability: a count n becomes binomial, n trials of probability 1 - eps.

    Args:
        net: tells on which axis the samples lie; not run.
        x: counts of events, `[T, N, 2, H, W]` or any other shape; whole numbers from 0, of any dtype.
        y: labels `[N]`; not used.
        eps: probability that an event gets lost, 0 to 1.
        generator: what is drawn from, on the CPU; None for a new one, seeded 0.

    Returns:
        Counts like x, none larger.

    Raises:
        ValueError: an argument out of range, or values that are no counts.
    """
    _check_counts(x)
    generator = checks.own(generator)
    counts = x.detach().to("cpu", torch.float64)
    return torch.binomial(counts, torch.full_like(counts, 1 - eps), generator=generator).to(x)


@promises("share")
def add_events(
    net: nn.Module | None, x: Tensor, y: Tensor, *, eps: float, generator: Generator | None = None
) -> Tensor:
    """Events that nothing caused: round(eps n) of them in a sample of n events, each at a place drawn uniformly.

    A place is one of all values of a sample: step, polarity and pixel. Arguments: see `drop_events`.

    Args:
        eps: added events as a share of those that are there, from 0; 1 doubles their number.

    Returns:
        Counts like x, none smaller.

    Raises:
        ValueError: an argument out of range, values that are no counts, or counts that the dtype of x cannot hold.
    """
    axis = sample_axis(net)
    _check_counts(x)
    generator = checks.own(generator)
    counts = x.detach().to("cpu", torch.float64).movedim(axis, 0)
    flat = counts.flatten(1).clone()
    more = (eps * flat.sum(1)).round().long()
    places = torch.randint(flat.shape[1], (len(flat), int(more.max())), generator=generator)
    added = torch.arange(places.shape[1]) < more.unsqueeze(1)
    flat.scatter_add_(1, places, added.to(flat.dtype))
    most = float("inf") if x.is_floating_point() else torch.iinfo(x.dtype).max
    if float(flat.max()) > most:
        raise ValueError(f"expected x of a dtype that holds counts up to {int(flat.max())}, got {x.dtype}")
    return flat.view(counts.shape).movedim(0, axis).contiguous().to(x)


def _check_counts(x: Tensor) -> None:
    if x.dtype == torch.bool or x.is_complex():
        raise ValueError(f"expected counts of events, whole or floating-point numbers, got {x.dtype}")
    if not bool(((x >= 0) & (x == x.round()) & x.isfinite() if x.is_floating_point() else x >= 0).all()):
        raise ValueError(
            "expected counts of events, whole numbers from 0 (give frames before they are normalised), got values from "
            f"{float(x.min()):g} to {float(x.max()):g}"
        )
