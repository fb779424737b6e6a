"""Frames on disk: written row by row in the smallest type that holds the counts, opened without being read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sj_cka.data.samples import Frames, fingerprint

VERSION = 1  # of the files; another one is read anew from the recordings
_TYPES = (np.uint8, np.int16, np.int32)  # what torch knows
_WHOLE = "whole.json"  # in which state the files were found whole
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class DamagedFrames(Exception):
    """Files that are not what was written; the message names the file and says what is wrong."""


class Counts:
    """An .npy file of counts `[N, *shape]` that grows row by row; rows before are widened when a count asks for it.

    Args:
        path: of the file.
        shape: of a row.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape, self.rows = path, shape, 0
        self._begin(np.dtype(_TYPES[0]))

    def __enter__(self) -> Counts:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _begin(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._file = open(self.path, "wb")  # noqa: SIM115 closed by close()
        self._file.write(_header(dtype, (0, *self.shape)))

    def add(self, counts: np.ndarray) -> None:
        """Appends a row of whole numbers from 0."""
        self.widen(np.dtype(next(own for own in _TYPES if counts.max() <= np.iinfo(own).max)))
        self._file.write(counts.astype(self.dtype).tobytes())
        self.rows += 1

    def widen(self, dtype: np.dtype[Any]) -> None:
        """Rewrites the rows in a type, if it is wider than theirs; one of them is in memory at a time."""
        if dtype.itemsize <= self.dtype.itemsize:
            return
        self.close()
        old = self.path.with_suffix(".narrow")
        os.replace(self.path, old)
        self._begin(dtype)
        for row in np.load(old, mmap_mode="r"):
            self._file.write(row.astype(dtype).tobytes())
        old.unlink()

    def close(self) -> None:
        """Writes the number of rows into the header."""
        header = _header(self.dtype, (self.rows, *self.shape))
        self._file.seek(0)
        assert len(header) == len(_header(self.dtype, (0, *self.shape)))  # numpy leaves room for the first axis to grow
        self._file.write(header)
        self._file.close()


def finish(
    folder: Path, train: Counts, test: Counts, labels: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> None:
    """Closes the files of frames and writes labels and meta.json, with the fingerprint, beside them.

    Args:
        folder: that holds x_train.npy and x_test.npy.
        train, test: these.
        labels: y_train and y_test, int64.
        meta: what else to keep.
    """
    for counts, other in ((train, test), (test, train)):
        counts.widen(other.dtype)  # both splits of one type
    train.close()
    test.close()
    for name, y in labels.items():
        np.save(folder / f"{name}.npy", y)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    files = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in arrays.items()}
    whole = {**meta, "version": VERSION, "arrays": files, "fingerprint": _fingerprint(folder)}
    (folder / "meta.json").write_text(json.dumps({**whole, "sha256": _checksum(whole)}, indent=1), encoding="utf-8")
    _remember(folder, whole["fingerprint"])


def _fingerprint(folder: Path) -> str:
    """Of the arrays, without all in memory."""
    return fingerprint(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)


def _checksum(meta: Mapping[str, Any]) -> str:
    """Of what meta.json says, whatever its layout."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _states(folder: Path) -> dict[str, list[int]]:
    """What changes with a file: its size, and the times of its last change, of which a copy has another."""
    found = {name: os.stat(folder / f"{name}.npy") for name in _ARRAYS}
    return {name: [own.st_size, own.st_mtime_ns, own.st_ctime_ns] for name, own in found.items()}


def _remember(folder: Path, taken: str) -> None:
    """Keeps that the files as they are have been found whole, where the folder can be written."""
    with contextlib.suppress(OSError):
        known = json.dumps({"fingerprint": taken, "states": _states(folder)})
        (folder / _WHOLE).write_text(known, encoding="utf-8")


def _check_whole(folder: Path, expected: str) -> None:
    """Compares the fingerprint, which takes seconds for gigabytes, if a file is not known to be the one that was."""
    try:
        known = json.loads((folder / _WHOLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if known == {"fingerprint": expected, "states": _states(folder)}:
        return
    if (found := _fingerprint(folder)) != expected:
        raise ValueError(
            f"expected arrays with the fingerprint {expected[:12]}..., got {found[:12]}...: one is damaged"
        )
    _remember(folder, expected)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What meta.json says; None where the folder is not there.

    Raises:
        DamagedFrames: it cannot be read.
    """
    if not folder.is_dir():
        return None
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["version"] != VERSION or set(meta["arrays"]) != set(_ARRAYS):
            raise ValueError(f"version {meta['version']}")
        if lacking := {"classes", "fingerprint", "told", "held_out", "skipped"} - set(meta):
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        # meta.json of earlier versions has no checksum
        if (checksum := meta.pop("sha256", None)) is not None and checksum != _checksum(meta):
            raise ValueError("it is not what was written, as its sha256 says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFrames(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return dict(meta)


def open_frames(folder: Path, meta: Mapping[str, Any]) -> Frames:
    """Frames, memory-mapped: only what is indexed comes into memory, and nothing that is done to them reaches the file.

    Files that are not known to be those that were written are read once, to compare their fingerprint.

    Raises:
        DamagedFrames: a file is missing or is not what meta.json says.
    """
    arrays: dict[str, Any] = {}
    for name in _ARRAYS:
        path = folder / f"{name}.npy"
        try:
            expected = meta["arrays"][name]["dtype"], list(meta["arrays"][name]["shape"])
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except Exception as error:  # of a damaged header: ValueError, SyntaxError, MemoryError, ...
            raise DamagedFrames(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        if (found := (str(array.dtype), list(array.shape))) != expected:
            raise DamagedFrames(f"{path}: expected {expected[0]} {expected[1]}, got {found[0]} {found[1]}")
        arrays[name] = torch.from_numpy(array)
    try:
        _check_whole(folder, meta["fingerprint"])
    except (OSError, ValueError) as error:
        raise DamagedFrames(f"{folder} cannot be read: {error}") from error
    return Frames(
        **arrays,
        classes=meta["classes"],
        fingerprint=meta["fingerprint"],
        remarks=tuple(meta["told"]),
        held_out=tuple(meta["held_out"]),
    )


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    text = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(text, described)
    return text.getvalue()
