"""What a job is: its spec, on which alone its result depends, and the hash of that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol

import torch

from sj_cka.data import DATASETS, Samples
from sj_cka.plugins import lookup
from sj_cka.training import CheckpointSlot, Epoch

Files = dict[str, bytes]
Read = Callable[[str], bytes]
"""Name of a file -> its content, of one job."""
Inputs = Mapping[str, Read]
"""Name in `Job.inputs` -> its files."""


class Report(Protocol):
    """What a job says while it runs: a line, and of a training the epoch that it is about."""

    def __call__(self, line: str, epoch: Epoch | None = None, /) -> None: ...


def silent(line: str, epoch: Epoch | None = None, /) -> None:
    """A `Report` to nobody."""


class Context(NamedTuple):
    """What a job has beside its spec, and what does not change its result.

    Args:
        report: takes what it says.
        checkpoint: where a training keeps its checkpoint; None for nowhere.
        device: where it runs.
        rank: of this process among those that do the job together.
        processes: how many these are; more than one are a `torch.distributed` group.
    """

    report: Report = silent
    checkpoint: CheckpointSlot | None = None
    device: torch.device = torch.device("cpu")
    rank: int = 0
    processes: int = 1


@dataclass(frozen=True)
class DataBlock:
    """A data set: how to load it, and what it is.

    Args:
        load: `name` in DATASETS and all options, paths absolute.
        name: the same without paths and without options equal to their default; part of a job's spec.
        fingerprint: hash of what it holds; part of a job's spec.
    """

    load: Mapping[str, Any]
    name: Mapping[str, Any]
    fingerprint: str

    @property
    def samples(self) -> Samples:
        """What it holds, read once in a process.

        Raises:
            RuntimeError: it is not what it was when the study was planned.
        """
        return _loaded(canonical(self.load), self.fingerprint)


@lru_cache(maxsize=4)
def _loaded(block: str, fingerprint: str) -> Samples:
    options = json.loads(block)
    data = lookup(DATASETS, options.pop("name"), "data set")(**options)
    if data.fingerprint != fingerprint:
        raise RuntimeError(f"the data {block} changed while the study ran: run it again")
    return data


@dataclass(frozen=True)
class Job:
    """One piece of work. What a job gives depends on `spec` alone; `label` is for people.

    Args:
        kind: a name of `sj_cka.jobs.KINDS`.
        args: its arguments, those equal to their default left out.
        inputs: name -> the job that it builds on.
        data: its data.
        seed: of weights and order.
        threads: of torch; the same numbers come out at equal threads only.
        label: what the job is, in words.
        checkpoint: epochs between two checkpoints of a training, see `Checkpoints`; no part of the spec.
        processes: among which a training shares its batches; each normalises its own share.
        version: of the kind, raised when what it does changes its meaning.
    """

    kind: str
    args: Mapping[str, Any]
    inputs: Mapping[str, Job]
    data: DataBlock
    seed: int | None = None
    threads: int = 1
    label: str = ""
    checkpoint: int | None = None
    processes: int = 1
    version: int = 1

    @cached_property
    def spec(self) -> dict[str, Any]:
        """All that the result depends on, as plain data."""
        return {
            "kind": self.kind,
            "version": self.version,
            "args": dict(self.args),
            "needs": {name: job.key for name, job in self.inputs.items()},
            "data": {"options": dict(self.data.name), "fingerprint": self.data.fingerprint},
            "seed": self.seed,
            "dtype": "float32",
            "threads": self.threads,
            **({"processes": self.processes} if self.processes > 1 else {}),
        }

    @cached_property
    def key(self) -> str:
        """Hash of the spec."""
        return hashlib.sha256(canonical(self.spec).encode()).hexdigest()[:24]


def canonical(spec: Any) -> str:
    """Canonical JSON: sorted keys, no spaces."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
