"""The kinds of job: each a pure function of its spec and of the files of the jobs that it builds on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from io import BytesIO
from typing import Any

import pandas as pd
import torch
from torch import Generator, nn

from sj_cka.attacks import pixel_model, poison, stamp
from sj_cka.attacks.backdoor import measured
from sj_cka.cka import CKA, CKAResult, compare
from sj_cka.cost import cost
from sj_cka.data import AUGMENTATIONS, DATASETS, Samples
from sj_cka.jobs.attack import INPUTS, made, read_inputs, target
from sj_cka.jobs.job import KINDS, Context, Files, Job, Kind, Needs, canonical
from sj_cka.jobs.machine import device, environment, threads
from sj_cka.jobs.weights import network_spec, read_network, saved, saved_weights, spec_of, weights_of
from sj_cka.models import build
from sj_cka.plugins import lookup
from sj_cka.recording import neurons
from sj_cka.training import Checkpoints, DeviceLoader, Epoch, Settings, accuracy, calibrate, train
from sj_cka.training.device_loader import with_options
from sj_cka.twins import converted_snn

_CALIBRATED = 1 << 16  # pixels in a batch that a conversion looks at, 256 images at most
_COUNTED = 128  # test samples that operations are counted on


def run(job: Job, read: Callable[[str, str], bytes], context: Context | None = None) -> Files:
    """Runs a job: its files, with `spec.json` and the environment that it ran in.

    Args:
        job: what to do.
        read: (key, name) -> a file of a finished job.
        context: where it runs, and where its progress and its checkpoints go; None for `device()`, and nowhere.
    """
    context = context or Context(device=device())
    needs = {name: _reader(read, needed.key) for name, needed in job.needs.items()}
    with threads(job.threads):
        files = KINDS[job.kind].run(job, needs, context)
    return {
        **files,
        "spec.json": json.dumps(job.spec, indent=1).encode(),
        "environment.json": json.dumps(environment(job, context.device)).encode(),
    }


def _data(job: Job) -> Samples:
    return _loaded(canonical(job.data.load), job.data.fingerprint)


@lru_cache(maxsize=4)
def _loaded(block: str, fingerprint: str) -> Samples:
    options = json.loads(block)
    data = lookup(DATASETS, options.pop("name"), "data set")(**options)
    if data.fingerprint != fingerprint:
        raise RuntimeError(f"the data {block} changed while the study ran: run it again")
    return data


def _init(job: Job, needs: Needs, context: Context) -> Files:
    """An untrained network whose batch normalisation has seen the training split once."""
    data = _data(job)
    spec = network_spec(job, data)
    network = build(**spec, device=context.device)
    calibrate(network, data.x_train, prepare=data.as_input)
    return {"weights.safetensors": saved(network, spec)}


def _train(job: Job, needs: Needs, context: Context) -> Files:
    """A trained network, its history and its accuracies; and its weights after the epochs that are kept."""
    data, on, seed = _data(job), context.device, int(job.seed or 0)
    spec = network_spec(job, data)
    network = build(**spec, device=on)
    settings = Settings(**job.args.get("settings", {}))
    x_train, y_train = data.x_train, data.y_train
    if "poison" in job.args:
        x_train, y_train, _ = poison(x_train, y_train, generator=Generator().manual_seed(seed), **job.args["poison"])
    batches = DeviceLoader(
        _near(x_train, on),
        y_train.to(on),
        batch_size=settings.batch_size,
        seed=seed,
        classes=data.classes,
        prepare=data.as_input,
        augment=[_augmentation(block) for block in job.args.get("augment", [])],
    )

    def tell(epoch: Epoch) -> None:
        rate = "" if pd.isna(epoch.firing_rate) else f", rate {epoch.firing_rate:.3f}"
        left = (settings.epochs - epoch.epoch) * epoch.seconds
        context.report(
            f"epoch {epoch.epoch}/{settings.epochs}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}{rate}, "
            f"{epoch.images_s:.0f} images/s, {duration(left)} left",
            epoch,
        )

    slot = context.checkpoint
    checkpoints = None if slot is None else Checkpoints(slot, job.checkpoint, context.rank == 0, job.key)
    keep = job.args.get("keep", [])
    history, kept = train(network, batches, settings, seed=seed, keep=keep, checkpoints=checkpoints, report=tell)
    epochs = pd.DataFrame([asdict(epoch) for epoch in history])
    rates = [(e.epoch, layer, rate) for e in history for layer, rate in e.rates.items()]
    return {
        "weights.safetensors": saved(network, spec),
        **{weights_of(epoch): saved_weights(tensors, spec) for epoch, tensors in kept.items()},
        "history.csv": epochs.drop(columns="rates").to_csv(index=False).encode(),
        "firing_rates.csv": pd.DataFrame(rates, columns=["epoch", "layer", "rate"]).to_csv(index=False).encode(),
        "accuracy.json": _accuracies(network, data),
    }


def duration(seconds: float) -> str:
    """A time as people say it.

    Example:
        >>> duration(42), duration(4000), duration(90000)
        ('42 s', '67 min', '25.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def _augmentation(block: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    options = dict(block)
    return with_options(lookup(AUGMENTATIONS, options.pop("name"), "augmentation"), options)


def _convert(job: Job, needs: Needs, context: Context) -> Files:
    """A spiking network converted from an artificial one, with thresholds from the training split."""
    data, weights = _data(job), needs["network"]("weights.safetensors")
    images = data.x_train.to(context.device)
    size = min(256, max(4, _CALIBRATED // images[0, 0].numel()))  # torch.quantile bears 16 million activations
    batches = (data.as_input(images[i : i + size]) for i in range(0, len(images), size))
    network = converted_snn(read_network(weights, device=context.device), batches, job.args["T"], mode=job.args["mode"])
    spec = spec_of(weights) | {"converted": {"T": job.args["T"]}}
    files = {"weights.safetensors": saved(network, spec)}
    if job.needs["network"].kind == "train":  # nobody asks how accurate an untrained network is
        files["accuracy.json"] = _accuracies(network, data)
    return files


def _evaluate(job: Job, needs: Needs, context: Context) -> Files:
    """Accuracies of a trained spiking network that is run with another number of steps."""
    network = read_network(needs["network"]("weights.safetensors"), job.args["T"], context.device)
    return {"accuracy.json": _accuracies(network, _data(job))}


def _near(samples: torch.Tensor, on: torch.device) -> torch.Tensor:
    """Samples on the device; where they would fill half of its free memory, left to go there batch by batch."""
    if on.type == "cuda" and samples.numel() * samples.element_size() > torch.cuda.mem_get_info(on)[0] / 2:
        return samples
    return samples.to(on)


def _accuracies(network: nn.Module, data: Samples) -> bytes:
    splits = (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test))
    found = {split: accuracy(network, x, y, prepare=data.as_input) for split, x, y in splits}
    return json.dumps(found).encode()


def _cost(job: Job, needs: Needs, context: Context) -> Files:
    """Operations and energy of a network for one sample, means over the first of the test split."""
    data = _data(job)
    network = read_network(needs["network"]("weights.safetensors"), device=context.device)
    samples = data.as_input(data.x_test[:_COUNTED].to(context.device))
    counted = cost(network, samples, axis=0 if data.T is None else 1)
    return {"cost.json": json.dumps(counted._asdict()).encode()}


def _compare(job: Job, needs: Needs, context: Context) -> Files:
    """CKA of two networks on the test split; of one network with itself in one pass."""
    data, args = _data(job), job.args
    size, T = args.get("batch_size", len(data.x_test)), {side: args.get(f"T_{side}") for side in "xy"}
    moment = {side: args.get(f"epoch_{side}") for side in "xy"}
    x = read_network(needs["x"](weights_of(moment["x"])), T["x"], context.device)
    itself = job.needs["x"].key == job.needs["y"].key and (T["x"], moment["x"]) == (T["y"], moment["y"])
    y = x if itself else read_network(needs["y"](weights_of(moment["y"])), T["y"], context.device)
    starts = list(range(0, len(data.x_test), size))
    if len(data.x_test) - starts[-1] < 4:  # the plan has told so
        starts.pop()
    starts = starts[: args.get("batches")][context.rank :: context.processes]  # all processes compare, each its share
    batches = [data.as_input(data.x_test[i : i + size]) for i in starts]
    # two networks without time have no timing to permute
    steps = "null" in args and (data.T is not None or bool(neurons(x) or neurons(y)))
    loader: Any = batches
    if "under" in needs:
        attacked, axis = read_inputs(needs["under"](INPUTS)), 0 if data.T is None else 1
        batches = [data.as_input(data.x_test[: attacked.shape[axis]])]
        loader = {"x": batches, "y": [attacked]}
    into = CKA(samples=False, permutations={"steps": int(steps)})  # intervals of a study are over seeds
    result = compare(x, y, loader, layers=args.get("layers"), layout=data.layout, into=into, progress=False)
    context.report(f"{len(result.layers_x)} x {len(result.layers_y)} layers")
    return {"cka.nc": result.to_bytes()}


def _attack(job: Job, needs: Needs, context: Context) -> Files:
    """The first test samples under an attack on a trained network, and what it did."""
    data, args, on = _data(job), job.args, context.device
    aim = target(data, args["images"], args["attack"], on)
    source = read_network(needs["source"]("weights.safetensors"), device=on) if "source" in needs else None
    like = read_inputs(needs["like"](INPUTS)).to(on) if "like" in needs else None
    net = read_network(needs["network"]("weights.safetensors"), device=on)
    y = data.y_test[: args["images"]].to(on)
    files = made(aim, y, net, args, int(job.seed or 0), source, like)
    told = json.loads(files["attack.json"])
    context.report(f"accuracy {told['clean']:.3f}, under attack {told['accuracy']:.3f}")
    return files


def _backdoor(job: Job, needs: Needs, context: Context) -> Files:
    """How well the backdoor in a network works, on the test split."""
    data, on, args = _data(job), context.device, dict(job.args)
    net = read_network(needs["network"]("weights.safetensors"), device=on)
    wanted, stored = args.pop("target"), data.x_test.to(on)
    model = pixel_model(net, sample_axis=0 if data.T is None else 1)
    # stamped as they are stored, as in training
    x, triggered = data.as_input(stored), data.as_input(stamp(stored, **args))
    found = measured(model, x, triggered, data.y_test.to(on), target=wanted)
    return {"backdoor.json": json.dumps(found._asdict()).encode()}


def read_result(content: bytes, trusted: bool = False) -> CKAResult:
    """The result that a compare job left in `cka.nc`; see `CKAResult.load`."""
    return CKAResult.load(BytesIO(content), trusted=trusted)


def _leaves(*names: str) -> Callable[[Job], tuple[str, ...]]:
    return lambda job: names


def _of_training(job: Job) -> tuple[str, ...]:
    kept = map(weights_of, [None, *job.args.get("keep", [])])
    return (*kept, "history.csv", "firing_rates.csv", "accuracy.json")


def _of_conversion(job: Job) -> tuple[str, ...]:
    return ("weights.safetensors", *(["accuracy.json"] if job.needs["network"].kind == "train" else []))


KINDS |= {
    "init": Kind(_init, 1, _leaves("weights.safetensors")),
    "train": Kind(_train, 2, _of_training, together=True),
    "convert": Kind(_convert, 1, _of_conversion),
    "evaluate": Kind(_evaluate, 1, _leaves("accuracy.json")),
    "cost": Kind(_cost, 1, _leaves("cost.json")),
    "attack": Kind(_attack, 1, _leaves(INPUTS, "attack.json")),
    "backdoor": Kind(_backdoor, 1, _leaves("backdoor.json")),
    "compare": Kind(_compare, 2, _leaves("cka.nc"), together=True),
}


def _reader(read: Callable[[str, str], bytes], key: str) -> Callable[[str], bytes]:
    return lambda name: read(key, name)
