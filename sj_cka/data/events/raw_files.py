"""What the published files of the event sets hold, and where SpikingJelly's classes want to find their recordings."""

import csv
import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sj_cka.data.events.formats import Clock, Events, another_kind, cut_off, read_aedat3
from sj_cka.data.samples import Shape
from sj_cka.files import cause, head_of, is_hidden, kind_of

# what else people have of recordings and pictures: where it lies among recordings it is told, not passed over
_FOREIGN = (
    ".bin",
    ".aedat",
    ".aedat4",
    ".dat",
    ".raw",
    ".mat",
    ".npz",
    ".npy",
    ".h5",
    ".hdf5",
    ".png",
    ".jpg",
    ".jpeg",
)


class EventSource(NamedTuple):
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
    """A set, its files, and its class in SpikingJelly.

    Args:
        title: its name in messages.
        module, reader: module and class in `spikingjelly.datasets`, which know where it is published.
        folder: its folder in the data root.
        archives: those of the published files that hold recordings.
        extracted: what they hold, in words.
        find: the recordings in extract/; a ValueError where it holds something else.
        convert: folder extract/ and a file in it -> name in events_np/ and events of each recording.
        clock: of the times in events_np/; None where they run on.
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
    find: Callable[[Path], list[EventSource]]
    convert: Callable[[Path, EventSource], Iterator[tuple[str, Events]]] | None = None
    clock: Clock | None = None
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


def one_each(folders: Mapping[str, str], suffix: str, event_bytes: int = 1) -> Callable[[Path], list[EventSource]]:
    """`find` of sets with a file a recording, in a folder a class.

    Args:
        folders: for a folder of extract/ that of events_np/.
        suffix: how the files end.
        event_bytes: what an event takes; a size that is no multiple of it is that of a file that was cut off.
    """

    def wrong(path: Path, size: int) -> str:
        if path.suffix != suffix:
            raise ValueError(
                f"{path}: expected recordings ({suffix}) alone in the folder of a class, it is "
                f"{kind_of(head_of(path)) or 'another file'}; move it away, or fetch the set anew"
            )
        why = cut_off(size, event_bytes)
        return why and (another_kind(path, f"a recording ({suffix})") or why)

    def find(extract: Path) -> list[EventSource]:
        return [
            EventSource(
                os.path.join(source, name, file),
                (os.path.join(target, name, os.path.splitext(file)[0] + ".npz"),),
                wrong(extract / source / name / file, size),
            )
            for source, target in folders.items()
            for name in folders_in(extract / source)
            for file, size in files_in(extract / source / name, (suffix, *_FOREIGN)).items()
        ]

    return find


def each_by(read: Callable[[Path], Events]) -> Callable[[Path, EventSource], Iterator[tuple[str, Events]]]:
    """`convert` of the same sets."""
    return lambda extract, source: iter([(source.makes[0], read(extract / source.path))])


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder that are not hidden, sorted; none where it is none."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_in(folder: Path, suffixes: tuple[str, ...]) -> dict[str, int]:
    """Names and bytes of the files in a folder that are not hidden, sorted, whose names end as given."""
    with os.scandir(folder) as entries:
        found = [e for e in entries if e.name.endswith(suffixes) and not is_hidden(e.name) and e.is_file()]
        return {entry.name: entry.stat().st_size for entry in sorted(found, key=lambda entry: entry.name)}


_TRIALS = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}
GESTURES = "DvsGesture"  # the folder in the archive
_GESTURES = 11


class Gesture(NamedTuple):
    """A row of a trial's table: what was done, from 0, and from when until when [us]."""

    label: int
    start: int
    end: int


def find_trials(extract: Path) -> list[EventSource]:
    """`find` of DVS128 Gesture: a file holds a trial of some twelve gestures, a table beside it when each began.

    Raises:
        ValueError: a list of trials that is none.
    """
    folder = extract / GESTURES
    return [
        _trial(folder, split, name)
        for split, listed in _TRIALS.items()
        if (folder / listed).is_file()
        for name in _names(folder / listed)
    ]


def _names(listed: Path) -> list[str]:
    try:
        lines = listed.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ValueError(f"{listed}: expected a list of trials, could not read it: {cause(error)}") from error
    for i, line in enumerate(lines, 1):
        if (name := line.strip()) and not re.fullmatch(r"[\w-]+\.aedat", name):
            raise ValueError(
                f"{listed}: line {i}: expected the name of a trial, such as user01_fluorescent.aedat, got {name[:60]!r}"
                "; fetch the file anew"
            )
    return [line.strip() for line in lines if line.strip()]


def _trial(folder: Path, split: str, name: str) -> EventSource:
    path, stem = os.path.join(GESTURES, name), os.path.splitext(name)[0]
    try:
        made, wrong = tuple(_cuts(folder, split, stem)), "" if (folder / name).is_file() else "the file is missing"
    except (OSError, ValueError, csv.Error) as error:
        made, wrong = (os.path.join(split, stem),), f"its table {stem}_labels.csv cannot be read: {cause(error)}"
    return EventSource(path, made, wrong)


def _cuts(folder: Path, split: str, stem: str) -> dict[str, Gesture]:
    """Names in events_np/ of the recordings of a trial -> its rows."""
    with open(folder / f"{stem}_labels.csv", encoding="utf-8", newline="") as table:
        rows = [row for row in list(csv.reader(table))[1:] if row]
    if not rows:
        raise ValueError("it names no gesture")
    made: dict[str, Gesture] = {}
    counts: dict[int, int] = {}
    for row in rows:
        if len(row) < 3:
            raise ValueError(f"expected class, start and end, got {','.join(row)[:60]!r}")
        label, start, end = (int(cell) for cell in row[:3])
        if not (1 <= label <= _GESTURES and 0 <= start and 0 <= end):
            raise ValueError(f"expected a class from 1 to {_GESTURES} and times from 0, got {label}, {start}, {end}")
        made[os.path.join(split, str(label - 1), f"{stem}_{counts.get(label, 0)}.npz")] = Gesture(label - 1, start, end)
        counts[label] = counts.get(label, 0) + 1
    return made


def cut_trial(extract: Path, source: EventSource) -> Iterator[tuple[str, Events]]:
    """`convert` of DVS128 Gesture: the events from the start of each gesture to before its end."""
    events = read_aedat3(extract / source.path)
    split, stem = source.makes[0].split(os.sep)[0], os.path.splitext(os.path.basename(source.path))[0]
    for name, gesture in _cuts(extract / GESTURES, split, stem).items():
        inside = (events["t"] >= gesture.start) & (events["t"] < gesture.end)
        yield name, {key: values[inside] for key, values in events.items()}


def as_they_are(*files: str) -> Callable[[Path], list[EventSource]]:
    """`find` of a set whose files are read as they were fetched."""
    return lambda extract: [EventSource(file, (file,)) for file in files if (extract / file).is_file()]
