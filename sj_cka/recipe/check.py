"""What the blocks of a recipe say about each other and about the tables: every name must lead somewhere."""

from __future__ import annotations

from sj_cka.recipe.attack_checks import check_attacks
from sj_cka.recipe.choices import AUGMENTATION, DATA, MODEL, NEURON, RULE, Named, check_choice
from sj_cka.recipe.claim_checks import check_claims
from sj_cka.recipe.comparison_checks import check_comparisons
from sj_cka.recipe.faults import validated
from sj_cka.recipe.figure_checks import check_figures
from sj_cka.recipe.names import NetworkName
from sj_cka.recipe.network_checks import check_network
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
    check_figures(study)
    check_claims(study)


def _check_evaluated(study: Study, key: KeyPath, network: NetworkName) -> None:
    """A network that can be run at other numbers of steps: trained, and spiking."""
    check_network(study, key, network)
    study.refuse_if(
        not network.spiking or network.moment,
        key,
        f"expected a trained spiking network, <variant>.<snn|converted>, got {network!r}",
    )
