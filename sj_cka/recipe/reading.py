"""From a recipe file and a profile to a study with all its settings resolved."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

from sj_cka.disk import unfit
from sj_cka.plugins import closest
from sj_cka.recipe.attack_block import Attacking, resolved
from sj_cka.recipe.blocks import MOST_VARIANTS, SNN, AnnInput, Comparison, Recipe, Train, Variant, recipe_model
from sj_cka.recipe.faults import validated
from sj_cka.recipe.names import NetworkName
from sj_cka.recipe.source import KeyPath, RecipeError, Source, read_source, shown
from sj_cka.typed import number

_LONGEST_NAME = 100  # of a variant, a part of the names of files
_NO_EPOCH: Sequence[int | None] = (None,)
_VARIED = ("data", "model", "snn", "train")


@dataclass(frozen=True)
class Condition:
    """One variant of a study with all its settings resolved; `value` is the swept one, if it is a number."""

    name: str
    data: dict[str, Any]
    model: dict[str, Any]
    snn: SNN
    ann_input: AnnInput
    train: Train
    value: float | None
    source: Source


class Sides(NamedTuple):
    """The two networks of a comparison, the steps that they run with, and what y is shown.

    Args:
        x, y: names of networks.
        T_x, T_y: steps; None for those of their training.
        under: the entry of attack.by, and its eps, under which y sees the samples; None for as they are.
    """

    x: NetworkName
    y: NetworkName
    T_x: int | None = None
    T_y: int | None = None
    under: tuple[str, float | None] | None = None

    @property
    def titles(self) -> tuple[str, str]:
        """The two networks as a figure names them."""
        x, y = (f"{name} at T = {T}" if T else name for name, T in ((self.x, self.T_x), (self.y, self.T_y)))
        if self.under is not None:
            name, eps = self.under
            y += f" under {name}" + ("" if eps is None else f" at eps {eps:g}")
        return x, y


@dataclass(frozen=True)
class Study:
    """A recipe as read, under one profile.

    Args:
        name: of the recipe file.
        profile: the profile that was laid over it.
        recipe: its content, with all that was laid over it.
        conditions: variants by name, in order.
        source: the file.
        settings: what was set from outside the file.
    """

    name: str
    profile: str
    recipe: Recipe
    conditions: dict[str, Condition]
    source: Source
    settings: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return self.recipe.seeds

    @property
    def swept(self) -> dict[str, float]:
        """Variant -> swept value, where that is a number."""
        return {name: c.value for name, c in self.conditions.items() if c.value is not None}

    def error(self, key: KeyPath, message: str) -> RecipeError:
        """An error at a key path of this recipe."""
        return self.source.error(key, message)

    def refuse_if(self, fault: object, key: KeyPath, message: str) -> None:
        """Raises the error of a fault at a key path of this recipe, if there is one."""
        self.source.refuse_if(fault, key, message)

    def comparison(self, name: str | None) -> Comparison | None:
        """The comparison of a name, None where there is none."""
        return next((comparison for comparison in self.recipe.compare if comparison.name == name), None)

    def sides(self, comparison: Comparison) -> dict[str, Sides]:
        """The networks that a comparison compares, by variant; by "" where it names its variants itself.

        Of pairs of variants the name is "a and b", of epochs "a at epoch 5", or "at epoch 5"; alike of several `T_x`
        "at T = 1", and of an attack of several strengths "at eps 0.1".
        """
        stands: dict[str, tuple[str, str]]
        if "*." not in comparison.x + comparison.y:
            stands = {"": ("", "")}
        elif comparison.variants == "pairs":
            stands = {f"{a} and {b}": (a, b) for a, b in combinations(self.conditions, 2)}
        else:
            among = self.conditions if comparison.variants == "same" else comparison.variants
            stands = {variant: (variant, variant) for variant in among}
        steps = comparison.T_x or (None,)
        strengths = self.attacks[comparison.attack_y].eps if comparison.attack_y in self.attacks else (None,)
        by_variant = {}
        for name, (a, b) in stands.items():
            x, y = (NetworkName(n.replace("*.", f"{v}.")) for n, v in ((comparison.x, a), (comparison.y, b)))
            epochs = next((self.epochs(one) for one in (x, y) if one.moment == "*"), []) or _NO_EPOCH
            for epoch, T, eps in product(epochs, steps, strengths):
                label = name if epoch is None else f"{name} at epoch {epoch}"
                label += f" at T = {T}" if len(steps) > 1 else ""
                label += f" at eps {eps:g}" if len(strengths) > 1 else ""
                under = None if comparison.attack_y is None else (comparison.attack_y, eps)
                by_variant[label.strip()] = Sides(self.at(x, epoch), self.at(y, epoch), T, comparison.T_y, under)
        return by_variant

    def epochs(self, network: NetworkName) -> list[int]:
        """The epochs of a network's training whose weights there are: those that are kept, and the last."""
        condition = self.conditions.get(network.variant)
        if condition is None:  # which is told where names are checked
            return []
        last = condition.train.of(network.kind)["epochs"]
        return sorted({*(epoch for epoch in condition.train.keep if epoch < last), last})

    def at(self, network: NetworkName, epoch: int | None) -> NetworkName:
        """A network `@*` at an epoch; any other as it is."""
        if network.moment != "*" or epoch is None:
            return network
        last = self.conditions[network.variant].train.of(network.kind)["epochs"]
        return network.trained if epoch == last else NetworkName(f"{network.trained}@{epoch}")

    @cached_property
    def attacks(self) -> dict[str, Attacking]:
        """The entries of attack.by."""
        return {} if self.recipe.attack is None else resolved(self.recipe.attack)

    def attacked(self) -> list[NetworkName]:
        """The networks that are attacked."""
        return self.every(self.recipe.attack.networks if self.recipe.attack is not None else ())

    def has_ceiling(self, comparison: Comparison) -> bool:
        """Whether seed against seed is a noise ceiling of it: for two kinds of network, and for different variants.

        Of a list of variants only across seeds: of one seed they may begin with the same weights.
        """
        kinds = {NetworkName(name).kind for name in (comparison.x, comparison.y)}
        listed = isinstance(comparison.variants, list) and comparison.seeds == "across"
        return comparison.attack_y is None and (len(kinds) == 2 or comparison.variants == "pairs" or listed)

    def networks(self, name: str) -> list[NetworkName]:
        """The networks that a name stands for: itself, or one of every variant (`*.`), at every kept epoch (`@*`)."""
        of_variants = [NetworkName(name.replace("*.", f"{v}.")) for v in (self.conditions if "*." in name else [""])]
        return [
            self.at(network, epoch)
            for network in of_variants
            for epoch in (self.epochs(network) if network.moment == "*" else []) or _NO_EPOCH
        ]

    def every(self, names: Iterable[str]) -> list[NetworkName]:
        """The networks that several names stand for, each once."""
        return list(dict.fromkeys(network for name in names for network in self.networks(name)))

    def evaluated(self, network: NetworkName) -> list[int]:
        """The numbers of steps that the accuracy of a network is measured at, besides those of its training."""
        blocks = [block for block in self.recipe.evaluate if network in self.networks(block.network)]
        return list(dict.fromkeys(T for block in blocks for T in block.T))

    def steps_of(self, network: NetworkName) -> int:
        """The steps that a spiking network was trained with, or converted for."""
        return (self.recipe.converted if network.kind == "converted" else self.conditions[network.variant].snn).T


def resolve(path: Path, profile: str, settings: Sequence[str] = ()) -> Study:
    """Reads a recipe under a profile; its blocks are checked one by one, but not yet against each other."""
    file = read_source(path)
    profiles = file.content.get("profiles") or {}
    file.refuse_if(not isinstance(profiles, dict), ("profiles",), f"expected a map of profiles, got {shown(profiles)}")
    for name in profiles:
        if wrong := unfit(name):
            expected = f"expected a name that a folder can have, figures/{path.stem}-<profile>"
            raise file.error(("profiles", name), f"{expected}, got {shown(name)}: {wrong}")
    file.refuse_if(
        profile not in profiles and profile != "quick",
        ("profiles",),
        f"no profile {profile!r}{closest(profile, ['quick', *profiles])}",
    )
    source = _under(file, profile)
    for setting in settings:
        source = source.set(setting)
    model = recipe_model()
    recipe = validated(model, source)
    for other in profiles:  # a fault in a profile shows before its day comes
        validated(model, _under(file, other))
    for name in recipe.never_run:
        source.refuse_if(
            name not in profiles and name != "quick",
            ("never_run",),
            f"no profile {name!r}{closest(name, ['quick', *profiles])}",
        )
    return Study(path.stem, profile, recipe, _conditions(recipe, source), source, tuple(settings))


def _under(file: Source, profile: str) -> Source:
    change, at = file.at(("profiles", profile)), ("profiles", profile)
    if change is None:
        return file
    file.refuse_if(not isinstance(change, dict), at, f"expected a map of keys, got {shown(change)}")
    file.refuse_if("profiles" in change, (*at, "profiles"), "unknown key: a profile holds no profiles")
    return file.over(change, at, null_removes=True)


def _conditions(recipe: Recipe, source: Source) -> dict[str, Condition]:
    source.refuse_if(
        recipe.variants is not None and recipe.sweep is not None, ("sweep",), "expected variants or a sweep, got both"
    )
    if recipe.sweep is not None:
        return _swept(*next(iter(recipe.sweep.items())), source)
    if recipe.variants is None:
        return {"base": _condition("base", source)}
    changes = {name: (variant or Variant()).model_dump(exclude_unset=True) for name, variant in recipe.variants.items()}
    return {name: _condition(name, source.over(change, ("variants", name))) for name, change in changes.items()}


def _swept(where: str, values: list[Any], source: Source) -> dict[str, Condition]:
    at: KeyPath = ("sweep", where)
    parts = where.split(".")
    source.refuse_if(
        parts[0] not in _VARIED or len(parts) < 2 or not all(parts),
        at,
        f"expected a key path under data, model, snn or train, got {where!r}",
    )
    if not 0 < len(values) <= MOST_VARIANTS:
        got = f"{len(values):,}" if values else "none"
        raise source.error(at, f"expected at least one value and at most {MOST_VARIANTS}, got {got}")
    conditions: dict[str, Condition] = {}
    for i, value in enumerate(values):
        name = f"{parts[-1]}-{_label(value)}"
        if len(name) > _LONGEST_NAME:
            message = f"expected a value that a variant can be named after, in at most {_LONGEST_NAME} characters"
            raise source.error((*at, i), f"{message}, got {shown(value)}")
        source.refuse_if(name in conditions, (*at, i), f"expected each value once, {shown(value)} is given twice")
        change = functools.reduce(lambda inner, key: {key: inner}, reversed(parts), value)
        conditions[name] = _condition(name, source.over(change, (*at, i)), value)
    return conditions


def _condition(name: str, source: Source, swept: Any = None) -> Condition:
    try:
        value = number(swept)
    except ValueError:
        value = None
    return Condition(
        name,
        source.content["data"],
        source.content["model"],
        validated(SNN, source, ("snn",)) if "snn" in source.content else SNN(),
        source.content.get("ann_input", "steps"),
        validated(Train, source, ("train",)) if "train" in source.content else Train(),
        float(value) if isinstance(value, int | float) else None,
        source,
    )


def _label(value: Any) -> str:
    """A swept value as part of a variant's name, which becomes part of a file's name."""
    if isinstance(value, list | tuple):
        return "-".join(map(_label, value)) or "none"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in str(value))
