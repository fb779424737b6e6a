"""Files of features, arrays by name: npz, or HDF5 that is read minibatch by minibatch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sj_cka.files import UnreadableFile, cause, check_hdf5, head_of, kind_of, obstacle, opened_npz, shown
from sj_cka.plugins import closest

Features = Mapping[str, Any] | str | Path
_PACKED, _ALWAYS = 1032, 10**9  # an array of HDF5 may be so many times its file, as of deflate, or have so many bytes


@contextmanager
def opened(features: Features, side: str, layers: str | Sequence[str] | None) -> Iterator[Mapping[str, Any]]:
    """Layer -> array of features, in memory or still in their file; those that were asked for."""
    if isinstance(features, Mapping):
        yield {name: X if hasattr(X, "shape") else np.asarray(X) for name, X in _chosen(features, side, layers)}
        return
    path = Path(features)
    if why := obstacle(path):
        kind = FileNotFoundError if why.startswith("found no file") else UnreadableFile
        raise kind(f"{side}: expected features in memory or an .npz or HDF5 file, {why}")
    with _read(path):
        head, is_hdf5 = head_of(path), h5py.is_hdf5(path)
    if path.suffix == ".npz" or head.startswith(b"PK"):
        with opened_npz(path) as archive:
            yield dict(_chosen(archive, side, layers))
        return
    if not is_hdf5:
        held = kind_of(head) or "another kind of file"
        raise UnreadableFile(f"{side}: expected an .npz or HDF5 file, got {path}: it is {held}")
    check_hdf5(path)
    with ExitStack() as files:
        with _read(path):
            file = files.enter_context(h5py.File(path, "r"))
            known = {name: _Stored(path, name, X) for name, X in _datasets(file["/"])}
        yield dict(_chosen(known, side, layers))


class _Stored:
    """An array in an HDF5 file, of which a part is read when it is indexed; errors name the file and the array."""

    def __init__(self, path: Path, name: str, X: h5py.Dataset) -> None:
        self.shape, self.dtype = tuple(X.shape or ()), X.dtype
        self._path, self._name, self._X = path, name, X

    def __getitem__(self, part: Any) -> np.ndarray:
        with _read(self._path, self._name):
            announced, size = self.dtype.itemsize * prod(self.shape), self._path.stat().st_size
            if announced > max(_PACKED * size, _ALWAYS):
                raise ValueError(f"it announces {announced:,} bytes, which a file of {size:,} bytes cannot hold")
            return np.asarray(self._X[part])


@contextmanager
def _read(path: Path, name: str = "") -> Iterator[None]:
    """Whatever a reader of HDF5 raises, as one error that names the file."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path}: {name}: {error}") from error
    except Exception as error:
        where = f"{path}: {shown(name)}" if name else path
        raise UnreadableFile(f"{where}: expected arrays in HDF5, could not read: {cause(error)}") from error


def _chosen(features: Mapping[str, Any], side: str, layers: str | Sequence[str] | None) -> Iterator[tuple[str, Any]]:
    """The layers that names or globs stand for, in their order, each once; the others are not read."""
    known = list(features)
    names: dict[str, None] = {}
    for pattern in known if layers is None else [layers] if isinstance(layers, str) else layers:
        matching = [pattern] if pattern in known else [name for name in known if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(f"{side}: layers: {pattern!r} matches none of {len(known)}{closest(pattern, known)}")
        names |= dict.fromkeys(matching)
    for name in names:
        yield name, features[name]


def _datasets(group: h5py.Group, above: tuple[Any, ...] = ()) -> Iterator[tuple[str, h5py.Dataset]]:
    """The datasets in a group of a file and in the groups in it, by their paths."""
    place = h5py.h5o.get_info(group.id).addr
    if place in above:
        raise ValueError(f"group {group.name} holds itself")
    names = list(group)
    if not group.id.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED:
        names.sort(key=_natural)
    for name in names:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield item.name.lstrip("/"), item
        elif isinstance(item, h5py.Group):
            yield from _datasets(item, (*above, place))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts numbers in names as numbers."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
