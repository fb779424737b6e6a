"""What claims of a recipe must be: on measurements that the study makes."""

from __future__ import annotations

from sj_cka.claims import MEASUREMENTS, Arm, Claim
from sj_cka.claims.statements import NearCeiling
from sj_cka.plugins import closest
from sj_cka.recipe.comparison_checks import (
    WITH_CEILING,
    check_network,
    check_over_variants,
    check_sweep,
    comparison_named,
)
from sj_cka.recipe.names import KINDS, NetworkName
from sj_cka.recipe.reading import Study
from sj_cka.recipe.source import KeyPath

_OF_A_NETWORK = ("network", "split", "T", "attack", "eps")  # keys of a measurement


def check_claims(study: Study) -> None:
    """Raises RecipeError for the first claim that cannot be judged."""
    for i, claim in enumerate(study.recipe.claims):
        _check_claim(study, ("claims", i), claim)


def _check_claim(study: Study, key: KeyPath, claim: Claim) -> None:
    arms = claim.arms()
    first = next(iter(arms.values()))
    for arm, measurement in arms.items():
        here = (*key, *(int(part) if part.isdigit() else part for part in arm.split(".")))
        if measurement.measure not in MEASUREMENTS:
            hint = closest(measurement.measure, MEASUREMENTS)
            raise study.error((*here, "measure"), f"unknown measure {measurement.measure!r}{hint}")
        of = MEASUREMENTS[measurement.measure].of
        if MEASUREMENTS[measurement.measure].scale != MEASUREMENTS[first.measure].scale:
            got = f"got {measurement.measure} against {first.measure}"
            raise study.error((*here, "measure"), f"expected two arms that can be compared, {got}")
        _check_stray(study, here, measurement, of)
        (_check_network_arm if of == "network" else _check_comparison_arm)(study, here, claim, measurement)
    both = [(one, two) for one, two in zip(arms.values(), list(arms.values())[1:], strict=False)][::2]
    study.refuse_if(
        any((one.minus is None) != (two.minus is None) for one, two in both),
        key,
        "expected minus in both a and b, or in none: else the two are not of one kind",
    )
    if claim.test == "trend":
        check_sweep(study, (*key, "test"))
    if isinstance(claim, NearCeiling):
        comparison = study.comparison(claim.a.comparison)
        has_one = MEASUREMENTS[claim.a.measure].column == "cka"
        if not has_one or comparison is None or not study.has_ceiling(comparison):
            got = f"got {claim.a.measure}" + (f" of {comparison.name!r}" if comparison else "")
            raise study.error((*key, "a"), f"expected a measure of {WITH_CEILING}; {got}")


def _check_stray(study: Study, key: KeyPath, measurement: Arm, of: str) -> None:
    """A key that this measure does not look at would be believed to matter."""
    whose = "network" if of == "network" else "comparison"
    strays = ("comparison", "variant", "layers", "minus") if of == "network" else _OF_A_NETWORK
    for name in strays:
        study.refuse_if(
            name in measurement.model_fields_set,
            (*key, name),
            f"expected no {name}: {measurement.measure} is that of a {whose}",
        )


def _check_network_arm(study: Study, key: KeyPath, claim: Claim, measurement: Arm) -> None:
    name, T, at = measurement.network, measurement.T, (*key, "network")
    if name is None:
        raise study.error(at, f"expected the network whose {measurement.measure} is meant")
    if claim.test == "trend":
        study.refuse_if(
            measurement.measure != "accuracy" or measurement.attack is not None,
            (*key, "measure"),
            "expected accuracy without attack, or a measure of a comparison",
        )
        study.refuse_if(
            name not in KINDS, at, f"expected snn, ann or converted, of every variant of the sweep, got {name!r}"
        )
        study.refuse_if(T is not None, (*key, "T"), "expected none: in a trend every network runs as it was trained")
        return
    network = NetworkName(name)
    check_network(study, at, network)
    study.refuse_if(
        network.moment, at, f"expected a trained network: only its {measurement.measure} is kept, got {name!r}"
    )
    if measurement.measure == "backdoor_success":
        _check_poisoned_arm(study, key, measurement, network)
    if measurement.attack is not None or measurement.eps is not None:
        _check_attacked_arm(study, key, measurement, network)
    if T is not None and T not in study.evaluated(network):
        known = ", ".join(map(str, study.evaluated(network))) or "none"
        raise study.error((*key, "T"), f"expected a T that evaluate names for {name} ({known}), got {T}")


def _check_poisoned_arm(study: Study, key: KeyPath, measurement: Arm, network: NetworkName) -> None:
    study.refuse_if(
        study.conditions[network.variant].train.poison is None,
        (*key, "network"),
        f"expected a network whose training has train.poison, got {measurement.network!r}",
    )
    for name in ("split", "T", "attack", "eps"):
        study.refuse_if(
            name in measurement.model_fields_set,
            (*key, name),
            f"expected no {name}: a backdoor is measured on the test split",
        )


def _check_attacked_arm(study: Study, key: KeyPath, measurement: Arm, network: NetworkName) -> None:
    name, eps = measurement.attack, measurement.eps
    if name not in study.attacks:
        got = "it is missing" if name is None else f"got {name!r}{closest(name, study.attacks)}"
        raise study.error((*key, "attack"), f"expected an entry of attack.by, {got}")
    entry = study.attacks[name]
    study.refuse_if(
        network not in study.attacked() or not entry.concerns(network),
        (*key, "network"),
        f"expected a network that {name} is on, got {measurement.network!r}",
    )
    if measurement.split != "test" or measurement.T is not None:
        stray = "T" if measurement.T is not None else "split"
        raise study.error((*key, stray), "expected none under attack: test samples, and the steps of the training")
    known = [strength for strength in entry.eps if strength is not None]
    if (eps is None) != (len(known) < 2) or (eps is not None and eps not in known):
        expected = (
            f"one of the strengths of {name} ({', '.join(f'{strength:g}' for strength in known)})"
            if known
            else "no eps"
        )
        raise study.error((*key, "eps"), f"expected {expected}, got {'none' if eps is None else f'{eps:g}'}")


def _check_comparison_arm(study: Study, key: KeyPath, claim: Claim, measurement: Arm) -> None:
    if measurement.comparison is None:
        raise study.error((*key, "comparison"), f"expected the comparison whose {measurement.measure} is meant")
    comparison = comparison_named(study, (*key, "comparison"), measurement.comparison)
    variants = list(study.sides(comparison))
    if measurement.minus is not None:
        other = list(study.sides(comparison_named(study, (*key, "minus"), measurement.minus)))
        study.refuse_if(
            other != variants,
            (*key, "minus"),
            f"expected a comparison with the variants of {comparison.name}, {measurement.minus} has others",
        )
    if MEASUREMENTS[measurement.measure].table == "dynamics" and not comparison.permutation_test:
        expected = f"expected a comparison with permutation_test: true for {measurement.measure}"
        raise study.error((*key, "comparison"), f"{expected}, {comparison.name!r} has no null")
    if claim.test == "trend":
        check_over_variants(study, (*key, "comparison"), comparison)
    if variants != [""] and claim.test != "trend":
        if measurement.variant not in variants:
            got = "it is missing" if measurement.variant is None else f"got {measurement.variant!r}"
            hint = closest(measurement.variant or "", variants)
            raise study.error((*key, "variant"), f"expected a variant of the study, {got}{hint}")
    elif measurement.variant is not None:
        why = "a trend is over all of them" if claim.test == "trend" else f"{comparison.name!r} names its own"
        raise study.error((*key, "variant"), f"expected no variant: {why}")
