"""What a block that picks from a table must be: a name of the table, and options of the function of that name."""

from __future__ import annotations

from collections.abc import Sequence

from sj_cka.plugins import UnknownName
from sj_cka.recipe.blocks import Named
from sj_cka.recipe.choices import Choice, options_of
from sj_cka.recipe.faults import checked
from sj_cka.recipe.source import KeyPath, Source


def check_choice(choice: Choice, block: Named, source: Source, key: KeyPath, beside: Sequence[str] = ()) -> None:
    """Raises RecipeError unless a block names a function of a table and options of it.

    Args:
        choice: the table.
        block: at `key` of the recipe.
        source: the recipe.
        key: of the block.
        beside: keys of the block that are no options.
    """
    try:
        model = choice.options_model(block.name)
    except UnknownName as error:
        named = (*key, "name")
        raise source.error(named if source.says(named) else key, str(error)) from error
    checked(model, options_of(block.options()), source, key, beside)
