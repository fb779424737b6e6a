"""Networks as files: weights, and in the header what they are the weights of, so that a file is enough."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights
from torch import nn

from sj_cka.data import Samples
from sj_cka.job import Job, canonical
from sj_cka.models import build
from sj_cka.preflight import data_options, network_options
from sj_cka.recipe import Condition
from sj_cka.recipe.choices import MODEL, NEURON
from sj_cka.twins import converted_snn


def weights_of(epoch: int | None = None) -> str:
    """Name of the file of weights of a training: after a kept epoch, or None, the last."""
    return "weights.safetensors" if epoch is None else f"weights@{epoch}.safetensors"


def network_args(condition: Condition, kind: str, samples: Samples) -> dict[str, Any]:
    """A network as part of a job's spec: options equal to their default left out."""
    options = network_options(condition, kind, samples)
    args = {"kind": kind, **options}
    for key, choice in (("model", MODEL), ("neuron", NEURON)):
        if key in options:
            args[key] = choice.without_defaults(options[key])
    if condition.train.init == "same":
        args["init"] = "same"
    return args


def network_spec(job: Job, data: Samples) -> dict[str, Any]:
    """What `build` needs; its seed comes from the seed and the network, with `init: same` from the model alone."""
    of_network = {key: job.args[key] for key in _SEEDED if key in job.args}
    spec = data_options(data, of_network) | of_network
    seeded: dict[str, Any] = (
        {"seed": job.seed, "model": spec["model"]} if job.args.get("init") == "same" else {"seed": job.seed, **spec}
    )
    digest = hashlib.sha256(canonical(seeded).encode()).digest()
    return spec | {"seed": int.from_bytes(digest[:6], "big")}


def origins(job: Job) -> frozenset[str]:
    """What random numbers the files of a job hang on: trainings beneath it, itself too, and their first weights.

    The order of the data, which networks of one seed have in common, is not counted: it makes no likeness that could
    be measured. Networks on other data count as others, though theirs may have as many channels and classes.
    """
    found = frozenset().union(*(origins(needed) for needed in job.inputs.values()))
    if job.seed is None:
        return found
    first = {"seed": job.seed, "data": job.data.fingerprint}
    first |= {key: job.args[key] for key in _SEEDED if key in job.args}
    if job.args.get("init") == "same":
        first = {"seed": job.seed, "model": first["model"]}
    return found | {job.key} | ({canonical(first)} if "model" in first else set())


_SEEDED = ("kind", "model", "T", "neuron", "coding", "ann_input")


def read_network(weights: bytes, T: int | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """A network from its file alone: the header says what it is.

    Args:
        weights: the file.
        T: steps that a spiking network shows an image; None for those that it was trained with, or converted for.
        device: where it is to live.
    """
    spec = spec_of(weights)
    converted = spec.pop("converted", None)
    if converted is not None:
        network = converted_snn(build(**spec, device=device), None, T or converted["T"])
    else:
        network = build(**spec | ({} if T is None else {"T": T}), device=device)
    network.load_state_dict(load_weights(weights))
    return network.eval()


def spec_of(weights: bytes) -> dict[str, Any]:
    """What a file of weights is the weights of, as `saved` was told."""
    size = int.from_bytes(weights[:8], "little")
    spec: dict[str, Any] = json.loads(json.loads(weights[8 : 8 + size])["__metadata__"]["network"])
    return spec


def saved(network: nn.Module, spec: Mapping[str, Any]) -> bytes:
    """The file of a network, that `build` makes of the spec."""
    return saved_weights(network.state_dict(), spec)


def saved_weights(state: Mapping[str, torch.Tensor], spec: Mapping[str, Any]) -> bytes:
    """The same of weights alone, a `state_dict`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return save_weights(tensors, metadata={"network": canonical(spec)})
