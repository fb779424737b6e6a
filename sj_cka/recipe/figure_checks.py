"""What figures of a recipe must be: of the table, and of what the study has."""

from __future__ import annotations

from sj_cka.figures import Figure
from sj_cka.recipe.blocks import Comparison, FigureBlock
from sj_cka.recipe.choices import FIGURE, check_choice
from sj_cka.recipe.comparison_checks import WITH_CEILING, check_over_variants, check_sweep, comparison_named
from sj_cka.recipe.reading import Study
from sj_cka.recipe.source import KeyPath


def check_figures(study: Study) -> None:
    """Raises RecipeError for the first figure that shows what the study does not have."""
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
        figure.of == "permutation test" and not comparison.permutation_test,
        at,
        f"expected a comparison with permutation_test: true, {comparison.name!r} has no null",
    )
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
    poisoned = any(condition.train.poison for condition in study.conditions.values())
    study.refuse_if(
        figure.of == "evaluations" and not study.recipe.evaluate,
        key,
        "expected networks under evaluate for the accuracy at other T, got none",
    )
    study.refuse_if(
        figure.of == "attacks" and study.recipe.attack is None, key, "expected networks under attack, got none"
    )
    study.refuse_if(figure.of == "backdoors" and not poisoned, key, "expected a variant with train.poison, got none")
