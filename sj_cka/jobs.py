"""The kinds of job: each a pure function of its spec and of the files of the jobs that it builds on."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from io import BytesIO
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights
from torch import nn

from sj_cka.cka import CKAResult, compare
from sj_cka.data import DATASETS, Images
from sj_cka.models import build
from sj_cka.neurons import lif_backend
from sj_cka.plugins import lookup
from sj_cka.training import Epoch, Settings, accuracy, calibrate, train
from sj_cka.twins import converted_snn

Files = dict[str, bytes]
Report = Callable[[str], None]

_CALIBRATED = 256  # images in a batch that a conversion looks at


class Kind(NamedTuple):
    """A kind of job: its function, and a version that is raised when the function's meaning changes."""

    run: Callable[[Job, Mapping[str, Callable[[str], bytes]], Report], Files]
    version: int


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


@dataclass(frozen=True)
class Job:
    """One piece of work. What a job gives depends on `spec` alone; `label` is for people.

    Args:
        kind: a name of KINDS.
        args: its arguments, those equal to their default left out.
        needs: name -> the job that it builds on.
        data: its data.
        seed: of weights and order.
        threads: of torch; the same numbers come out at equal threads only.
        label: what the job is, in words.
    """

    kind: str
    args: Mapping[str, Any]
    needs: Mapping[str, Job]
    data: DataBlock
    seed: int | None = None
    threads: int = 1
    label: str = ""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """All that the result depends on, as plain data."""
        return {
            "kind": self.kind,
            "version": KINDS[self.kind].version,
            "args": dict(self.args),
            "needs": {name: job.key for name, job in self.needs.items()},
            "data": {"options": dict(self.data.name), "fingerprint": self.data.fingerprint},
            "seed": self.seed,
            "dtype": "float32",
            "threads": self.threads,
        }

    @cached_property
    def key(self) -> str:
        """Hash of the spec."""
        return hashlib.sha256(canonical(self.spec).encode()).hexdigest()[:24]


def canonical(spec: Any) -> str:
    """Canonical JSON: sorted keys, no spaces."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run(job: Job, read: Callable[[str, str], bytes], report: Report = lambda line: None) -> Files:
    """Runs a job: its files, with `spec.json` and the environment that it ran in.

    Args:
        job: what to do.
        read: (key, name) -> a file of a finished job.
        report: called with a line of progress now and then.
    """
    needs = {name: _reader(read, needed.key) for name, needed in job.needs.items()}
    with _threads(job.threads):
        files = KINDS[job.kind].run(job, needs, report)
    return {
        **files,
        "spec.json": json.dumps(job.spec, indent=1).encode(),
        "environment.json": json.dumps(environment()).encode(),
    }


def environment() -> dict[str, str]:
    """Versions and machine of a run."""
    packages = ("sj_cka", "torch", "spikingjelly", "numpy", "plotly")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "machine": platform.platform(),
        "device": device().type,
        "neuron backend": lif_backend(device()).name,
    }


def device() -> torch.device:
    """Where jobs run: the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_network(weights: bytes, T: int | None = None) -> nn.Module:
    """A network from its file alone: the header says what it is.

    Args:
        weights: the file.
        T: steps that a spiking network shows an image; None for those that it was trained with, or converted for.
    """
    spec = _spec_of(weights)
    converted = spec.pop("converted", None)
    if converted is not None:
        network = converted_snn(build(**spec, device=device()), None, T or converted["T"])
    else:
        network = build(**spec | ({} if T is None else {"T": T}), device=device())
    network.load_state_dict(load_weights(weights))
    return network.eval()


def _spec_of(weights: bytes) -> dict[str, Any]:
    """What a file of weights is the weights of, as `_save_network` was told."""
    size = int.from_bytes(weights[:8], "little")
    spec: dict[str, Any] = json.loads(json.loads(weights[8 : 8 + size])["__metadata__"]["network"])
    return spec


def _network_spec(job: Job, data: Images) -> dict[str, Any]:
    """What `build` needs; its seed comes from the seed and the network, with `init: same` from the model alone."""
    spec = {"in_channels": data.channels, "num_classes": data.classes} | {
        key: job.args[key] for key in ("kind", "model", "T", "neuron") if key in job.args
    }
    seeded: dict[str, Any] = (
        {"seed": job.seed, "model": spec["model"]} if job.args.get("init") == "same" else {"seed": job.seed, **spec}
    )
    digest = hashlib.sha256(canonical(seeded).encode()).digest()
    return spec | {"seed": int.from_bytes(digest[:6], "big")}


def _data(job: Job) -> Images:
    return _loaded(canonical(job.data.load), job.data.fingerprint)


@lru_cache(maxsize=2)
def _loaded(block: str, fingerprint: str) -> Images:
    options = json.loads(block)
    data = lookup(DATASETS, options.pop("name"), "data set")(**options)
    if data.fingerprint != fingerprint:
        raise RuntimeError(f"the data {block} changed while the study ran: run it again")
    return data


def _save_network(network: nn.Module, spec: Mapping[str, Any]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return save_weights(tensors, metadata={"network": canonical(spec)})


def _init(job: Job, needs: Mapping[str, Callable[[str], bytes]], report: Report) -> Files:
    """An untrained network whose batch normalisation has seen the training split once."""
    data = _data(job)
    spec = _network_spec(job, data)
    network = build(**spec, device=device())
    calibrate(network, data.x_train.to(device()))
    return {"weights.safetensors": _save_network(network, spec)}


def _train(job: Job, needs: Mapping[str, Callable[[str], bytes]], report: Report) -> Files:
    """A trained network, its history and its accuracies."""
    data, on = _data(job), device()
    spec = _network_spec(job, data)
    network = build(**spec, device=on)
    settings = Settings(**job.args.get("settings", {}))

    def tell(epoch: Epoch) -> None:
        rate = "" if pd.isna(epoch.firing_rate) else f", rate {epoch.firing_rate:.3f}"
        report(f"epoch {epoch.epoch}/{settings.epochs}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}{rate}")

    history = train(network, data.x_train.to(on), data.y_train.to(on), settings, seed=int(job.seed or 0), report=tell)
    return {
        "weights.safetensors": _save_network(network, spec),
        "history.csv": pd.DataFrame(history).to_csv(index=False).encode(),
        "accuracy.json": _accuracies(network, data),
    }


def _convert(job: Job, needs: Mapping[str, Callable[[str], bytes]], report: Report) -> Files:
    """A spiking network converted from an artificial one, with thresholds from the training split."""
    data, weights = _data(job), needs["network"]("weights.safetensors")
    images = data.x_train.to(device())
    batches = [images[i : i + _CALIBRATED] for i in range(0, len(images), _CALIBRATED)]
    network = converted_snn(read_network(weights), batches, job.args["T"], mode=job.args["mode"])
    spec = _spec_of(weights) | {"converted": {"T": job.args["T"]}}
    files = {"weights.safetensors": _save_network(network, spec)}
    if job.needs["network"].kind == "train":  # nobody asks how accurate an untrained network is
        files["accuracy.json"] = _accuracies(network, data)
    return files


def _evaluate(job: Job, needs: Mapping[str, Callable[[str], bytes]], report: Report) -> Files:
    """Accuracies of a trained spiking network that is run with another number of steps."""
    network = read_network(needs["network"]("weights.safetensors"), job.args["T"])
    return {"accuracy.json": _accuracies(network, _data(job))}


def _accuracies(network: nn.Module, data: Images) -> bytes:
    on = device()
    splits = (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test))
    return json.dumps({split: accuracy(network, x.to(on), y.to(on)) for split, x, y in splits}).encode()


def _compare(job: Job, needs: Mapping[str, Callable[[str], bytes]], report: Report) -> Files:
    """CKA of two networks on the test split; of one network with itself in one pass."""
    data, args = _data(job), job.args
    size, T = args["batch_size"], {side: args.get(f"T_{side}") for side in "xy"}
    x = read_network(needs["x"]("weights.safetensors"), T["x"])
    itself = job.needs["x"].key == job.needs["y"].key and T["x"] == T["y"]
    y = x if itself else read_network(needs["y"]("weights.safetensors"), T["y"])
    batches = [data.x_test[i : i + size] for i in range(0, len(data.x_test), size)]
    if len(batches[-1]) < 4:  # the plan has told so
        batches.pop()
    options = {key: args[key] for key in ("layers", "batches", "null") if key in args}
    # intervals of a study are over seeds
    result = compare(x, y, batches, **options, samples=False, progress=False)
    report(f"{len(result.layers_x)} x {len(result.layers_y)} layers")
    return {"cka.nc": result.to_bytes()}


def read_result(content: bytes) -> CKAResult:
    """The result that a compare job left in `cka.nc`."""
    return CKAResult.load(BytesIO(content))


KINDS: dict[str, Kind] = {
    "init": Kind(_init, 1),
    "train": Kind(_train, 1),
    "convert": Kind(_convert, 1),
    "evaluate": Kind(_evaluate, 1),
    "compare": Kind(_compare, 1),
}


def _reader(read: Callable[[str, str], bytes], key: str) -> Callable[[str], bytes]:
    return lambda name: read(key, name)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
