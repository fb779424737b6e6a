"""Trainings as TensorBoard shows them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from sj_cka.job import Job
from sj_cka.jobs.train import HISTORY, RATES
from sj_cka.progress import repeated
from sj_cka.store import Store

_SHOWN = ("loss", "accuracy", "firing_rate", "lr", "images_s", "memory_mb")
_SECONDS = 1.0  # between two looks at what the trainings say


@contextmanager
def curves(folder: Path, jobs: Iterable[Job], store: Store) -> Iterator[None]:
    """Writes the epochs of trainings as TensorBoard reads them, one run for each, as they end in whatever process.

    Args:
        folder: where to; a run lies in the folder of its label.
        jobs: those of a study; what is no training is passed over.
        store: where they are finished, or say how far they are.
    """
    from torch.utils.tensorboard import SummaryWriter  # takes a second, which nobody else needs

    before = list(folder.glob("*/events.out.tfevents.*"))  # all that is of this study is written anew
    with ExitStack() as writers:
        trainings = [
            _Curve(folder, job, store, lambda path: writers.enter_context(SummaryWriter(path)))
            for job in jobs
            if job.kind == "train"
        ]

        def look() -> None:
            for curve in trainings:
                curve.look()

        look()
        with repeated(look, _SECONDS):
            yield
    for path in before:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # something else lies there
            path.parent.rmdir()


class _Curve:
    """The epochs of one training, each written once: from its log, and from its files when it is finished."""

    def __init__(self, folder: Path, job: Job, store: Store, open_writer: Callable[[str], Any]) -> None:
        self.folder = folder / job.label.replace(", ", "-").replace(" ", "-")
        self.key, self.store, self.log, self.open = job.key, store, store.log(job.key), open_writer
        self.epoch, self.finished = 0, False
        self.writer: Any = None

    def look(self) -> None:
        """Writes what is new."""
        if self.finished:
            return
        for entry in self.log.news():
            if "epoch" in entry:
                self._add(entry["epoch"], entry["epoch"]["rates"])
        if self.store.has(self.key):
            self.finished = True
            history, rates = (pd.read_csv(BytesIO(self.store.read(self.key, name))) for name in (HISTORY, RATES))
            for row in history.to_dict("records"):
                layers = rates[rates["epoch"] == row["epoch"]]
                self._add(row, dict(zip(layers["layer"], layers["rate"], strict=True)))

    def _add(self, epoch: Mapping[Any, Any], rates: Mapping[str, float]) -> None:
        if epoch["epoch"] <= self.epoch:
            return
        self.epoch = int(epoch["epoch"])
        self.writer = self.writer or self.open(str(self.folder))
        values = {name: epoch[name] for name in _SHOWN if not pd.isna(epoch[name])}
        for name, value in (values | {f"firing rate/{layer}": rate for layer, rate in rates.items()}).items():
            self.writer.add_scalar(name, value, self.epoch)
        self.writer.flush()
