"""What a run was, and what a reader must know before believing its numbers."""

import json
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from sj_cka.engine import in_order
from sj_cka.job import Job
from sj_cka.jobs.machine import backend_of, device, environment
from sj_cka.plan import Plan
from sj_cka.recipe.places import visible
from sj_cka.store import Store

_ANN_INPUT = {
    "steps": "Of recordings, the artificial networks see each frame alone, with logits averaged (ann_input: steps).",
    "sum": "Of recordings, the artificial networks see the sum of all frames (ann_input: sum).",
}


def provenance(planned: Plan, store: Store, done: int, seconds: float) -> dict[str, str]:
    """What a run was.

    Args:
        planned: its plan.
        store: where its finished jobs lie.
        done: jobs that it did.
        seconds: how long it took.
    """
    study, here = planned.study, environment()
    return {
        "recipe": visible(str(study.source.path)),
        "profile": study.profile,
        **({"set": ", ".join(study.settings)} if study.settings else {}),
        "seeds": ", ".join(map(str, study.seeds)),
        "data": "; ".join(f"{data.described}, fingerprint {data.samples.fingerprint[:12]}" for data in planned.sets),
        "jobs": f"{len(in_order(planned.jobs))}, of which {done} in this run ({seconds:.0f} s); threads a job: "
        f"{study.recipe.train.threads}",
        "CPU seconds of jobs": _cpu_seconds(planned, store),
        **here,
        "neuron backend": backends(planned),
        "commit": _commit(),
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu_seconds(planned: Plan, store: Store) -> str:
    """What all jobs took, by kind."""
    took, unknown = Counter[str](), 0
    for job in in_order(planned.jobs):
        ran = _environment(job, store)
        took[job.kind] += ran.get("cpu_s", 0.0)
        unknown += "cpu_s" not in ran
    parts = [f"{kind} {seconds:,.0f}" for kind, seconds in took.most_common() if seconds]
    return ", ".join([*parts, *([f"not known of {unknown} jobs of an earlier version"] if unknown else [])])


def _environment(job: Job, store: Store) -> dict[str, Any]:
    """Where a finished job ran, and what it took."""
    ran: dict[str, Any] = json.loads(store.read(job.key, "environment.json"))
    return ran


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


def remarks(planned: Plan, store: Store, undefined: pd.DataFrame) -> tuple[str, ...]:
    """What a reader must know: samples left out, layers without CKA, jobs of another environment, a smaller profile."""
    notes = [_elsewhere(planned, store)]
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
    if "paper" in planned.study.recipe.profiles and planned.study.profile != "paper":
        notes.append(
            f"This is the profile {planned.study.profile!r}, not 'paper': smaller than what the paper did. It tests "
            "directions and shapes that the paper states, not its numbers."
            + (" Nobody has run the profile 'paper' yet." if "paper" in planned.study.recipe.never_run else "")
        )
    return tuple(filter(None, notes))


def _elsewhere(planned: Plan, store: Store) -> str:
    """Says so where finished jobs ran on another device, or with other versions, than those that the page names."""
    others = Counter[str]()
    for job in in_order(planned.jobs):
        here = environment(job)
        there = _environment(job, store)
        others[", ".join(f"{key} {there[key]}" for key in there if key != "cpu_s" and there[key] != here.get(key))] += 1
    del others[""]
    counted = "; ".join(f"{count} with {other}" for other, count in others.items())
    return f"Some jobs were done before, in another environment than the one named below: {counted}." if others else ""
