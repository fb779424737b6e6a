"""How far something is: a bar on a terminal or in a notebook, and in a log one line now and then; on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm.auto import tqdm

LOG_SECONDS = 10.0
SHOW, AFTER_SECONDS = True, 2.0  # of `bar`: False to be silent; what takes less is not shown


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
        self.show = show and self.file is not None  # a process may have no stderr
        self.total, self.done, self.log_seconds = total, done, log_seconds
        self.began = self.said = time.monotonic()
        drawn = self.show and _drawn(self.file)
        self.bar: Any = (
            tqdm(total=total, initial=done, unit="job", file=self.file, dynamic_ncols=True) if drawn else None
        )

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
        self.show = _printed(f"{self.done}/{self.total} jobs, {self.said - self.began:.0f} s: {line}", self.file)


@contextmanager
def repeated(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls a function again and again meanwhile, in a thread of its own, and at the end once more.

    Args:
        look: what it raises is raised at the end.
        seconds: between two calls.
    """
    over = threading.Event()

    def looking() -> None:
        while not over.wait(seconds):
            look()
        look()

    with ThreadPoolExecutor(1) as thread:
        calls = thread.submit(looking)
        try:
            yield
        finally:
            over.set()
        calls.result()


@contextmanager
def bar(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """Gives a function that counts so many more as done; shows nothing of what takes less than AFTER_SECONDS.

    Args:
        total: how many in all.
        title: what they are.
    """
    file = sys.stderr
    if not SHOW or file is None:
        yield lambda n: None
    elif _drawn(file):
        with tqdm(total=total, desc=title, file=file, delay=AFTER_SECONDS, leave=False, dynamic_ncols=True) as shown:
            yield shown.update
    else:
        began = said = time.monotonic()
        done = 0

        def count(n: int) -> None:
            nonlocal done, said
            done += n
            if (now := time.monotonic()) - said >= LOG_SECONDS:
                said = now
                _printed(f"{title}: {done:,}/{total:,}, {now - began:.0f} s", file)

        yield count


def _printed(line: str, file: TextIO) -> bool:
    """Prints a line; False where nobody reads it any more, which is no reason to end the work."""
    try:
        print(line, file=file, flush=True)
    except (BrokenPipeError, ValueError):  # ValueError: the file is closed
        return False
    return True


def _drawn(file: TextIO) -> bool:
    """Whether a bar can be drawn, and drawn anew."""
    return file.isatty() or "ipykernel" in sys.modules
