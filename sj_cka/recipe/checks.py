"""What the blocks of a recipe say about each other and about the tables: every name must lead somewhere."""

from __future__ import annotations

import re

from sj_cka.attacks import attack_named
from sj_cka.attacks.transfer import inside
from sj_cka.claims import MEASUREMENTS, Claim, Measurement
from sj_cka.figures import FIGURES
from sj_cka.plugins import UnknownName, closest, lookup
from sj_cka.ranges import Range
from sj_cka.recipe.attacks import NOISE, Attacking
from sj_cka.recipe.blocks import Comparison, FigureBlock, Named
from sj_cka.recipe.choices import ATTACK, AUGMENTATION, DATA, MODEL, NEURON, RULE, Choice, options_of
from sj_cka.recipe.faults import checked, validated
from sj_cka.recipe.names import KINDS, NetworkName
from sj_cka.recipe.reading import Study
from sj_cka.recipe.source import KeyPath, Source, shown
from sj_cka.typed import number

_OF_A_COMPARISON = ("heatmap", "heatmaps", "curve", "relative_curve", "trend", "variants", "steps", "dynamics")
_OF_A_STATE = ("heatmap", "heatmaps", "dynamics")
_OF_A_NETWORK = ("network", "split", "T", "attack", "eps")  # keys of a measurement
_WITH_CEILING = "a comparison of two kinds of network, or of pairs of variants: only that has a ceiling"


def check(study: Study) -> None:
    """Checks all that can be checked without data.

    Raises:
        RecipeError: the first fault.
    """
    for source in (study.source, *(condition.source for condition in study.conditions.values())):
        _check_choice(DATA, validated(Named, source, ("data",)), source, ("data",))
        _check_choice(MODEL, validated(Named, source, ("model",)), source, ("model",))
    for condition in study.conditions.values():
        _check_choice(NEURON, condition.snn.neuron, condition.source, ("snn", "neuron"))
        for i, augmentation in enumerate(condition.train.augment):
            _check_choice(AUGMENTATION, augmentation, condition.source, ("train", "augment", i))
        for of_kind in ((), ("ann",), ("snn",)):
            train = getattr(condition.train, *of_kind) if of_kind else condition.train
            if train.rule is not None:
                _check_choice(RULE, train.rule, condition.source, ("train", *of_kind, "rule"))
        if condition.train.trained_at != study.recipe.train.trained_at:
            key = ("train", "trained_at")
            raise condition.source.error(key, "expected one value for the whole study, under train")
    _check_attacks(study)
    _check_comparisons(study)
    for i, evaluation in enumerate(study.recipe.evaluate):
        for network in study.networks(evaluation.network):
            _check_evaluated(study, ("evaluate", i, "network"), network)
    _check_figures(study)
    for i, claim in enumerate(study.recipe.claims):
        _check_claim(study, ("claims", i), claim)


def _check_choice(choice: Choice, block: Named, source: Source, key: KeyPath) -> None:
    """A block that names a function of a table: its name and its options."""
    try:
        model = choice.options_model(block.name)
    except UnknownName as error:
        named = (*key, "name")
        raise source.error(named if source.says(named) else key, str(error)) from error
    checked(model, options_of(block.options()), source, key)


def _check_comparisons(study: Study) -> None:
    names: set[str] = set()
    for i, comparison in enumerate(study.recipe.compare):
        key: KeyPath = ("compare", i)
        if comparison.name in names:
            raise study.error((*key, "name"), f"expected a name of its own, {comparison.name!r} is given twice")
        names.add(comparison.name)
        if ("*" in comparison.x) != ("*" in comparison.y):
            raise study.error(key, "expected * in both x and y, or in none: it stands for the same variant")
        if comparison.variants == "pairs":
            _check_pairs(study, key, comparison)
        for sides in study.sides(comparison).values():
            for side, network, T in (("x", sides.x, sides.T_x), ("y", sides.y, sides.T_y)):
                _check_network(study, (*key, side), network)
                if T is not None and not network.spiking:
                    raise study.error((*key, f"T_{side}"), f"expected none: {network} has no steps")
            x, y = (study.conditions[name.variant] for name in sides[:2])
            if x.data != y.data:
                got = f"{sides.x} has {shown(x.data)}, {sides.y} has {shown(y.data)}"
                raise study.error(key, f"expected two networks with the same data, since both are shown them; {got}")
            if comparison.data_y is not None:
                _check_under(study, (*key, "data_y"), comparison.data_y, sides.y)
            if comparison.timing_null and not sides.x.spiking:
                raise study.error((*key, "timing_null"), f"expected a spiking x: {sides.x} has no steps")
        if comparison.seeds == "other" and len(study.seeds) < 2:
            raise study.error((*key, "seeds"), "expected at least 2 seeds in the study for 'other', got 1")


def _check_pairs(study: Study, key: KeyPath, comparison: Comparison) -> None:
    if "*" not in comparison.x or comparison.x != comparison.y:
        got = f"got {comparison.x!r} and {comparison.y!r}"
        raise study.error((*key, "variants"), f"expected the same x and y, with *, for pairs of variants, {got}")
    if len(study.conditions) < 2:
        raise study.error((*key, "variants"), "expected at least 2 variants in the study for pairs, got 1")
    if comparison.data_y is not None:
        raise study.error((*key, "data_y"), "expected none: pairs of variants see the samples as they are")
    for name in ("T_x", "T_y"):
        if getattr(comparison, name) is not None:
            message = "expected none: pairs of variants run with the steps of their training"
            raise study.error((*key, name), message)


def _check_evaluated(study: Study, key: KeyPath, network: NetworkName) -> None:
    """A network that can be run at other numbers of steps: trained, and spiking."""
    _check_network(study, key, network)
    if not network.spiking or network.moment:
        raise study.error(key, f"expected a trained spiking network, <variant>.<snn|converted>, got {network!r}")


def _check_attacks(study: Study) -> None:
    """Attacks, their options, and the networks that they are on."""
    if study.recipe.attack is None:
        return
    for i, name in enumerate(study.recipe.attack.networks):
        for network in study.networks(name):
            _check_network(study, ("attack", "networks", i), network)
            if network.moment:
                message = f"expected a trained network, <variant>.<snn|ann|converted>, got {network!r}"
                raise study.error(("attack", "networks", i), message)
    before: list[str] = []
    for name, entry in study.attacks.items():
        key: KeyPath = ("attack", "by", name)
        _check_attack(study, key, entry, before)
        before.append(name)
    made = [(entry, attack_named(entry.attack)) for entry in study.attacks.values() if entry.like is None]
    needs = {attack.needs for _, attack in made}
    if "gradient" in needs and "answers" not in needs:
        message = "expected a gradient-free attack too, e.g. square: without one, masked gradients look like robustness"
        raise study.error(("attack", "by"), message)
    of_eps = [
        {eps for entry, attack in made if (attack.needs, attack.unit) == (need, "pixels") for eps in entry.eps if eps}
        for need in ("gradient", "answers")
    ]
    if all(of_eps) and not of_eps[0] & of_eps[1]:
        got = " and ".join(", ".join(f"{eps:g}" for eps in sorted(own)) for own in of_eps)
        message = f"expected an eps at which there are attacks with gradients and without, to be compared; got {got}"
        raise study.error(("attack", "by"), message)


def _check_attack(study: Study, key: KeyPath, entry: Attacking, before: list[str]) -> None:
    if (entry.like is not None) != (entry.attack == NOISE):
        message = f"expected like, an entry above this one, with {NOISE} and with it alone"
        raise study.error((*key, "like"), message)
    if entry.attack == NOISE:
        _check_source(study, key, entry, wanted=False)
        if entry.like not in before:
            raise study.error((*key, "like"), f"expected an entry above this one, got {entry.like!r}")
        if entry.options or entry.rate is not None:
            message = f"expected name and like alone: noise has the strengths of {entry.like}"
            raise study.error(key, message)
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
    if (entry.source is not None) != wanted:
        raise study.error(at, "expected source, a network, with transfer and with it alone")
    for network in study.attacked() if wanted else ():
        source = entry.source_of(network) or network
        _check_network(study, at, source)
        if source.moment:
            raise study.error(at, f"expected a trained network, got {source!r}")
        if study.conditions[source.variant].data != study.conditions[network.variant].data:
            raise study.error(at, f"expected a network with the data of {network}, got {source}")


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
    for where, eps in [*places, ((*key, "most"), entry.most)]:
        if eps is None:
            continue
        try:
            if given.get("bounds") is not None:
                given["bounds"] = [number(bound) for bound in given["bounds"]]
            attack.promise.check_eps(eps, given, size, within)
        except ValueError as error:
            raise study.error(where, str(error)) from error


def _check_under(study: Study, key: KeyPath, name: str, network: NetworkName) -> None:
    if name not in study.attacks:
        raise study.error(key, f"expected an entry of attack.by, got {name!r}{closest(name, study.attacks)}")
    if network not in study.attacked():
        raise study.error(key, f"expected y among attack.networks, got {network}")
    if not study.attacks[name].concerns(network):
        raise study.error(key, f"expected another y: {name} is made on {network} itself")


def _check_figures(study: Study) -> None:
    for i, figure in enumerate(study.recipe.figures):
        key: KeyPath = ("figures", i)
        try:
            lookup(FIGURES, figure.name, "figure")
        except UnknownName as error:
            raise study.error((*key, "name"), str(error)) from error
        if figure.name in _OF_A_COMPARISON:
            if figure.comparison is None:
                raise study.error((*key, "comparison"), f"expected the comparison that the {figure.name} shows")
            comparison = _check_comparison(study, (*key, "comparison"), figure.comparison)
            if figure.name == "variants" and comparison.variants != "pairs":
                message = f"expected a comparison of pairs of variants, {comparison.name!r} is none"
                raise study.error((*key, "comparison"), message)
            if figure.name == "dynamics" and not comparison.timing_null:
                message = f"expected a comparison with timing_null: true, {comparison.name!r} has no null"
                raise study.error((*key, "comparison"), message)
            if figure.name == "trend":
                _check_trend(study, key, figure)
        elif figure.comparison is not None:
            raise study.error((*key, "comparison"), f"expected none: {figure.name} shows all networks of the study")
        if figure.name != "trend" and "measure" in figure.model_fields_set:
            raise study.error((*key, "measure"), f"expected none: {figure.name} has no measure to choose")
        if figure.name == "accuracy_by_steps" and not study.recipe.evaluate:
            raise study.error((*key, "name"), "expected networks under evaluate for the accuracy at other T, got none")
        if figure.name == "robustness" and study.recipe.attack is None:
            raise study.error((*key, "name"), "expected networks under attack, got none")
        if figure.name == "backdoors" and not any(c.train.poison for c in study.conditions.values()):
            raise study.error((*key, "name"), "expected a variant with train.poison, got none")
        if figure.state != "trained" and figure.name not in _OF_A_STATE:
            raise study.error((*key, "state"), f"expected none: {figure.name} has no state to choose")
        if figure.state == "untrained" and comparison.data_y is not None:
            raise study.error((*key, "state"), f"expected trained: {comparison.name} is under attack, and has no floor")
        if figure.state == "ceiling" and figure.name != "heatmap":
            raise study.error((*key, "state"), f"expected trained or untrained: {figure.name} shows no ceiling")
        if figure.state == "ceiling" and not study.has_ceiling(comparison):
            raise study.error((*key, "state"), f"expected {_WITH_CEILING}")
        if figure.layers is not None and figure.name != "steps":
            raise study.error((*key, "layers"), f"expected none: {figure.name} shows every layer")


def _check_trend(study: Study, key: KeyPath, figure: FigureBlock) -> None:
    known = [name for name, measure in MEASUREMENTS.items() if measure.of == "comparison"]
    if figure.measure not in known:
        message = f"expected a measure of a comparison, got {figure.measure!r}{closest(figure.measure, known)}"
        raise study.error((*key, "measure"), message)
    comparison = _check_comparison(study, (*key, "comparison"), str(figure.comparison))
    if list(study.sides(comparison)) != list(study.conditions):
        got = f"{comparison.name!r} is of {comparison.x} and {comparison.y}"
        raise study.error((*key, "comparison"), f"expected a comparison over all variants (*) for a trend, {got}")
    _check_sweep(study, (*key, "name"))


def _check_sweep(study: Study, key: KeyPath) -> None:
    """What a trend takes: numbers above 0."""
    values = [c.value for c in study.conditions.values()]
    if study.recipe.sweep is None or len(values) < 2 or not all(v is not None and v > 0 for v in values):
        raise study.error(key, "expected a sweep over at least 2 numbers above 0 for a trend")


def _check_claim(study: Study, key: KeyPath, claim: Claim) -> None:
    arms = claim.arms()
    first = next(iter(arms.values()))
    for arm, measurement in arms.items():
        here = (*key, *(int(part) if part.isdigit() else part for part in arm.split(".")))
        if measurement.measure not in MEASUREMENTS:
            hint = closest(measurement.measure, MEASUREMENTS)
            raise study.error((*here, "measure"), f"unknown measure {measurement.measure!r}{hint}")
        of = MEASUREMENTS[measurement.measure].of
        if of != MEASUREMENTS[first.measure].of:
            got = f"got {measurement.measure} against {first.measure}"
            raise study.error((*here, "measure"), f"expected two arms that can be compared, {got}")
        _check_stray(study, here, measurement, of)
        (_check_network_arm if of == "network" else _check_comparison_arm)(study, here, claim, measurement)
    both = [(one, two) for one, two in zip(arms.values(), list(arms.values())[1:], strict=False)][::2]
    if any((one.minus is None) != (two.minus is None) for one, two in both):
        raise study.error(key, "expected minus in both a and b, or in none: else the two are not of one kind")
    if claim.test == "trend":
        _check_sweep(study, (*key, "test"))
    if claim.test == "near_ceiling":
        comparison = _comparison(study, claim.a.comparison)
        has_one = MEASUREMENTS[claim.a.measure].column == "cka"
        if not has_one or comparison is None or not study.has_ceiling(comparison):
            got = f"got {claim.a.measure}" + (f" of {comparison.name!r}" if comparison else "")
            raise study.error((*key, "a"), f"expected a measure of {_WITH_CEILING}; {got}")


def _check_stray(study: Study, key: KeyPath, measurement: Measurement, of: str) -> None:
    """A key that this measure does not look at would be believed to matter."""
    whose = "network" if of == "network" else "comparison"
    strays = ("comparison", "variant", "layers", "minus") if of == "network" else _OF_A_NETWORK
    for name in strays:
        if name in measurement.model_fields_set:
            raise study.error((*key, name), f"expected no {name}: {measurement.measure} is that of a {whose}")


def _check_network_arm(study: Study, key: KeyPath, claim: Claim, measurement: Measurement) -> None:
    name, T, at = measurement.network, measurement.T, (*key, "network")
    if name is None:
        raise study.error(at, f"expected the network whose {measurement.measure} is meant")
    if claim.test == "trend":
        if measurement.measure != "accuracy" or measurement.attack is not None:
            raise study.error((*key, "measure"), "expected accuracy without attack, or a measure of a comparison")
        if name not in KINDS:
            raise study.error(at, f"expected snn, ann or converted, of every variant of the sweep, got {name!r}")
        if T is not None:
            raise study.error((*key, "T"), "expected none: in a trend every network runs as it was trained")
        return
    network = NetworkName(name)
    _check_network(study, at, network)
    if network.moment:
        raise study.error(at, f"expected a trained network: only its {measurement.measure} is kept, got {name!r}")
    if measurement.measure == "backdoor_success":
        _check_poisoned_arm(study, key, measurement, network)
    if measurement.attack is not None or measurement.eps is not None:
        _check_attacked_arm(study, key, measurement, network)
    if T is not None and T not in study.evaluated(network):
        known = ", ".join(map(str, study.evaluated(network))) or "none"
        raise study.error((*key, "T"), f"expected a T that evaluate names for {name} ({known}), got {T}")


def _check_poisoned_arm(study: Study, key: KeyPath, measurement: Measurement, network: NetworkName) -> None:
    if study.conditions[network.variant].train.poison is None:
        message = f"expected a network whose training has train.poison, got {measurement.network!r}"
        raise study.error((*key, "network"), message)
    for name in ("split", "T", "attack", "eps"):
        if name in measurement.model_fields_set:
            raise study.error((*key, name), f"expected no {name}: a backdoor is measured on the test split")


def _check_attacked_arm(study: Study, key: KeyPath, measurement: Measurement, network: NetworkName) -> None:
    name, eps = measurement.attack, measurement.eps
    if name not in study.attacks:
        got = "it is missing" if name is None else f"got {name!r}{closest(name, study.attacks)}"
        raise study.error((*key, "attack"), f"expected an entry of attack.by, {got}")
    entry = study.attacks[name]
    if network not in study.attacked() or not entry.concerns(network):
        raise study.error((*key, "network"), f"expected a network that {name} is on, got {measurement.network!r}")
    if measurement.split != "test" or measurement.T is not None:
        stray = "T" if measurement.T is not None else "split"
        raise study.error((*key, stray), "expected none under attack: test samples, and the steps of the training")
    known = [own for own in entry.eps if own is not None]
    if (eps is None) != (len(known) < 2) or (eps is not None and eps not in known):
        expected = f"one of the strengths of {name} ({', '.join(f'{own:g}' for own in known)})" if known else "no eps"
        raise study.error((*key, "eps"), f"expected {expected}, got {'none' if eps is None else f'{eps:g}'}")


def _check_comparison_arm(study: Study, key: KeyPath, claim: Claim, measurement: Measurement) -> None:
    if measurement.comparison is None:
        raise study.error((*key, "comparison"), f"expected the comparison whose {measurement.measure} is meant")
    comparison = _check_comparison(study, (*key, "comparison"), measurement.comparison)
    variants = list(study.sides(comparison))
    if measurement.minus is not None:
        other = list(study.sides(_check_comparison(study, (*key, "minus"), measurement.minus)))
        if other != variants:
            message = f"expected a comparison with the variants of {comparison.name}, {measurement.minus} has others"
            raise study.error((*key, "minus"), message)
    if MEASUREMENTS[measurement.measure].of == "time" and not comparison.timing_null:
        message = (
            f"expected a comparison with timing_null: true for {measurement.measure}, {comparison.name!r} has no null"
        )
        raise study.error((*key, "comparison"), message)
    if claim.test == "trend" and variants != list(study.conditions):
        got = f"{comparison.name!r} is of {comparison.x} and {comparison.y}"
        raise study.error((*key, "comparison"), f"expected a comparison over all variants (*) for a trend, {got}")
    if variants != [""] and claim.test != "trend":
        if measurement.variant not in variants:
            got = "it is missing" if measurement.variant is None else f"got {measurement.variant!r}"
            hint = closest(measurement.variant or "", variants)
            raise study.error((*key, "variant"), f"expected a variant of the study, {got}{hint}")
    elif measurement.variant is not None:
        why = "a trend is over all of them" if claim.test == "trend" else f"{comparison.name!r} names its own"
        raise study.error((*key, "variant"), f"expected no variant: {why}")


def _check_network(study: Study, key: KeyPath, name: NetworkName) -> None:
    variant, kind, moment = name.variant, name.kind, name.moment
    if not variant or kind not in KINDS:
        raise study.error(key, f"expected <variant>.snn, <variant>.ann or <variant>.converted, got {name!r}")
    if variant not in study.conditions:
        hint = closest(variant, study.conditions)
        raise study.error(key, f"{name!r}: nobody trains a variant {variant!r}{hint}")
    if name.endswith("@") or not re.fullmatch(r"|init|[0-9]{1,7}", moment):
        raise study.error(key, f"expected @init, @<epoch> or nothing after {variant}.{kind}, got {name!r}")
    if moment.isdigit():
        _check_kept(study, key, name)


def _check_kept(study: Study, key: KeyPath, name: NetworkName) -> None:
    variant, kind, moment = name.variant, name.kind, name.moment
    train = study.conditions[variant].train
    if kind == "converted":
        raise study.error(key, f"expected a trained network before @{moment}: a converted one has no epochs")
    epochs = train.of(kind)["epochs"]
    if int(moment) > epochs:
        raise study.error(key, f"expected an epoch up to {epochs}, the last of {variant}.{kind}, got {moment}")
    if int(moment) not in train.keep:
        kept = f"keeps {', '.join(map(str, train.keep))}" if train.keep else "keeps none"
        raise study.error(key, f"expected an epoch of train.keep, which {kept}, got {moment}")


def _check_comparison(study: Study, key: KeyPath, name: str) -> Comparison:
    if (comparison := _comparison(study, name)) is None:
        raise study.error(key, f"no comparison {name!r}{closest(name, [c.name for c in study.recipe.compare])}")
    return comparison


def _comparison(study: Study, name: str | None) -> Comparison | None:
    return next((c for c in study.recipe.compare if c.name == name), None)
