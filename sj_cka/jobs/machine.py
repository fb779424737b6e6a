"""Where jobs run: the device, its versions, and which implementation of the neurons it has."""

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from sj_cka.job import Job
from sj_cka.neurons import Backend, neuron_backend
from sj_cka.neurons.backends import NODES
from sj_cka.neurons.surrogates import make_surrogate


def device() -> torch.device:
    """Where jobs run: the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(job: Job | None = None, on: torch.device | None = None) -> dict[str, str]:
    """Versions and machine of a run, and for a job with spiking networks which implementation of their neurons ran.

    Args:
        job: None for no job.
        on: where it ran; None for `device()`.
    """
    on = on or device()
    return {
        **_versions(),
        "device": on.type,
        **({"neuron backend": ", ".join(names)} if job and (names := sorted(_backends(job, on))) else {}),
    }


@cache
def _versions() -> dict[str, str]:
    packages = ("sj_cka", "torch", "spikingjelly", "numpy", "plotly")
    python, machine = platform.python_version(), platform.platform()
    return {"python": python, **{name: version(name) for name in packages}, "machine": machine}


def backend_of(neuron: Mapping[str, Any], on: torch.device) -> Backend | None:
    """Which implementation runs on a device of a neuron as a recipe names it; None for one that a plugin brings."""
    if neuron["name"] not in NODES:
        return None
    surrogate = make_surrogate(neuron.get("surrogate", "sigmoid"), neuron.get("alpha"))
    return neuron_backend(neuron["name"], on, neuron.get("backend", "auto"), surrogate)


def _backends(job: Job, on: torch.device) -> set[str]:
    """Names of the implementations of the neurons of a job's networks."""
    backend = backend_of(job.args["neuron"], on) if "neuron" in job.args else None
    return {backend.name} if backend else {name for needed in job.inputs.values() for name in _backends(needed, on)}
