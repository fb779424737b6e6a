"""How far something is: a bar, lines of a log, and functions that are called again and again meanwhile."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import pytest

from sj_cka.progress import Progress, bar, repeated


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_log_progress_is_a_whole_line_now_and_then() -> None:
    log = io.StringIO()
    with Progress(40, 30, show=True, file=log, log_seconds=3600) as progress:
        for i in range(9):
            progress.say(f"job {i}: epoch 1/2")
            progress.finished(f"job {i}")
        assert log.getvalue() == ""
        progress.finished("the last")
    assert log.getvalue() == "40/40 jobs, 0 s: the last finished\n"
    log = io.StringIO()
    with Progress(3, 0, show=True, file=log, log_seconds=0) as progress:
        progress.say("a: epoch 1/2")
        progress.finished("a")
    assert log.getvalue() == "0/3 jobs, 0 s: a: epoch 1/2\n1/3 jobs, 0 s: a finished\n"


def test_on_a_terminal_progress_is_a_bar() -> None:
    terminal = Terminal()
    with Progress(4, 1, show=True, file=terminal) as progress:
        progress.say("a: epoch 1/2")
        progress.finished("a")
    assert "2/4" in terminal.getvalue()
    assert "a: epoch 1/2" in terminal.getvalue()


def test_without_a_stderr_or_with_one_that_nobody_reads_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", None)
    for file in (None, Closed()):
        with Progress(2, 0, show=True, file=file, log_seconds=0) as progress:
            progress.say("a")
            progress.finished("a")
            assert progress.done == 1
    with bar(3, "samples") as count:
        count(1)


@pytest.mark.parametrize("file", [io.StringIO(), Terminal()])
def test_who_wants_no_progress_gets_none(file: Any) -> None:
    with Progress(1, 0, show=False, file=file, log_seconds=0) as progress:
        progress.say("a")
        progress.finished("a")
    assert file.getvalue() == ""


def test_a_repeated_function_is_called_meanwhile_and_once_more_at_the_end() -> None:
    calls, called = [], threading.Event()

    def look() -> None:
        calls.append(threading.current_thread())
        called.set()

    with repeated(look, 0.001):
        assert called.wait(10)
        before = len(calls)
    assert len(calls) > before
    assert threading.main_thread() not in calls
    with repeated(look, 3600):
        calls.clear()
    assert len(calls) == 1


def test_what_a_repeated_function_raises_is_raised_at_the_end_unless_something_else_is() -> None:
    def look() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), repeated(look, 3600):
        pass
    with pytest.raises(KeyError), repeated(look, 3600):
        raise KeyError
