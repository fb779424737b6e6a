"""What an unfinished job has at its place in the store: its checkpoint, and a log that breaks no reader."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from sj_cka.store import Store
from sj_cka.training import Epoch

KEY = "ab" + 22 * "0"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store" / KEY[:2]).mkdir(parents=True)
    return Store(tmp_path / "store")


def epoch(number: int) -> Epoch:
    return Epoch(number, 0.5, 0.25, float("nan"), 0.1, 2.0, 100.0, 1.0, {"lif": 0.125})


def test_a_checkpoint_takes_the_place_of_the_last_and_goes_when_the_job_is_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    slot = store.slot("abc")
    assert slot.load() is None
    slot.save(b"one")
    slot.save(b"two")
    assert store.slot("abc").load() == b"two"
    assert not store.has("abc")
    store.write("abc", {"file": b"done"})
    assert slot.load() is None
    assert [path.name for path in (tmp_path / "ab").iterdir()] == ["abc"]


def test_a_disk_that_fills_up_during_a_checkpoint_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = Store(tmp_path).slot("abc")
    slot.save(b"one")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = (
        r"could not save a checkpoint of 3 MB \(No space left on device; the one before is kept\): make room and run"
    )
    with pytest.raises(OSError, match=message):
        slot.save(b"x" * 3_000_000)
    assert slot.load() == b"one"
    assert [path.name for path in (tmp_path / "ab").iterdir()] == [".abc.checkpoint"]


def test_what_a_killed_run_left_does_not_take_the_checkpoint_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.slot("abc").save(b"one")
    (tmp_path / "ab" / ".abc-left").mkdir()
    with store.working_on("abc") as needed:
        assert needed
        assert store.slot("abc").load() == b"one"
    assert not (tmp_path / "ab" / ".abc-left").exists()


def test_a_checkpoint_that_is_set_aside_lies_whole_among_what_is_damaged(store: Store) -> None:
    slot = store.slot(KEY)
    slot.save(b"damaged")
    moved = Path(slot.set_aside())
    assert (moved.read_bytes(), moved.parent.parent, slot.load()) == (b"damaged", store.aside, None)
    slot.save(b"damaged again")
    assert Path(slot.set_aside()) != moved
    assert moved.read_bytes() == b"damaged"


def test_what_a_job_says_is_read_line_by_line_while_it_is_written_and_once(store: Store) -> None:
    log = store.log(KEY)
    assert log.news() == []
    report = store.log(KEY).begin()
    assert log.news() == []
    report("at work")
    assert log.news() == [{"says": "at work"}]
    assert log.news() == []
    report("epoch 1/2", epoch(1))
    _, entry = log.news()
    assert (entry["says"], entry["epoch"]["epoch"], entry["epoch"]["rates"]) == ("epoch 1/2", 1, {"lif": 0.125})
    assert entry["epoch"]["firing_rate"] != entry["epoch"]["firing_rate"]  # no neurons: not a number
    assert store.log(KEY).news() != []
    store.write(KEY, {"file": b"done"})
    assert store.log(KEY).news() == []
    assert not store.log(KEY).path.exists()


def test_a_log_is_begun_anew_by_the_run_that_goes_on_with_the_job(store: Store) -> None:
    reader = store.log(KEY)
    report = store.log(KEY).begin()
    report("epoch 1/2", epoch(1))
    report("epoch 2/2", epoch(2))
    assert len(reader.news()) == 2
    report = store.log(KEY).begin()
    report("epoch 1/2", epoch(1))
    assert [entry["epoch"]["epoch"] for entry in reader.news()] == [1]


def test_a_line_that_is_not_whole_waits_until_it_is_and_what_is_no_line_is_passed_over(store: Store) -> None:
    log = store.log(KEY)
    with log.path.open("ab", buffering=0) as file:
        file.write(b'{"says": "one"}\n{"says": "tw')
        assert log.news() == [{"says": "one"}]
        file.write(b'o"}\n')
        assert log.news() == [{"says": "one"}, {"says": "two"}]
        file.write(bytes(40) + b'\n\xff\n{"says": "three"}\n')
        assert log.news() == [{"says": "one"}, {"says": "two"}, {"says": "three"}]


def test_what_lies_in_the_place_of_a_log_is_neither_followed_nor_waited_for(store: Store, tmp_path: Path) -> None:
    log, victim = store.log(KEY), tmp_path / "victim"
    victim.write_text("mine")
    log.path.symlink_to(victim)
    report = log.begin()
    report("at work")
    assert (victim.read_text(), log.path.is_symlink()) == ("mine", False)
    log.path.unlink()
    log.path.mkdir()
    assert log.news() == []
    with pytest.raises(OSError, match=r"could not save the log of a job .*: .*again: .*\.log$"):
        log.begin()
    log.path.rmdir()
    os.mkfifo(log.path)
    assert log.news() == []


def test_a_disk_that_fills_up_under_a_log_is_told(store: Store) -> None:
    report, limits = store.log(KEY).begin(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"^could not save the log of a job \(File too large; .*\): make room and run"
        ):
            report("x" * 3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.log(KEY).news() == []  # half a line
