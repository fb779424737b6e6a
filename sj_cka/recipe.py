"""What a recipe may say; reading one, with errors that name file, line and key path."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from sj_cka.claims import MEASUREMENTS, Claim
from sj_cka.data import DATASETS
from sj_cka.figures import FIGURES
from sj_cka.models import MODELS, NEURONS
from sj_cka.plugins import UnknownName, closest, lookup

KeyPath = tuple[str | int, ...]
Block = TypeVar("Block", bound=BaseModel)
# what the study itself hands to a function of a table; the rest of its arguments may stand in a recipe
_HANDED = {"neuron", "T", "in_channels", "num_classes", "device"}


class RecipeError(ValueError):
    """A recipe that cannot be run; the message gives file, line and key path, what was expected and what came."""


def _number(value: Any) -> Any:
    """Numbers that YAML reads as text, 8e-3, 1e3, 8/255; a truth value is none."""
    if isinstance(value, bool):
        raise ValueError("expected a number, got a truth value")
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", ""))) if "/" in value else float(value)
        except (ValueError, ZeroDivisionError):
            return value
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]


class Strict(BaseModel):
    """A block of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Named(BaseModel):
    """A block whose `name` picks from a table; its other keys are that function's options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    def options(self) -> dict[str, Any]:
        """The block as a plain mapping, with `name`."""
        return self.model_dump()


class SNN(Strict):
    """The spiking side: time steps and neuron."""

    T: Int = Field(4, ge=1, description="time steps that an image is shown")
    neuron: Named = Field(Named(name="lif"), description="a neuron of NEURONS and its options")


class TrainOverride(Strict):
    """What one kind of network trains with differently."""

    epochs: Int | None = Field(None, ge=1)
    batch_size: Int | None = Field(None, ge=2)
    lr: Float | None = Field(None, gt=0)
    momentum: Float | None = Field(None, ge=0, lt=1)
    weight_decay: Float | None = Field(None, ge=0)


class Train(Strict):
    """Training of every network of the study."""

    epochs: Int = Field(10, ge=1, description="passes over the training split")
    batch_size: Int = Field(64, ge=2, description="images a step")
    lr: Float = Field(0.1, gt=0, description="learning rate of the first step; a cosine takes it to 0")
    momentum: Float = Field(0.9, ge=0, lt=1)
    weight_decay: Float = Field(1e-4, ge=0, description="on all parameters")
    ann: TrainOverride = Field(TrainOverride(), description="what the artificial networks train with instead")
    snn: TrainOverride = Field(TrainOverride(), description="what the spiking networks train with instead")
    init: Literal["fresh", "same"] = Field(
        "fresh", description="'same' gives twins equal first weights, and inflates CKA"
    )
    trained_at: Float = Field(
        0.9, ge=0, le=1, description="training accuracy below which a network counts as not trained"
    )
    threads: Int = Field(1, ge=1, description="threads of a job; numbers are identical at equal threads only")

    def of(self, kind: str) -> dict[str, Any]:
        """Epochs, rates and sizes for networks of a kind."""
        common = self.model_dump(include=set(TrainOverride.model_fields))
        own = (self.ann if kind == "ann" else self.snn).model_dump(exclude_none=True)
        return common | own


class Alignment(Strict):
    """How CKA is measured."""

    batch_size: Int = Field(360, ge=4, description="test images in a minibatch; the unbiased HSIC needs at least 4")
    batches: Int | None = Field(None, ge=1, description="use the first so many minibatches")
    layers: list[str] | None = Field(None, description="dotted names or globs; all by default")


class Comparison(Strict):
    """Two networks whose layers are compared; `*` stands for every variant, the same on both sides."""

    name: str = Field(pattern=r"^[\w-]+$")
    x: str = Field(description="<variant>.<snn|ann>, with @init for the untrained network")
    y: str
    seeds: Literal["same", "other"] = Field(
        "same", description="x of a seed against y of the same seed, or of the others"
    )


class FigureBlock(Strict):
    """A figure of the page."""

    name: str
    comparison: str | None = Field(None, description="the comparison that it shows")
    layers: list[str] | None = Field(None, description="the layers that it shows")
    title: str | None = None


class Variant(Strict):
    """What a variant changes."""

    model: dict[str, Any] = {}
    snn: dict[str, Any] = {}
    train: dict[str, Any] = {}


class Recipe(Strict):
    """A study, read top to bottom like a methods section."""

    title: str
    question: str
    source: str = ""
    data: Named
    model: Named
    snn: SNN = SNN()
    train: Train = Train()
    cka: Alignment = Alignment()
    seeds: Int | list[Int] = Field(3, description="a number of seeds, or the seeds")
    variants: dict[str, Variant | None] | None = Field(None, description="name: what it changes")
    sweep: dict[str, list[Any]] | None = Field(
        None, description="one key path and its values, e.g. model.depth: [8, 14, 20]"
    )
    compare: list[Comparison] = []
    figures: list[FigureBlock] = []
    claims: list[Claim] = []
    profiles: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _one_way_to_vary(self) -> Recipe:
        if self.variants is not None and self.sweep is not None:
            raise ValueError("expected variants or sweep, got both")
        if self.sweep is not None and len(self.sweep) != 1:
            raise ValueError(f"sweep: expected one key path, got {len(self.sweep)}")
        return self


@dataclass(frozen=True)
class Condition:
    """One variant of a study with all its settings resolved; `value` is the swept one, if any."""

    name: str
    model: dict[str, Any]
    snn: SNN
    train: Train
    value: float | None = None


@dataclass(frozen=True)
class Study:
    """A recipe as read, under one profile.

    Args:
        name: of the recipe file.
        profile: the profile that was merged in.
        path: the recipe file.
        text: the file as it stands.
        recipe: its content.
        conditions: variants by name, in order.
        seeds: in order.
    """

    name: str
    profile: str
    path: Path
    text: str
    recipe: Recipe
    conditions: dict[str, Condition]
    seeds: tuple[int, ...]
    lines: Mapping[KeyPath, int]

    def error(self, path: KeyPath, message: str) -> RecipeError:
        """An error at a key path of this recipe."""
        return _error(self.path, self.lines, path, message)


def read(path: str | Path, profile: str = "quick") -> Study:
    """Reads a recipe under a profile and checks all that can be checked without its data.

    Args:
        path: a YAML file.
        profile: deep-merged over the recipe: maps join, null removes a key, anything else is replaced. "quick" may be
            missing.

    Raises:
        RecipeError: the first fault found, with file, line and key path.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = closest(path.name, [p.name for p in sorted(path.parent.glob("*.yaml"))]) if path.parent.is_dir() else ""
        raise RecipeError(f"{path}: expected a recipe, found no such file{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: expected a YAML text, could not read it: {error}") from error
    content, lines = _parse(path, text)
    profiles = content.get("profiles") or {}
    if not isinstance(profiles, dict):
        raise _error(path, lines, ("profiles",), f"expected a map of profiles, got {_shown(profiles)}")
    if profile not in profiles and profile != "quick":
        raise RecipeError(f"{path}: no profile {profile!r}{closest(profile, ['quick', *map(str, profiles)])}")
    over = profiles.get(profile) or {}
    if not isinstance(over, dict):
        raise _error(path, lines, ("profiles", profile), f"expected a map, got {_shown(over)}")
    # what a profile says has its lines there
    for key, line in list(lines.items()):
        if key[:2] == ("profiles", profile) and len(key) > 2:
            lines[key[2:]] = line
    content = _merge(content, over)
    recipe = _validated(Recipe, content, path, lines)
    seeds = list(range(recipe.seeds)) if isinstance(recipe.seeds, int) else recipe.seeds
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise _error(
            path,
            lines,
            ("seeds",),
            f"expected a number from 1 or distinct seeds from 0, got {_shown(content['seeds'])}",
        )
    conditions = _conditions(recipe, content, path, lines)
    study = Study(path.stem, profile, path, text, recipe, conditions, tuple(seeds), lines)
    _check_options(study)
    _check_names(study)
    return study


def network_of(name: str) -> tuple[str, str, str]:
    """Variant, kind and moment ("init", or "" for trained) of `<variant>.<kind>[@init]`."""
    head, _, moment = name.partition("@")
    variant, _, kind = head.rpartition(".")
    return variant, kind, moment


def sides_of(comparison: Comparison, study: Study) -> dict[str, tuple[str, str]]:
    """Networks x and y of a comparison, by variant; by "" where it names its variants itself."""
    if "*" not in comparison.x + comparison.y:
        return {"": (comparison.x, comparison.y)}
    return {name: (comparison.x.replace("*", name), comparison.y.replace("*", name)) for name in study.conditions}


def schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors; the names of the tables are listed."""
    made = Recipe.model_json_schema()
    for key, table in (("data", DATASETS), ("model", MODELS)):
        made["properties"][key] = {"oneOf": [_schema_entry(name, function) for name, function in table.items()]}
    neurons = [_schema_entry(name, make) for name, make in NEURONS.items()]
    made["$defs"]["SNN"]["properties"]["neuron"] = {"oneOf": neurons}
    made["$defs"]["FigureBlock"]["properties"]["name"] = {"enum": list(FIGURES)}
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "sj_cka recipe"
    return made


def options_model(function: Callable[..., Any]) -> type[BaseModel]:
    """A model of the options that a recipe may give to a function of a table, made from its signature."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if name in _HANDED or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        kind = {int: Int, float: Float}.get(parameter.annotation, parameter.annotation)
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[name] = (kind, default)
    return create_model(f"{function.__name__} options", __base__=Strict, **fields)


def without_defaults(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as typed values, those equal to their default left out, so that a new option changes no spec."""
    typed = options_model(function).model_validate({k: v for k, v in options.items() if k != "name"})
    kept = typed.model_dump(mode="json", exclude_defaults=True)
    return {"name": options["name"], **kept} if "name" in options else kept


# --- reading -------------------------------------------------------------------------------------------------------


def _parse(path: Path, text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    lines: dict[KeyPath, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise RecipeError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}:1: expected a recipe, a map of keys, got {_shown(content)}")
    for key, line, again in _walk(node, ()):
        if again:
            raise RecipeError(f"{path}:{line}: {_dotted(key)}: given twice")
        lines[key] = line
    return content, lines


def _walk(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, int, bool]]:
    """Every key path of a YAML node with its line, and whether it was there before."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            here = (*path, key.value)
            yield here, key.start_mark.line + 1, key.value in seen
            seen.add(key.value)
            yield from _walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield (*path, i), value.start_mark.line + 1, False
            yield from _walk(value, (*path, i))


def _merge(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return copy.deepcopy(above)
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(below[key], value) if key in below else copy.deepcopy(value)
    return merged


def _validated(
    model: type[Block], content: Any, path: Path, lines: Mapping[KeyPath, int], prefix: KeyPath = ()
) -> Block:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _from_pydantic(error, model, content, path, lines, prefix) from error


def _from_pydantic(
    error: ValidationError, model: Any, content: Any, path: Path, lines: Mapping[KeyPath, int], prefix: KeyPath
) -> RecipeError:
    """The first fault that pydantic found, in our words."""
    # an unknown key explains a missing one better than the other way round
    fault = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    inside = tuple(part for part in fault["loc"] if _stands(part, fault["loc"], content))
    key: KeyPath = (*prefix, *inside)
    if fault["type"] == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        message = f"unknown key{closest(str(fault['loc'][-1]), known)}"
    elif fault["type"] == "missing":
        message = "expected this key, it is missing"
    else:
        text = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        message = f"{text}, got {_shown(fault['input'])}"
    return _error(path, lines, key, message)


def _stands(part: str | int, loc: Sequence[str | int], content: Any) -> bool:
    """Whether part of a pydantic location is a key of the recipe: tags of unions and types are not."""
    return isinstance(part, int) or (not any(mark in str(part) for mark in "[(") and part not in _tags(loc))


def _tags(loc: Sequence[str | int]) -> Sequence[str | int]:
    return ["int", "float", *([loc[2]] if len(loc) > 3 and loc[0] == "claims" else [])]


def _keys_at(model: Any, loc: Sequence[str | int]) -> list[str]:
    """The keys that may stand at a location of a model."""
    schema_ = model.model_json_schema()
    node = schema_
    for part in loc:
        node = _resolved(schema_, node)
        options = [_resolved(schema_, option) for option in node.get("anyOf", node.get("oneOf", [node]))]
        step: Any = None
        for option in options:
            if option.get("properties", {}).get("test", {}).get("const") == part:
                step = option
            elif isinstance(part, int) and "items" in option:
                step = option["items"]
            elif part in option.get("properties", {}):
                step = option["properties"][part]
            elif isinstance(option.get("additionalProperties"), dict):
                step = option["additionalProperties"]
        if step is None:
            continue
        node = step
    node = _resolved(schema_, node)
    found: list[str] = []
    for option in node.get("anyOf", node.get("oneOf", [node])):
        found += list(_resolved(schema_, option).get("properties", {}))
    return found


def _resolved(schema_: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    ref = node.get("$ref")
    return schema_["$defs"][ref.rsplit("/", 1)[1]] if ref else node


def _error(path: Path, lines: Mapping[KeyPath, int], key: KeyPath, message: str) -> RecipeError:
    line = next((lines[key[:i]] for i in range(len(key), 0, -1) if key[:i] in lines), 1)
    return RecipeError(f"{path}:{line}: {_dotted(key)}: {message}" if key else f"{path}:{line}: {message}")


def _dotted(key: KeyPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- checks beyond types -------------------------------------------------------------------------------------------


def _conditions(
    recipe: Recipe, content: dict[str, Any], path: Path, lines: Mapping[KeyPath, int]
) -> dict[str, Condition]:
    changes: dict[str, tuple[KeyPath, dict[str, Any], float | None]] = {}
    if recipe.sweep is not None:
        where, values = next(iter(recipe.sweep.items()))
        parts = where.split(".")
        if parts[0] not in ("model", "snn", "train") or len(parts) < 2:
            raise _error(path, lines, ("sweep", where), f"expected a key path under model, snn or train, got {where!r}")
        if not values:
            raise _error(path, lines, ("sweep", where), "expected at least one value, got none")
        for i, value in enumerate(values):
            change: dict[str, Any] = functools.reduce(lambda inner, key: {key: inner}, reversed(parts), value)
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            changes[f"{parts[-1]}-{value}"] = (("sweep", where, i), change, number)
    else:
        for name, variant in (recipe.variants or {"base": None}).items():
            if not all(c.isalnum() or c in "_-" for c in name):
                raise _error(path, lines, ("variants", name), "expected a name of letters, digits, '_' and '-'")
            changes[name] = (("variants", name), variant.model_dump() if variant is not None else {}, None)
    conditions = {}
    for name, (key, change, number) in changes.items():
        merged = {b: _merge(content.get(b) or {}, change.get(b) or {}) for b in ("model", "snn", "train")}
        at = {b: key if recipe.sweep is not None else (*key, b) for b in ("snn", "train")}
        snn = _validated(SNN, merged["snn"], path, lines, at["snn"])
        train = _validated(Train, merged["train"], path, lines, at["train"])
        conditions[name] = Condition(name, merged["model"], snn, train, number)
    return conditions


def _check_options(study: Study) -> None:
    """Names and options of data, model and neuron, against the tables and signatures."""
    checked: list[tuple[KeyPath, Mapping[str, Any], Mapping[str, Callable[..., Any]], str]] = [
        (("data",), study.recipe.data.options(), DATASETS, "data set")
    ]
    for condition in study.conditions.values():
        checked.append((("model",), condition.model, MODELS, "model"))
        checked.append((("snn", "neuron"), condition.snn.neuron.options(), NEURONS, "neuron"))
    for key, block, table, what in checked:
        try:
            function = lookup(table, str(block["name"]), what)
        except UnknownName as error:
            raise study.error((*key, "name"), str(error)) from error
        model = options_model(function)
        options = {k: v for k, v in block.items() if k != "name"}
        try:
            model.model_validate(options)
        except ValidationError as error:
            raise _from_pydantic(error, model, options, study.path, study.lines, key) from error


def _check_names(study: Study) -> None:
    """Networks, comparisons and variants that comparisons, figures and claims name."""
    names: set[str] = set()
    for i, comparison in enumerate(study.recipe.compare):
        if comparison.name in names:
            raise study.error(("compare", i, "name"), f"expected a name of its own, {comparison.name!r} is given twice")
        names.add(comparison.name)
        if ("*" in comparison.x) != ("*" in comparison.y):
            raise study.error(("compare", i), "expected * on both sides or on none: it stands for the same variant")
        for x, y in sides_of(comparison, study).values():
            for side, network in (("x", x), ("y", y)):
                _check_network(study, ("compare", i, side), network)
        if comparison.seeds == "other" and len(study.seeds) < 2:
            raise study.error(
                ("compare", i, "seeds"), f"expected at least 2 seeds for 'other', the study has {len(study.seeds)}"
            )
    for i, figure in enumerate(study.recipe.figures):
        try:
            lookup(FIGURES, figure.name, "figure")
        except UnknownName as error:
            raise study.error(("figures", i, "name"), str(error)) from error
        if figure.name in ("heatmap", "curve", "steps"):
            if figure.comparison is None:
                raise study.error(("figures", i), f"expected comparison: the comparison that the {figure.name} shows")
            _check_comparison(study, ("figures", i, "comparison"), figure.comparison)
    for i, claim in enumerate(study.recipe.claims):
        if claim.test == "trend" and study.recipe.sweep is None:
            raise study.error(("claims", i, "test"), "expected a sweep for a trend, the recipe has none")
        for arm, measurement in claim.arms().items():
            key: KeyPath = ("claims", i, arm)
            if measurement.measure not in MEASUREMENTS:
                raise study.error(
                    (*key, "measure"),
                    f"unknown measure {measurement.measure!r}{closest(measurement.measure, MEASUREMENTS)}",
                )
            wanted = MEASUREMENTS[measurement.measure].of
            if wanted == "network":
                if measurement.network is None:
                    raise study.error(key, f"expected network: the network whose {measurement.measure} is meant")
                if claim.test != "trend":
                    _check_network(study, (*key, "network"), measurement.network)
            else:
                if measurement.comparison is None:
                    raise study.error(key, f"expected comparison: the comparison whose {measurement.measure} is meant")
                comparison = _check_comparison(study, (*key, "comparison"), measurement.comparison)
                per_variant = "*" in comparison.x
                if per_variant and claim.test != "trend" and measurement.variant not in study.conditions:
                    got = "none" if measurement.variant is None else repr(measurement.variant)
                    hint = closest(str(measurement.variant), study.conditions)
                    raise study.error((*key, "variant"), f"expected a variant of the study, got {got}{hint}")


def _check_network(study: Study, key: KeyPath, name: str) -> None:
    variant, kind, moment = network_of(name)
    if variant not in study.conditions:
        raise study.error(key, f"{name!r}: nobody trains a variant {variant!r}{closest(variant, study.conditions)}")
    if kind not in ("snn", "ann"):
        raise study.error(key, f"{name!r}: expected <variant>.snn or <variant>.ann, got the kind {kind!r}")
    if moment not in ("", "init"):
        raise study.error(key, f"{name!r}: expected @init or nothing after the kind, got @{moment}")


def _check_comparison(study: Study, key: KeyPath, name: str) -> Comparison:
    for comparison in study.recipe.compare:
        if comparison.name == name:
            return comparison
    raise study.error(key, f"no comparison {name!r}{closest(name, [c.name for c in study.recipe.compare])}")


def _schema_entry(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Schema of a block that picks `name` from a table."""
    made = options_model(function).model_json_schema()
    made["properties"] = {"name": {"const": name}, **made.get("properties", {})}
    made["required"] = ["name", *made.get("required", [])]
    made.pop("title", None)
    return made
