"""Finished jobs by content hash: atomic, resumable, safe with several runs at once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

_DONE = "done"


class Checkpoint:
    """One checkpoint in a file: a new one takes the place of the old, whole or not at all.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> bytes | None:
        """What was saved last, None if nothing was."""
        return self.path.read_bytes() if self.path.is_file() else None

    def save(self, content: bytes) -> None:
        """Puts a checkpoint in the place of the last one.

        Raises:
            OSError: it could not be written; the last one is still there.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            before = "the one before is kept" if self.path.is_file() else "there is none yet"
            raise OSError(
                error.errno,
                f"could not save a checkpoint of {len(content) / 1e6:.0f} MB ({error.strerror or error}; {before}): "
                "make room and run the same command again",
                str(self.path),
            ) from error

    def remove(self) -> None:
        """Takes the checkpoint away, if there is one."""
        self.path.unlink(missing_ok=True)


class Store:
    """A folder with one folder for each finished job.

    A job's files are written beside their place and moved there at once, so that a job is there whole or not at all,
    whatever interrupts it.

    Args:
        root: the folder; None for $SJ_CKA_STORE, or `.sj_cka/store` in the working directory.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("SJ_CKA_STORE") or Path(".sj_cka") / "store").absolute()

    def has(self, key: str) -> bool:
        """Whether the job of this key is finished."""
        return (self.folder(key) / _DONE).is_file()

    def folder(self, key: str) -> Path:
        """Where the files of a job lie."""
        return self.root / key[:2] / key

    def read(self, key: str, name: str) -> bytes:
        """One file of a finished job.

        Raises:
            FileNotFoundError: the job is not finished, or has no such file.
        """
        path = self.folder(key) / name
        if not path.is_file():
            raise FileNotFoundError(f"expected the finished job {key} with a file {name}, found none at {path}")
        return path.read_bytes()

    def write(self, key: str, files: Mapping[str, bytes]) -> None:
        """Puts a finished job into the store; one that is there already stays as it is."""
        target = self.folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=target.parent))
        try:
            for name, content in {**files, _DONE: b""}.items():
                with (part / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            part.chmod(0o755)  # mkdtemp makes it private
            try:
                part.rename(target)
            except OSError:
                if not self.has(key):  # not another run's finished job: a broken folder, or a full disk
                    shutil.rmtree(target, ignore_errors=True)
                    part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self.shelf(key).remove()

    def shelf(self, key: str) -> Checkpoint:
        """Where the checkpoint of a job lies while it is worked on."""
        return Checkpoint(self.folder(key).parent / f".{key}.checkpoint")

    @contextmanager
    def working_on(self, key: str) -> Iterator[bool]:
        """Holds a job against other runs while it is worked on; yields whether it still has to be done.

        The lock goes with the process that holds it, so a killed run leaves none behind.
        """
        lock = self.folder(key).parent / f"{key}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            for left in lock.parent.glob(f".{key}-*"):  # parts of a run that was killed while it held this lock
                shutil.rmtree(left, ignore_errors=True)
            yield not self.has(key)
