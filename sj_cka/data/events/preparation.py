"""From what a user fetched to the recordings that SpikingJelly's classes read: download/ -> extract/ -> events_np/.

The archives are unpacked by SpikingJelly, the recordings read by `formats`. Each step writes into a folder beside,
which is renamed when it is whole. SpikingJelly's own steps leave a marker `events_np.building` wherever one fails,
which breaks every later call; delete archives of another checksum; and do not say at which file a conversion failed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sj_cka.data.events.raw_files import EventSet, EventSource
from sj_cka.data.samples import AbsentData, DataError
from sj_cka.disk import whole
from sj_cka.files import cause, head_of, is_hidden, kind_of, obstacle, reading
from sj_cka.progress import bar

OnError = Literal["raise", "skip"]
STEPS = ("download", "extract", "events_np", "events_h5")  # folders of SpikingJelly
FRAMES = "sj_cka_frames"  # what is written beside SpikingJelly's folders
_BROKEN = "unconverted.json"


class Prepared(NamedTuple):
    """Recordings in the form that SpikingJelly's class reads.

    Args:
        events: folder events_np/ or events_h5/.
        extract: folder extract/, None if there is none.
        lost: files of extract/ that are damaged.
        missing: files of extract/ that are still to be converted.
    """

    events: Path
    extract: Path | None
    lost: tuple[EventSource, ...]
    missing: tuple[EventSource, ...]


def look(known: EventSet, folder: Path, written: Path) -> Prepared | None:
    """What is there, changing nothing; None where the set is neither extracted nor converted.

    Args:
        known: the set.
        folder: that holds download/, extract/ or events_np/.
        written: the folder for what is made; may be the same.

    Raises:
        DataError: recordings of a preparation that did not finish, and no files to go on from; files that are none of
            the set.
    """
    extract = next((own for own in (folder / "extract", written / "extract") if _filled(own)), None)
    try:
        sources = [] if extract is None else _known_broken(known.find(extract), extract, written)
    except ValueError as error:
        raise DataError(f"{known.title}: {error}") from error
    lost = tuple(source for source in sources if source.wrong)
    places = [own / known.events for own in dict.fromkeys((folder, written))]
    there = [Prepared(at, extract, lost, _missing(sources, at)) for at in places if sources or _filled(at)]
    complete = (own for own in there if _filled(own.events) and not own.missing)
    found = next(complete, there[-1] if there else None)
    if found is None and extract is not None:
        raise DataError(
            f"{known.title}: expected {known.extracted} in {extract}, got none, but {_stranger(extract)}; put it "
            "there, or remove the folder"
        )
    if found is not None and not sources and (marker := _marker(found.events)).exists():
        raise DataError(
            f"{known.title}: expected whole recordings in {found.events}, got some of a preparation that did not "
            f"finish, as {marker.name} beside it says; remove both, and put {known.extracted} into {folder / 'extract'}"
        )
    return found


def prepare(known: EventSet, folder: Path, written: Path, on_error: OnError, download: bool) -> Prepared:
    """Makes what `look` finds missing; for one process at a time.

    Raises:
        DataError: files are missing or have another checksum; one is damaged and on_error is "raise"; a download
            failed; nothing can be written.
    """
    found = look(known, folder, written)
    if found is None:
        _extract(known, folder, written, download)
        found = look(known, folder, written)
    if found is None:
        raise DataError(
            f"{known.title}: expected {known.extracted} in {', '.join(known.archives)}, found none in "
            f"{written / 'extract'}; remove this folder, and fetch the archives anew"
        )
    refuse_lost(known, found, on_error)
    if found.missing:
        _remember(_convert(known, found), found, written)
        _marker(found.events).unlink(missing_ok=True)
    again = look(known, folder, written)
    assert again is not None
    assert not again.missing
    refuse_lost(known, again, on_error)
    return again


def refuse_lost(known: EventSet, found: Prepared, on_error: OnError) -> None:
    """Raises for the first damaged file, unless damaged files are skipped."""
    if found.lost and on_error == "raise":
        raise damaged(known, f"{found.extract}/{found.lost[0].path}", found.lost[0].wrong, len(found.lost) - 1)


def damaged(known: EventSet, file: str, reason: str, others: int = 0, remedy: str = "fetch the file anew") -> DataError:
    """The error for a recording that cannot be used."""
    more = f" (and {others:,} other files are damaged)" if others else ""
    return DataError(
        f"{known.title}: {file}: {reason}{more}; {remedy}, or leave out what is damaged by data.on_error: skip"
    )


def _missing(sources: Sequence[EventSource], events: Path) -> tuple[EventSource, ...]:
    """Sources that are whole, of which a recording is not there."""
    return tuple(s for s in sources if not s.wrong and not all(os.path.exists(f"{events}/{m}") for m in s.makes))


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder beside what is to be made of it; what is left in it at the end is removed."""
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _filled(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return not all(is_hidden(entry.name) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _stranger(folder: Path) -> str:
    """A file in a folder, with its kind."""
    for above, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(name for name in files if not is_hidden(name)):
            path = Path(above, name)
            kind = "" if obstacle(path) else kind_of(head_of(path))
            return f"{path.relative_to(folder)}, {kind}".removesuffix(", ")
    return "empty folders"


def _marker(events: Path) -> Path:
    return events.with_name(f"{events.name}.building")


def _known_broken(sources: list[EventSource], extract: Path, written: Path) -> list[EventSource]:
    """Sources with what is known from an earlier conversion, as long as the file is the same."""
    # a damaged list costs another conversion of what is damaged
    try:
        broken = json.loads((written / FRAMES / _BROKEN).read_text(encoding="utf-8"))
        known = {str(path): (str(entry["wrong"]), entry["state"]) for path, entry in broken.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return sources
    return [
        source._replace(wrong=known[source.path][0])
        if source.path in known and known[source.path][1] == state_of(extract / source.path)
        else source
        for source in sources
    ]


def _remember(broken: Sequence[EventSource], found: Prepared, written: Path) -> None:
    assert found.extract is not None
    if not broken:
        return
    known = {s.path: {"wrong": s.wrong, "state": state_of(found.extract / s.path)} for s in (*found.lost, *broken)}
    with whole(written / FRAMES / _BROKEN) as file:
        file.write(json.dumps(known, indent=1).encode())


def state_of(path: str | os.PathLike[str]) -> list[int] | None:
    """What tells a file from one that was put in its place: size and time of the last change."""
    with suppress(OSError):
        found = os.stat(path)
        return [found.st_size, found.st_mtime_ns]
    return None


def _convert(known: EventSet, found: Prepared) -> list[EventSource]:
    """Converts what is missing, which may take hours; gives what could not be converted."""
    assert found.extract is not None
    broken: list[EventSource] = []
    with scratch(found.events) as part:
        with bar(len(found.missing), f"{known.title}: converting files") as count:
            for source in found.missing:
                count(1)
                try:
                    _convert_one(known, source, found.extract, part)
                except ValueError as error:
                    broken.append(source._replace(wrong=str(error)))
        _put(part, found.events)
    return broken


def _convert_one(known: EventSet, source: EventSource, extract: Path, into: Path) -> None:
    if known.convert is None:
        os.symlink(os.path.abspath(extract / source.path), into / source.makes[0])
        return
    with reading(f"{extract / source.path} of {known.title}"):
        made = dict(known.convert(extract, source))
    for name, events in made.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(into / name, **events)  # type: ignore[arg-type]


def _put(part: Path, events: Path) -> None:
    """The folder in its place; where there are recordings already, its files among these."""
    if not (events.is_dir() and os.listdir(events)):
        os.rename(part, events)  # over an empty folder, too
        return
    for folder, _, files in os.walk(part):
        target = events / os.path.relpath(folder, part)
        target.mkdir(exist_ok=True)
        for file in files:
            os.replace(os.path.join(folder, file), target / file)


def _extract(known: EventSet, folder: Path, written: Path, download: bool) -> None:
    reader = known.in_spikingjelly()
    published = {name: (url, md5) for name, url, md5 in reader.resource_url_md5()}
    places = [folder / "download", written / "download"]
    archives = {name: next((p / name for p in places if (p / name).is_file()), None) for name in known.archives}
    absent = [name for name, path in archives.items() if path is None]
    if absent and not (download and reader.downloadable()):
        raise _absent(known, folder, absent, published, reader.downloadable())
    for name, path in archives.items():
        if path is not None:
            _check_md5(known, path, published[name][1])
    with scratch(written / "extract") as part:
        staged, made = part / "staged", part / "made"
        staged.mkdir()
        made.mkdir()
        for name in absent:
            archives[name] = _download(known, name, *published[name], part, written / "download")
        for name, path in archives.items():
            assert path is not None
            os.symlink(path.absolute(), staged / name)
        try:
            reader.extract_downloaded_files(staged, made)
        except Exception as error:
            raise DataError(
                f"{known.title}: expected to unpack {', '.join(known.archives)} beside {part}, could not: "
                f"{cause(error)}; the folder must be writable and have room (data.cache names another one)"
            ) from error
        os.rename(made, written / "extract")


def _check_md5(known: EventSet, path: Path, expected: str) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != expected:
        raise DataError(
            f"{known.title}: {path}: expected the published archive, with md5 {expected}, got {found}: it is damaged, "
            "cut off, or another edition; it is left as it is. Fetch it anew; or, if you trust it, unpack it into the "
            f"folder extract beside {path.parent.name}, so that there are {known.extracted}"
        )


def _download(known: EventSet, name: str, url: str, md5: str, part: Path, into: Path) -> Path:
    from torchvision.datasets.utils import download_url

    # besides OSError: RuntimeError of a bad checksum, and what http raises
    try:
        into.mkdir(exist_ok=True)
        download_url(url, str(part), filename=name, md5=md5)
        os.replace(part / name, into / name)
    except Exception as error:
        raise DataError(
            f"{known.title}: expected to download {name} from {url} into {into}, could not: {cause(error)}; check the "
            "network, and that the folder can be written and has room; or fetch it by hand and put it there"
        ) from error
    return into / name


def _absent(
    known: EventSet, folder: Path, absent: Sequence[str], published: dict[str, tuple[str, str]], downloadable: bool
) -> DataError:
    sources: dict[str, list[str]] = {}
    for name in absent:
        sources.setdefault(published[name][0], []).append(name)
    fetch = "; ".join(f"{', '.join(names)} from {url}" for url, names in sources.items())
    by_program = ", or set data.download: true" if downloadable else "; SpikingJelly cannot download them"
    kind, lacking = DataError, ", ".join(absent)
    if len(absent) == len(known.archives):
        kind, lacking = AbsentData, "the archives"
    return kind(
        f"{known.title}: expected the set in {folder}, found neither recordings in {known.events}, nor files in "
        f"extract, nor in download {lacking}; put into {folder / 'download'}: {fetch}; or put what they hold, "
        f"{known.extracted}, into {folder / 'extract'}{by_program}"
    )
