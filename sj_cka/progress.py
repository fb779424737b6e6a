"""How far a run is: a bar on a terminal or in a notebook, and in a log one line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from tqdm.auto import tqdm

LOG_SECONDS = 10.0


class Progress:
    """Counts finished jobs, and shows what the running ones say.

    Args:
        total: number of jobs.
        done: finished before.
        show: False to be silent.
        file: where to; None for stderr.
        log_seconds: the shortest time between two lines of a log.
    """

    def __init__(
        self, total: int, done: int, *, show: bool, file: TextIO | None = None, log_seconds: float = LOG_SECONDS
    ) -> None:
        self.file = sys.stderr if file is None else file
        self.total, self.done, self.show, self.log_seconds = total, done, show, log_seconds
        self.began = self.said = time.monotonic()
        self.bar: Any = None
        if show and (self.file.isatty() or "ipykernel" in sys.modules):
            self.bar = tqdm(total=total, initial=done, unit="job", file=self.file, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def say(self, line: str) -> None:
        """Shows what a running job says."""
        if self.bar is not None:
            self.bar.set_postfix_str(line)
        elif self.show and time.monotonic() - self.said >= self.log_seconds:
            self._log(line)

    def finished(self, label: str) -> None:
        """Counts a finished job."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif self.show and (self.done == self.total or time.monotonic() - self.said >= self.log_seconds):
            self._log(f"{label} finished")

    def _log(self, line: str) -> None:
        self.said = time.monotonic()
        print(f"{self.done}/{self.total} jobs, {self.said - self.began:.0f} s: {line}", file=self.file, flush=True)
