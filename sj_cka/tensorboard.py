"""Trainings as TensorBoard shows them."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from sj_cka.jobs import Job
from sj_cka.plan import Plan
from sj_cka.store import Store
from sj_cka.training import Epoch

_SHOWN = ("loss", "accuracy", "firing_rate", "lr", "images_s", "memory_mb")


class Curves:
    """Writes epochs as TensorBoard reads them, one run for each training, as they end.

    Args:
        folder: where to; a run lies in the folder of its label.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writers: dict[str, Any] = {}
        self.before = list(folder.glob("*/events.out.tfevents.*"))  # all that is of this study is written anew

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        for writer in self.writers.values():
            writer.close()
        if kind is None:
            for path in self.before:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # something else lies there
                    path.parent.rmdir()

    def add(self, job: Job, epoch: Epoch) -> None:
        """One epoch of a training."""
        values = {name: getattr(epoch, name) for name in _SHOWN}
        self._write(job, epoch.epoch, values, dict(epoch.rates))

    def add_finished(self, plan: Plan, store: Store) -> None:
        """All epochs of the trainings that were finished before."""
        for job in plan.trained.values():
            if job.kind != "train" or not store.has(job.key):
                continue
            history, rates = (
                pd.read_csv(BytesIO(store.read(job.key, name))) for name in ("history.csv", "firing_rates.csv")
            )
            for row in history.to_dict("records"):
                own = rates[rates["epoch"] == row["epoch"]]
                values = {name: row[name] for name in _SHOWN}
                self._write(job, int(row["epoch"]), values, dict(zip(own["layer"], own["rate"], strict=True)))

    def _write(self, job: Job, epoch: int, values: dict[str, float], rates: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if job.key not in self.writers:
            self.writers[job.key] = SummaryWriter(str(self.folder / job.label.replace(", ", "-").replace(" ", "-")))
        writer = self.writers[job.key]
        for name, value in values.items():
            if not pd.isna(value):
                writer.add_scalar(name, value, epoch)
        for layer, rate in rates.items():
            writer.add_scalar(f"firing rate/{layer}", rate, epoch)
        writer.flush()
