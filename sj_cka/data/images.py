"""Static images with labels: scikit-learn's digits, and a user's own npz file."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

IMAGINED = "imagined"  # in place of a fingerprint
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class DataError(ValueError):
    """A data file that is missing or does not hold what is needed."""


@dataclass(frozen=True, eq=False)
class Images:
    """A training and a test split, as they are stored: an image takes a byte a pixel until a network sees it.

    Args:
        x_train, x_test: `[N, C, H, W]`; uint8, whose 0 to 255 stand for 0 to 1, or float32.
        y_train, y_test: int64 `[N]`, from 0 to classes - 1.
        classes: number of classes.
        mean, std: of each channel; what `normalised` takes out.
        fingerprint: hash of the arrays.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.x_train.shape[1])

    def normalised(self, x: Tensor) -> Tensor:
        """Images as a network is given them: float32 `[N, C, H, W]`, (x - mean) / std, on the device of x.

        Args:
            x: images as they are stored.
        """
        if x.dtype == torch.uint8:
            mean, std = (x.new_tensor(v, dtype=torch.float32).mul_(255).view(-1, 1, 1) for v in (self.mean, self.std))
            return x.to(torch.float32).sub_(mean).div_(std)
        mean, std = (x.new_tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (self.mean, self.std))
        return ((x - mean) / std).to(torch.float32)


def digits() -> Images:
    """The 1,797 real handwritten digits that scikit-learn brings (Alpaydin & Kaynak 1998): 1 x 8 x 8, ten classes.

    A fixed stratified split into 1,437 for training and 360 for testing.

    Example:
        >>> data = digits()
        >>> tuple(data.x_train.shape), tuple(data.x_test.shape)
        ((1437, 1, 8, 8), (360, 1, 8, 8))
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[:, None]
    parts = train_test_split(images, bunch.target, test_size=360, random_state=0, stratify=bunch.target)
    x_train, x_test, y_train, y_test = (np.ascontiguousarray(part) for part in parts)
    return _images(x_train, y_train, x_test, y_test)


def npz(path: Path) -> Images:
    """Images of a user's own file, checked on reading.

    Args:
        path: an .npz file with `x_train`, `y_train`, `x_test`, `y_test`; images are uint8 `[N, H, W, C]` (0..255) or
            floating point `[N, C, H, W]`, labels integers from 0.

    Raises:
        DataError: the file, an array or its content is not as expected; the message says what came.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"expected an .npz file with {', '.join(_ARRAYS)}, found no file at {path}")
    try:
        # opened here: numpy leaves a truncated file open
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [name for name in _ARRAYS if name not in file]
            if missing:
                raise DataError(
                    f"{path}: expected arrays {', '.join(_ARRAYS)}; missing: {', '.join(missing)}; got {sorted(file)}"
                )
            arrays = {name: file[name] for name in _ARRAYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: expected an .npz file of plain arrays, could not read it: {error}") from error
    for split in ("train", "test"):
        _check(path, split, arrays[f"x_{split}"], arrays[f"y_{split}"])
        arrays[f"x_{split}"] = _as_nchw(arrays[f"x_{split}"])
    shapes = [arrays[f"x_{split}"].shape[1:] for split in ("train", "test")]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{path}: expected test images of the training images' shape [C, H, W] {shapes[0]}, got {shapes[1]}"
        )
    there: set[int] = set(np.unique(arrays["y_train"]).tolist())
    absent = sorted(set(np.unique(arrays["y_test"]).tolist()) - there)
    if absent:
        raise DataError(f"{path}: y_test holds the classes {absent}, which y_train lacks")
    if gaps := sorted(set(range(max(there) + 1)) - there):
        raise DataError(
            f"{path}: expected labels 0 to {max(there)} in y_train, it lacks {gaps[:10]}: count the classes from 0 "
            "without a gap"
        )
    return _images(*(arrays[name] for name in _ARRAYS))


class Shape(NamedTuple):
    """What a data set holds, so that a study can be planned without it.

    Args:
        channels: number of channels C.
        size: height and width of an image, in pixels.
        classes: number of classes.
        train, test: number of images of each split, as published.
    """

    channels: int
    size: int
    classes: int
    train: int
    test: int


def imagine(shape: Shape, *, train: int | None = None) -> Images:
    """Random images of a data set's shape, for plans and tests of what the set is not needed for.

    Args:
        shape: of the set.
        train: so many images in each split; None for as many as in the set, those of the training split one and the
            same, so that they take no memory.
    """
    generator = torch.Generator().manual_seed(0)
    size = (shape.channels, shape.size, shape.size)
    x_train = torch.randint(256, (train or 1, *size), generator=generator, dtype=torch.uint8)
    x_test = torch.randint(256, (train or shape.test, *size), generator=generator, dtype=torch.uint8)
    x_train = x_train.expand(train or shape.train, *size)
    labels = [torch.arange(len(x)) % shape.classes for x in (x_train, x_test)]
    mean, std = [0.5] * shape.channels, [0.25] * shape.channels
    return Images(x_train, labels[0], x_test, labels[1], shape.classes, tuple(mean), tuple(std), IMAGINED)


def _check(path: Path, split: str, x: np.ndarray, y: np.ndarray) -> None:
    name = f"{path}: x_{split}"
    if x.ndim != 4 or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        raise DataError(
            f"{name}: expected images, uint8 [N, H, W, C] or float [N, C, H, W], got {x.dtype} {list(x.shape)}"
        )
    if 0 in x.shape:
        raise DataError(f"{name}: expected at least one image, got an empty array {list(x.shape)}")
    # one to four channels are what images have; where only the other order gives them, it is that order
    here, other, order = (
        (x.shape[3], x.shape[1], "[N, H, W, C]") if x.dtype == np.uint8 else (x.shape[1], x.shape[3], "[N, C, H, W]")
    )
    if here > 4 >= other:
        raise DataError(
            f"{name}: expected {x.dtype} images as {order}, got {list(x.shape)}: {here} channels; swap the axes"
        )
    if np.issubdtype(x.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(1))
        if len(bad):
            raise DataError(
                f"{name}: expected finite numbers, got NaN or infinity in {len(bad)} images, first in image {bad[0]}"
            )
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{path}: y_{split}: expected {len(x)} integer labels, got {y.dtype} {list(y.shape)}")
    if y.min() < 0:
        raise DataError(f"{path}: y_{split}: expected labels from 0, got {y.min()}")


def _as_nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if x.dtype == np.uint8 else x.astype(np.float32))


def _images(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Images:
    """Checked arrays, to be normalised by the training split's mean and std."""
    scale = 255.0 if x_train.dtype == np.uint8 else 1.0
    mean = x_train.mean((0, 2, 3), dtype=np.float64) / scale
    std = x_train.std((0, 2, 3), dtype=np.float64) / scale
    flat = np.flatnonzero(std == 0)
    if len(flat):
        raise DataError(f"expected images that vary, channel {flat[0]} of the training split is constant")
    return stored(x_train, y_train, x_test, y_test, int(y_train.max()) + 1, mean.tolist(), std.tolist())


def stored(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Images:
    """Arrays `[N, C, H, W]`, uint8 or float32, and integer labels `[N]` as `Images`."""
    labels = [y.astype(np.int64) for y in (y_train, y_test)]
    digest = hashlib.sha256()
    for array in (x_train, labels[0], x_test, labels[1]):
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return Images(
        torch.from_numpy(x_train),
        torch.from_numpy(labels[0]),
        torch.from_numpy(x_test),
        torch.from_numpy(labels[1]),
        classes,
        tuple(mean),
        tuple(std),
        digest.hexdigest(),
    )
