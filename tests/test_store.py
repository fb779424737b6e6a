"""Jobs on disk: finished ones whole or not at all, each done once; unfinished ones with a log that breaks no reader."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sj_cka import disk, integrity
from sj_cka.integrity import Damaged
from sj_cka.store import Store
from sj_cka.training import Epoch

KEY, OTHER = "ab" + 22 * "0", "cd" + 22 * "1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def entries(store: Store) -> set[str]:
    """Folders of jobs and parts of jobs."""
    return {path.name for path in store.root.glob("??/*") if path.is_dir()}


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


def test_a_folder_without_its_last_file_is_no_job_and_is_set_aside(store: Store) -> None:
    store.write(KEY, {"a": b"1"})
    (store.folder(KEY) / "manifest.json").unlink()
    assert not store.has(KEY)
    store.write(KEY, {"a": b"2"})
    assert store.read(KEY, "a") == b"2"
    (aside,) = store.aside.glob("*/*")
    assert (aside / "a").read_bytes() == b"1"


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


# damage


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


FILES = {"weights.safetensors": bytes(range(40)), "a.json": b'{"x": 0.5}', "empty.csv": b""}


def test_every_flipped_bit_of_every_file_is_seen_and_the_job_is_set_aside_whole(store: Store) -> None:
    store.write(KEY, FILES)
    folder = store.folder(KEY)
    for path in sorted(folder.iterdir()):
        for bit in range(0, 8 * path.stat().st_size, 7):
            flip(path, bit)
            told = store.damage(KEY)
            assert told.startswith(str(folder)), (path.name, bit)
            assert path.name == "manifest.json" or path.name in told
            assert not store.has(KEY)
            flip(path, bit)
    assert store.damage(KEY) == ""
    flip(folder / "a.json", 60)
    with store.working_on(KEY) as needed:
        assert needed
    assert entries(store) == set()
    (aside,) = store.aside.glob(f"{KEY}-*/{KEY}")
    assert {path.name for path in aside.iterdir()} == {*FILES, "manifest.json"}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_huge(path: Path) -> None:
    os.truncate(path, 1 << 42)


DAMAGE = [Path.unlink, truncate, grow, make_a_folder, make_a_pipe, make_huge]


@pytest.mark.parametrize("name", ["a.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_file_that_is_gone_longer_shorter_or_something_else_is_named(
    store: Store, damage: Callable[[Path], None], name: str
) -> None:
    store.write(KEY, FILES)
    damage(store.folder(KEY) / name)
    assert str(store.folder(KEY) / name) in store.damage(KEY)
    with pytest.raises(Damaged, match=re.escape(name)):
        store.read(KEY, name if name != "manifest.json" else "a.json")


SEALS = [{"../x": {"bytes": 0, "sha256": ""}}, {"a": {"bytes": "1", "sha256": ""}}, {"a": {}}, {"a": []}, [], 1]
NO_MANIFESTS = ["", "[]", "{}", "null", '{"of": 1}', "[" * 99999, "NaN", "\0"]
NO_MANIFESTS += [json.dumps({"of": KEY, "files": seals}) + "\n" for seals in SEALS]


@pytest.mark.parametrize("text", NO_MANIFESTS, ids=lambda text: text[:20])
def test_what_is_no_manifest_is_told_as_such(store: Store, text: str) -> None:
    store.write(KEY, FILES)
    (store.folder(KEY) / "manifest.json").write_text(text)
    assert store.damage(KEY) == f"{store.folder(KEY) / 'manifest.json'} is damaged: it is no manifest"


def test_the_files_of_another_job_do_not_stand_in_for_those_of_this_one(store: Store) -> None:
    store.write(OTHER, FILES)
    store.folder(KEY).parent.mkdir(parents=True)
    store.folder(OTHER).rename(store.folder(KEY))
    assert store.damage(KEY).endswith(f"manifest.json is not of this but of {OTHER!r}")


def test_what_is_damaged_after_it_was_looked_at_is_not_read(store: Store) -> None:
    store.write(KEY, FILES)
    assert store.has(KEY)
    flip(store.folder(KEY) / "weights.safetensors", 9)
    with pytest.raises(Damaged, match=r"weights\.safetensors is damaged"):
        store.read(KEY, "weights.safetensors")
    assert store.read(KEY, "a.json") == FILES["a.json"]


def test_each_file_is_hashed_once_in_a_process_to_know_that_a_job_is_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(KEY, FILES)
    hashed: list[bytes] = []
    seal = integrity.seal
    monkeypatch.setattr(integrity, "seal", lambda content: hashed.append(content) or seal(content))
    assert all(store.has(KEY) for _ in range(5))
    assert sorted(hashed) == sorted(FILES.values())


def test_a_full_disk_names_the_file_and_what_is_safe_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    told = (
        rf"^could not save b of 2\.0 MB \(No space left on device; what was finished before is safe in {store.root}\): "
        rf"make room and run the same command again: {store.folder(KEY) / 'b'}$"
    )
    with pytest.raises(OSError, match=told) as raised:
        store.write(KEY, {"a": b"1", "b": bytes(2_000_000)})
    assert raised.value.errno == errno.ENOSPC
    assert entries(store) == set()


def test_nothing_that_lies_in_the_way_is_followed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(disk.secrets, "token_hex", lambda count: "guessed")  # were it so, nothing would be lost
    slot = store.slot(KEY)
    slot.path.parent.mkdir(parents=True)
    slot.path.with_name(f".{KEY}.checkpoint-guessed").symlink_to(victim)
    with pytest.raises(OSError, match="File exists"):
        slot.save(b"content")
    store.folder(OTHER).parent.mkdir()
    (store.folder(OTHER).parent / f".{OTHER}-guessed").symlink_to(tmp_path)
    with pytest.raises(OSError, match="File exists"):
        store.write(OTHER, {"victim": b"content"})
    assert victim.read_text() == "mine"
    assert slot.path.with_name(f".{KEY}.checkpoint-guessed").is_symlink()  # what is not ours stays


def test_temporary_names_cannot_be_guessed_and_two_are_never_alike() -> None:
    names = {disk.beside("report.html") for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"\.report\.html-[0-9a-f]{16}", name) for name in names)


def test_a_store_behind_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "store")
    store.try_out()
    with store.working_on(KEY):
        store.write(KEY, {"a": b"1"})
    assert Store(tmp_path / "disk").read(KEY, "a") == b"1"


# what is not finished


@pytest.fixture
def begun(tmp_path: Path) -> Store:
    (tmp_path / "store" / KEY[:2]).mkdir(parents=True)
    return Store(tmp_path / "store")


def epoch(number: int) -> Epoch:
    return Epoch(number, 0.5, 0.25, float("nan"), 0.1, 2.0, 100.0, 1.0, {"lif": 0.125})


def test_a_checkpoint_takes_the_place_of_the_last_and_goes_when_the_job_is_finished(tmp_path: Path) -> None:
    begun = Store(tmp_path)
    slot = begun.slot("abc")
    assert slot.load() is None
    slot.save(b"one")
    slot.save(b"two")
    assert begun.slot("abc").load() == b"two"
    assert not begun.has("abc")
    begun.write("abc", {"file": b"done"})
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
    begun = Store(tmp_path)
    begun.slot("abc").save(b"one")
    (tmp_path / "ab" / ".abc-left").mkdir()
    with begun.working_on("abc") as needed:
        assert needed
        assert begun.slot("abc").load() == b"one"
    assert not (tmp_path / "ab" / ".abc-left").exists()


def test_a_checkpoint_that_is_set_aside_lies_whole_among_what_is_damaged(begun: Store) -> None:
    slot = begun.slot(KEY)
    slot.save(b"damaged")
    moved = Path(slot.set_aside())
    assert (moved.read_bytes(), moved.parent.parent, slot.load()) == (b"damaged", begun.aside, None)
    slot.save(b"damaged again")
    assert Path(slot.set_aside()) != moved
    assert moved.read_bytes() == b"damaged"


def test_what_a_job_says_is_read_line_by_line_while_it_is_written_and_once(begun: Store) -> None:
    log = begun.log(KEY)
    assert log.news() == []
    report = begun.log(KEY).begin()
    assert log.news() == []
    report("at work")
    assert log.news() == [{"says": "at work"}]
    assert log.news() == []
    report("epoch 1/2", epoch(1))
    _, entry = log.news()
    assert (entry["says"], entry["epoch"]["epoch"], entry["epoch"]["rates"]) == ("epoch 1/2", 1, {"lif": 0.125})
    assert entry["epoch"]["firing_rate"] != entry["epoch"]["firing_rate"]  # no neurons: not a number
    assert begun.log(KEY).news() != []
    begun.write(KEY, {"file": b"done"})
    assert begun.log(KEY).news() == []
    assert not begun.log(KEY).path.exists()


def test_a_log_is_begun_anew_by_the_run_that_goes_on_with_the_job(begun: Store) -> None:
    reader = begun.log(KEY)
    report = begun.log(KEY).begin()
    report("epoch 1/2", epoch(1))
    report("epoch 2/2", epoch(2))
    assert len(reader.news()) == 2
    report = begun.log(KEY).begin()
    report("epoch 1/2", epoch(1))
    assert [entry["epoch"]["epoch"] for entry in reader.news()] == [1]


def test_a_line_that_is_not_whole_waits_until_it_is_and_what_is_no_line_is_passed_over(begun: Store) -> None:
    log = begun.log(KEY)
    with log.path.open("ab", buffering=0) as file:
        file.write(b'{"says": "one"}\n{"says": "tw')
        assert log.news() == [{"says": "one"}]
        file.write(b'o"}\n')
        assert log.news() == [{"says": "one"}, {"says": "two"}]
        file.write(bytes(40) + b'\n\xff\n{"says": "three"}\n')
        assert log.news() == [{"says": "one"}, {"says": "two"}, {"says": "three"}]


def test_what_lies_in_the_place_of_a_log_is_neither_followed_nor_waited_for(begun: Store, tmp_path: Path) -> None:
    log, victim = begun.log(KEY), tmp_path / "victim"
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


def test_a_disk_that_fills_up_under_a_log_is_told(begun: Store) -> None:
    report, limits = begun.log(KEY).begin(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"^could not save the log of a job \(File too large; .*\): make room and run"
        ):
            report("x" * 3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert begun.log(KEY).news() == []  # half a line
