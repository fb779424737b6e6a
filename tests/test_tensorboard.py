"""What TensorBoard shows of a study is of this study alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from sj_cka.tensorboard import Curves


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The logs of an earlier study, and somebody's notes beside one of them."""
    for run in ("gone.snn-seed-0", "kept.snn-seed-0"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "events.out.tfevents.1.host.2.0").touch()
    (tmp_path / "kept.snn-seed-0" / "notes.txt").touch()
    return tmp_path


def test_the_logs_of_an_earlier_study_go_when_those_of_this_one_are_written(folder: Path) -> None:
    with Curves(folder):
        assert len(list(folder.glob("*/events*"))) == 2
    assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == [
        "kept.snn-seed-0",
        "kept.snn-seed-0/notes.txt",
    ]


def test_after_a_run_that_failed_they_are_still_there(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), Curves(folder):
        raise RuntimeError("broken")
    assert len(list(folder.glob("*/events*"))) == 2
