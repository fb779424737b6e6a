"""From recordings to frames on disk, and what is told about them."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sj_cka.data.events.binning import SplitBy
from sj_cka.data.events.frame_files import VERSION, Counts, DamagedFrames, finish, open_frames, read_meta
from sj_cka.data.events.preparation import OnError, Prepared, damaged, scratch, state_of
from sj_cka.data.events.raw_files import EventSet
from sj_cka.data.events.recordings import SPLITS, Item, Recording, classes_of, counted, items, name_of
from sj_cka.data.samples import DataError, Frames
from sj_cka.progress import bar

_WORDS = {"train": "training", "test": "test"}


class Wanted(NamedTuple):
    """What frames are asked for.

    Args:
        sample: shape of a recording's frames.
        split_by: see `bin_events`.
        on_error: what is done about a damaged recording.
    """

    sample: tuple[int, ...]
    split_by: SplitBy
    on_error: OnError


def key_of(wanted: Wanted, recordings: Mapping[str, Sequence[Recording]]) -> str:
    """Name of a folder of frames: what they are, and a hash of what they were made from."""
    digest = hashlib.sha256(f"{VERSION}".encode())
    for split in SPLITS:
        for recording in recordings[split]:
            digest.update(json.dumps([split, recording.file, recording.size, bool(recording.lost)]).encode())
    return f"{'x'.join(map(str, wanted.sample))}_{wanted.split_by}_{digest.hexdigest()[:16]}"


def kept(known: EventSet, found: Prepared, at: Path, on_error: OnError, quiet: bool = False) -> Frames | None:
    """Frames of an earlier call; None if there are none that can be used."""
    try:
        meta = read_meta(at)
        if meta is None:
            return None
        read = [entry for entry in meta["skipped"] if entry["state"] is not None]
        if any(entry["state"] != state_of(found.events / entry["path"]) for entry in read):
            return None  # a damaged file was replaced
        if read and on_error == "raise":
            raise _of_recording(known, found, read[0]["file"], read[0]["reason"], len(read) - 1)
        return open_frames(at, meta)
    except DamagedFrames as error:
        if not quiet:
            warnings.warn(f"{known.title}: {error}; frames are made anew from the recordings", stacklevel=5)
        return None


def integrate(
    known: EventSet,
    found: Prepared,
    recordings: Mapping[str, Sequence[Recording]],
    at: Path,
    wanted: Wanted,
) -> None:
    """Writes the frames of all recordings, one recording in memory at a time; for one process at a time.

    Args:
        known: the set.
        found: where its recordings are.
        recordings: those of both splits, as `listed` gives them.
        at: the folder that is to hold the frames.
        wanted: what they are to be.

    Raises:
        DataError: there is no room; a recording is damaged; or, where these are skipped, all of a class are.
    """
    todo = {split: items(known, found, recordings[split]) for split in SPLITS}
    _check_room(known, at.parent, sum(map(len, todo.values())) * int(np.prod(wanted.sample)))
    with (
        scratch(at) as part,
        Counts(part / "x_train.npy", wanted.sample) as train,
        Counts(part / "x_test.npy", wanted.sample) as test,
    ):
        used, skipped = _count(known, found, todo, {"train": train, "test": test}, wanted)
        _check_classes(known, todo, used, skipped)
        told = [*_of_published(known, todo), *_left_out(skipped, todo)]
        y = {f"y_{split}": np.asarray([i.label for i in own], dtype=np.int64) for split, own in used.items()}
        meta = {
            "set": known.title,
            "sample": wanted.sample,
            "split_by": wanted.split_by,
            "classes": known.published.classes if known.h5 else classes_of(recordings),
            "split": "as published" if known.splits else "a tenth of each class by SHA-256 of the names, seed 0",
            "told": told,
            "held_out": [] if known.splits else [name_of(item.name) for item in used["test"]],
            "skipped": skipped,
        }
        finish(part, train, test, y, meta)
        shutil.rmtree(at, ignore_errors=True)  # damaged, or of files that were replaced
        os.rename(part, at)
    if skipped:
        warnings.warn(f"{known.title}: {told[-1]}", stacklevel=5)


def _count(
    known: EventSet, found: Prepared, todo: Mapping[str, Sequence[Item]], files: Mapping[str, Counts], wanted: Wanted
) -> tuple[dict[str, list[Item]], list[dict[str, Any]]]:
    """Counts what is to do into the files; gives the recordings that are in them, and what is told of the others."""
    used: dict[str, list[Item]] = {split: [] for split in todo}
    skipped: list[dict[str, Any]] = []
    with bar(sum(map(len, todo.values())), f"{known.title}: counting events") as count:
        for split, item in ((split, item) for split, recordings in todo.items() for item in recordings):
            count(1)
            try:
                if item.lost:
                    raise ValueError(item.lost)
                files[split].add(counted(item, known, wanted.sample, wanted.split_by))
                used[split].append(item)
            except ValueError as error:
                if wanted.on_error == "raise":
                    raise _of_recording(known, found, item.name, str(error)) from error
                # a file may hold many; the state of one that was not read is known by its source
                path = item.name.partition(",")[0] if known.h5 else item.name
                state = None if item.lost else state_of(found.events / path)
                entry = {"file": item.name, "split": split, "reason": str(error), "path": path, "state": state}
                skipped.append(entry)
    return used, skipped


def _of_recording(known: EventSet, found: Prepared, name: str, reason: str, others: int = 0) -> DataError:
    """The error for a damaged recording: where its source is there, it can be made anew."""
    remedy = "fetch the file anew"
    if found.extract is not None and not known.h5:
        remedy = (
            f"remove it, so that it is made anew from {found.extract} (if it is damaged again, fetch its source anew)"
        )
    return damaged(known, str(found.events / name), reason, others, remedy)


def _check_classes(
    known: EventSet,
    todo: Mapping[str, Sequence[Item]],
    used: Mapping[str, Sequence[Item]],
    skipped: Sequence[Mapping[str, Any]],
) -> None:
    for split in SPLITS:
        if not todo[split]:
            raise DataError(f"{known.title}: expected recordings in the {_WORDS[split]} split, got none")
        gone = {item.label for item in todo[split] if not item.lost} - {item.label for item in used[split]}
        if gone:
            first = next(item for item in todo[split] if item.label == min(gone))
            why = next(entry["reason"] for entry in skipped if entry["file"] == first.name)
            raise DataError(
                f"{known.title}: expected recordings of every class, all {_WORDS[split]} recordings of class "
                f"{min(gone)} are damaged, the first is {first.name}: {why}; fetch them anew"
            )


def _check_room(known: EventSet, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{known.title}: expected room for frames of {needed / 1e9:,.1f} GB, {folder} has "
            f"{free / 1e9:,.1f} GB; give data.cache, a folder with more, or a smaller size or T"
        )


def _of_published(known: EventSet, todo: Mapping[str, Sequence[Item]]) -> list[str]:
    """What is not as many as published, and whose split it is."""
    train, test = (len(todo[split]) for split in SPLITS)
    published = known.published
    numbers = (
        f"{known.title}: {train:,} training and {test:,} test recordings were there, of {published.train:,} and "
        f"{published.test:,} published."
    )
    if known.splits:
        return [] if (train, test) == (published.train, published.test) else [numbers]
    total, whole = train + test, published.train + published.test
    ours = (
        f"{known.title} has no published split: {test:,} of its {total:,} recordings, a tenth of each class fixed by "
        "their names, are the test split."
    )
    fewer = f"{known.title}: {total:,} recordings were there, of {whole:,} published."
    return [ours] if total == whole else [fewer, ours]


def _left_out(skipped: Sequence[Mapping[str, Any]], todo: Mapping[str, Sequence[Item]]) -> list[str]:
    """One sentence for both splits."""
    if not skipped:
        return []
    counts = {split: sum(entry["split"] == split for entry in skipped) for split in SPLITS}
    numbers = " and ".join(
        f"{n:,} of {len(todo[split]):,} {_WORDS[split]} recordings" for split, n in counts.items() if n
    )
    named = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in skipped[:3])
    more = f"; and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
    return [f"{numbers} {'was' if len(skipped) == 1 else 'were'} left out as damaged: {named}{more}."]
