"""What a run was, and what a reader must know before believing its numbers."""

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from sj_cka.engine import in_order
from sj_cka.frozen import Frozen, changes, told
from sj_cka.job import Job
from sj_cka.jobs.machine import backend_of, device, environment
from sj_cka.plan import Plan
from sj_cka.recipe import Study
from sj_cka.recipe.places import visible
from sj_cka.store import Store

STUDY = "study.json"
"""The file of a report that tells what its run was."""

_ANN_INPUT = {
    "steps": "Of recordings, the artificial networks see each frame alone, with logits averaged (ann_input: steps).",
    "sum": "Of recordings, the artificial networks see the sum of all frames (ann_input: sum).",
}


@dataclass(frozen=True)
class Provenance:
    """What a run was; study.json in the folder of its report, and in words on its page.

    Args:
        title, question: of the recipe.
        recipe, file: its name, and where it was read.
        profile, settings: that were laid over it.
        smaller: whether it is a smaller study than that of the paper.
        seeds: of its networks.
        data: (what it is, fingerprint of what it holds) of each data set.
        jobs, done: how many it has, and how many this run did.
        seconds: how long this run took.
        threads: of a job.
        cpu_s: kind of job -> CPU seconds of all its jobs, whenever they ran.
        unknown: jobs of an earlier version, whose CPU seconds are not known.
        environment: versions, machine and device.
        backends: which implementation of each neuron runs here.
        commit: of this package's checkout.
        time: UTC.
        fixed: when the claims were fixed, in words.
        changes: of claims and design since then, in words.
        never_run: profiles of the recipe that nobody has run.
        kinds: kind of job -> version of what it does.
        design: part of the study (networks, comparisons, ...) -> hash of what the recipe says of it.
        claims: sentence -> hash of what the recipe says of the claim.
    """

    title: str
    question: str
    recipe: str
    file: str
    profile: str
    settings: tuple[str, ...]
    smaller: bool
    seeds: tuple[int, ...]
    data: tuple[tuple[str, str], ...]
    jobs: int
    done: int
    seconds: float
    threads: int
    cpu_s: dict[str, float]
    unknown: int
    environment: dict[str, str]
    backends: str
    commit: str
    time: str
    fixed: str
    changes: tuple[str, ...]
    never_run: tuple[str, ...]
    kinds: dict[str, int]
    design: dict[str, str]
    claims: dict[str, str]

    @property
    def changed(self) -> tuple[str, ...]:
        """Its settings, but for seeds and where data lie: what makes it another study than that of its profile."""
        return tuple(setting for setting in self.settings if setting.partition("=")[0].strip() not in _NO_CHANGE)

    def words(self) -> dict[str, str]:
        """What the page says of it."""
        took = [f"{kind} {seconds:,.0f}" for kind, seconds in self.cpu_s.items() if seconds]
        unknown = [f"not known of {self.unknown} jobs of an earlier version"] if self.unknown else []
        return {
            "recipe": self.file,
            "profile": self.profile,
            **({"set": ", ".join(self.settings)} if self.settings else {}),
            "seeds": ", ".join(map(str, self.seeds)),
            "data": "; ".join(f"{what}, fingerprint {fingerprint[:12]}" for what, fingerprint in self.data),
            "jobs": f"{self.jobs}, of which {self.done} in this run ({self.seconds:.0f} s); threads a job: "
            f"{self.threads}",
            "CPU seconds of jobs": ", ".join([*took, *unknown]),
            **self.environment,
            "neuron backend": self.backends,
            "commit": self.commit,
            "time": self.time,
            "claims fixed": self.fixed,
        }

    def content(self) -> bytes:
        """The file."""
        return _JSON.dump_json(self, indent=1) + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> "Provenance":
        """The reverse of `content`; keys of a later version are let be.

        Raises:
            ValueError: it is no such file.
        """
        return _JSON.validate_json(content)


_NO_CHANGE = ("seeds", "data.root", "data.download")
_JSON = TypeAdapter(Provenance)


Ran = list[tuple[Job, dict[str, Any]]]
"""Jobs of a study, each with where it ran and what it took: its environment.json."""


def environments(planned: Plan, store: Store) -> Ran:
    """Those of finished jobs, in the order of the plan."""
    return [(job, json.loads(store.read(job.key, "environment.json"))) for job in in_order(planned.jobs)]


def provenance(planned: Plan, ran: Ran, held: Sequence[Frozen], done: int, seconds: float) -> Provenance:
    """What a run was.

    Args:
        planned: its plan.
        ran: its `environments`.
        held: what the study said at its first run and since.
        done: jobs that it did.
        seconds: how long it took.
    """
    study = planned.study
    cpu_s, unknown = _cpu_seconds(ran)
    return Provenance(
        title=study.recipe.title,
        question=study.recipe.question,
        recipe=study.name,
        file=visible(str(study.source.path)),
        profile=study.profile,
        settings=study.settings,
        smaller=_smaller(study),
        seeds=study.seeds,
        data=tuple((data.described, data.samples.fingerprint) for data in planned.sets),
        jobs=len(ran),
        done=done,
        seconds=round(seconds, 1),
        threads=study.recipe.train.threads,
        cpu_s=cpu_s,
        unknown=unknown,
        environment=environment(),
        backends=backends(planned),
        commit=_commit(),
        time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        fixed=told(held),
        changes=tuple(changes(held)),
        never_run=tuple(study.recipe.never_run),
        kinds={job.kind: job.version for job, _ in ran},
        design=held[-1].design,
        claims=held[-1].claims,
    )


def _cpu_seconds(ran: Ran) -> tuple[dict[str, float], int]:
    """What jobs took, by kind, most first; and of how many that is not known."""
    took = Counter[str]()
    for job, there in ran:
        took[job.kind] += there.get("cpu_s", 0.0)
    unknown = sum("cpu_s" not in there for _, there in ran)
    return {kind: round(seconds, 1) for kind, seconds in took.most_common()}, unknown


def _smaller(study: Study) -> bool:
    return "paper" in study.recipe.profiles and study.profile != "paper"


def backends(planned: Plan) -> str:
    """Which implementation of each neuron of the study runs here, and why."""
    neurons = [condition.snn.neuron.options() for condition in planned.study.conditions.values()]
    chosen = [(neuron["name"], backend_of(neuron, device())) for neuron in neurons]
    said = [f"{name}: {'its own' if own is None else f'{own.name} ({own.reason})'}" for name, own in chosen]
    return "; ".join(dict.fromkeys(said))


def _commit() -> str:
    """Git commit of this package's checkout, if it runs from one."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown (git did not answer)"
    return found.stdout.strip() or "not a git checkout"


def remarks(planned: Plan, ran: Ran, undefined: pd.DataFrame) -> tuple[str, ...]:
    """What a reader must know: samples left out, layers without CKA, jobs of another environment, a smaller profile."""
    notes = [_elsewhere(ran)]
    alignment = planned.study.recipe.cka
    for _, samples in planned.sets:
        notes += samples.remarks
        if alignment.batches is None and 0 < (left := len(samples.x_test) % alignment.batch_size) < 4:
            notes.append(
                f"The last minibatch of {left} test {samples.called} is left out: the unbiased HSIC needs at least 4."
            )
    conditions = planned.study.conditions.items()
    recorded = [c.ann_input for name, c in conditions if planned.data[name].samples.T is not None]
    notes += [_ANN_INPUT[how] for how in dict.fromkeys(recorded)]
    trained = undefined[undefined.state == "trained"]
    if len(trained):
        reasons = ", ".join(f"{reason} ({count})" for reason, count in trained["reason"].value_counts().items())
        layers = trained.groupby(["comparison", "variant", "side", "layer"]).ngroups
        notes.append(
            f"{len(trained)} single values (layer, step, seed), in {layers} layers over all comparisons of trained "
            f"networks, have no CKA: {reasons}; see undefined.csv."
        )
    if _smaller(planned.study):
        notes.append(
            f"This is the profile {planned.study.profile!r}, not 'paper': smaller than what the paper did. It tests "
            "directions and shapes that the paper states, not its numbers."
            + (" Nobody has run the profile 'paper' yet." if "paper" in planned.study.recipe.never_run else "")
        )
    return tuple(dict.fromkeys(filter(None, notes)))


def _elsewhere(ran: Ran) -> str:
    """Says so where finished jobs ran on another device, or with other versions, than those that the page names."""
    others = Counter[str]()
    for job, there in ran:
        here = environment(job)
        others[", ".join(f"{key} {there[key]}" for key in there if key != "cpu_s" and there[key] != here.get(key))] += 1
    del others[""]
    counted = "; ".join(f"{count} with {other}" for other, count in others.items())
    return f"Some jobs were done before, in another environment than the one named below: {counted}." if others else ""
