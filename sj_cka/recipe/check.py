"""What the blocks of a recipe say about each other and about the tables: every name must lead somewhere."""

from sj_cka.figures import Figure
from sj_cka.recipe.blocks import Comparison, FigureBlock
from sj_cka.recipe.choices import AUGMENTATION, DATA, FIGURE, MODEL, NEURON, RULE, Named, check_choice
from sj_cka.recipe.claim_checks import check_claim
from sj_cka.recipe.faults import validated
from sj_cka.recipe.names import NetworkName
from sj_cka.recipe.network_checks import (
    ITSELF,
    WITH_CEILING,
    check_attacks,
    check_comparisons,
    check_network,
    check_over_variants,
    check_sweep,
    comparison_named,
    of_itself,
)
from sj_cka.recipe.reading import Study
from sj_cka.recipe.source import KeyPath


def check(study: Study) -> None:
    """Checks all that can be checked without data.

    Raises:
        RecipeError: the first fault.
    """
    for source in (study.source, *(condition.source for condition in study.conditions.values())):
        check_choice(DATA, validated(Named, source, ("data",)), source, ("data",))
        check_choice(MODEL, validated(Named, source, ("model",)), source, ("model",))
    for condition in study.conditions.values():
        check_choice(NEURON, condition.snn.neuron, condition.source, ("snn", "neuron"))
        for i, augmentation in enumerate(condition.train.augment):
            check_choice(AUGMENTATION, augmentation, condition.source, ("train", "augment", i))
        for of_kind in ((), ("ann",), ("snn",)):
            train = getattr(condition.train, *of_kind) if of_kind else condition.train
            if train.rule is not None:
                check_choice(RULE, train.rule, condition.source, ("train", *of_kind, "rule"))
        if condition.train.trained_at != study.recipe.train.trained_at:
            key = ("train", "trained_at")
            raise condition.source.error(key, "expected one value for the whole study, under train")
    check_attacks(study)
    check_comparisons(study)
    for i, evaluation in enumerate(study.recipe.evaluate):
        for network in study.networks(evaluation.network):
            _check_evaluated(study, ("evaluate", i, "network"), network)
    _check_latencies(study)
    _check_figures(study)
    for i, claim in enumerate(study.recipe.claims):
        check_claim(study, ("claims", i), claim)


def _check_evaluated(study: Study, key: KeyPath, network: NetworkName) -> None:
    """A network that can be run at other numbers of steps: trained, and spiking."""
    check_network(study, key, network)
    study.refuse_if(
        not network.spiking or network.moment,
        key,
        f"expected a trained spiking network, <variant>.<snn|converted>, got {network!r}",
    )


def _check_latencies(study: Study) -> None:
    """No network whose input is coded by latency is run for one step, in which all latencies are one."""
    runs: list[tuple[KeyPath, NetworkName, int | None]] = []
    for i, evaluation in enumerate(study.recipe.evaluate):
        runs += [(("evaluate", i, "T"), name, T) for name in study.networks(evaluation.network) for T in evaluation.T]
    for i, comparison in enumerate(study.recipe.compare):
        for sides in study.sides(comparison).values():
            runs += [(("compare", i, "T_x"), sides.x, sides.T_x), (("compare", i, "T_y"), sides.y, sides.T_y)]
    for key, name, T in runs:
        latency = name.kind == "snn" and study.conditions[name.variant].snn.coding == "latency"
        study.refuse_if(latency and T == 1, key, f"expected 2 steps or more: all latencies of {name} are one in 1")


def _check_figures(study: Study) -> None:
    for i, block in enumerate(study.recipe.figures):
        key: KeyPath = ("figures", i)
        check_choice(FIGURE, block, study.source, key, beside=("name", "comparison", "state", "title"))
        figure = FIGURE.entry(block.name)
        if not isinstance(figure, Figure):  # no fault of the recipe
            raise TypeError(f"expected FIGURES[{block.name!r}] to be a sj_cka.figures.Figure, got {figure!r}")
        if figure.compares:
            if block.comparison is None:
                raise study.error((*key, "comparison"), f"expected the comparison that the {block.name} shows")
            comparison = comparison_named(study, (*key, "comparison"), block.comparison)
            _check_compared(study, key, figure, comparison)
            _check_state(study, (*key, "state"), block, figure, comparison)
            continue
        for name in ("comparison", "state"):
            study.refuse_if(
                name in block.model_fields_set,
                (*key, name),
                f"expected none: {block.name} shows all networks of the study",
            )
        _check_there(study, (*key, "name"), figure)


def _check_compared(study: Study, key: KeyPath, figure: Figure, comparison: Comparison) -> None:
    at = (*key, "comparison")
    study.refuse_if(
        figure.of == "pairs of variants" and comparison.variants != "pairs",
        at,
        f"expected a comparison of pairs of variants, {comparison.name!r} is none",
    )
    study.refuse_if(
        figure.of == "epochs" and not comparison.over_epochs,
        at,
        f"expected a comparison over epochs, with @* in x or y, {comparison.name!r} is none",
    )
    study.refuse_if(
        figure.of == "network with itself" and not of_itself(comparison),
        at,
        f"expected {ITSELF}, {comparison.name!r} is none",
    )
    if figure.of == "exchange":
        asked = study.recipe.jobs.get("exchange", {}).get("comparisons")
        message = f"expected a comparison of jobs.exchange, whose layers are exchanged, {comparison.name!r} is none"
        names = [one.name for one in study.recipe.compare]
        told = isinstance(asked, list) and asked and all(name in names for name in asked)  # else its block is refused
        study.refuse_if(asked is None or (told and comparison.name not in asked), at, message)
    if figure.of == "sweep":
        check_over_variants(study, at, comparison)
        check_sweep(study, (*key, "name"))


def _check_state(study: Study, key: KeyPath, block: FigureBlock, figure: Figure, comparison: Comparison) -> None:
    if block.state not in figure.states:
        one = "none: {name} has no state to choose"
        several = f"{' or '.join(figure.states)}: {{name}} shows no {block.state}"
        expected = one if len(figure.states) == 1 else several
        raise study.error(key, f"expected {expected.format(name=block.name)}")
    study.refuse_if(
        block.state == "untrained" and comparison.attack_y is not None,
        key,
        f"expected trained: {comparison.name} is under attack, and has no floor",
    )
    study.refuse_if(block.state == "ceiling" and not study.has_ceiling(comparison), key, f"expected {WITH_CEILING}")


def _check_there(study: Study, key: KeyPath, figure: Figure) -> None:
    """What is no comparison, and not of every study."""
    study.refuse_if(
        figure.of == "evaluations" and not study.recipe.evaluate,
        key,
        "expected networks under evaluate for the accuracy at other T, got none",
    )
    study.refuse_if(
        figure.of == "attacks" and study.recipe.attack is None, key, "expected networks under attack, got none"
    )
    study.refuse_if(
        figure.of in ("fisher", "alignment", "locality") and figure.of not in study.recipe.jobs,
        key,
        f"expected jobs.{figure.of}, which networks are measured, got none",
    )
    study.refuse_if(
        figure.of == "backdoors" and not any(condition.train.poison for condition in study.conditions.values()),
        key,
        "expected a variant with train.poison, got none",
    )
