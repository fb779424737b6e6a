"""The jobs of a study, each made once however many others build on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from sj_cka.jobs import DataBlock, Job
from sj_cka.materials import Data
from sj_cka.recipe import Comparison, Condition, NetworkName, Sides, Study
from sj_cka.recipe.attack_block import Attacking
from sj_cka.recipe.choices import AUGMENTATION, MODEL, NEURON
from sj_cka.recipe.train_block import Poison
from sj_cka.training import Settings
from sj_cka.trial import attack_block, network_options

State = Literal["trained", "untrained", "ceiling"]
_UNTRAINED = ("init", "0")  # moments of a network's training


class Orders:
    """Makes the jobs of one study: what leaves weights once, so that its key is taken once.

    Args:
        study: the recipe as read.
        data: variant -> its data.
        processes: among which each training is shared.
    """

    def __init__(self, study: Study, data: dict[str, Data], processes: int = 1) -> None:
        self.study, self.data, self.processes = study, data, processes
        self._made: dict[tuple[NetworkName, int, bool], Job] = {}
        self._args = cache(self._training_args)

    def _once(self, network: NetworkName, seed: int, trained: bool, make: Callable[[], Job]) -> Job:
        key = network, seed, trained
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def block(self, network: NetworkName) -> DataBlock:
        """The data of a network."""
        return self.data[network.variant].block

    def train(self, network: NetworkName, seed: int) -> Job:
        """The training of a network, or its conversion from a trained one."""
        return self._once(network, seed, True, lambda: self._train(network, seed))

    def _train(self, network: NetworkName, seed: int) -> Job:
        variant, kind = network.variant, network.kind
        if kind == "converted":
            return self.convert(network, self.train(NetworkName(f"{variant}.ann"), seed), seed)
        train = self.study.conditions[variant].train
        args, block, label = self._args(network), self.block(network), f"{network}, seed {seed}"
        return Job("train", args, {}, block, seed, train.threads, label, train.checkpoint, self.processes)

    def _training_args(self, network: NetworkName) -> dict[str, Any]:
        variant, kind = network.variant, network.kind
        condition, defaults = self.study.conditions[variant], Settings()
        settings = {k: v for k, v in condition.train.of(kind).items() if v != getattr(defaults, k)}
        epochs = condition.train.of(kind)["epochs"]
        args = _network_args(condition, kind) | {"settings": settings}
        if condition.train.augment:
            args["augment"] = [AUGMENTATION.without_defaults(block.options()) for block in condition.train.augment]
        if condition.train.poison is not None:
            poison = condition.train.poison
            args["poison"] = {"target": poison.target, "share": poison.share, **self.trigger(network, poison)}
        if kept := [epoch for epoch in condition.train.keep if 0 < epoch < epochs]:
            args["keep"] = kept
        return args

    def convert(self, network: NetworkName, ann: Job, seed: int) -> Job:
        """The conversion of an artificial network."""
        options = self.study.recipe.converted.model_dump()
        label = f"{network}{' untrained' if ann.kind == 'init' else ''}, seed {seed}"
        return Job("convert", options, {"network": ann}, self.block(network), None, ann.threads, label)

    def evaluate(self, network: NetworkName, T: int, seed: int) -> Job:
        """What knows the accuracy of a spiking network with T steps."""
        training = self.train(network, seed)
        if T == self.study.steps_of(network):
            return training
        label = f"{network} at T = {T}, seed {seed}"
        return Job("evaluate", {"T": T}, {"network": training}, self.block(network), None, training.threads, label)

    def cost(self, network: NetworkName, seed: int) -> Job:
        """The count of a trained network's operations."""
        training = self.train(network, seed)
        return Job(
            "cost", {}, {"network": training}, self.block(network), None, training.threads, f"cost of {training.label}"
        )

    def backdoor(self, network: NetworkName, seed: int) -> Job:
        """The measurement of the backdoor in a trained network."""
        training, poison = self.train(network, seed), self.study.conditions[network.variant].train.poison
        assert poison is not None  # only poisoned networks are measured
        args = {"target": poison.target, **self.trigger(network, poison)}
        label = f"backdoor in {training.label}"
        return Job("backdoor", args, {"network": training}, self.block(network), None, training.threads, label)

    def trigger(self, network: NetworkName, poison: Poison) -> dict[str, Any]:
        """The trigger of a network's backdoor."""
        return poison.trigger(self.data[network.variant].samples)

    def attack(self, network: NetworkName, entry: Attacking, eps: float | None, seed: int) -> Job:
        """An attack of one strength on a trained network."""
        block, training = self.study.recipe.attack, self.train(network, seed)
        assert block is not None  # else there are no entries
        attack = attack_block(self.study, entry)
        args: dict[str, Any] = {"attack": attack, "images": block.images, "batch_size": block.batch_size}
        args |= {"rate": entry.rate, "most": entry.eps_max} if entry.rate is not None else {"eps": eps}
        needs = {"network": training}
        if (source := entry.source_of(network)) is not None:
            needs["source"] = self.train(source, seed)
            if needs["source"].key == training.key:
                message = (
                    f"expected another network than {network}: {source} is the same, what varies does not concern it"
                )
                raise self.study.error(("attack", "by", entry.name, "source"), message)
        if entry.like is not None:
            needs["like"] = self.attack(network, self.study.attacks[entry.like], eps, seed)
        label = f"{entry.label(eps)} on {network}, seed {seed}"
        return Job("attack", args, needs, self.block(network), seed, training.threads, label)

    def network(self, name: NetworkName, seed: int, state: State) -> Job:
        """What leaves the weights of a network: its training, or its first weights."""
        network = name.trained
        if state != "untrained" and name.moment not in _UNTRAINED:
            return self.train(network, seed)
        return self._once(network, seed, False, lambda: self._first_weights(network, seed))

    def _first_weights(self, network: NetworkName, seed: int) -> Job:
        variant, kind = network.variant, network.kind
        if kind == "converted":
            return self.convert(network, self.network(NetworkName(f"{variant}.ann"), seed, "untrained"), seed)
        condition = self.study.conditions[variant]
        args, label = _network_args(condition, kind), f"{network} untrained, seed {seed}"
        return Job("init", args, {}, self.block(network), seed, condition.train.threads, label)

    def compare(self, comparison: Comparison, sides: Sides, seeds: tuple[int, int], state: State, label: str) -> Job:
        """A comparison of two networks on the test split."""
        alignment = self.study.recipe.cka
        args: dict[str, Any] = {"batch_size": alignment.batch_size}
        options: dict[str, Any] = {"batches": alignment.batches, "layers": comparison.layers or alignment.layers}
        if state != "ceiling":  # the steps inside a layer are no matter of two networks
            options["null"] = "timing" if comparison.permutation_test else None
        for side, name, T in (("x", sides.x, sides.T_x), ("y", sides.y, sides.T_y)):
            options[f"T_{side}"] = T if T is not None and T != self.study.steps_of(name) else None
            options[f"epoch_{side}"] = self._epoch(name) if state != "untrained" else None
        args |= {key: value for key, value in options.items() if value is not None}
        x, y = (self.network(name, seed, state) for name, seed in zip(sides[:2], seeds, strict=True))
        needs = {"x": x, "y": y}
        if sides.under is not None:
            entry, eps = sides.under
            needs["under"] = self.attack(sides.y, self.study.attacks[entry], eps, seeds[1])
            args.pop("batches", None)
            del args["batch_size"]  # all samples under attack are one minibatch
        return Job("compare", args, needs, self.block(sides.x), None, self.study.recipe.train.threads, label)

    def _epoch(self, name: NetworkName) -> int | None:
        """The epoch in which a name means a network, None for the last."""
        variant, kind, moment = name.variant, name.kind, name.moment
        if moment in ("", *_UNTRAINED) or int(moment) == self.study.conditions[variant].train.of(kind)["epochs"]:
            return None
        return int(moment)


def _network_args(condition: Condition, kind: str) -> dict[str, Any]:
    """The same as part of a spec: options equal to their default left out."""
    options = network_options(condition, kind)
    args = {"kind": kind, **options}
    for key, choice in (("model", MODEL), ("neuron", NEURON)):
        if key in options:
            args[key] = choice.without_defaults(options[key])
    if condition.train.init == "same":
        args["init"] = "same"
    return args
