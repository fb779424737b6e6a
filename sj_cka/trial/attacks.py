"""The attacks and backdoors of a study, tried before anything runs."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from sj_cka.attacks import MaskedGradient, NoGradient, attack_named, craft, pixels, stamp
from sj_cka.attacks.transfer import inside
from sj_cka.data import Images, Samples
from sj_cka.jobs.attack import Target, target
from sj_cka.materials import Data
from sj_cka.ranges import check_fills, check_trigger, range_of
from sj_cka.recipe import NetworkName, Study
from sj_cka.recipe.attack_block import NOISE, Attacking
from sj_cka.recipe.attack_checks import check_strength
from sj_cka.recipe.choices import ATTACK
from sj_cka.recipe.faults import fault_of
from sj_cka.recipe.source import KeyPath


def check_poison(study: Study, data: dict[str, Data]) -> None:
    """A backdoor must go with the data.

    Raises:
        RecipeError: a class or trigger that the samples do not have, or a share of them that is none, or too many.
    """
    for name, condition in study.conditions.items():
        samples, poison = data[name].samples, condition.train.poison
        if poison is None:
            continue
        if poison.target >= samples.classes:
            message = f"expected a class, 0 to {samples.classes - 1}, got {poison.target}"
            raise condition.source.error(("train", "poison", "target"), message)
        others, n = int((samples.y_train != poison.target).sum()), round(poison.share * len(samples.y_train))
        if not 1 <= n <= others:
            message = f"expected 1 to {others} samples, those of other classes, got {n} ({poison.share:g} of all)"
            raise condition.source.error(("train", "poison", "share"), message)
        if samples.x_train.ndim < 4:
            shape = list(samples.x_train.shape)
            raise condition.source.error(
                ("train", "poison"), f"expected samples with pixels for a trigger, got {shape}"
            )
        trigger = poison.trigger(samples)
        value, counts = trigger.get("value", samples.brightest), samples.T is not None
        try:
            stamp(samples.x_train[:2], **trigger | {"value": None})
        except ValueError as error:
            raise fault_of(error, condition.source, ("train", "poison")) from error
        try:
            stamp(samples.x_train[:2], **trigger)
            check_trigger(value, samples.x_train, counts=counts)
            check_trigger(value, samples.x_test, counts=counts, part=True)
        except ValueError as error:
            raise condition.source.error(("train", "poison", "value"), str(error)) from error


def check_attacks(study: Study, built: dict[NetworkName, nn.Module], data: dict[str, Data]) -> None:
    """Tries every attack on two samples of every network's data, with few steps; untrained networks are enough.

    Raises:
        RecipeError: fewer test samples than are to be attacked, samples out of the bounds of an attack, one that is not
            for them, or an option out of range.
    """
    block = study.recipe.attack
    if block is None:
        return
    for network in study.attacked():
        samples = data[network.variant].samples
        count = len(samples.x_test[: block.images])
        if count < block.images:
            message = f"expected at most {count}, so many test {samples.called} there are, got {block.images}"
            raise study.error(("attack", "images"), message)
        for name, entry in study.attacks.items():
            key: KeyPath = ("attack", "by", name)
            if entry.like is not None or not entry.concerns(network):
                continue
            if attack_named(entry.attack).unit == "counts" and samples.T is None:
                raise study.error(key, f"expected an attack on images for {network}, got {entry.attack}: on recordings")
            attack = attack_block(study, entry)
            _check_range(
                study, key, entry, samples, target(samples, block.images, attack, torch.device("cpu")), network
            )
            try:
                _try(attack, entry, samples, built[entry.source_of(network) or network])
            except (ValueError, TypeError, RuntimeError) as error:
                if not isinstance(error, NoGradient):  # of an untrained network
                    raise fault_of(error, study.source, key, about=f"{network}: ") from error


def _check_range(study: Study, key: KeyPath, entry: Attacking, samples: Samples, aim: Target, network: str) -> None:
    """Samples lie in their bounds, on their scale, and no strength leads beyond these, or beyond images without any."""
    found, bounds = range_of(aim.x), aim.bounds
    if bounds is not None and not bounds.holds(found, aim.x.dtype):
        raise study.error(
            key,
            f"expected test samples from {bounds}, those of {network} go from {found}; give bounds, "
            f"e.g. bounds: [{found.low:g}, {found.high:g}], or bounds: null",
        )
    if isinstance(samples, Images) and bounds is not None:
        whole = range_of(samples.x_test)  # an attack may see a few dark ones
        stored = torch.tensor([whole.low, whole.high]).to(samples.x_test.dtype)
        try:
            check_fills(range_of(pixels(stored)), bounds)
        except ValueError as error:
            raise study.error(key, f"{network}: {error}") from error
    widest = found if isinstance(samples, Images) else None
    check_strength(study, key, entry, size=aim.x.numel() // aim.x.shape[aim.axis], within=bounds or widest)


def _try(attack: dict[str, Any], entry: Attacking, samples: Samples, net: nn.Module) -> None:
    """An attack of its largest strength on two samples, on the network that it is made on."""
    name, options = inside(entry.attack, {key: value for key, value in attack.items() if key != "name"})
    function = attack_named(name)
    if function.trial is None:
        return
    all_options = function.with_defaults(options)
    options |= {key: min(all_options[key], few) for key, few in function.trial.items()}
    aim = target(samples, 2, attack, torch.device("cpu"))
    eps = entry.eps_max if entry.eps_max is not None else entry.eps[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskedGradient)
        craft(name, aim.model(net), aim.x, samples.y_test[:2], eps=float(eps or 0), **options)


def attack_block(study: Study, entry: Attacking) -> dict[str, Any]:
    """Name and options of an attack as a job names it; of noise the attack whose norm it has."""
    if entry.like is not None:
        return {"name": NOISE, "like": attack_block(study, study.attacks[entry.like])}
    return ATTACK.without_defaults({"name": entry.attack, **entry.options})
