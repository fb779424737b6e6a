"""What the published files of the event sets hold, and how SpikingJelly's classes want to find them."""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sj_cka.data.imagined import Shape
from sj_cka.data.root import cause

ATIS_BYTES = 5  # an event of N-MNIST and N-Caltech101: x, y, 24 bits of polarity and time


class Source(NamedTuple):
    """A file in extract/ and what SpikingJelly makes of it.

    Args:
        path: relative to extract/.
        makes: recordings, relative to events_np/.
        wrong: why nothing can be made of it; empty where nothing is known.
    """

    path: str
    makes: tuple[str, ...]
    wrong: str = ""


@dataclass(frozen=True, kw_only=True)
class EventSet:
    """A set, its class in SpikingJelly and its files.

    Args:
        title: its name in messages.
        module, reader: module and class in `spikingjelly.datasets`.
        folder: its folder in the data root.
        archives: those of the published files that hold recordings.
        extracted: what they hold, in words.
        find: the recordings in extract/.
        stage: lays out some of them as the class wants to find them, in an empty folder; gives the folder.
        together: how many are converted at once.
        splits: folders of training and test in events_np/; none where the set has no published split.
        sensor: rows and columns of a camera, or the number of units of spikes.
        published: what the set holds, of one time step.
        h5: the files of recordings of training and test, where a file holds many.
    """

    title: str
    module: str
    reader: str
    folder: str
    archives: tuple[str, ...]
    extracted: str
    find: Callable[[Path], list[Source]]
    stage: Callable[[Sequence[Source], Path, Path], Path]
    together: int = 256
    splits: tuple[str, ...] = ("train", "test")
    sensor: tuple[int, ...]
    published: Shape
    h5: tuple[str, ...] = ()

    @property
    def events(self) -> str:
        """The folder of recordings."""
        return "events_h5" if self.h5 else "events_np"

    def in_spikingjelly(self) -> Any:
        """The class; imported late, since it brings torchvision and torchaudio."""
        return getattr(importlib.import_module(f"spikingjelly.datasets.{self.module}"), self.reader)


def one_each(folders: Mapping[str, str], suffix: str, event_bytes: int = 1) -> Callable[[Path], list[Source]]:
    """`find` of sets with a file a recording, in a folder a class.

    Args:
        folders: for a folder of extract/ that of events_np/.
        suffix: how the files end.
        event_bytes: what an event takes; a size that is no multiple of it is that of a file that was cut off.
    """

    def find(extract: Path) -> list[Source]:
        return [
            Source(os.path.join(source, name, file), (_converted(target, name, file),), _cut_off(size, event_bytes))
            for source, target in folders.items()
            for name in folders_in(extract / source)
            for file, size in files_in(extract / source / name, suffix).items()
        ]

    return find


def _converted(target: str, name: str, file: str) -> str:
    return os.path.join(target, name, os.path.splitext(file)[0] + ".npz")


def _cut_off(size: int, event_bytes: int) -> str:
    if size == 0:
        return "the file is empty"
    if size % event_bytes:
        event = size // event_bytes
        return f"expected {event_bytes} bytes an event, got {size:,} bytes: the file is cut off in event {event}"
    return ""


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none where it is none."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_in(folder: Path, suffixes: str | tuple[str, ...]) -> dict[str, int]:
    """Names and bytes of the files in a folder, sorted, whose names end as given."""
    with os.scandir(folder) as entries:
        return dict(sorted((e.name, e.stat().st_size) for e in entries if e.name.endswith(suffixes) and e.is_file()))


def stage_each(*always: str) -> Callable[[Sequence[Source], Path, Path], Path]:
    """`stage` of the same sets: links, in folders of the same names.

    Args:
        always: folders that the class reads, empty or not.
    """

    def stage(sources: Sequence[Source], extract: Path, into: Path) -> Path:
        for folder in {*always, *(os.path.dirname(source.path) for source in sources)}:
            (into / folder).mkdir(parents=True, exist_ok=True)
        for source in sources:
            os.symlink(os.path.abspath(extract / source.path), into / source.path)
        return into

    return stage


_TRIALS = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}
GESTURES = "DvsGesture"  # the folder in the archive


def find_trials(extract: Path) -> list[Source]:
    """`find` of DVS128 Gesture: a file holds a trial of some twelve gestures, a table beside it when each began."""
    folder = extract / GESTURES
    return [
        _trial(folder, split, name)
        for split, listed in _TRIALS.items()
        if (folder / listed).is_file()
        for name in (folder / listed).read_text(encoding="utf-8").split()
    ]


def _trial(folder: Path, split: str, name: str) -> Source:
    path, stem = os.path.join(GESTURES, name), os.path.splitext(name)[0]
    made: dict[int, list[str]] = {}
    try:
        with open(folder / f"{stem}_labels.csv", encoding="utf-8", newline="") as table:
            labels = [int(row[0]) - 1 for row in list(csv.reader(table))[1:] if row]
        for label in labels:
            own = made.setdefault(label, [])
            own.append(os.path.join(split, str(label), f"{stem}_{len(own)}.npz"))
    except (OSError, ValueError, IndexError, csv.Error) as error:
        return Source(path, (os.path.join(split, stem),), f"its table {stem}_labels.csv cannot be read: {cause(error)}")
    if not made:
        return Source(path, (os.path.join(split, stem),), f"its table {stem}_labels.csv names no gesture")
    wrong = "" if (folder / name).is_file() else "the file is missing"
    return Source(path, tuple(file for files in made.values() for file in files), wrong)


def stage_trials(sources: Sequence[Source], extract: Path, into: Path) -> Path:
    """`stage` of DVS128 Gesture."""
    folder = into / GESTURES
    folder.mkdir()
    for split, listed in _TRIALS.items():
        names = [os.path.basename(s.path) for s in sources if s.makes[0].startswith(split + os.sep)]
        (folder / listed).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for name in names:
            for file in (name, f"{os.path.splitext(name)[0]}_labels.csv"):
                os.symlink(os.path.abspath(extract / GESTURES / file), folder / file)
    return into


def as_they_are(*files: str) -> Callable[[Path], list[Source]]:
    """`find` of a set whose files are read as they were fetched."""
    return lambda extract: [Source(file, (file,)) for file in files if (extract / file).is_file()]


def stage_none(sources: Sequence[Source], extract: Path, into: Path) -> Path:
    """`stage` of such a set: SpikingJelly links to the files, so that it must see where they really are."""
    return extract.absolute()
