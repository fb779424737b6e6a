"""Static images with labels: scikit-learn's digits, and a user's own npz file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from sj_cka.data.samples import DataError, Images, fingerprint
from sj_cka.files import UnreadableFile, opened_npz, shown
from sj_cka.plugins import check_option
from sj_cka.ranges import check_splits

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
ImageLayout = Literal["NCHW", "NHWC"]
_WRITTEN: dict[ImageLayout, str] = {"NCHW": "[N, C, H, W]", "NHWC": "[N, H, W, C]"}
_COLOURS = 4  # as many channels as pictures have, with transparency


def digits(size: int | None = None, train: int | None = None) -> Images:
    """The 1,797 real handwritten digits that scikit-learn brings (Alpaydin & Kaynak 1998): 1 x 8 x 8, ten classes.

    A fixed stratified split into 1,437 for training and 360 for testing.

    Args:
        size: height and width of an image, bilinear between the 8 x 8 pixels; None for these themselves.
        train: the first so many of the training split, from 10; None for all.

    Raises:
        OptionError: size below 8, or no such number of training images.

    Example:
        >>> data = digits()
        >>> tuple(data.x_train.shape), tuple(data.x_test.shape)
        ((1437, 1, 8, 8), (360, 1, 8, 8))
    """
    check_option(size is None or size >= 8, "size", "a size from 8, the pixels of an image", size)
    x_train, y_train, x_test, y_test = first_of(digit_arrays(), train)
    if size is not None and size != 8:
        wider = (interpolate(torch.from_numpy(x), (size, size), mode="bilinear") for x in (x_train, x_test))
        x_train, x_test = (x.numpy() for x in wider)
    return replace(_images(x_train, y_train, x_test, y_test), remarks=(_SMALL,))


_SMALL = (
    "Digits are a small test: 3 nearest neighbours on their pixels name 98.6 % of the test images, so that a network "
    "need not represent much. `data: {name: photos}` asks for more."
)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def digit_arrays() -> Arrays:
    """Images `[N, 1, 8, 8]` from 0 to 1 and labels `[N]` of the digits: training split, then test split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[:, None]
    parts = train_test_split(images, bunch.target, test_size=360, random_state=0, stratify=bunch.target)
    x_train, x_test, y_train, y_test = (np.ascontiguousarray(part) for part in parts)
    return x_train, y_train, x_test, y_test


def first_of(arrays: Arrays, train: int | None) -> Arrays:
    """Arrays with the first `train` of the training split alone; None for all of it."""
    x_train, y_train, x_test, y_test = arrays
    fits = train is None or 10 <= train <= len(x_train)
    check_option(fits, "train", f"train, a number of training samples from 10 to {len(x_train)}", train)
    return x_train[:train], y_train[:train], x_test, y_test


def npz(path: Path, layout: ImageLayout | None = None) -> Images:
    """Images of a user's own file, checked on reading.

    Args:
        path: an .npz file with `x_train`, `y_train`, `x_test`, `y_test`; images are uint8 `[N, H, W, C]` (0..255) or
            floating point `[N, C, H, W]`, labels integers from 0.
        layout: of the images, where it is another one, or where their shape does not tell (`channels_first`).

    Raises:
        DataError: the file, an array or its content is not as expected, or the two splits are not on one scale
            (`check_splits`); the message says what came.
    """
    path = Path(path)
    try:
        with opened_npz(path) as file:
            if missing := [name for name in _ARRAYS if name not in file]:
                got = shown(", ".join(sorted(file))) or "no array"
                raise DataError(
                    f"{path}: expected arrays {', '.join(_ARRAYS)}; missing: {', '.join(missing)}; got {got}"
                )
            arrays = {name: file[name] for name in _ARRAYS}
    except UnreadableFile as error:
        raise DataError(f"{error} (it is to hold {', '.join(_ARRAYS)})") from error
    except MemoryError as error:
        raise DataError(f"expected memory for the arrays of an .npz file, there is not enough: {error}") from error
    for split in ("train", "test"):
        arrays[f"x_{split}"] = _pictures(f"{path}: x_{split}", arrays[f"x_{split}"], layout)
        _check_labels(f"{path}: y_{split}", arrays[f"y_{split}"], len(arrays[f"x_{split}"]))
    shapes = [arrays[f"x_{split}"].shape[1:] for split in ("train", "test")]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{path}: expected test images of the training images' shape [C, H, W] {shapes[0]}, got {shapes[1]}"
        )
    try:
        check_splits(arrays["x_train"], arrays["x_test"])
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    there = np.unique(arrays["y_train"])
    if len(absent := np.setdiff1d(arrays["y_test"], there)):
        raise DataError(f"{path}: y_test holds the classes {absent[:10].tolist()}, which y_train lacks")
    # without a gap the labels are as many as the classes: of so many numbers one is missing if a larger one is there
    if len(gaps := np.setdiff1d(np.arange(len(there)), there)):
        raise DataError(
            f"{path}: expected labels 0 to {len(there) - 1} in y_train, which has {len(there)} classes, got labels up "
            f"to {there[-1]} without {gaps[:10].tolist()}: count the classes from 0 without a gap"
        )
    return _images(*(arrays[name] for name in _ARRAYS))


def channels_first(x: np.ndarray, layout: ImageLayout | None) -> np.ndarray:
    """Images as contiguous `[N, C, H, W]`.

    Args:
        x: four axes, of any type.
        layout: of x; None: uint8 is `[N, H, W, C]` and anything else `[N, C, H, W]`, where the shape agrees. It does
            for one to four channels, for square images, and where the axis of the channels is the shortest.

    Raises:
        DataError: no layout, and a shape that speaks for the other order or for none.
    """
    if layout is None:
        layout = "NHWC" if x.dtype == np.uint8 else "NCHW"
        _check_layout(x, layout)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if layout == "NHWC" else x)


def _check_layout(x: np.ndarray, layout: ImageLayout) -> None:
    """Raises DataError where a shape does not speak for the layout that images of its type have."""
    other: ImageLayout = "NCHW" if layout == "NHWC" else "NHWC"
    first, middle, last = x.shape[1:]
    here, there = (last, first) if layout == "NHWC" else (first, last)
    if here > _COLOURS >= there:
        raise DataError(
            f"expected {x.dtype} images as {_WRITTEN[layout]}, got {list(x.shape)}: {here} channels; swap the axes, or "
            f"say layout: {layout} where that is right"
        )
    square = middle == there != here  # as they lie
    square_otherwise = 1 < middle == here != there
    if square or (not square_otherwise and (here <= _COLOURS or here < min(middle, there))):
        return
    raise DataError(
        f"expected {x.dtype} images whose shape tells {_WRITTEN[layout]} from {_WRITTEN[other]}, got {list(x.shape)}: "
        f"say layout: {layout} for {here} channels or layout: {other} for {there}"
    )


def _pictures(name: str, x: np.ndarray, layout: ImageLayout | None) -> np.ndarray:
    """Checked images as `[N, C, H, W]`, uint8 or float32."""
    if x.ndim != 4 or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        raise DataError(
            f"{name}: expected images, uint8 [N, H, W, C] or float [N, C, H, W], got {x.dtype} {list(x.shape)}"
        )
    if 0 in x.shape:
        raise DataError(f"{name}: expected at least one image, got an empty array {list(x.shape)}")
    try:
        made = channels_first(x, layout)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if x.dtype == np.uint8:
        return made
    with np.errstate(over="ignore"):  # told below
        made = made.astype(np.float32)
    if len(bad := np.flatnonzero(~np.isfinite(made).reshape(len(made), -1).all(1))):
        raise DataError(
            f"{name}: expected finite numbers, got NaN or infinity in {len(bad)} images, first in image {bad[0]}"
            + (f": {x[bad[0]].max():g} is beyond float32" if np.isfinite(x[bad[0]]).all() else "")
        )
    return made


def _check_labels(name: str, y: np.ndarray, N: int) -> None:
    if y.shape != (N,) or not np.issubdtype(y.dtype, np.integer):
        hint = ""
        if y.ndim == 2 and len(y) == N:
            hint = "; one row an image: y.argmax(1)" if y.shape[1] > 1 else "; y.squeeze(1)"
        elif y.shape == (N,) and y.dtype.kind == "f" and np.array_equal(y, np.round(y)):
            hint = "; y.astype(int)"
        raise DataError(f"{name}: expected {N} integer labels, got {y.dtype} {list(y.shape)}{hint}")
    if y.min() < 0:
        raise DataError(f"{name}: expected labels from 0, got {y.min()}")
    if y.min() == y.max():
        raise DataError(f"{name}: expected two classes or more, got {y[0]} alone: shuffle before you split")


def _images(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Images:
    """Checked arrays, to be normalised by the training split's mean and std."""
    scale = 255.0 if x_train.dtype == np.uint8 else 1.0
    mean = x_train.mean((0, 2, 3), dtype=np.float64) / scale
    std = x_train.std((0, 2, 3), dtype=np.float64) / scale
    # not std == 0: the mean of equal numbers can be another one
    if len(flat := np.flatnonzero(x_train.max((0, 2, 3)) == x_train.min((0, 2, 3)))):
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
    return Images(
        x_train=torch.from_numpy(x_train),
        y_train=torch.from_numpy(labels[0]),
        x_test=torch.from_numpy(x_test),
        y_test=torch.from_numpy(labels[1]),
        classes=classes,
        mean=tuple(mean),
        std=tuple(std),
        fingerprint=fingerprint((x_train, labels[0], x_test, labels[1])),
    )
