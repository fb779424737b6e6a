"""What a job that is not finished has at its place in the store: its checkpoint, and the log of how far it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sj_cka.disk import set_aside, whole, writing


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
