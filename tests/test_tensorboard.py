"""What TensorBoard shows of a study is of this study alone."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from sj_cka.job import DataBlock, Job
from sj_cka.store import Store
from sj_cka.tensorboard import curves
from sj_cka.training import Epoch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The logs of an earlier study, and somebody's notes beside one of them."""
    for run in ("gone.snn-seed-0", "kept.snn-seed-0"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "events.out.tfevents.1.host.2.0").touch()
    (tmp_path / "kept.snn-seed-0" / "notes.txt").touch()
    return tmp_path


def test_the_logs_of_an_earlier_study_go_when_those_of_this_one_are_written(folder: Path) -> None:
    with curves(folder, [], Store()):
        assert len(list(folder.glob("*/events*"))) == 2
    assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == [
        "kept.snn-seed-0",
        "kept.snn-seed-0/notes.txt",
    ]


def test_after_a_run_that_failed_they_are_still_there(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), curves(folder, [], Store()):
        raise RuntimeError("broken")
    assert len(list(folder.glob("*/events*"))) == 2


def test_epochs_are_shown_as_they_end_and_each_once_also_those_of_a_run_that_was_killed(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = Job("train", {}, {}, DataBlock({}, {}, ""), 3, label="all.snn, seed 3")
    store, events = Store(tmp_path / "store"), EventAccumulator(str(tmp_path / "logs" / "all.snn-seed-3"))
    log = store.log(job.key)
    log.path.parent.mkdir(parents=True)

    def epoch(number: int) -> Epoch:
        return Epoch(number, 1 / number, 0.25, float("nan"), 0.1, 2.0, 100.0, 1.0, {"lif": 0.125})

    def shown(count: int) -> bool:
        events.Reload()
        return "loss" in events.Tags()["scalars"] and len(events.Scalars("loss")) >= count

    def wait_for(count: int) -> None:
        until = time.monotonic() + 30
        while not shown(count):
            assert time.monotonic() < until
            time.sleep(0.05)

    report = log.begin()
    report("epoch 1/4", epoch(1))
    report("epoch 2/4", epoch(2))
    with curves(tmp_path / "logs", [job], store):
        assert shown(2)
        report = log.begin()  # goes on after the first epoch
        for number in (1, 2, 3):
            report(f"epoch {number}/4", epoch(number))
        report("at last")
        wait_for(3)
        table = pd.DataFrame([asdict(epoch(number)) for number in (1, 2, 3, 4)]).drop(columns="rates")
        rates = pd.DataFrame([(number, "lif", 0.125) for number in (1, 2, 3, 4)], columns=["epoch", "layer", "rate"])
        files = {"history": table, "firing_rates": rates}
        store.write(job.key, {f"{name}.csv": frame.to_csv(index=False).encode() for name, frame in files.items()})
    assert shown(4)
    assert [scalar.step for scalar in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [scalar.step for scalar in events.Scalars("firing rate/lif")] == [1, 2, 3, 4]
    assert "firing_rate" not in events.Tags()["scalars"]  # without neurons
