"""Finished jobs on disk: whole or not at all, and each done once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sj_cka.store import Store

KEY, OTHER = "ab" + 22 * "0", "cd" + 22 * "1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def entries(store: Store) -> set[str]:
    """Folders of jobs and parts of jobs."""
    return {path.name for path in store.root.glob("*/*") if path.is_dir()}


def test_what_is_written_is_read_back(store: Store) -> None:
    assert not store.has(KEY)
    store.write(KEY, {"a.json": b"{}", "b": b"\x00\xff"})
    assert store.has(KEY)
    assert (store.read(KEY, "a.json"), store.read(KEY, "b")) == (b"{}", b"\x00\xff")
    assert not store.has(OTHER)
    assert entries(store) == {KEY}


def test_the_root_is_the_argument_or_the_variable_or_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("x").root == tmp_path / "x"
    monkeypatch.setenv("SJ_CKA_STORE", str(tmp_path / "y"))
    assert Store().root == tmp_path / "y"
    monkeypatch.delenv("SJ_CKA_STORE")
    assert Store().root == tmp_path / ".sj_cka" / "store"
    assert list(tmp_path.iterdir()) == []  # looking makes nothing


def test_reading_what_is_not_there_is_an_error_that_names_it(store: Store) -> None:
    with pytest.raises(FileNotFoundError, match=f"expected the finished job {KEY} with a file a.json, found none at"):
        store.read(KEY, "a.json")
    store.write(KEY, {"a.json": b""})
    with pytest.raises(FileNotFoundError, match=r"with a file b\.json"):
        store.read(KEY, "b.json")


def test_a_write_that_fails_half_way_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def full_disk(number: int) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        store.write(KEY, {"a": b"1", "b": b"2"})
    assert not store.has(KEY)
    assert entries(store) == set()


def test_a_part_that_a_killed_writer_left_is_no_job_and_is_cleaned_away(store: Store) -> None:
    part = store.folder(KEY).parent / f".{KEY}-x1"
    part.mkdir(parents=True)
    (part / "a").write_bytes(b"half")
    assert not store.has(KEY)
    with store.working_on(KEY) as needed:
        assert needed
        assert not part.exists()
        store.write(KEY, {"a": b"whole"})
    assert entries(store) == {KEY}


def test_a_folder_without_its_last_file_is_no_job_and_is_replaced(store: Store) -> None:
    store.write(KEY, {"a": b"1"})
    (store.folder(KEY) / "done").unlink()
    assert not store.has(KEY)
    store.write(KEY, {"a": b"2"})
    assert store.read(KEY, "a") == b"2"
    assert entries(store) == {KEY}


def test_a_finished_job_stays_as_it_is(store: Store) -> None:
    store.write(KEY, {"a": b"first"})
    store.write(KEY, {"a": b"second"})
    assert store.read(KEY, "a") == b"first"
    assert entries(store) == {KEY}


def test_a_finished_job_is_not_needed_again(store: Store) -> None:
    with store.working_on(KEY) as needed:
        assert needed
        store.write(KEY, {})
    with store.working_on(KEY) as needed:
        assert not needed


def test_an_error_while_working_sets_the_job_free(store: Store) -> None:
    with pytest.raises(RuntimeError, match="broken"), store.working_on(KEY):
        raise RuntimeError("broken")
    with store.working_on(KEY) as needed:
        assert needed


WORKER = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("store", sys.argv[1])  # the module alone: torch takes seconds
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
store, log = module.Store(sys.argv[2]), Path(sys.argv[3])
with store.working_on(sys.argv[4]) as needed:
    if needed:
        with log.open("a") as file:
            file.write("done\\n")
        print("working", flush=True)
        time.sleep(float(sys.argv[5]))
        store.write(sys.argv[4], {"a": b"1"})
"""


def start(store: Store, log: Path, seconds: float) -> subprocess.Popen[str]:
    module = sys.modules[Store.__module__].__file__
    command = [sys.executable, "-c", WORKER, str(module), str(store.root), str(log), KEY, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_want_one_job_do_it_once(store: Store, tmp_path: Path) -> None:
    both = [start(store, tmp_path / "log", 0.5) for _ in range(2)]
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "log").read_text() == "done\n"
    assert store.has(KEY)


def test_a_process_that_is_killed_while_working_leaves_the_job_to_the_next(store: Store, tmp_path: Path) -> None:
    killed = start(store, tmp_path / "log", 600)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "working\n"
    killed.kill()
    killed.communicate(timeout=60)
    with store.working_on(KEY) as needed:
        assert needed
        store.write(KEY, {})
    assert entries(store) == {KEY}


def test_a_store_can_be_moved(store: Store, tmp_path: Path) -> None:
    store.write(KEY, {"a": b"1"})
    shutil.move(store.root, tmp_path / "elsewhere")
    assert Store(tmp_path / "elsewhere").read(KEY, "a") == b"1"


# checkpoints


def test_a_checkpoint_takes_the_place_of_the_last_and_goes_when_the_job_is_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shelf = store.shelf("abc")
    assert shelf.load() is None
    shelf.save(b"one")
    shelf.save(b"two")
    assert store.shelf("abc").load() == b"two"
    assert not store.has("abc")
    store.write("abc", {"file": b"done"})
    assert shelf.load() is None
    assert [path.name for path in (tmp_path / "ab").iterdir()] == ["abc"]


def test_a_disk_that_fills_up_during_a_checkpoint_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Store(tmp_path).shelf("abc")
    shelf.save(b"one")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = (
        r"could not save a checkpoint of 3 MB \(No space left on device; the one before is kept\): make room and run"
    )
    with pytest.raises(OSError, match=message):
        shelf.save(b"x" * 3_000_000)
    assert shelf.load() == b"one"
    assert [path.name for path in (tmp_path / "ab").iterdir()] == [".abc.checkpoint"]


def test_what_a_killed_run_left_does_not_take_the_checkpoint_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.shelf("abc").save(b"one")
    (tmp_path / "ab" / ".abc-left").mkdir()
    with store.working_on("abc") as needed:
        assert needed
        assert store.shelf("abc").load() == b"one"
    assert not (tmp_path / "ab" / ".abc-left").exists()
