"""The networks and augmentations of a study, tried before anything runs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from sj_cka import recording
from sj_cka.claims import selected
from sj_cka.data import Samples
from sj_cka.materials import Data
from sj_cka.models import Kind, build
from sj_cka.plugins import closest
from sj_cka.recipe import Condition, NetworkName, Study
from sj_cka.recipe.choices import AUGMENTATION, MODEL, NEURON, options_of
from sj_cka.recipe.faults import fault_of
from sj_cka.recipe.source import KeyPath
from sj_cka.recording import reset_states
from sj_cka.twins import converted_snn

_TRIED = 2  # samples that a network runs on

_LARGEST = 10**9  # parameters of a network


def check_augmentations(study: Study, data: dict[str, Data]) -> None:
    """Tries every augmentation on two samples of its data.

    Raises:
        RecipeError: an option out of range, or samples that it is not for.
    """
    for name, condition in study.conditions.items():
        samples = data[name].samples.x_train[:2]
        for i, augmentation in enumerate(condition.train.augment):
            options = options_of(AUGMENTATION.typed(augmentation.options()))
            try:
                AUGMENTATION.function(augmentation.name)(samples.clone(), torch.Generator().manual_seed(0), **options)
            except ValueError as error:
                raise fault_of(error, condition.source, ("train", "augment", i)) from error


class Size(NamedTuple):
    """Parameters of a network, and multiply-accumulates of its forward pass on a sample, spikes counted as numbers."""

    parameters: int
    macs: int


class Tried(NamedTuple):
    """A network that has run on a few samples, and how large it is."""

    network: nn.Module
    size: Size


def tried(study: Study, network: NetworkName, data: Samples) -> Tried:
    """A network that has run on a few samples, so that a bad option costs nothing; its operations are counted.

    Raises:
        RecipeError: it cannot be made, or does not run on them.
    """
    kind, condition = network.kind, study.conditions[network.variant]
    made = _built(condition, "snn" if kind == "snn" else "ann", data).eval()
    try:
        if kind == "converted":
            made = converted_snn(made, None, study.recipe.converted.T)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            made(data.as_input(data.x_test[:_TRIED]).clone())  # it may work in place
    except (ValueError, RuntimeError) as error:
        shape = list(data.x_test.shape)
        message = f"{network} does not run on {data.called} of shape {shape}: {str(error).splitlines()[0]}"
        raise condition.source.error(("model",), message) from error
    reset_states(made)
    macs = counter.get_total_flops() // 2 // _TRIED
    return Tried(made, Size(sum(p.numel() for p in made.parameters()), macs))


def check_layers(study: Study, built: dict[NetworkName, nn.Module], data: dict[str, Data]) -> None:
    """The layers that comparisons, figures and claims name must be in the networks that they are about.

    Where none are named, one network of each model and kind is looked at, the smallest: that its layers can be told.
    """
    named = _names_layers(study)
    smallest: set[NetworkName] = set()
    for model, kind in {(study.conditions[name.variant].model["name"], name.kind) for name in built}:
        alike = [name for name in built if _is_of(study, name, model, kind)]
        smallest.add(min(alike, key=lambda name: sum(p.numel() for p in built[name].parameters())))
    there: dict[str, dict[str, tuple[str, ...]]] = {}  # comparison -> variant -> layers of x
    probed: dict[tuple[NetworkName, tuple[str, ...]], tuple[str, ...]] = {}
    for i, comparison in enumerate(study.recipe.compare):
        wanted = comparison.layers or study.recipe.cka.layers
        there[comparison.name] = {}
        for variant, sides in study.sides(comparison).items():
            x, y = (name.trained for name in sides[:2])
            for network in (x, y):
                if (network, tuple(wanted or ())) in probed or not (named or network in smallest):
                    continue
                samples = data[network.variant].samples
                try:
                    few, layout = samples.as_input(samples.x_test[:4]), samples.layout
                    found = recording.plan_observation(built[network], few, layers=wanted, layout=layout).layers
                except ValueError as error:
                    key: KeyPath = ("compare", i, "layers") if comparison.layers else ("cka", "layers")
                    raise study.error(key, f"{network}: {str(error).removeprefix('layers: ')}") from error
                probed[network, tuple(wanted or ())] = found
            there[comparison.name][variant] = probed.get((x, tuple(wanted or ())), ())
    for i, figure in enumerate(study.recipe.figures):
        _check_named(study, ("figures", i, "layers"), figure.options().get("layers"), figure.comparison, None, there)
    for i, claim in enumerate(study.recipe.claims):
        for arm, m in claim.arms().items():
            which = None if claim.test == "trend" else m.variant or ""
            _check_named(study, ("claims", i, arm, "layers"), m.layers, m.comparison, which, there)


def _is_of(study: Study, network: NetworkName, model: str, kind: str) -> bool:
    return (study.conditions[network.variant].model["name"], network.kind) == (model, kind)


def _names_layers(study: Study) -> bool:
    """Whether anything in the recipe names layers."""
    recipe = study.recipe
    asked = [recipe.cka.layers, *(c.layers for c in recipe.compare)]
    asked += [figure.options().get("layers") for figure in recipe.figures]
    return any([*asked, *(m.layers for c in recipe.claims for m in c.arms().values())])


def _check_named(
    study: Study,
    key: KeyPath,
    patterns: list[str] | None,
    comparison: str | None,
    variant: str | None,
    there: dict[str, dict[str, tuple[str, ...]]],
) -> None:
    """Each name or glob must match a layer of x in a comparison: of one of its variants, or of any."""
    for j, pattern in enumerate(patterns or []):
        by_variant = there[str(comparison)]
        found = [by_variant[variant]] if variant is not None else list(by_variant.values())
        layers = dict.fromkeys(layer for own in found for layer in own)
        if not selected(layers, [pattern]):
            x = next(c.x for c in study.recipe.compare if c.name == comparison)
            raise study.error((*key, j), f"{pattern!r} is no layer of {x}{closest(pattern, layers)}")


def _built(condition: Condition, kind: Kind, data: Samples) -> nn.Module:
    options = network_options(condition, kind)
    try:
        if kind == "snn":
            NEURON.function(options["neuron"]["name"])(**options_of(options["neuron"]))
    except ValueError as error:
        raise fault_of(error, condition.source, ("snn", "neuron")) from error
    try:
        with _Bounded():
            return build(kind, in_channels=data.channels, num_classes=data.classes, **options)
    except ValueError as error:
        raise fault_of(error, condition.source, ("model",), ("snn",)) from error


class _Bounded(TorchFunctionMode):
    """Ends the making of a network that is too large before it takes all memory."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:  # what parameters begin as
            self.made += math.prod(args[0] if args and isinstance(args[0], tuple | list) else args)
            if self.made > _LARGEST:
                raise ValueError(f"expected a network of at most {_LARGEST:,} parameters, got more")
        return func(*args, **(kwargs or {}))


def network_options(condition: Condition, kind: str) -> dict[str, Any]:
    """What `build` gets, but for the shape of the data and the seed."""
    options: dict[str, Any] = {"model": MODEL.typed(condition.model)}
    if kind == "snn":
        options["neuron"] = NEURON.typed(condition.snn.neuron.options())
        options["T"] = condition.snn.T
    elif condition.ann_input != "steps":
        options["ann_input"] = condition.ann_input
    return options
