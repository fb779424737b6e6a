"""The networks of a study, built and run on a few samples before anything else runs."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from sj_cka.data import Images, Samples
from sj_cka.models import NetworkKind, build
from sj_cka.preflight.data import Data
from sj_cka.recipe import Condition, NetworkName, Study
from sj_cka.recipe.choices import MODEL, NEURON, options_of
from sj_cka.recipe.faults import fault_of
from sj_cka.recording import reset_states
from sj_cka.twins import converted_snn

_TRIED = 2  # samples that a network runs on

_LARGEST = 10**9  # parameters of a network


class Size(NamedTuple):
    """Parameters of a network, and multiply-accumulates of its forward pass on a sample, spikes counted as numbers."""

    parameters: int
    macs: int


class Tried(NamedTuple):
    """A network that has run on a few samples, and how large it is."""

    network: nn.Module
    size: Size


class Preflight:
    """A study before it runs: its data, and its networks, each built and run on a few samples when first asked for.

    Args:
        study: the recipe as read.
        data: variant -> its data.
        blocks: kind of job -> what the recipe says of it under `jobs`.
    """

    def __init__(self, study: Study, data: dict[str, Data], blocks: Mapping[str, BaseModel]) -> None:
        self.study, self.data, self.blocks = study, data, blocks
        self._tried: dict[NetworkName, Tried] = {}

    def samples(self, network: NetworkName) -> Samples:
        """The data of a network."""
        return self.data[network.variant].samples

    @cached_property
    def names(self) -> list[NetworkName]:
        """Every network that something names; both kinds of every variant where nothing is compared."""
        study = self.study
        compared = [name for c in study.recipe.compare for sides in study.sides(c).values() for name in sides[:2]]
        both = [NetworkName(f"{variant}.{kind}") for variant in study.conditions for kind in ("snn", "ann")]
        named = compared or both
        named += [name for block in study.recipe.evaluate for name in study.networks(block.network)]
        for block in self.blocks.values():
            named += [name for networks in getattr(block, "networks", ()) for name in study.networks(networks)]
        named += study.attacked()
        for entry in study.attacks.values():
            named += [source for network in study.attacked() if (source := entry.source_of(network)) is not None]
        for claim in study.recipe.claims:
            for arm in claim.arms().values():
                for network in filter(None, (arm.network, arm.minus) if arm.network is not None else ()):
                    variants = study.conditions if claim.test == "trend" else [""]  # there it is a kind, of every one
                    named += [NetworkName(f"{v}.{network}".removeprefix(".")) for v in variants]
        return list(dict.fromkeys(name.trained for name in named))

    def network(self, name: NetworkName) -> nn.Module:
        """A network with its first weights, that has run on a few samples, so that a bad option costs nothing.

        Raises:
            RecipeError: it cannot be made, or does not run on them.
        """
        return self._try(name).network

    def size(self, name: NetworkName) -> Size:
        """How large a network is; as `network`."""
        return self._try(name).size

    def _try(self, name: NetworkName) -> Tried:
        if name not in self._tried:
            self._tried[name] = _tried(self.study, name, self.samples(name))
        return self._tried[name]


def _tried(study: Study, name: NetworkName, data: Samples) -> Tried:
    kind, condition = name.kind, study.conditions[name.variant]
    network = _built(condition, "snn" if kind == "snn" else "ann", data).eval()
    try:
        if kind == "converted":
            network = converted_snn(network, None, study.recipe.converted.T)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(data.as_input(data.x_test[:_TRIED]).clone())  # it may work in place
    except (ValueError, RuntimeError) as error:
        shape = list(data.x_test.shape)
        message = f"{name} does not run on {data.called} of shape {shape}: {str(error).splitlines()[0]}"
        raise condition.source.error(("model",), message) from error
    reset_states(network)
    macs = counter.get_total_flops() // 2 // _TRIED
    return Tried(network, Size(sum(p.numel() for p in network.parameters()), macs))


def _built(condition: Condition, kind: NetworkKind, data: Samples) -> nn.Module:
    options = network_options(condition, kind, data)
    try:
        if kind == "snn":
            NEURON.function(options["neuron"]["name"])(**options_of(options["neuron"]))
    except ValueError as error:
        raise fault_of(error, condition.source, ("snn", "neuron")) from error
    try:
        with _Bounded():
            return build(kind, **options, **data_options(data, options))
    except ValueError as error:
        raise fault_of(error, condition.source, ("model",), ("snn",)) from error


class _Bounded(TorchFunctionMode):
    """Ends the making of a network that is too large before it takes all memory."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:  # what parameters begin as
            self.parameters += math.prod(args[0] if args and isinstance(args[0], tuple | list) else args)
            if self.parameters > _LARGEST:
                raise ValueError(f"expected a network of at most {_LARGEST:,} parameters, got more")
        return func(*args, **(kwargs or {}))


def data_options(data: Samples, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `build` gets of the data, beside the options of the network."""
    shape: dict[str, Any] = {"in_channels": data.channels, "num_classes": data.classes}
    return shape | ({"input_range": data.coded_range} if "coding" in options and isinstance(data, Images) else {})


def network_options(condition: Condition, kind: str, samples: Samples) -> dict[str, Any]:
    """What `build` gets, but for the shape of the data and the seed; recordings bring their own steps."""
    options: dict[str, Any] = {"model": MODEL.typed(condition.model)}
    if kind == "snn":
        options["neuron"] = NEURON.typed(condition.snn.neuron.options())
        options["T"] = condition.snn.T if samples.T is None else samples.T
        if condition.snn.coding != "direct":
            options["coding"] = condition.snn.coding
    elif samples.T is not None and condition.ann_input != "steps":  # an image is one input to any ANN
        options["ann_input"] = condition.ann_input
    return options
