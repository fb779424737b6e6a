"""What a study learns from: labelled samples in two splits, real or imagined, and how a network is given them."""

import functools
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sj_cka.ranges import UNIT, brightest, scale_of

IMAGINED = "imagined"  # in place of a fingerprint


class DataError(ValueError):
    """A data file that is missing or does not hold what is needed."""


class AbsentData(DataError):
    """A set of which nothing is there, not even a part: a plan can do without it."""


def data_root(title: str, root: Path | None) -> Path:
    """The data root, with ~ written out.

    Args:
        title: of the set, for the error.
        root: as given; None stands for the environment variable SJ_CKA_DATA.

    Raises:
        DataError: neither names a folder.
    """
    given = root if root is not None else os.environ.get("SJ_CKA_DATA")
    if not given:
        raise AbsentData(
            f"{title}: expected a folder of data sets, got none; give data.root in the recipe (on the command "
            "line --set data.root=FOLDER) or set the environment variable SJ_CKA_DATA"
        )
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise DataError(f"{title}: expected a data root, got {given}: {error}; write the folder out") from error


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """A training and a test split, as they are stored: see `Images` and `Frames`.

    Args:
        x_train, x_test: `[N, ...]`.
        y_train, y_test: int64 `[N]`, from 0 to classes - 1.
        classes: number of classes.
        fingerprint: hash of the arrays.
        remarks: what a reader of results must know about how the samples were come by; whole sentences.
        held_out: what the test split holds, file by file, where it is no published split; else empty.
        eps_note: what an eps is beside these samples, where its unit alone does not tell; a whole sentence.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    fingerprint: str
    remarks: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    eps_note: str = ""
    called: ClassVar[str]  # what people call them
    channel_axis: ClassVar[int]  # of stored samples

    @property
    def channels(self) -> int:
        """Number of channels C that a network is given; of vectors, their length."""
        return int(self.x_train.shape[self.channel_axis])

    @property
    def T(self) -> int | None:  # noqa: N802
        """Number of time steps that a sample has of its own; None for what does not change in time."""
        return None

    @functools.cached_property
    def brightest(self) -> float:
        """The value of a backdoor's trigger by default, in the unit that samples are stored in."""
        return brightest(self.x_train, counts=self.T is not None)

    @property
    def layout(self) -> Literal["TNCHW"] | None:
        """Layout of what `as_input` gives, for `sj_cka.compare`; None for samples first."""
        return None if self.T is None else "TNCHW"

    def as_input(self, x: Tensor) -> Tensor:
        """Samples as a network is given them, float32, on the device of x.

        Args:
            x: samples `[N, ...]` as they are stored.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Images(Samples):
    """Static images: an image takes a byte a pixel until a network sees it.

    Args:
        x_train, x_test: `[N, C, H, W]`; uint8, whose 0 to 255 stand for 0 to 1, or float32.
        mean, std: of each channel; what `as_input` takes out.
        contrast: where input codings cut off what `as_input` gives, (darkest, brightest); None for `input_range`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    contrast: tuple[float, float] | None = None
    called: ClassVar[str] = "images"
    channel_axis: ClassVar[int] = 1

    @functools.cached_property
    def input_range(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What `as_input` makes of the darkest and of the brightest value that pixels may have, for each channel.

        These are 0 and 255 of bytes, of other images the scale that the training split is of, see
        `sj_cka.ranges.scale_of` (0 to 1 where it tells none).
        """
        scale = UNIT if self.x_train.dtype == torch.uint8 else scale_of(self.x_train) or UNIT
        low, high = (tuple((end - mean) / std for mean, std in zip(self.mean, self.std, strict=True)) for end in scale)
        return low, high

    @property
    def coded_range(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and the highest input that codings as spikes tell apart, for each channel."""
        if self.contrast is None:
            return self.input_range
        low, high = ((end,) * self.channels for end in self.contrast)
        return low, high

    def as_input(self, x: Tensor) -> Tensor:
        """Images `[N, C, H, W]`: (x - mean) / std, float32.

        Args:
            x: images as they are stored.
        """
        if x.dtype == torch.uint8:
            mean, std = (constant(v, torch.float32, x.device).mul(255).view(-1, 1, 1) for v in (self.mean, self.std))
            return x.to(torch.float32).sub_(mean).div_(std)
        mean, std = (constant(v, torch.float64, x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return ((x - mean) / std).to(torch.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class Frames(Samples):
    """Counts of events; on disk, if they are many: only what is indexed comes into memory.

    Args:
        x_train, x_test: counts `[N, T, 2, H, W]`, channel 0 OFF and 1 ON, or `[N, T, D]` of spikes of D units; of an
            integer type, often memory-mapped.
    """

    called: ClassVar[str] = "recordings"
    channel_axis: ClassVar[int] = 2

    @property
    def T(self) -> int:  # noqa: N802
        return int(self.x_train.shape[1])

    def as_input(self, x: Tensor) -> Tensor:
        """Frames `[T, N, 2, H, W]`, or spikes `[T, N, D]`: counts as they are, float32.

        Args:
            x: counts as they are stored, `[N, T, ...]`.
        """
        return x.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)


class Shape(NamedTuple):
    """What a data set holds, so that a study can be planned without it.

    Args:
        sample: shape of a sample as it is stored, `(C, H, W)` of an image, `(T, 2, H, W)` or `(T, D)` of a recording.
        classes: number of classes.
        train, test: number of samples of each split, as published.
    """

    sample: tuple[int, ...]
    classes: int
    train: int
    test: int


def imagine(shape: Shape, *, train: int | None = None) -> Samples:
    """Random samples of a data set's shape, for plans and tests of what the set is not needed for.

    Args:
        shape: of the set.
        train: so many samples in each split; None for as many as in the set, those of the training split one and the
            same, so that they take no memory.
    """
    generator = torch.Generator().manual_seed(0)
    images = len(shape.sample) == 3
    values = 256 if images else 2
    size = (train or 1, *shape.sample), (train or shape.test, *shape.sample)
    x_train, x_test = (torch.randint(values, own, generator=generator, dtype=torch.uint8) for own in size)
    x_train = x_train.expand(train or shape.train, *shape.sample)
    y_train, y_test = (torch.arange(len(x)) % shape.classes for x in (x_train, x_test))
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    common: dict[str, Any] = {**arrays, "classes": shape.classes, "fingerprint": IMAGINED}
    C = shape.sample[0]
    return Images(**common, mean=(0.5,) * C, std=(0.25,) * C) if images else Frames(**common)


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """Hash of arrays, of their types, shapes and content."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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
