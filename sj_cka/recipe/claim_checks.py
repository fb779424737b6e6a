"""What a recipe says of its claims: that there is what they measure, and that it answers them."""

from sj_cka.cka import MEASURES
from sj_cka.claims import MEASUREMENTS, Arm, Claim, path_of
from sj_cka.claims.measurements import OF_A_NETWORK
from sj_cka.claims.statements import NEAR, NearCeiling
from sj_cka.plugins import closest, lookup
from sj_cka.recipe.blocks import Comparison
from sj_cka.recipe.names import KINDS, NetworkName
from sj_cka.recipe.network_checks import (
    ITSELF,
    WITH_CEILING,
    check_network,
    check_over_variants,
    check_sweep,
    comparison_named,
    of_itself,
)
from sj_cka.recipe.reading import Study
from sj_cka.recipe.source import KeyPath


def check_claim(study: Study, key: KeyPath, claim: Claim) -> None:
    """Checks that the arms of a claim are measured, and can be set against each other.

    Raises:
        RecipeError: the first fault.
    """
    _check_margin(study, key, claim)
    arms = claim.arms()
    first = next(iter(arms.values()))
    for arm, measurement in arms.items():
        here = (*key, *path_of(arm))
        entry = study.source.told((*here, "measure"), lookup, MEASUREMENTS, measurement.measure, "measure")
        if entry.on != MEASUREMENTS[first.measure].on:
            got = f"got {measurement.measure} against {first.measure}"
            raise study.error((*here, "measure"), f"expected two arms that can be compared, {got}")
        _check_stray(study, here, measurement, entry.of)
        if entry.of == "network":
            for which in ("network", *(["minus"] if measurement.minus is not None else [])):
                _check_network_arm(study, here, claim, measurement, which)
        else:
            _check_comparison_arm(study, here, claim, measurement)
        similarities = [_similarity(study, arm.comparison) for arm in (measurement, first)]
        if len(set(similarities)) > 1:
            got = f"got {similarities[0]} against {similarities[1]}"
            raise study.error((*here, "comparison"), f"expected comparisons of one measure of similarity, {got}")
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
        has_one = claim.a.measure == "paired_cka" and claim.a.minus is None
        if not has_one or comparison is None or not study.has_ceiling(comparison):
            got = f"got {claim.a.measure}" + (f" of {comparison.name!r}" if comparison else "")
            raise study.error((*key, "a"), f"expected paired_cka of {WITH_CEILING}; {got}")
        message = f"expected a measure of similarity for near_ceiling, {comparison.measure} is a distance"
        study.refuse_if(MEASURES[comparison.measure].distance, (*key, "a", "comparison"), message)


def _check_margin(study: Study, key: KeyPath, claim: Claim) -> None:
    near = isinstance(claim, NearCeiling) and claim.margin is not None
    study.refuse_if(near, (*key, "margin"), f"expected none: near_ceiling asks for {NEAR:g} of the ceiling")
    if (claim.margin is None) != (claim.reason is None):
        given, missing = ("reason", "margin") if claim.margin is None else ("margin", "reason")
        why = "differences within the margin are of no matter, and the reason says why"
        raise study.error((*key, given), f"expected a {missing} beside it: {why}")


def _check_held(study: Study, key: KeyPath, comparison: Comparison, arm: Arm) -> None:
    """What a comparison must hold for a measurement of it."""
    entry, at = MEASUREMENTS[arm.measure], (*key, "comparison")
    if entry.table == "dynamics" and not of_itself(comparison):
        raise study.error(at, f"expected {ITSELF} for {arm.measure}, {comparison.name!r} is none")
    if entry.over_ceiling and not study.has_ceiling(comparison):
        raise study.error(at, f"expected {WITH_CEILING}, got {comparison.name!r}")
    if entry.over_ceiling and arm.minus is not None:
        raise study.error((*key, "minus"), f"expected none: {arm.measure} of a difference has no meaning")
    if (entry.over_ceiling or entry.column == "partial") and comparison.measure != "cka":
        raise study.error(at, f"expected a comparison by cka for {arm.measure}, {comparison.name!r} is by another")


def _similarity(study: Study, name: str | None) -> str | None:
    """The measure of similarity of a comparison; None where there is none of this name."""
    comparison = study.comparison(name)
    return None if comparison is None else comparison.measure


def _check_stray(study: Study, key: KeyPath, measurement: Arm, of: str) -> None:
    """A key that this measure does not look at would be believed to matter."""
    whose = "network" if of == "network" else "comparison"
    strays = ("comparison", "variant", "layers") if of == "network" else OF_A_NETWORK
    for name in strays:
        study.refuse_if(
            name in measurement.model_fields_set,
            (*key, name),
            f"expected no {name}: {measurement.measure} is that of a {whose}",
        )


def _check_network_arm(study: Study, key: KeyPath, claim: Claim, measurement: Arm, which: str) -> None:
    """The network that an arm measures, or ("minus") the one whose value it takes off."""
    name, T, at = getattr(measurement, which), measurement.T, (*key, which)
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
        _check_poisoned_arm(study, at, network)
    for stray in measurement.model_fields_set.intersection(OF_A_NETWORK[1:]):
        if stray not in MEASUREMENTS[measurement.measure].chosen_by:
            why = f"{measurement.measure} is measured once of a network, as it was trained"
            raise study.error((*key, stray), f"expected no {stray}: {why}")
    if measurement.attack is not None or measurement.eps is not None or measurement.measure == "attack_strength":
        _check_attacked_arm(study, at, measurement, network)
    if T is not None and T not in study.evaluated(network):
        known = ", ".join(map(str, study.evaluated(network))) or "none"
        raise study.error((*key, "T"), f"expected a T that evaluate names for {name} ({known}), got {T}")


def _check_poisoned_arm(study: Study, at: KeyPath, network: NetworkName) -> None:
    study.refuse_if(
        study.conditions[network.variant].train.poison is None,
        at,
        f"expected a network whose training has train.poison, got {str(network)!r}",
    )


def _check_attacked_arm(study: Study, at: KeyPath, measurement: Arm, network: NetworkName) -> None:
    key = at[:-1]
    name, eps = measurement.attack, measurement.eps
    if name not in study.attacks:
        got = "it is missing" if name is None else f"got {name!r}{closest(name, study.attacks)}"
        raise study.error((*key, "attack"), f"expected an entry of attack.by, {got}")
    entry = study.attacks[name]
    study.refuse_if(
        measurement.measure == "attack_strength" and entry.rate is None,
        (*key, "attack"),
        f"expected an entry with rate, whose strength is found, got {name!r}",
    )
    study.refuse_if(
        network not in study.attacked() or not entry.concerns(network),
        at,
        f"expected a network that {name} is on, got {str(network)!r}",
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
        minus = comparison_named(study, (*key, "minus"), measurement.minus)
        message = f"expected a comparison by {comparison.measure} as {comparison.name} is, got one by {minus.measure}"
        study.refuse_if(minus.measure != comparison.measure, (*key, "minus"), message)
        study.refuse_if(
            minus.seeds != comparison.seeds,
            (*key, "minus"),
            f"expected a comparison of seeds: {comparison.seeds} as {comparison.name} is, {measurement.minus} is not",
        )
        study.refuse_if(
            list(study.sides(minus)) != variants,
            (*key, "minus"),
            f"expected a comparison with the variants of {comparison.name}, {measurement.minus} has others",
        )
    _check_held(study, key, comparison, measurement)
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
