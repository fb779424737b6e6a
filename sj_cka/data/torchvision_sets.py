"""Public image sets as torchvision keeps them in a folder: CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sj_cka.data.images import stored
from sj_cka.data.samples import AbsentData, DataError, Images, Shape, data_root
from sj_cka.files import cause


@dataclass(frozen=True)
class _Set:
    """A set, its class in torchvision, and the files that this class looks for in a folder of the data root."""

    title: str
    reader: str
    folder: str
    files: tuple[str, ...]
    by_hand: str
    shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]


_IDX = tuple(f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


_SETS = {
    "cifar10": _Set(
        title="CIFAR-10",
        reader="CIFAR10",
        folder="cifar-10-batches-py",
        files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
        by_hand="unpack cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into the data root",
        shape=Shape(sample=(3, 32, 32), classes=10, train=50_000, test=10_000),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    "cifar100": _Set(
        title="CIFAR-100",
        reader="CIFAR100",
        folder="cifar-100-python",
        files=("train", "test", "meta"),
        by_hand="unpack cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into the data root",
        shape=Shape(sample=(3, 32, 32), classes=100, train=50_000, test=10_000),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ),
    "mnist": _Set(
        title="MNIST",
        reader="MNIST",
        folder="MNIST/raw",
        files=_IDX,
        by_hand="fetch each, with .gz, from https://ossci-datasets.s3.amazonaws.com/mnist/ and unpack it there",
        shape=Shape(sample=(1, 28, 28), classes=10, train=60_000, test=10_000),
        mean=(0.1307,),
        std=(0.3081,),
    ),
    "fashion_mnist": _Set(
        title="Fashion-MNIST",
        reader="FashionMNIST",
        folder="FashionMNIST/raw",
        files=_IDX,
        by_hand="fetch each, with .gz, from https://github.com/zalandoresearch/fashion-mnist and unpack it there",
        shape=Shape(sample=(1, 28, 28), classes=10, train=60_000, test=10_000),
        mean=(0.2860,),
        std=(0.3530,),
    ),
}


def _shape(known: _Set, **options: Any) -> Shape:
    return known.shape


TORCHVISION_SHAPES: dict[str, Callable[..., Shape]] = {name: partial(_shape, known) for name, known in _SETS.items()}


def cifar10(root: Path | None = None, download: bool = False) -> Images:
    """The 60,000 colour photographs of CIFAR-10 (Krizhevsky 2009): 3 x 32 x 32, ten classes of animals and vehicles.

    The published split into 50,000 for training and 10,000 for testing; mean and std as in the code of Li et al. 2023.

    Args:
        root: folder that holds the sets, each in a folder of its own; None stands for the environment variable
            SJ_CKA_DATA.
        download: whether torchvision is to fetch a set of which a file is missing; without it no network is used. A
            set that is complete is left as it is.

    Returns:
        uint8 images and int64 labels in the order of the files, as many as these hold.

    Raises:
        DataError: no root was given; the set is missing, damaged or of another shape; or the download failed.
    """
    return _read("cifar10", root, download)


def cifar100(root: Path | None = None, download: bool = False) -> Images:
    """The 60,000 colour photographs of CIFAR-100 (Krizhevsky 2009): 3 x 32 x 32, a hundred classes (the fine labels).

    The published split into 50,000 for training and 10,000 for testing. Arguments and errors are those of `cifar10`.
    """
    return _read("cifar100", root, download)


def mnist(root: Path | None = None, download: bool = False) -> Images:
    """The 70,000 handwritten digits of MNIST (LeCun et al. 1998): 1 x 28 x 28, ten classes.

    The published split into 60,000 for training and 10,000 for testing. Arguments and errors are those of `cifar10`.
    """
    return _read("mnist", root, download)


def fashion_mnist(root: Path | None = None, download: bool = False) -> Images:
    """The 70,000 grey pictures of clothes of Fashion-MNIST (Xiao et al. 2017): 1 x 28 x 28, ten classes.

    The published split into 60,000 for training and 10,000 for testing. Arguments and errors are those of `cifar10`.
    """
    return _read("fashion_mnist", root, download)


TORCHVISION_SETS: dict[str, Callable[..., Images]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
}


def _read(name: str, root: Path | None, download: bool) -> Images:
    from torchvision import datasets

    known = _SETS[name]
    root = data_root(known.title, root)
    reader = getattr(datasets, known.reader)
    if download and _missing(known, root):
        _download(known, reader, root)
    # torchvision passes on whatever pickle, numpy and the file system raise
    try:
        splits = {split: _arrays(reader(root, train=split == "train")) for split in ("train", "test")}
    except Exception as error:
        raise _unreadable(known, root, error) from error
    for split, (x, y) in splits.items():
        _check(known, root, split, x, y)
    return stored(*splits["train"], *splits["test"], known.shape.classes, known.mean, known.std)


def _missing(known: _Set, root: Path) -> list[str]:
    # not Path.is_file, which raises where a folder above may not be entered
    return [file for file in known.files if not os.path.isfile(root / known.folder / file)]


def _download(known: _Set, reader: Callable[..., Any], root: Path) -> None:
    # besides OSError: RuntimeError of a bad checksum, and what http, tarfile and zlib raise
    try:
        root.mkdir(parents=True, exist_ok=True)
        reader(root, train=False, download=True)
    except Exception as error:
        raise DataError(
            f"{known.title}: expected to download it into the data root {root}, could not: {cause(error)}; check the "
            f"network, and that the folder can be written and has room; or {known.by_hand}"
        ) from error


def _arrays(split: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, C, H, W]` and labels `[N]` of torchvision's `[N, H, W]` or `[N, H, W, C]`."""
    x = np.asarray(split.data)
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x), np.asarray(split.targets)


def _unreadable(known: _Set, root: Path, error: Exception) -> DataError:
    if missing := _missing(known, root):
        kind = AbsentData if len(missing) == len(known.files) else DataError
        return kind(
            f"{known.title}: expected the folder {known.folder} in the data root {root}, with "
            f"{', '.join(known.files)}; missing: {'all' if len(missing) == len(known.files) else ', '.join(missing)}; "
            f"{known.by_hand}, or set data.download: true"
        )
    return DataError(
        f"{known.title}: expected the published files in {root / known.folder}, at least one is damaged or cannot be "
        f"read; torchvision says: {cause(error)}; {_afresh(known)}"
    )


def _check(known: _Set, root: Path, split: str, x: np.ndarray, y: np.ndarray) -> None:
    (C, H, W), classes = known.shape[:2]
    where = f"{known.title} in {root / known.folder}: {split} split: expected"
    if x.dtype != np.uint8 or x.shape[1:] != (C, H, W) or not len(x):
        raise DataError(f"{where} uint8 images [N, {C}, {H}, {W}], got {x.dtype} {list(x.shape)}; {_afresh(known)}")
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{where} {len(x)} integer labels, got {y.dtype} {list(y.shape)}; {_afresh(known)}")
    if y.min() < 0 or y.max() >= classes:
        raise DataError(f"{where} labels 0 to {classes - 1}, got {y.min()} to {y.max()}; {_afresh(known)}")


def _afresh(known: _Set) -> str:
    """What to do about files that are there and wrong: a download leaves them as they are."""
    return f"remove the folder {known.folder}, then {known.by_hand}, or set data.download: true"
