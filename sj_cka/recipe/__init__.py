"""Recipes: what one may say, reading one, and errors that name file, line and key path.

In the order in which a recipe passes through: `document` reads the YAML (`scalars` its values) and keeps the `places`
of all keys, `source` the file and what is laid over it, `blocks` and `attack_block` say what may stand in it, `faults`
puts into words what does not fit, `choices` holds the tables that names pick from, with the options of their functions,
`reading` resolves profile and variants, `check` follows every name, block by block, `network_checks` those of networks,
comparisons and attacks, `claim_checks` those of claims. `editors` makes the JSON schema.
"""

from collections.abc import Sequence
from pathlib import Path

from sj_cka.recipe.blocks import Comparison, FigureBlock, Recipe
from sj_cka.recipe.check import check
from sj_cka.recipe.editors import schema
from sj_cka.recipe.names import NetworkName
from sj_cka.recipe.reading import Condition, Sides, Study, resolve
from sj_cka.recipe.source import RecipeError

__all__ = [
    "Comparison",
    "Condition",
    "FigureBlock",
    "NetworkName",
    "Recipe",
    "RecipeError",
    "Sides",
    "Study",
    "read",
    "schema",
]


def read(path: str | Path, profile: str = "quick", settings: Sequence[str] = ()) -> Study:
    """Reads a recipe under a profile and checks all that can be checked without its data.

    Args:
        path: a YAML file.
        profile: deep-merged over the recipe: maps join, null removes a key, anything else is replaced (`data` too,
            where its name is another). "quick" may be
            missing.
        settings: `key.path=value`, laid over it last; the value is YAML.

    Raises:
        RecipeError: the first fault found, with file, line and key path.
    """
    study = resolve(Path(path), profile, settings)
    check(study)
    return study
