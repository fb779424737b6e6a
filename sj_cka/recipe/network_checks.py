"""What a recipe says of networks of its study: that they are there, what compares them and what attacks them."""

import re

from sj_cka.attacks import attack_named
from sj_cka.attacks.table import inside
from sj_cka.cka import MEASURES
from sj_cka.plugins import closest, lookup
from sj_cka.ranges import Range
from sj_cka.recipe.attack_block import NOISE, Attacking
from sj_cka.recipe.blocks import Comparison
from sj_cka.recipe.choices import ATTACK
from sj_cka.recipe.faults import checked
from sj_cka.recipe.names import KINDS, NetworkName
from sj_cka.recipe.reading import Study
from sj_cka.recipe.source import KeyPath, shown
from sj_cka.typed import number

WITH_CEILING = (
    "a comparison of two kinds of network, of pairs of variants, or of a list of variants across seeds: only that has "
    "a noise ceiling"
)
ITSELF = "a comparison of a spiking network with itself, x and y alike"


def check_network(study: Study, key: KeyPath, name: NetworkName) -> None:
    """Raises RecipeError unless a study has a network of this name."""
    variant, kind, moment = name.variant, name.kind, name.moment
    study.refuse_if(
        not variant or kind not in KINDS,
        key,
        f"expected <variant>.snn, <variant>.ann or <variant>.converted, got {name!r}",
    )
    if variant not in study.conditions:
        hint = closest(variant, study.conditions)
        raise study.error(key, f"{name!r}: nobody trains a variant {variant!r}{hint}")
    study.refuse_if(
        name.endswith("@") or not re.fullmatch(r"|init|[0-9]{1,7}", moment),
        key,
        f"expected @init, @<epoch> or nothing after {variant}.{kind}, got {name!r}",
    )
    if moment.isdigit():
        _check_kept(study, key, name)


def _check_kept(study: Study, key: KeyPath, name: NetworkName) -> None:
    variant, kind, moment = name.variant, name.kind, name.moment
    train = study.conditions[variant].train
    study.refuse_if(
        kind == "converted", key, f"expected a trained network before @{moment}: a converted one has no epochs"
    )
    epochs = train.of(kind)["epochs"]
    study.refuse_if(
        int(moment) > epochs, key, f"expected an epoch up to {epochs}, the last of {variant}.{kind}, got {moment}"
    )
    if int(moment) not in train.keep:
        kept = f"keeps {', '.join(map(str, train.keep))}" if train.keep else "keeps none"
        raise study.error(key, f"expected an epoch of train.keep, which {kept}, got {moment}")


def check_comparisons(study: Study) -> None:
    """Raises RecipeError for the first comparison that cannot be made."""
    for i, comparison in enumerate(study.recipe.compare):
        key: KeyPath = ("compare", i)
        study.refuse_if(
            study.comparison(comparison.name) is not comparison,
            (*key, "name"),
            f"expected a name of its own, {comparison.name!r} is given twice",
        )
        study.source.told((*key, "measure"), lookup, MEASURES, comparison.measure, "measure")
        study.refuse_if(
            comparison.permutation_test and comparison.measure != "cka",
            (*key, "permutation_test"),
            f"expected none: the permutation test is of CKA between steps, not of {comparison.measure}",
        )
        _check_variants(study, key, comparison)
        for sides in study.sides(comparison).values():
            for side, network, T in (("x", sides.x, sides.T_x), ("y", sides.y, sides.T_y)):
                check_network(study, (*key, side), network)
                study.refuse_if(
                    T is not None and not network.spiking, (*key, f"T_{side}"), f"expected none: {network} has no steps"
                )
            x, y = (study.conditions[name.variant] for name in sides[:2])
            if x.data != y.data:
                got = f"{sides.x} has {shown(x.data)}, {sides.y} has {shown(y.data)}"
                raise study.error(key, f"expected two networks with the same data, since both are shown them; {got}")
            if comparison.attack_y is not None:
                _check_under(study, (*key, "attack_y"), comparison.attack_y, sides.y)
            study.refuse_if(
                comparison.permutation_test and not sides.x.spiking,
                (*key, "permutation_test"),
                f"expected a spiking x: {sides.x} has no steps",
            )
        study.refuse_if(
            comparison.seeds == "across" and len(study.seeds) < 2,
            (*key, "seeds"),
            "expected at least 2 seeds in the study for 'across', got 1",
        )


def _check_variants(study: Study, key: KeyPath, comparison: Comparison) -> None:
    """What * stands for, and @*."""
    star_x, star_y = ("*." in name for name in (comparison.x, comparison.y))
    if isinstance(comparison.variants, list):
        message = f"expected * in x alone for a list of variants, got {comparison.x!r} and {comparison.y!r}"
        study.refuse_if(not star_x or star_y, (*key, "variants"), message)
        for j, variant in enumerate(comparison.variants):
            if variant not in study.conditions or variant in comparison.variants[:j]:
                hint = "" if variant in study.conditions else closest(variant, study.conditions)
                raise study.error((*key, "variants", j), f"expected variants, each once, got {variant!r}{hint}")
    else:
        message = "expected * in both x and y, or in none: it stands for the same variant"
        study.refuse_if(star_x != star_y, key, message)
    if comparison.variants == "pairs":
        _check_pairs(study, key, comparison)
    of_sides = [
        {tuple(study.epochs(network.trained)) for network in study.networks(name)}
        for name in (comparison.x, comparison.y)
        if name.endswith("@*")
    ]
    if len(of_sides) == 2 and len(of_sides[0] | of_sides[1]) > 1:
        raise study.error(key, "expected networks that keep the same epochs for @* in x and y")


def _check_pairs(study: Study, key: KeyPath, comparison: Comparison) -> None:
    if "*." not in comparison.x or comparison.x != comparison.y:
        got = f"got {comparison.x!r} and {comparison.y!r}"
        raise study.error((*key, "variants"), f"expected the same x and y, with *, for pairs of variants, {got}")
    study.refuse_if(
        len(study.conditions) < 2, (*key, "variants"), "expected at least 2 variants in the study for pairs, got 1"
    )
    study.refuse_if(
        comparison.attack_y is not None,
        (*key, "attack_y"),
        "expected none: pairs of variants see the samples as they are",
    )
    for name in ("T_x", "T_y"):
        study.refuse_if(
            getattr(comparison, name) is not None,
            (*key, name),
            "expected none: pairs of variants run with the steps of their training",
        )


def _check_under(study: Study, key: KeyPath, name: str, network: NetworkName) -> None:
    study.refuse_if(
        name not in study.attacks, key, f"expected an entry of attack.by, got {name!r}{closest(name, study.attacks)}"
    )
    study.refuse_if(network not in study.attacked(), key, f"expected y among attack.networks, got {network}")
    study.refuse_if(
        not study.attacks[name].concerns(network), key, f"expected another y: {name} is made on {network} itself"
    )


def check_over_variants(study: Study, key: KeyPath, comparison: Comparison) -> None:
    """Raises RecipeError, at the key path where a trend names it, unless a comparison is over all variants."""
    if list(study.sides(comparison)) != list(study.conditions):
        got = f"{comparison.name!r} is of {comparison.x} and {comparison.y}"
        raise study.error(key, f"expected a comparison over all variants (*) for a trend, {got}")


def check_sweep(study: Study, key: KeyPath) -> None:
    """Raises RecipeError unless the study has what a trend takes: a sweep over numbers above 0."""
    values = [c.value for c in study.conditions.values()]
    study.refuse_if(
        study.recipe.sweep is None or len(values) < 2 or not all(v is not None and v > 0 for v in values),
        key,
        "expected a sweep over at least 2 numbers above 0 for a trend",
    )


def comparison_named(study: Study, key: KeyPath, name: str) -> Comparison:
    """The comparison that is meant at a key path; RecipeError where there is none."""
    if (comparison := study.comparison(name)) is None:
        raise study.error(key, f"no comparison {name!r}{closest(name, [c.name for c in study.recipe.compare])}")
    return comparison


def of_itself(comparison: Comparison) -> bool:
    """Whether a comparison says what a spiking network does over time."""
    alike = comparison.x == comparison.y and comparison.variants == "same" and comparison.seeds == "same"
    return alike and NetworkName(comparison.x).spiking


def check_attacks(study: Study) -> None:
    """Attacks, their options, and the networks that they are on."""
    if study.recipe.attack is None:
        return
    for i, name in enumerate(study.recipe.attack.networks):
        for network in study.networks(name):
            check_network(study, ("attack", "networks", i), network)
            study.refuse_if(
                network.moment,
                ("attack", "networks", i),
                f"expected a trained network, <variant>.<snn|ann|converted>, got {network!r}",
            )
    for i, (name, entry) in enumerate(study.attacks.items()):
        _check_attack(study, ("attack", "by", name), entry, before=list(study.attacks)[:i])
    attacks = [(entry, attack_named(entry.attack)) for entry in study.attacks.values() if entry.like is None]
    needs = {attack.needs for _, attack in attacks}
    study.refuse_if(
        "gradient" in needs and "answers" not in needs,
        ("attack", "by"),
        "expected a gradient-free attack too, e.g. square: without one, masked gradients look like robustness",
    )
    of_eps = [
        {
            eps
            for entry, attack in attacks
            if (attack.needs, attack.unit) == (need, "pixels")
            for eps in entry.eps
            if eps
        }
        for need in ("gradient", "answers")
    ]
    if all(of_eps) and not of_eps[0] & of_eps[1]:
        got = " and ".join(", ".join(f"{eps:g}" for eps in sorted(strengths)) for strengths in of_eps)
        message = f"expected an eps at which there are attacks with gradients and without, to be compared; got {got}"
        raise study.error(("attack", "by"), message)


def _check_attack(study: Study, key: KeyPath, entry: Attacking, before: list[str]) -> None:
    study.refuse_if(
        (entry.like is not None) != (entry.attack == NOISE),
        (*key, "like"),
        f"expected like, an entry above this one, with {NOISE} and with it alone",
    )
    if entry.attack == NOISE:
        _check_source(study, key, entry, wanted=False)
        study.refuse_if(
            entry.like not in before, (*key, "like"), f"expected an entry above this one, got {entry.like!r}"
        )
        study.refuse_if(
            entry.options or entry.rate is not None,
            key,
            f"expected name and like alone: noise has the strengths of {entry.like}",
        )
        return
    attack = study.source.told((*key, "name"), attack_named, entry.attack)
    _check_source(study, key, entry, wanted=attack.needs == "source")
    checked(ATTACK.options_model(entry.attack), dict(entry.options), study.source, key)
    study.source.told((*key, "attack"), attack_named, inside(entry.attack, entry.options)[0])
    check_strength(study, key, entry)


def _check_source(study: Study, key: KeyPath, entry: Attacking, *, wanted: bool) -> None:
    """The network that is attacked in place of the one that is shown the result."""
    at: KeyPath = (*key, "source")
    study.refuse_if(
        (entry.source is not None) != wanted, at, "expected source, a network, with transfer and with it alone"
    )
    for network in study.attacked() if wanted else ():
        source = entry.source_of(network) or network
        check_network(study, at, source)
        study.refuse_if(source.moment, at, f"expected a trained network, got {source!r}")
        study.refuse_if(
            study.conditions[source.variant].data != study.conditions[network.variant].data,
            at,
            f"expected a network with the data of {network}, got {source}",
        )


def check_strength(
    study: Study, key: KeyPath, entry: Attacking, size: int | None = None, within: Range | None = None
) -> None:
    """No eps of an attack may lead beyond all that lies within its bounds.

    Args:
        study: with the attack.
        key: of its entry.
        entry: the attack; not noise that is like one.
        size: number of values of a sample; None where no data were read yet.
        within: what the samples span, in place of bounds where the attack has none.

    Raises:
        RecipeError: one does.
    """
    name, options = inside(entry.attack, entry.options)
    attack = attack_named(name)
    given = attack.with_defaults(options)
    if given.get("bounds") is not None:
        given["bounds"] = [number(bound) for bound in given["bounds"]]
    at: KeyPath = (*key, "eps") if study.source.at((*key, "eps")) is not None else ("attack", "eps")
    several = isinstance(study.source.at(at), list)
    places: list[tuple[KeyPath, float | None]] = [((*at, i) if several else at, eps) for i, eps in enumerate(entry.eps)]
    for where, eps in [*places, ((*key, "eps_max"), entry.eps_max)]:
        if eps is not None:
            study.source.told(where, attack.promise.check_eps, eps, given, size, within)
