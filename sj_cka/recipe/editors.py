"""The JSON schema of a recipe, with which editors complete and check one."""

from typing import Any

from sj_cka.claims import MEASUREMENTS
from sj_cka.recipe.attack_block import NOISE
from sj_cka.recipe.blocks import recipe_model
from sj_cka.recipe.choices import ATTACK, AUGMENTATION, DATA, FIGURE, MODEL, NEURON, RULE, NameTable


def schema() -> dict[str, Any]:
    """JSON schema of a recipe; the names of the tables are listed with their options."""
    json_schema = recipe_model().model_json_schema()
    json_schema["properties"] |= {"data": {"oneOf": _entries(DATA)}, "model": {"oneOf": _entries(MODEL)}}
    json_schema["$defs"]["SNN"]["properties"]["neuron"] = {"oneOf": _entries(NEURON)}
    json_schema["$defs"]["Train"]["properties"]["augment"]["items"] = {"oneOf": _entries(AUGMENTATION, by_name=True)}
    for block in ("Train", "TrainOverride"):
        json_schema["$defs"][block]["properties"]["rule"] = {"oneOf": _entries(RULE, by_name=True)}
    json_schema["$defs"]["AttackBlock"]["properties"]["name"] |= {"enum": [*ATTACK.table, NOISE, None]}
    json_schema["$defs"]["Arm"]["properties"]["measure"] = {"enum": list(MEASUREMENTS)}
    common = json_schema["$defs"].pop("FigureBlock")["properties"]
    json_schema["properties"]["figures"]["items"] = {"oneOf": [_figure(entry, common) for entry in _entries(FIGURE)]}
    json_schema = _standard(json_schema)
    json_schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    json_schema["title"] = "sj_cka recipe"
    return json_schema


# pydantic writes bounds of a type behind a validator in its own words
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _standard(node: Any) -> Any:
    """A schema with all bounds in the words of JSON schema; those of a field are, and replace those of its type."""
    if isinstance(node, list):
        return [_standard(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    bounds = {key: node[old] for old, key in _BOUNDS.items() if old in node and key not in node}
    kept = {key: value for key, value in node.items() if key not in _BOUNDS}
    return {key: _standard(value) for key, value in (kept | bounds).items()}


def _entries(choice: NameTable, by_name: bool = False) -> list[dict[str, Any]]:
    """Schemas of the blocks that pick from a table, one a name; or the name alone."""
    entries: list[dict[str, Any]] = [{"enum": list(choice.table)}] if by_name else []
    for name in choice.table:
        entry = choice.options_model(name).model_json_schema()
        entry["properties"] = {"name": {"const": name}, **entry.get("properties", {})}
        entry["required"] = ["name", *entry.get("required", [])]
        entry.pop("title", None)
        entries.append(entry)
    return entries


def _figure(entry: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Schema of a figure's block: its options, and of the keys of all figures those that mean something to it."""
    figure = FIGURE.entry(entry["properties"]["name"]["const"])
    keys = {"title": common["title"]}
    if figure.compares:
        keys["comparison"] = {"type": "string", "description": common["comparison"]["description"]}
        entry["required"].append("comparison")
    if len(figure.states) > 1:
        keys["state"] = common["state"] | {"enum": list(figure.states)}
    return entry | {"properties": entry["properties"] | keys}
