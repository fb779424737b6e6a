"""The JSON schema of a recipe, with which editors complete and check one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sj_cka.attacks import ATTACKS
from sj_cka.claims import MEASUREMENTS
from sj_cka.data import AUGMENTATIONS, DATASETS
from sj_cka.figures import FIGURES
from sj_cka.models import MODELS, NEURONS
from sj_cka.recipe.attacks import NOISE
from sj_cka.recipe.blocks import Recipe
from sj_cka.recipe.options import options_model


def schema() -> dict[str, Any]:
    """JSON schema of a recipe; the names of the tables are listed with their options."""
    made = Recipe.model_json_schema()
    for key, table in (("data", DATASETS), ("model", MODELS)):
        made["properties"][key] = {"oneOf": [_entry(name, function) for name, function in table.items()]}
    made["$defs"]["SNN"]["properties"]["neuron"] = {"oneOf": [_entry(name, make) for name, make in NEURONS.items()]}
    named = [_entry(name, function) for name, function in AUGMENTATIONS.items()]
    made["$defs"]["Train"]["properties"]["augment"]["items"] = {"oneOf": [{"enum": list(AUGMENTATIONS)}, *named]}
    made["$defs"]["AttackBlock"]["properties"]["name"] |= {"enum": [*ATTACKS, NOISE, None]}
    made["$defs"]["Measurement"]["properties"]["measure"] = {"enum": list(MEASUREMENTS)}
    made["$defs"]["FigureBlock"]["properties"]["name"] = {"enum": list(FIGURES)}
    made = _standard(made)
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "sj_cka recipe"
    return made


# pydantic writes bounds of a type behind a validator in its own words
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _standard(node: Any) -> Any:
    """A schema with all bounds in the words of JSON schema; those of a field are, and replace those of its type."""
    if isinstance(node, list):
        return [_standard(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    own = {key: node[old] for old, key in _BOUNDS.items() if old in node and key not in node}
    kept = {key: value for key, value in node.items() if key not in _BOUNDS}
    return {key: _standard(value) for key, value in (kept | own).items()}


def _entry(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Schema of a block that picks `name` from a table."""
    made = options_model(function).model_json_schema()
    made["properties"] = {"name": {"const": name}, **made.get("properties", {})}
    made["required"] = ["name", *made.get("required", [])]
    made.pop("title", None)
    return made
