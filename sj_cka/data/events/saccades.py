"""A simulated event camera that moves over still images in three straight saccades.

It stands in for a recording, which it is not: pixels without latency, bandwidth or dead time, a picture without screen
flicker. What it shares with N-MNIST (Orchard et al. 2015, "Converting static image datasets to spiking neuromorphic
datasets using saccades") is the way of recording: three saccades of 100 ms along the sides of a triangle.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from sj_cka.data.events.binning import SplitBy, bin_events
from sj_cka.data.images import digit_arrays, first_of
from sj_cka.data.photographs import CONTRAST, photos
from sj_cka.data.samples import Frames, fingerprint
from sj_cka.plugins import check_option

_SACCADE_US, _STEPS = 100_000, 34  # time of a saccade, and at how many moments of it the pixels are looked at
_TRIANGLE = ((0.0, -1.0), (0.8, 0.6), (-0.8, 0.6))  # corners (x, y), in amplitudes
_AMPLITUDE = 0.1  # of the side of the sensor
_FILLS = 0.7  # of the side of the sensor, the image
_DARK = 0.1  # added to the brightness, 0 to 1, before the logarithm
_THRESHOLD, _MISMATCH = 0.4, 0.03  # change of log brightness that makes an event, and its deviation among pixels
_NOISE_HZ = 0.3  # events of a pixel that nothing caused
_SIMULATED = "The recordings are simulated: what a moving event camera would see of still images, not a recording."


class EventArrays(NamedTuple):
    """A recording: integer arrays `[N]` of microseconds, columns, rows and polarities, in order of time."""

    t_us: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray


def saccades(
    images: Tensor, *, size: Sequence[int] = (34, 34), seed: int = 0, batch_size: int = 64
) -> Iterator[EventArrays]:
    """What an event camera would see of still images in 300 ms, one recording an image.

    The camera moves along a triangle, and with it the image over the sensor, bilinear between pixels. A pixel has an ON
    (OFF) event wherever the logarithm of its brightness rose (fell) by a threshold since the pixel's last event; what
    is left of a change stays. Times lie between two moments that are looked at by linear interpolation. Thresholds
    differ a little among pixels, and some events come from nothing.

    Args:
        images: brightness `[N, 1, H, W]`, from 0 to 1; dark around the image.
        size: rows and columns of the sensor, each from 8; the image fills seven tenths of either.
        seed: of thresholds and noise.
        batch_size: images at once.

    Raises:
        ValueError: images of another shape or brightness, or a smaller sensor.
    """
    if images.ndim != 4 or images.shape[1] != 1 or not (0 <= float(images.min()) and float(images.max()) <= 1):
        raise ValueError(f"expected images [N, 1, H, W] from 0 to 1, got {list(images.shape)}")
    fits = len(size) == 2 and min(size) >= 8
    check_option(fits, "size", "size, rows and columns of the sensor, each from 8", list(size))
    generator = Generator().manual_seed(seed)
    for batch in images.to(torch.float32).split(batch_size):
        yield from _recorded(batch, int(size[0]), int(size[1]), generator)


def digits_dvs(
    T: int = 10,
    split_by: SplitBy = "number",
    size: Sequence[int] = (34, 34),
    train: int | None = None,
    seed: int = 0,
) -> Frames:
    """The digits of `sj_cka.data.digits` as a simulated event camera sees them: see `saccades`.

    The same samples in the same order and splits.

    Args:
        T: frames of a recording, from 1.
        split_by: frames of equal numbers of events, or of equal "time"; see `bin_events`.
        size: rows and columns of the sensor, from 8.
        train: the first so many of the training split, from 10; None for all.
        seed: of thresholds and noise.

    Raises:
        OptionError: an option out of range.
    """
    x_train, y_train, x_test, y_test = first_of(digit_arrays(), train)
    images = (torch.from_numpy(x) for x in (x_train, x_test))
    labels = (torch.from_numpy(y.astype(np.int64)) for y in (y_train, y_test))
    return _seen(images, labels, 10, (), T, split_by, size, seed)


def photos_dvs(
    T: int = 10, split_by: SplitBy = "number", size: Sequence[int] = (24, 24), samples: int = 320, seed: int = 0
) -> Frames:
    """The patches of `sj_cka.data.photos` as a simulated event camera sees them: see `saccades`.

    The same samples in the same order and splits, patches of 16 x 16 pixels. Their mean is grey, half of full
    brightness, and a standard deviation of a patch a fifth of it; what is beyond black and white is cut off.

    Args:
        T: frames of a recording, from 1.
        split_by: frames of equal numbers of events, or of equal "time"; see `bin_events`.
        size: rows and columns of the sensor, from 8.
        samples: training patches a class, 8 to 1,000; a quarter of it for testing.
        seed: of thresholds and noise; patches are those of `photos()`.

    Raises:
        OptionError: an option out of range.
        DataError: a picture is not there, or another one than it was.
    """
    data = photos(samples=samples)
    images = ((0.5 + data.as_input(x) / (2 * CONTRAST)).clamp(0, 1) for x in (data.x_train, data.x_test))
    return _seen(images, (data.y_train, data.y_test), data.classes, data.remarks, T, split_by, size, seed)


def _seen(
    images: Iterable[Tensor],
    labels: Iterable[Tensor],
    classes: int,
    remarks: tuple[str, ...],
    T: int,
    split_by: SplitBy,
    size: Sequence[int],
    seed: int,
) -> Frames:
    """Recordings of images, first those for training, then those for testing, binned to frames."""
    frames = []
    # a split has its own noise, so that fewer training samples leave the test split as it is
    for x, own in zip(images, (2 * seed, 2 * seed + 1), strict=True):
        recordings = saccades(x, size=size, seed=own)
        binned = [bin_events(*events, T=T, H=size[0], W=size[1], split_by=split_by) for events in recordings]
        frames.append(torch.stack(binned).to(torch.int16))
    y_train, y_test = labels
    arrays: dict[str, Any] = {"x_train": frames[0], "y_train": y_train, "x_test": frames[1], "y_test": y_test}
    return Frames(
        **arrays,
        classes=classes,
        fingerprint=fingerprint(array.numpy() for array in arrays.values()),
        remarks=(_SIMULATED, *remarks),
    )


def _recorded(images: Tensor, H: int, W: int, generator: Generator) -> Iterator[EventArrays]:
    N, pixels = len(images), H * W
    threshold = _THRESHOLD * (1 + _MISMATCH * torch.randn(N, pixels, generator=generator)).clamp(min=0.5)
    places = _places()
    moment_us = 3 * _SACCADE_US / (len(places) - 1)
    seen = _log_brightness(images, places[0], H, W)
    last = seen.clone()  # log brightness at a pixel's last event
    found: list[tuple[Tensor, ...]] = []  # sample, pixel, time, polarity of some events
    for moment, place in enumerate(places[1:]):
        now = _log_brightness(images, place, H, W)
        count = ((now - last) / threshold).trunc()
        sample, pixel = count.nonzero(as_tuple=True)
        signed = count[sample, pixel]
        each = signed.abs().long()
        before, after = seen[sample, pixel], now[sample, pixel]
        start, step = last[sample, pixel], threshold[sample, pixel] * signed.sign()
        # the k-th threshold after the last event is crossed somewhere on the way from `before` to `after`
        which = torch.arange(len(each)).repeat_interleave(each)
        k = torch.arange(len(which)) - (each.cumsum(0) - each)[which] + 1
        level = start[which] + k * step[which]
        share = ((level - before[which]) / (after - before)[which]).clamp(0, 1)
        time = ((moment + share.double()) * moment_us).long().clamp(max=3 * _SACCADE_US - 1)
        found.append((sample[which], pixel[which], time, (signed > 0)[which].long()))
        last = last + count * threshold
        seen = now
    found.append(_noise(N, pixels, generator))
    sample, pixel, time, polarity = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = torch.from_numpy(np.lexsort((polarity.numpy(), pixel.numpy(), time.numpy(), sample.numpy())))
    ends = torch.bincount(sample, minlength=N).cumsum(0).tolist()
    for begin, end in zip([0, *ends], ends, strict=False):
        own = order[begin:end]
        place = pixel[own].numpy()
        yield EventArrays(time[own].numpy(), place % W, place // W, polarity[own].numpy())


def _places() -> Tensor:
    """Where the camera looks, moment by moment: (x, y) in amplitudes along the triangle, `[moments, 2]`."""
    corners = torch.tensor([*_TRIANGLE, _TRIANGLE[0]])
    share = torch.arange(_STEPS).view(-1, 1) / _STEPS
    sides = [a + share * (b - a) for a, b in pairwise(corners)]
    return torch.cat([*sides, corners[:1]])


def _log_brightness(images: Tensor, place: Tensor, H: int, W: int) -> Tensor:
    """Logarithm of the brightness at every pixel of the sensor `[N, H * W]`, the camera looking at a place."""
    x, y = place.tolist()
    # grid_sample's coordinates go from -1 to 1 over the image; those of the sensor go over more
    rows = ((2 * torch.arange(H) + 1) / H - 1 + 2 * _AMPLITUDE * y) / _FILLS
    columns = ((2 * torch.arange(W) + 1) / W - 1 + 2 * _AMPLITUDE * x) / _FILLS
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).expand(len(images), H, W, 2)
    seen = torch.nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (seen + _DARK).log().flatten(1)


def _noise(N: int, pixels: int, generator: Generator) -> tuple[Tensor, ...]:
    """Events from nothing: sample, pixel, time and polarity."""
    rate = torch.full((N, pixels), _NOISE_HZ * 3 * _SACCADE_US / 1e6)
    count = torch.poisson(rate, generator=generator).long()
    sample, pixel = count.nonzero(as_tuple=True)
    each = count[sample, pixel]
    sample, pixel = sample.repeat_interleave(each), pixel.repeat_interleave(each)
    time = torch.randint(3 * _SACCADE_US, (len(sample),), generator=generator)
    return sample, pixel, time, torch.randint(2, (len(sample),), generator=generator)
