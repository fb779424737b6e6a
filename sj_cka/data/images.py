"""Static images with labels: scikit-learn's digits, and a user's own npz file."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class DataError(ValueError):
    """A data file that is missing or does not hold what is needed."""


@dataclass(frozen=True, eq=False)
class Images:
    """A training and a test split, normalised by the training split's mean and std.

    Args:
        x_train, x_test: float32 `[N, C, H, W]`.
        y_train, y_test: int64 `[N]`, from 0 to classes - 1.
        classes: number of classes.
        mean, std: of each channel of the training split, before normalising; raw = x * std + mean.
        fingerprint: hash of the raw arrays.
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
    return _normalised(x_train, y_train, x_test, y_test)


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
    absent = sorted(set(np.unique(arrays["y_test"]).tolist()) - set(np.unique(arrays["y_train"]).tolist()))
    if absent:
        raise DataError(f"{path}: y_test holds the classes {absent}, which y_train lacks")
    return _normalised(*(arrays[name] for name in _ARRAYS))


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
    if x.dtype == np.uint8:
        x = x.transpose(0, 3, 1, 2) / np.float32(255)
    return np.ascontiguousarray(x, dtype=np.float32)


def _normalised(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Images:
    digest = hashlib.sha256()
    for array in (x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)):
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    mean = x_train.mean((0, 2, 3), dtype=np.float64)
    std = x_train.std((0, 2, 3), dtype=np.float64)
    flat = np.flatnonzero(std == 0)
    if len(flat):
        raise DataError(f"expected images that vary, channel {flat[0]} of the training split is constant")
    shape = (1, -1, 1, 1)
    scaled = [
        torch.from_numpy(((x - mean.reshape(shape)) / std.reshape(shape)).astype(np.float32)) for x in (x_train, x_test)
    ]
    return Images(
        scaled[0],
        torch.from_numpy(y_train.astype(np.int64)),
        scaled[1],
        torch.from_numpy(y_test.astype(np.int64)),
        classes=int(y_train.max()) + 1,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        fingerprint=digest.hexdigest(),
    )
