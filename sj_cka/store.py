"""Finished jobs by content hash: atomic, resumable, safe with several runs at once, believed only if it agrees.

A job that is not finished has at its place in the store its checkpoint, and the log of how far it is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from sj_cka.disk import FORBIDDEN, beside, set_aside, try_folder, whole, writing
from sj_cka.integrity import MANIFEST, Damaged, Manifest

_DONE = "done"  # in place of a manifest in the folders of earlier versions
_DAMAGED = "damaged"  # folder of what was set aside


class Store:
    """A folder with one folder for each finished job.

    A job's files are written beside their place and moved there at once, so that a job is there whole or not at all,
    whatever interrupts it. A manifest among them holds their sizes and hashes, see `sj_cka.integrity`; what does not
    agree with it is damaged, and no finished job.

    Args:
        root: the folder; None for $SJ_CKA_STORE, or `.sj_cka/store` in the working directory.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("SJ_CKA_STORE") or Path(".sj_cka") / "store").absolute()
        self._sound: set[str] = set()  # looked at by this process
        self._given: dict[str, Manifest] = {}  # of jobs of before, where they cannot be written

    @property
    def aside(self) -> Path:
        """Where damaged jobs and checkpoints are moved to."""
        return self.root / _DAMAGED

    def try_out(self) -> None:
        """Tries whether jobs can be written; OSError as `try_folder`."""
        try_folder(self.root, "the store of finished jobs")

    def has(self, key: str) -> bool:
        """Whether the job of this key is finished, and all its files are what was written."""
        if key in self._sound and (key in self._given or (self.folder(key) / MANIFEST).is_file()):
            return True
        return os.path.lexists(self.folder(key)) and not self.unsealed(key) and not self.damage(key)

    def damage(self, key: str) -> str:
        """What is wrong with the files of a job, in words; "" where nothing is, or no job is finished."""
        folder = self.folder(key)
        self._sound.discard(key)
        if not os.path.lexists(folder) or self.unsealed(key):
            return ""
        try:
            self._manifest(key).check(folder)
        except Damaged as error:
            return str(error)
        self._sound.add(key)
        return ""

    def folder(self, key: str) -> Path:
        """Where the files of a job lie."""
        return self.root / key[:2] / key

    def read(self, key: str, name: str) -> bytes:
        """One file of a finished job.

        Raises:
            FileNotFoundError: the job is not finished, or has no such file.
            Damaged: the file is not what was written.
        """
        folder = self.folder(key)
        manifest = self._manifest(key) if os.path.lexists(folder) else None
        if manifest is None or name not in manifest.files:
            raise FileNotFoundError(
                f"expected the finished job {key} with a file {name}, found none at {folder / name}"
            )
        return manifest.read_file(folder, name)

    def write(self, key: str, files: Mapping[str, bytes]) -> None:
        """Puts a finished job into the store; one that is there already stays as it is.

        Raises:
            OSError: it could not be written; it names the file, and nothing of the job is there.
        """
        target, safe = self.folder(key), f"what was finished before is safe in {self.root}"
        part = target.parent / beside(key)
        with writing(target, f"the finished job {key}", safe):
            part.mkdir(parents=True)
            try:
                for name, content in {**files, MANIFEST: Manifest.over(key, files).content()}.items():
                    saying = writing(target / name, f"{name} of {len(content) / 1e6:.1f} MB", safe)
                    with saying, (part / name).open("xb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                self._move(part, key)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        for path in (self.slot(key).path, self.log(key).path):
            path.unlink(missing_ok=True)

    def _move(self, part: Path, key: str) -> None:
        """Puts a job in its place; what lies there and is no finished job of another run is set aside."""
        target = self.folder(key)
        try:
            part.rename(target)
        except OSError:
            if not os.path.lexists(target):
                raise
            self._sound.discard(key)
            if not self.has(key):
                self.set_aside(key)
                part.rename(target)

    def set_aside(self, key: str) -> Path:
        """Moves the folder of a damaged job out of the way; gives where it lies now."""
        self._sound.discard(key)
        return set_aside(self.folder(key), self.aside)

    def unsealed(self, key: str) -> bool:
        """Whether a job was finished by an earlier version, which wrote no manifest."""
        folder = self.folder(key)
        return key not in self._given and (folder / _DONE).is_file() and not os.path.lexists(folder / MANIFEST)

    def contents(self, key: str) -> dict[str, bytes]:
        """All files of a job of an earlier version, by name."""
        paths = (path for path in self.folder(key).iterdir() if path.name != _DONE)
        return {path.name: path.read_bytes() for path in paths if path.is_file()}

    def seal(self, key: str, files: Mapping[str, bytes]) -> None:
        """Gives a job of an earlier version its manifest; in a store that cannot be written, for this process alone."""
        folder, manifest = self.folder(key), Manifest.over(key, files)
        try:
            with whole(folder / MANIFEST) as file:
                file.write(manifest.content())
            (folder / _DONE).unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
            self._given[key] = manifest
        self._sound.add(key)

    def _manifest(self, key: str) -> Manifest:
        return self._given.get(key) or Manifest.read(self.folder(key), key)

    def slot(self, key: str) -> Checkpoint:
        """Where the checkpoint of a job lies while it is worked on."""
        return Checkpoint(self.folder(key).parent / f".{key}.checkpoint", self.aside)

    def log(self, key: str) -> Log:
        """What a job says while it is worked on; gone when it is finished."""
        return Log(self.folder(key).parent / f".{key}.log")

    @contextmanager
    def working_on(self, key: str) -> Iterator[bool]:
        """Holds a job against other runs while it is worked on; yields whether it still has to be done.

        A damaged one is set aside. The lock goes with the process that holds it, so a killed run leaves none behind.
        """
        lock = self.folder(key).parent / f"{key}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            for pattern in (f".{key}-*", f".{key}.checkpoint-*"):  # parts of a run that was killed while it held this
                for left in lock.parent.glob(pattern):
                    if left.is_dir() and not left.is_symlink():
                        shutil.rmtree(left, ignore_errors=True)
                    else:
                        left.unlink(missing_ok=True)
            if self.damage(key):
                self.set_aside(key)
            yield not self.has(key)


class Checkpoint:
    """One checkpoint in a file: a new one takes the place of the old, whole or not at all.

    Args:
        path: the file.
        aside: folder for one that is damaged.
    """

    def __init__(self, path: Path, aside: Path) -> None:
        self.path, self.aside = path, aside

    def load(self) -> bytes | None:
        """What was saved last, None if nothing was."""
        return self.path.read_bytes() if self.path.is_file() else None

    def save(self, content: bytes) -> None:
        """Puts a checkpoint in the place of the last one.

        Raises:
            OSError: it could not be written; the last one is still there.
        """
        safe = "the one before is kept" if self.path.is_file() else "there is none yet"
        with writing(self.path, f"a checkpoint of {len(content) / 1e6:.0f} MB", safe), whole(self.path) as file:
            file.write(content)

    def set_aside(self) -> str:
        """Takes a damaged checkpoint out of the way; gives where it lies now."""
        return str(set_aside(self.path, self.aside))


class Log:
    """What a job says while it is worked on, a line of JSON each: `{"says": text}`, of a training with `"epoch"`.

    The run that works on the job writes it, anew from the first line; whoever watches reads it, in any process.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[int, ...] = ()  # what the file was when it was read last

    def begin(self) -> Callable[..., None]:
        """Begins the log anew; gives what adds a line to it, a `sj_cka.job.Report`.

        Raises:
            OSError: it could not be written, at once or later.
        """

        def add(text: str, mode: str) -> None:
            safe = "what was finished before is safe"
            with writing(self.path, "the log of a job", safe), self.path.open(mode, encoding="utf-8") as file:
                file.write(text)

        def report(line: str, epoch: Any = None) -> None:
            entry = {"says": line} if epoch is None else {"says": line, "epoch": asdict(epoch)}
            add(json.dumps(entry) + "\n", "a")

        if self.path.is_symlink() or self.path.is_file():
            self.path.unlink()
        add("", "x")
        return report

    def news(self) -> list[dict[str, Any]]:
        """All lines, where there is another than at the last look; else none. One that is not whole yet waits."""
        entries: list[dict[str, Any]] = []
        with suppress(OSError):  # there is none: the job has not begun, or is finished
            stat = self.path.stat()
            now = stat.st_ino, stat.st_mtime_ns, stat.st_size
            if now != self._read and self.path.is_file():
                for line in self.path.read_bytes().split(b"\n")[:-1]:
                    with suppress(ValueError):  # what the sudden end of a machine has left of a line
                        entries.append(json.loads(line))
                self._read = now
        return entries
