"""Recordings as SpikingJelly's classes find them, one at a time, and the counts of their events."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sj_cka.data.events.binning import SplitBy, bin_events, bin_spikes, check_within, whole_numbers
from sj_cka.data.events.formats import Events
from sj_cka.data.events.preparation import Prepared
from sj_cka.data.events.raw_files import EventSet, files_in, folders_in
from sj_cka.data.samples import DataError
from sj_cka.files import check_hdf5, opened_npz, reading

SPLITS = ("train", "test")
_SEED = 0  # of the splits that are ours


class Recording(NamedTuple):
    """A file of a recording, or of many spike trains.

    Args:
        file: relative to events_np/.
        group: its class folder; empty for a file of many.
        size: in bytes.
        lost: why it is left out; empty where it is not.
    """

    file: str
    group: str
    size: int
    lost: str = ""


def listed(known: EventSet, found: Prepared) -> dict[str, list[Recording]]:
    """Files of both splits, in the order of SpikingJelly's class, those that are lost at the end.

    Raises:
        DataError: class folders differ between the splits, are more than the set has, or are none.
    """
    if known.h5:
        names = [name for source in known.find(found.events) for name in source.makes]
        sizes = {name: os.path.getsize(found.events / name) for name in names}
        if absent := [name for name in known.h5 if name not in sizes]:
            raise DataError(
                f"{known.title}: expected {known.extracted} in {found.events}, missing: {', '.join(absent)}"
            )
        return {split: [Recording(name, "", sizes[name])] for split, name in zip(SPLITS, known.h5, strict=True)}
    lost = {made: f"{source.path}: {source.wrong}" for source in found.lost for made in source.makes}
    own = {split: _in_folders(known, found.events, split, lost) for split in known.splits or ("",)}
    _check_classes(known, found.events, own)
    splits = own if known.splits else _split(own[""])
    _check_kept(known, found.events, splits)
    return splits


def _in_folders(known: EventSet, events: Path, split: str, lost: dict[str, str]) -> list[Recording]:
    at, endings = events / split, (".npy", ".npz")
    groups = folders_in(at)
    odd = [at / group / name for group in groups for name in folders_in(at / group)]
    if at.is_dir():
        odd += [at / name for name in files_in(at, endings)]
    if odd:
        raise DataError(f"{known.title}: expected recordings in class folders, got {odd[0]}; move it away")
    there = {
        os.path.join(split, group, file): (group, size)
        for group in groups
        for file, size in files_in(at / group, endings).items()
    }
    # of a lost file there may be no recording at all
    depth = 2 if split == "" else 3
    for name in sorted(name for name in lost if name.startswith(os.path.join(split, ""))):
        parts = name.split(os.sep)
        there.setdefault(name, (parts[-2] if len(parts) == depth else "", 0))
    return [Recording(name, group, size, lost.get(name, "")) for name, (group, size) in there.items()]


def _check_classes(known: EventSet, events: Path, own: Mapping[str, Sequence[Recording]]) -> None:
    folders = {
        split: {*folders_in(events / split), *(recording.group for recording in recordings)} - {""}
        for split, recordings in own.items()
    }
    first, *others = folders.items()
    for split, found in others:
        if different := sorted(found ^ first[1]):
            raise DataError(
                f"{known.title}: expected the same class folders in {first[0]} and {split} of {events}, only one of "
                f"both has {', '.join(different)}"
            )
    classes = known.published.classes
    if not 0 < len(first[1]) <= classes:
        some = ", ".join(sorted(first[1])[: classes + 3]) or "none"
        raise DataError(
            f"{known.title}: expected up to {classes} class folders in {events / first[0]}, got {len(first[1])}: "
            f"{some}; move away what is no class"
        )


def _check_kept(known: EventSet, events: Path, splits: Mapping[str, Sequence[Recording]]) -> None:
    """Every class folder must have a whole recording in each split."""
    groups = {recording.group for recordings in splits.values() for recording in recordings} - {""}
    groups.update(folders_in(events / known.splits[0]) if known.splits else folders_in(events))
    for split, recordings in splits.items():
        for group in sorted(groups - {recording.group for recording in recordings if not recording.lost}):
            lost = [recording.lost for recording in recordings if recording.group == group]
            why = f"all {len(lost):,} are damaged, the first is {lost[0]}" if lost else "got none"
            needed = "" if known.splits or lost else " (a class needs two, one for each split)"
            raise DataError(
                f"{known.title}: expected {split} recordings of class {group} in {events}{needed}, {why}; fetch the "
                "files anew"
            )


def classes_of(recordings: Mapping[str, Sequence[Recording]]) -> int:
    """How many classes the folders name."""
    return len({recording.group for recording in recordings["train"]} - {""})


def _split(recordings: Sequence[Recording]) -> dict[str, list[Recording]]:
    """A tenth of each class, to the nearest and at least one, for testing: whose names come first by `_order`."""
    test: set[str] = set()
    for group in {recording.group for recording in recordings}:
        files = sorted((recording.file for recording in recordings if recording.group == group), key=_order)
        test.update(files[: max(1, (len(files) + 5) // 10)])
    return {
        "train": [recording for recording in recordings if recording.file not in test],
        "test": [recording for recording in recordings if recording.file in test],
    }


def _order(file: str) -> str:
    """A random number of a name, the same everywhere: independent of numpy, of the platform and of other files."""
    return hashlib.sha256(f"{_SEED}/{name_of(file)}".encode()).hexdigest()


def name_of(file: str) -> str:
    """Class and name of a recording, as results name it."""
    return os.path.splitext(file)[0].replace(os.sep, "/")


class Item(NamedTuple):
    """A recording to be read.

    Args:
        name: of the file, or of the recording in it; relative to events_np/.
        label: from 0.
        read: gives its arrays.
        lost: why it is not to be read; empty where it is.
    """

    name: str
    label: int
    read: Callable[[], Any]
    lost: str = ""


def items(known: EventSet, found: Prepared, recordings: Sequence[Recording]) -> list[Item]:
    """The recordings of a split, labelled by the order of their class folders as in SpikingJelly's class.

    Raises:
        DataError: the file of spike trains cannot be read.
    """
    if known.h5:
        return _of_h5(known, found.events / recordings[0].file)
    groups = sorted({recording.group for recording in recordings} - {""})
    return [
        Item(r.file, groups.index(r.group), partial(_loaded, found.events / r.file))
        if not r.lost
        else Item(r.file, -1, lambda: None, r.lost)
        for r in recordings
    ]


def _loaded(path: Path) -> Events:
    with opened_npz(path) as file:
        return {name: file[name] for name in file if name in ("t", "x", "y", "p")}


def _of_h5(known: EventSet, path: Path) -> list[Item]:
    import h5py

    try:
        with reading(f"{path} of {known.title}"):
            check_hdf5(path)
            file = h5py.File(path, "r")  # open as long as the items are there
            labels, times, units = file["labels"], file["spikes"]["times"], file["spikes"]["units"]
            shapes = {name: array.shape for name, array in (("labels", labels), ("times", times), ("units", units))}
            if len(set(shapes.values())) > 1 or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
                got = ", ".join(f"{name} {list(shape or ())}" for name, shape in shapes.items()) + ", labels of"
                raise ValueError(f"expected as many times and units as integer labels, got {got} {labels.dtype}")
            if len(labels) > path.stat().st_size:
                raise ValueError(f"it announces {len(labels):,} recordings, more than it has bytes")
            values = labels[:]
    except ValueError as error:
        raise DataError(f"{known.title}: {path}: {error}; fetch the file anew") from error
    classes = known.published.classes
    if len(wrong := np.flatnonzero((values < 0) | (values >= classes))):
        raise DataError(
            f"{known.title}: {path}: expected labels 0 to {classes - 1}, got {values[wrong[0]]} of recording "
            f"{wrong[0]}; fetch the file anew"
        )
    return [
        Item(f"{path.name}, recording {i}", int(label), lambda i=i: {"t": times[i], "x": units[i]})  # type: ignore[misc]
        for i, label in enumerate(values)
    ]


def counted(item: Item, known: EventSet, shape: tuple[int, ...], split_by: SplitBy) -> np.ndarray:
    """Counts of a recording's events, of shape `(T, 2, H, W)` or `(T, D)`.

    Raises:
        ValueError: why the recording is damaged.
    """
    with reading(f"{item.name} of {known.title}"):
        arrays = item.read()
    names = ("t", "x", "y", "p") if len(known.sensor) == 2 else ("t", "x")
    if not isinstance(arrays, dict) or not set(names) <= set(arrays):
        got = ", ".join(sorted(arrays)) if isinstance(arrays, dict) else type(arrays).__name__
        raise ValueError(f"expected arrays {', '.join(names)}, got {got}")
    if all(np.size(arrays[name]) == 0 for name in names):
        raise ValueError("it holds no events")
    if len(known.sensor) == 1:
        t, unit = _in_order(arrays["t"], whole_numbers("units", arrays["x"]))
        return bin_spikes(t, unit, T=shape[0], D=shape[1], split_by=split_by).numpy()
    T, _, H, W = shape
    rows, columns = known.sensor
    t, x, y, p = (whole_numbers(name, arrays[name]) for name in names)
    if known.clock is not None and len({len(t), len(x), len(y), len(p)}) == 1:  # else told by the binning
        t, real = known.clock.running(t, y)
        x, y, p = x[real], y[real], p[real]
        if not len(t):
            raise ValueError("it holds no events but marks of its clock")
    camera = f"of the camera of {known.title} with {rows} rows and {columns} columns (or it is another camera's)"
    check_within("x", x, columns, f"a column {camera}")
    check_within("y", y, rows, f"a row {camera}")
    return bin_events(t, x * W // columns, y * H // rows, p, T=T, H=H, W=W, split_by=split_by).numpy()


def _in_order(seconds: Any, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spikes by time in microseconds: a file of spike trains may list them unit by unit."""
    t = np.asarray(seconds)
    if t.ndim != 1 or not np.issubdtype(t.dtype, np.floating) or not np.isfinite(t).all():
        raise ValueError(
            f"expected finite times in seconds [N], got {t.dtype} {list(t.shape)}, or NaN or infinity among them"
        )
    if len(t) != len(unit):
        return t.astype(np.int64), unit  # told by the binning
    t_us = np.rint(t.astype(np.float64) * 1e6).astype(np.int64)
    order = np.argsort(t_us, kind="stable")
    return t_us[order], unit[order]
