"""The table of all kinds of job; how one job is run."""

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from sj_cka.job import Context, Files, Job
from sj_cka.jobs import (
    alignment,
    attack,
    backdoor,
    compare,
    convert,
    cost,
    evaluate,
    exchange,
    fisher,
    init,
    locality,
    train,
)
from sj_cka.jobs.graph import Kind
from sj_cka.jobs.machine import device, environment, threads
from sj_cka.plugins import lookup

KINDS: dict[str, Kind] = {
    "init": init.KIND,
    "train": train.KIND,
    "convert": convert.KIND,
    "evaluate": evaluate.KIND,
    "cost": cost.KIND,
    "attack": attack.KIND,
    "backdoor": backdoor.KIND,
    "compare": compare.KIND,
    "fisher": fisher.KIND,
    "alignment": alignment.KIND,
    "locality": locality.KIND,
    "exchange": exchange.KIND,
}


@contextmanager
def seeded(job: Job, context: Context) -> Iterator[None]:
    """torch's own random numbers as they are for a job, whatever ran before it; put back at the end.

    They begin at a hash of the spec, for each process at another one. Networks that draw in evaluation, as of spikes
    for an image (`snn.coding: poisson`), so draw the same in the same job, and other ones in another job.
    """
    with torch.random.fork_rng([context.device] if context.device.type == "cuda" else []):
        torch.manual_seed(int(job.key[:15], 16) + context.rank)
        yield


def run(job: Job, read: Callable[[str, str], bytes], context: Context | None = None) -> Files:
    """Runs a job: its files, with `spec.json`, the environment that it ran in and the CPU seconds that it took.

    These are of this process, since the job was begun or went on from its checkpoint.

    Args:
        job: what to do.
        read: (key, name) -> a file of a finished job.
        context: where it runs, and where its progress and its checkpoints go; None for `device()`, and nowhere.
    """
    context = context or Context(device=device())
    inputs = {name: functools.partial(read, needed.key) for name, needed in job.inputs.items()}
    began = time.process_time()
    with threads(job.threads), seeded(job, context):
        files = lookup(KINDS, job.kind, "kind of job").run(job, inputs, context)
    ran = {"cpu_s": round(time.process_time() - began, 3)}
    return {
        **files,
        "spec.json": json.dumps(job.spec, indent=1).encode(),
        "environment.json": json.dumps(environment(job, context.device) | ran).encode(),
    }
