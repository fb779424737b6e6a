"""Keys of recipes that have another name now: the old ones are taken with a warning for one release."""

import warnings
from collections.abc import Iterator
from typing import Any

from sj_cka.recipe.places import KeyPath, RecipeError, Written, labelled

# key path, * for every part of it -> new name of its last part
RENAMED: dict[KeyPath, str] = {
    ("compare", "*", "data_y"): "attack_y",
    ("compare", "*", "timing_null"): "permutation_test",
    ("attack", "by", "*", "most"): "eps_max",
}


def rename(content: Any, written: Written, origin: str) -> None:
    """Puts new names in place of old ones in what a recipe says, in its profiles too; places stay, and warnings tell.

    Args:
        content: what a recipe says, or what is laid over one; changed.
        written: where it says so; changed alike.
        origin: the file, or what else it comes from.

    Raises:
        RecipeError: a key is given under both names.
    """
    for path, new in RENAMED.items():
        for above in ((), ("profiles", "*")):
            for block, place in _blocks(content, written, (*above, *path[:-1])):
                if (old := path[-1]) not in block:
                    continue
                of_key = place.below.pop(old, None)
                where = origin if of_key is None else f"{origin}:{of_key.place.line}"
                label = labelled(path if of_key is None else of_key.place.key)
                if new in block:
                    raise RecipeError(f"{where}: {label}expected {new} alone, the name of this key now, got both")
                warnings.warn(f"{where}: {label}write {new}, the name of this key now", FutureWarning, stacklevel=2)
                block[new] = block.pop(old)
                if of_key is not None:
                    place.below[new] = of_key


def _blocks(content: Any, written: Written, path: KeyPath) -> Iterator[tuple[dict[Any, Any], Written]]:
    """All maps at a key path, with their places."""
    if not path:
        if isinstance(content, dict):
            yield content, written
        return
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in items:
        if path[0] in ("*", name):
            yield from _blocks(value, written.below.get(name, Written(written.place, {})), path[1:])
