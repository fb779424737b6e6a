"""What attacks of a recipe must be: of the table, on trained networks, and of a strength that means something."""

from __future__ import annotations

from sj_cka.attacks import attack_named
from sj_cka.attacks.table import inside
from sj_cka.plugins import UnknownName
from sj_cka.ranges import Range
from sj_cka.recipe.attack_block import NOISE, Attacking
from sj_cka.recipe.choices import ATTACK
from sj_cka.recipe.comparison_checks import check_network
from sj_cka.recipe.faults import checked
from sj_cka.recipe.reading import Study
from sj_cka.recipe.source import KeyPath
from sj_cka.typed import number


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
    before: list[str] = []
    for name, entry in study.attacks.items():
        key: KeyPath = ("attack", "by", name)
        _check_attack(study, key, entry, before)
        before.append(name)
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
    try:
        attack = attack_named(entry.attack)
    except UnknownName as error:
        raise study.error((*key, "name"), str(error)) from error
    _check_source(study, key, entry, wanted=attack.needs == "source")
    checked(ATTACK.options_model(entry.attack), dict(entry.options), study.source, key)
    try:
        attack_named(inside(entry.attack, entry.options)[0])
    except UnknownName as error:
        raise study.error((*key, "attack"), str(error)) from error
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
    at: KeyPath = (*key, "eps") if study.source.at((*key, "eps")) is not None else ("attack", "eps")
    several = isinstance(study.source.at(at), list)
    places: list[tuple[KeyPath, float | None]] = [((*at, i) if several else at, eps) for i, eps in enumerate(entry.eps)]
    for where, eps in [*places, ((*key, "eps_max"), entry.eps_max)]:
        if eps is None:
            continue
        try:
            if given.get("bounds") is not None:
                given["bounds"] = [number(bound) for bound in given["bounds"]]
            attack.promise.check_eps(eps, given, size, within)
        except ValueError as error:
            raise study.error(where, str(error)) from error
