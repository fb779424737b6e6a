"""The folder of a report is one unit: the old one or the new one, and nobody's own files are lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sj_cka.report import Edition, edition

SAFE = "all is safe"
FIRST = {
    "claims.csv": "claim,test,role,verdict,...\n",
    "cka.csv": "old",
    "attacks.csv": "old",
    "curve_twins.png": "old",
}
SECOND = {"claims.csv": "claim,test,verdict,...\nnew", "cka.csv": "new", "report.html": "new"}


def write(folder: Path, files: dict[str, str], **options: Any) -> None:
    made = Edition(folder, **options)
    made.try_out()
    fill(made, files)


def fill(made: Edition, files: dict[str, str]) -> None:
    with made.made(SAFE) as new:
        assert list(new.iterdir()) == []
        for name, content in files.items():
            (new / name).write_text(content)


def held(folder: Path) -> dict[str, str]:
    """The files below a folder, without the manifest."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_text() for path in found}


@pytest.fixture(params=["swapped", "laid over"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A folder for reports, and what is fixed in it."""
    folder = tmp_path / "figures" / "tiny"
    return folder, {"fixed": [folder / "store"] if request.param == "laid over" else []}


def test_of_an_earlier_study_no_file_is_left_and_of_others_every_one(place: tuple[Path, dict[str, Any]]) -> None:
    folder, options = place
    write(folder, FIRST, **options)
    assert held(folder) == FIRST
    own = {"notes.txt": "mine", "curve_mine.png": "mine", "evaluated.csv": "mine", "runs/deep/log": "mine"}
    for name, content in own.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "link").symlink_to("nowhere")
    write(folder, SECOND, **options)
    assert held(folder) == SECOND | own
    assert os.readlink(folder / "link") == "nowhere"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_file_of_somebody_that_is_in_the_way_is_kept_under_another_name(
    place: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    folder, options = place
    write(folder, FIRST, **options)
    (folder / "report.html").write_text("mine")  # the first had none
    (folder / "cka.csv").write_text("annotated")
    for content in ("new", "newer"):
        write(folder, SECOND | {"report.html": content}, **options)
        kept = {"report.html.kept": "mine", "cka.csv.kept": "annotated"}
        assert held(folder) == SECOND | {"report.html": content} | kept
    assert "cka.csv was not written by a study, or was changed since: it is kept as cka.csv.kept" in caplog.text


def test_a_folder_of_an_earlier_version_is_told_by_its_table_of_claims(place: tuple[Path, dict[str, Any]]) -> None:
    folder, options = place
    folder.mkdir(parents=True)
    for name, content in (FIRST | {"mine.csv": "mine", "picture.png": "mine"}).items():
        (folder / name).write_text(content)
    write(folder, SECOND, **options)
    assert held(folder) == SECOND | {"mine.csv": "mine", "picture.png": "mine"}


def test_in_a_folder_that_is_no_report_nothing_is_the_studys(place: tuple[Path, dict[str, Any]]) -> None:
    folder, options = place
    folder.mkdir(parents=True)
    (folder / "cka.csv").write_text("mine")
    (folder / "training.png").write_text("mine")
    write(folder, SECOND, **options)
    assert held(folder) == SECOND | {"cka.csv.kept": "mine", "training.png": "mine"}


def test_what_fails_on_the_way_leaves_the_earlier_report(
    place: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, options = place
    write(folder, FIRST, **options)
    told = r"^could not save the report \(No space left on device: cka\.csv; all is safe\): make room and run the same"

    def full(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match=told):
            fill(Edition(folder, **options), {"cka.csv": "new"})
    assert held(folder) == FIRST
    with pytest.raises(KeyboardInterrupt), Edition(folder, **options).made(SAFE):
        raise KeyboardInterrupt
    assert held(folder) == FIRST
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


class Killed(BaseException):
    """Stands for a signal after which nothing more is done."""


@pytest.mark.parametrize("step", range(1, 6))
def test_a_swap_that_is_killed_leaves_one_of_the_two_whole_and_the_next_run_puts_it_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder, steps = tmp_path / "tiny", 0
    write(folder, FIRST)
    (folder / "notes.txt").write_text("mine")
    (folder / "cka.csv").write_text("annotated")

    def counted(move: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps >= step:  # and nothing after it, as when a process is killed
                raise Killed
            return move(*given, **options)

        return counting

    made = Edition(folder)
    with monkeypatch.context() as dying:
        dying.setattr(Path, "rename", counted(Path.rename))
        dying.setattr(edition.shutil, "rmtree", counted(edition.shutil.rmtree))
        with pytest.raises(Killed):
            fill(made, SECOND)
    Edition(folder).try_out()
    mine = {"notes.txt": "mine"}
    old = held(folder) == FIRST | mine | {"cka.csv": "annotated"}
    new = held(folder) == SECOND | mine | {"cka.csv.kept": "annotated"}
    assert (old, new) == ((True, False) if step <= 2 else (False, True))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_link_to_a_folder_stays_a_link_and_a_folder_that_others_need_stays_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "tiny").symlink_to(tmp_path / "disk")
    write(tmp_path / "tiny", FIRST)
    write(tmp_path / "tiny", SECOND)
    assert (tmp_path / "tiny").is_symlink()
    assert held(tmp_path / "disk") == SECOND
    here = (tmp_path / "disk").stat().st_ino
    monkeypatch.chdir(tmp_path / "disk")
    write(Path(), FIRST)
    assert (Path.cwd().stat().st_ino, held(Path.cwd())) == (here, FIRST)


NAMES = ["a" * 255, "[x]*", ".hidden", "-dash", "a-old-b", "ä b"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:9])
def test_any_name_of_a_folder_goes(tmp_path: Path, name: str) -> None:
    other = tmp_path / f".{name[:3]}-old-x-new-0123456789abcdef"
    other.mkdir()
    write(tmp_path / name, FIRST)
    write(tmp_path / name, SECOND)
    assert held(tmp_path / name) == SECOND
    assert {path.name for path in tmp_path.iterdir()} == {name, other.name}


def test_what_cannot_be_written_is_told_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loose").symlink_to("nowhere/at/all")
    for folder, told in (
        (tmp_path / "file", r"expected a folder for the report, got .*file: .*file is a file$"),
        (tmp_path / "file" / "below", r"expected a folder for the report, got .*below: .*file is a file$"),
        (tmp_path / ("a" * 256), r"expected a folder for the report, got .*\(File name too long\): name another"),
        (Path("/proc/tiny"), r"expected a folder for the report, got /proc.*, which takes no files"),
    ):
        with pytest.raises(OSError, match=told):
            Edition(folder).try_out()
    assert {path.name for path in tmp_path.iterdir()} == {"file", "loose"}


def test_two_that_write_at_once_leave_one_whole_report(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write(folder, FIRST)
    (folder / "notes.txt").write_text("mine")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: write(folder, FIRST if i % 2 else SECOND), range(12)))
    assert held(folder) in (FIRST | {"notes.txt": "mine"}, SECOND | {"notes.txt": "mine"})
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
