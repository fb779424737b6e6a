"""Faults that pydantic finds, in the words of a recipe."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sj_cka.plugins import OptionError, closest
from sj_cka.recipe.source import KeyPath, RecipeError, Source, shown

Block = TypeVar("Block", bound=BaseModel)

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a map of keys",
    "model_type": "a map of keys",
    "path_type": "a path",
    "too_short": "at least {min_length} entry",
    "too_long": "at most {max_length} entries",
    "string_too_long": "a text of at most {max_length} characters",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "a name of letters, digits, '_' and '-'",
}


def validated(model: type[Block], source: Source, key: KeyPath = ()) -> Block:
    """The block at a key path of a recipe, as a model.

    Raises:
        RecipeError: the first fault in it.
    """
    return checked(model, source.at(key), source, key)


def checked(model: type[Block], content: Any, source: Source, key: KeyPath, beside: Sequence[str] = ()) -> Block:
    """Content that belongs at a key path of a recipe, as a model; RecipeError as `validated`.

    Args:
        model: of the content.
        content: what the recipe says.
        source: the recipe.
        key: of the content.
        beside: other keys that may stand there, for the message.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _in_words(error, model, content, source, key, beside) from error


def fault_of(error: Exception, source: Source, *blocks: KeyPath, about: str = "") -> RecipeError:
    """What a function of a table says is wrong, at the option that it names (`OptionError`), else at its block.

    Args:
        error: what it raised.
        source: the recipe.
        blocks: key paths where the option may stand; the first is that of the block.
        about: what to put in front of the message.
    """
    first_line = str(error).partition("\n")[0]
    if isinstance(error, OptionError):
        keys = [(*block, error.option) for block in blocks]
        if key := next(filter(source.says, keys), None):
            return source.error(key, f"{about}{error.message}")
    return source.error(blocks[0], f"{about}{first_line}")


def _in_words(
    error: ValidationError,
    model: type[BaseModel],
    content: Any,
    source: Source,
    at: KeyPath,
    beside: Sequence[str],
) -> RecipeError:
    # an unknown key explains a missing one better than the other way round
    fault = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")[0]
    kind, loc, context = fault["type"], fault["loc"], fault.get("ctx", {})
    key = (*at, *_inside(loc, content))
    if kind == "extra_forbidden":
        known = [*_known_keys(model, loc[:-1]), *beside]
        return source.error(key, f"unknown key{closest(str(loc[-1]), known or ['name'])}")  # a function may have none
    if kind == "missing":
        return source.error((*key, loc[-1]), "expected this key, it is missing")
    if kind == "union_tag_not_found":
        return source.error((*key, context["discriminator"].strip("'")), "expected this key, it is missing")
    if kind == "union_tag_invalid":
        known = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
        inner = context["discriminator"].strip("'")
        return source.error((*key, inner), f"unknown {inner} {context['tag']!r}{closest(context['tag'], known)}")
    if kind in _EXPECTED:
        numbers = {name: f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
                   for name, value in context.items()}  # fmt: skip
        message = f"expected {_EXPECTED[kind].format(**numbers)}"
    else:
        message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    got = shown(fault["input"])
    if isinstance(fault["input"], bool) and not kind.startswith("bool"):
        got += ", which is what yes, no, on and off are in YAML too: put a text into quotes"
    return source.error(key, f"{message}, got {got}")


def _inside(loc: Sequence[str | int], content: Any) -> KeyPath:
    """The parts of a pydantic location that stand in the content: tags of unions and names of types do not."""
    path: list[str | int] = []
    for part in loc:
        indexed = isinstance(content, list) and isinstance(part, int) and part < len(content)
        if indexed or (isinstance(content, dict) and part in content):
            content = content[part]
            path.append(part)
    return tuple(path)


def _known_keys(model: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """The keys that may stand at a pydantic location."""
    models = [model]
    for part in loc:
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if fields:
            models = [inner for annotation in fields for inner in _models(annotation)]
        else:  # the tag of a union picks the model that bears it; an index or a key of a map picks none
            models = [m for m in models if _bears(m, part)] or models
    return list(dict.fromkeys(name for m in models for name in m.model_fields))


def _bears(model: type[BaseModel], tag: str | int) -> bool:
    return any(get_args(field.annotation) == (tag,) for field in model.model_fields.values())


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
