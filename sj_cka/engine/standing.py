"""How the jobs of a study stand: which are finished, which are missing, and which are damaged."""

import json
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import PurePath
from typing import NamedTuple

import pandas as pd
from safetensors.torch import load as load_tensors

from sj_cka.job import Job, canonical
from sj_cka.jobs import KINDS
from sj_cka.jobs.compare import read_result
from sj_cka.store import Store

_NAMED = 10  # damaged jobs in a message


class Standing(NamedTuple):
    """What is left to do of jobs.

    Args:
        missing: those that are not finished.
        damaged: those whose files are not what was written, each with what is wrong, in words.
    """

    missing: list[Job]
    damaged: list[tuple[Job, str]]

    def told(self) -> str:
        """The damaged ones, in words."""
        named = [f"{job.label} ({wrong})" for job, wrong in self.damaged[:_NAMED]]
        named += [f"{len(self.damaged) - _NAMED} more"] if len(self.damaged) > _NAMED else []
        what = "1 job of this study is" if len(self.damaged) == 1 else f"{len(self.damaged)} jobs of this study are"
        return f"{what} damaged: {'; '.join(named)}. Run the study: what is damaged is set aside and made again"

    @property
    def open(self) -> set[str]:
        """Keys of all that has to be done."""
        return {job.key for job in (*self.missing, *(job for job, _ in self.damaged))}


def stand(jobs: Iterable[Job], store: Store) -> Standing:
    """Looks at every file of every job, once in a process.

    A job that an earlier version finished, without a manifest, is read whole: where all its files can be parsed it is
    given one.

    Raises:
        NotADirectoryError: the store is a file.
    """
    if store.root.exists() and not store.root.is_dir():
        raise NotADirectoryError(f"expected a folder for the store of finished jobs, got {store.root}: it is a file")
    missing, damaged = list[Job](), list[tuple[Job, str]]()
    for job in jobs:
        if store.has(job.key):
            continue
        wrong = _adopted(job, store) if store.unsealed(job.key) else store.damage(job.key)
        if wrong:
            damaged.append((job, wrong))
        elif not store.has(job.key):
            missing.append(job)
    return Standing(missing, damaged)


def _adopted(job: Job, store: Store) -> str:
    """Gives a job of an earlier version its manifest; or what is wrong with its files."""
    files = store.contents(job.key)
    try:
        parse(job, files)
    except ValueError as error:
        return f"{store.folder(job.key)}: {error}"
    store.seal(job.key, files)
    return ""


def parse(job: Job, files: Mapping[str, bytes]) -> None:
    """Parses every file of a finished job.

    Raises:
        ValueError: a file is missing, cannot be parsed, or is that of another job.
    """
    for name in ("spec.json", "environment.json", *KINDS[job.kind].leaves(job)):
        if name not in files:
            raise ValueError(f"{name} is missing")
    for name, content in files.items():
        try:
            _PARSERS.get(PurePath(name).suffix, len)(content)
        except Exception as error:  # whatever a parser says to a damaged file
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{name} is damaged: {reason}") from error
    if canonical(json.loads(files["spec.json"])) != canonical(job.spec):
        raise ValueError("spec.json is not that of this job")


def _tensors(content: bytes) -> None:
    for name, tensor in load_tensors(content).items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds what is no number")


def _table(content: bytes) -> None:
    table = pd.read_csv(BytesIO(content))
    if not content.endswith(b"\n") or table.columns.str.startswith("Unnamed").any():
        raise ValueError("expected whole rows below names of columns")


_PARSERS: dict[str, Callable[[bytes], object]] = {
    ".safetensors": _tensors,
    ".json": json.loads,
    ".csv": _table,
    ".nc": read_result,
}
