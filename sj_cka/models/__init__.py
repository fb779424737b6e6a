"""Networks: spiking ones and their artificial twins, from one table."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn

from sj_cka.models.coding import Coding, Encoder, InputRange, check_coding
from sj_cka.models.convnet import convnet, vgg
from sj_cka.models.mlp import mlp
from sj_cka.models.resnet import resnet, resnet_imagenet
from sj_cka.models.sew_resnet import sew_resnet
from sj_cka.models.spikformer import spikformer
from sj_cka.models.time_axis import OverTime, sum_frames, time_steps
from sj_cka.neurons import NEURONS
from sj_cka.plugins import OptionError, check_option, lookup
from sj_cka.twins.refusals import warn_of_logic

__all__ = ["MODELS", "NEURONS", "Coding", "InputRange", "NetworkKind", "build"]

NetworkKind = Literal["snn", "ann"]
AnnInput = Literal["steps", "sum"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet": resnet,
    "resnet_imagenet": resnet_imagenet,
    "vgg": vgg,
    "convnet": convnet,
    "mlp": mlp,
    "sew_resnet": sew_resnet,
    "spikformer": spikformer,
}


def build(
    kind: NetworkKind,
    model: Mapping[str, Any],
    *,
    in_channels: int,
    num_classes: int,
    T: int = 4,
    neuron: Mapping[str, Any] | None = None,
    coding: Coding = "direct",
    input_range: InputRange | None = None,
    ann_input: AnnInput = "steps",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """A network with weights drawn from its own seed; the global random state stays as it is.

    Args:
        kind: "snn": spiking; "ann": its twin, with equal module names and shapes and ReLU in place of the neurons. A
            connection that is logic on spikes gets the warning that `ann_twin` gives.
        model: `name` in MODELS and its options, e.g. `{"name": "resnet", "depth": 20}`.
        in_channels, num_classes: shape of the data.
        T: time steps that the spiking network shows an image; of no meaning to its twin.
        neuron: `name` in NEURONS ("lif" without) and its options; None for the paper's LIF.
        coding: how the spiking network is given an image: "direct": as it is at every step; "poisson" or "latency": as
            spikes, see `sj_cka.models.coding`. The artificial one has but "direct"; frames are taken as they are.
        input_range: what of each channel is no and full brightness to those; None for 0 and 1.
        ann_input: what the artificial network makes of frames `[T, N, ...]`: "steps": each is an input of its own, and
            logits are `[T, N, classes]`; "sum": their sum over time is one input. Of no meaning to the spiking one.
        seed: of the initial weights; the same seed gives both kinds the same weights.
        device: where the network is to live.

    Raises:
        UnknownName: no such model or neuron. OptionError: an option out of range, or a coding that the network cannot
            have. ValueError: no such kind, or no such input.
    """
    if kind not in get_args(NetworkKind):
        raise ValueError(f'expected kind "snn" or "ann", got {kind!r}')
    if ann_input not in get_args(AnnInput):
        raise ValueError(f'expected ann_input "steps" or "sum", got {ann_input!r}')
    if kind == "snn":
        check_coding(coding, time_steps(T))
    else:
        check_option(coding == "direct", "coding", "direct: an artificial network has no steps to spike in", coding)
    make = lookup(MODELS, model["name"], "model")
    options = {key: value for key, value in model.items() if key != "name"}
    wanted = dict(neuron or {})
    make_neuron = lookup(NEURONS, wanted.pop("name", "lif"), "neuron")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(
            (lambda: make_neuron(device=device, **wanted)) if kind == "snn" else nn.ReLU,
            T=T if kind == "snn" else None,
            in_channels=in_channels,
            num_classes=num_classes,
            **options,
        )
    if coding != "direct":
        if not isinstance(network, OverTime):
            message = f"expected direct: {type(network).__name__} is no sj_cka.models.time_axis.OverTime; got {coding}"
            raise OptionError("coding", message)
        network.input_coding = Encoder(coding, input_range)
    if kind == "ann":
        warn_of_logic(network)
        if ann_input == "sum":
            sum_frames(network)
    return network.to(device)
