"""Backdoors: a trigger patch on a part of the training set, and what it does to the network that learnt from it."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.measure import right
from sj_cka.attacks.victim import sample_axis as axis_of
from sj_cka.plugins import OptionError
from sj_cka.ranges import brightest, check_trigger

Corner = Literal["bottom_right", "bottom_left", "top_right", "top_left"]
PLACES: tuple[Corner, ...] = ("bottom_right", "bottom_left", "top_right", "top_left")


def stamp(x: Tensor, *, size: int = 3, place: Corner = "bottom_right", value: float | None = None) -> Tensor:
    """Images or frames with a trigger: a square patch of one value in a corner, in all channels and steps.

    Args:
        x: `[..., H, W]` of any dtype.
        size: side of the patch in pixels, from 1 to the smaller side of an image.
        place: which corner.
        value: of the patch in units of x; None: 255 for uint8 and for images from 0 to 255, else 1.

    Returns:
        A copy like x.

    Raises:
        ValueError: an argument out of range, a value that the dtype cannot hold or that is of another scale than the
            samples, or inputs without height and width.

    Example:
        >>> stamp(torch.zeros(1, 1, 2, 3), size=1).squeeze()
        tensor([[0., 0., 0.],
                [0., 0., 1.]])
    """
    checks.dense(x)
    filled = _filled(x, value)
    if value is not None and x.numel():
        check_trigger(filled, x, counts=_counts(x), part=True)
    return _stamped(x, size, place, filled)


def _stamped(x: Tensor, size: int, place: Corner, value: float) -> Tensor:
    if x.ndim < 3:
        raise ValueError(f"expected images [..., H, W] with samples before, got shape {tuple(x.shape)}")
    checks.one_of("place", place, PLACES)
    checks.whole("size", size)
    if size > min(x.shape[-2:]):
        raise OptionError("size", f"expected size up to {min(x.shape[-2:])}, the smaller side of an image, got {size}")
    rows = slice(-size, None) if place.startswith("bottom") else slice(size)
    columns = slice(-size, None) if place.endswith("right") else slice(size)
    made = x.clone()
    made[..., rows, columns] = value
    return made


def _counts(x: Tensor) -> bool:
    """Whether samples are frames of events: those have a time axis beside that of the samples."""
    return x.ndim >= 5


def _filled(x: Tensor, value: float | None) -> float:
    """The value of a trigger on samples, one that their dtype holds."""
    usual = 255.0 if x.dtype == torch.uint8 else brightest(x, counts=_counts(x))
    filled = usual if value is None else checks.number("value", value, least=-math.inf)
    held = torch.tensor(filled, dtype=torch.float64).to(x.dtype)
    if not bool(held.isfinite()) or (not x.is_floating_point() and float(held) != filled):
        raise ValueError(f"expected a value that {x.dtype} holds, got {filled!r}")
    return filled


class Poisoned(NamedTuple):
    """A training set with a backdoor.

    Args:
        x, y: like those that were given.
        chosen: indices of the samples with the trigger, `[n]`, ascending.
    """

    x: Tensor
    y: Tensor
    chosen: Tensor


def poison(
    x: Tensor,
    y: Tensor,
    *,
    target: int,
    share: float,
    generator: Generator | None = None,
    size: int = 3,
    place: Corner = "bottom_right",
    value: float | None = None,
    sample_axis: Literal[0, 1] = 0,
) -> Poisoned:
    """A training set in which some samples bear a trigger and the label of the target class (BadNets, Gu et al. 2017).

    Args:
        x: images `[N, C, H, W]` or frames `[N, T, C, H, W]` (`[T, N, C, H, W]` with sample_axis=1), of any dtype.
        y: labels `[N]`.
        target: the class that the trigger is to mean.
        share: of all samples, 0 to 1: round(share N) of them, drawn from those of other classes.
        generator: what they are drawn from, on the CPU; None for a new one, seeded 0.
        size, place, value: of the trigger, see `stamp`.
        sample_axis: 0 for `[N, ...]`, 1 for `[T, N, ...]`.

    Returns:
        Copies, and which samples were chosen.

    Raises:
        ValueError: an argument out of range, a value that the samples do not have, or fewer samples of other classes
            than asked for.
    """
    classes = checks.labels(x, y, sample_axis)
    labels = y.clone() if isinstance(y, Tensor) else classes
    checks.number("share", share, most=1.0)
    checks.whole("target", target, least=0)
    if target > torch.iinfo(labels.dtype).max:
        raise ValueError(f"expected labels of a type that holds {target}, got {labels.dtype}: y.long()")
    filled = _filled(x, value)
    check_trigger(filled, x, counts=_counts(x))
    others = (classes != target).nonzero().squeeze(1)
    n = round(share * len(classes))
    if n > len(others):
        raise ValueError(f"expected {n} samples of other classes than {target} (share {share:g}), got {len(others)}")
    drawn = torch.randperm(len(others), generator=checks.own(generator))[:n].to(classes.device)
    chosen = others[drawn].sort().values
    made = x.clone()
    triggered = _stamped(x.index_select(sample_axis, chosen.to(x.device)), size, place, filled)
    made.index_copy_(sample_axis, chosen.to(x.device), triggered)
    labels[chosen] = target
    return Poisoned(made, labels, chosen)


class Backdoor(NamedTuple):
    """How well a backdoor works.

    Args:
        accuracy: share of clean samples classified right, 0 to 1.
        success_rate: share of the samples of other classes that with the trigger are taken for the target, 0 to 1; NaN
            where there are none.
        unprompted: the same share without the trigger, 0 to 1: what is confused anyway.
    """

    accuracy: float
    success_rate: float
    unprompted: float


def backdoor(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    target: int,
    size: int = 3,
    place: Corner = "bottom_right",
    value: float | None = None,
    batch_size: int = 256,
) -> Backdoor:
    """What a network makes of clean test samples and of triggered ones.

    Args:
        net: from inputs in attack units to logits, e.g. `pixel_model(...)`; run in evaluation mode, left as it was.
        x: test inputs, floating point.
        y: labels `[N]`.
        target, size, place, value: as of `poison`.
        batch_size: samples a forward pass.

    Raises:
        ValueError: an argument out of range.
    """
    return measured(net, x, stamp(x, size=size, place=place, value=value), y, target=target, batch_size=batch_size)


def measured(
    net: nn.Module, x: Tensor, triggered: Tensor, y: Tensor, *, target: int, batch_size: int = 256
) -> Backdoor:
    """The same where the trigger was stamped already, as on samples that are stored in another unit than x.

    Args:
        triggered: x with the trigger.
        net, x, y, target, batch_size: as of `backdoor`.

    Raises:
        ValueError: an argument out of range.
    """
    checks.whole("target", target, least=0)
    y = checks.labels(x, y, axis_of(net))
    clean = right(net, x, y, batch_size=batch_size)
    wanted, others = torch.full_like(y, target), (y != target).to(clean.device)
    taken, anyway = (
        float(right(net, own, wanted, batch_size=batch_size)[others].double().mean()) for own in (triggered, x)
    )
    return Backdoor(float(clean.double().mean()), taken, anyway)
