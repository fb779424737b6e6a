"""Trained networks, their histories and accuracies; and their weights after the epochs that are kept."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from io import BytesIO
from typing import Any

import pandas as pd
import torch
from torch import Generator

from sj_cka.attacks import poison
from sj_cka.job import Context, Files, Inputs, Job, Read
from sj_cka.jobs.accuracies import ACCURACY, accuracies, read_accuracies
from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.weights import network_args, network_spec, saved, saved_weights, weights_of
from sj_cka.models import build
from sj_cka.plugins import OptionError
from sj_cka.preflight import Preflight
from sj_cka.recipe import NetworkName
from sj_cka.recipe.choices import AUGMENTATION, options_of
from sj_cka.recipe.faults import fault_of
from sj_cka.recording import preserved
from sj_cka.training import Checkpoints, DeviceLoader, Epoch, Settings, train
from sj_cka.training.step import Step

HISTORY, RATES = "history.csv", "firing_rates.csv"
VERSION = 2


def job(graph: Graph, network: NetworkName, seed: int) -> Job:
    """The training of a network."""
    settings = graph.study.conditions[network.variant].train
    return Job(
        "train",
        graph.once(_args, network),
        {},
        graph.block(network),
        seed,
        settings.threads,
        f"{network}, seed {seed}",
        settings.checkpoint,
        graph.processes,
        VERSION,
    )


def _args(graph: Graph, network: NetworkName) -> dict[str, Any]:
    condition, defaults = graph.study.conditions[network.variant], Settings()
    settings = condition.train.of(network.kind)
    args = network_args(condition, network.kind, graph.samples(network))
    args["settings"] = {key: value for key, value in settings.items() if value != getattr(defaults, key)}
    if condition.train.augment:
        args["augment"] = [AUGMENTATION.without_defaults(block.options()) for block in condition.train.augment]
    if (backdoor := condition.train.poison) is not None:
        trigger = backdoor.trigger(graph.samples(network))
        args["poison"] = {"target": backdoor.target, "share": backdoor.share, **trigger}
    if kept := [epoch for epoch in condition.train.keep if 0 < epoch < settings["epochs"]]:
        args["keep"] = kept
    return args


def rows(graph: Graph) -> Iterator[Row]:
    """Every network that is named and not converted, with every seed."""
    return graph.of_networks(job, lambda network: network.kind != "converted")


def check(preflight: Preflight) -> None:
    """Tries every augmentation, and every learning rule but BPTT, on two samples of its data.

    Raises:
        RecipeError: an option out of range, samples that an augmentation is not for, or a network that a rule is not.
    """
    for name, condition in preflight.study.conditions.items():
        samples = preflight.data[name].samples.x_train[:2]
        for i, augmentation in enumerate(condition.train.augment):
            options = options_of(AUGMENTATION.typed(augmentation.options()))
            try:
                AUGMENTATION.function(augmentation.name)(samples.clone(), Generator().manual_seed(0), **options)
            except ValueError as error:
                raise fault_of(error, condition.source, ("train", "augment", i)) from error
    for network in preflight.names:
        if network.kind != "converted":
            _check_rule(preflight, network)


def _check_rule(preflight: Preflight, name: NetworkName) -> None:
    """A learning rule goes with its network and with the other settings of its training."""
    condition, data = preflight.study.conditions[name.variant], preflight.samples(name)
    settings = Settings(**condition.train.of(name.kind))
    if settings.rule == Settings().rule:
        return
    network = preflight.network(name)
    try:
        with preserved(network):
            network.train()
            Step(network, settings).gradients(data.as_input(data.x_train[:2].clone()), data.y_train[:2], 2)
    except ValueError as error:
        at: tuple[str, ...] = ("train", "rule")
        if isinstance(error, OptionError):
            at = ("train", error.option) if hasattr(settings, error.option) else (*at, error.option)
        raise condition.source.error(at, f"{name}: {getattr(error, 'message', error)}") from error


def run(job: Job, inputs: Inputs, context: Context) -> Files:
    """Weights, those of kept epochs too, history, firing rates and accuracies."""
    data, on, seed = job.data.samples, context.device, int(job.seed or 0)
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
    rates = [(epoch.epoch, layer, rate) for epoch in history for layer, rate in epoch.rates.items()]
    return {
        weights_of(): saved(network, spec),
        **{weights_of(epoch): saved_weights(tensors, spec) for epoch, tensors in kept.items()},
        HISTORY: epochs.drop(columns="rates").to_csv(index=False).encode(),
        RATES: pd.DataFrame(rates, columns=["epoch", "layer", "rate"]).to_csv(index=False).encode(),
        ACCURACY: accuracies(network, data),
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
    return functools.partial(AUGMENTATION.function(block["name"]), **options_of(block))


def _near(samples: torch.Tensor, on: torch.device) -> torch.Tensor:
    """Samples on the device; where they would fill half of its free memory, left to go there batch by batch."""
    if on.type == "cuda" and samples.numel() * samples.element_size() > torch.cuda.mem_get_info(on)[0] / 2:
        return samples
    return samples.to(on)


def _leaves(job: Job) -> tuple[str, ...]:
    return (*map(weights_of, [None, *job.args.get("keep", [])]), HISTORY, RATES, ACCURACY)


def _history(row: Row, read: Read) -> pd.DataFrame:
    """Columns epoch, loss, accuracy, firing_rate, lr, seconds, images_s, memory_mb."""
    return pd.read_csv(BytesIO(read(HISTORY)))


def _rates(row: Row, read: Read) -> pd.DataFrame:
    """Columns epoch, layer, rate: spikes per neuron and step while the network trained."""
    return pd.read_csv(BytesIO(read(RATES)))


TABLES = {"accuracy": read_accuracies, "history": _history, "firing_rates": _rates}
KIND = Kind(run, _leaves, rows, check, TABLES, together=True)
