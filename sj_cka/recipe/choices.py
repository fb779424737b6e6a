"""What `name:` of a block picks from, and the options that may stand beside it: those of the function's signature."""

import functools
import inspect
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, StrictBool, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from sj_cka.attacks import ATTACKS
from sj_cka.data import AUGMENTATIONS, DATASETS
from sj_cka.figures import FIGURES
from sj_cka.models import MODELS, NEURONS
from sj_cka.plugins import lookup
from sj_cka.recipe.faults import checked
from sj_cka.recipe.source import KeyPath, Source
from sj_cka.training import LEARNING_RULES
from sj_cka.typed import Float, Int, Strict

# how a data set gets here, not what it is
_MEANS = {"download"}
_PLAIN: dict[Any, Any] = {int: Int, float: Float, bool: StrictBool}


class Named(BaseModel):
    """A block whose `name` picks from a table; its other keys are that function's options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    def options(self) -> dict[str, Any]:
        """Its name and options."""
        return {"name": self.name, **(self.model_extra or {})}


class ByName(Named):
    """A function of a table and its options; its name alone takes their defaults."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class NameTable(NamedTuple):
    """A table of functions, and which of their arguments a study itself hands over; the others are options of a recipe.

    Args:
        what: an entry is called ("data set").
        table: name -> function, or an entry with more that holds it as `function`.
        handed: names of arguments that are no options.
    """

    what: str
    table: Mapping[str, Any]
    handed: tuple[str, ...] = ()

    def entry(self, name: str) -> Any:
        """An entry of the table; UnknownName where there is none."""
        return lookup(self.table, name, self.what)

    def function(self, name: str) -> Callable[..., Any]:
        """A function of the table; UnknownName where there is none."""
        entry = self.entry(name)
        function: Callable[..., Any] = getattr(entry, "function", entry)
        return function

    def options_model(self, name: str) -> type[BaseModel]:
        """A model of the options that a recipe may give to a function of the table, made from its signature."""
        return options_model(self.function(name), self.handed)

    def typed(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """A block's options as values of the types that the function names, with `name`."""
        given = self.options_model(block["name"]).model_validate(options_of(block))
        return {"name": block["name"], **{key: getattr(given, key) for key in given.model_fields_set}}

    def without_defaults(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """A block as plain data, options equal to their default left out: a new option then changes no spec.

        Paths are left out too, and whether a download is allowed: what the data are counts, not where they lie.
        """
        fields = self.options_model(block["name"]).model_fields
        return {
            key: to_jsonable_python(value)
            for key, value in self.typed(block).items()
            if key == "name" or not (isinstance(value, Path) or key in _MEANS or _is_default(fields[key], value))
        }


DATA = NameTable("data set", DATASETS)
AUGMENTATION = NameTable("augmentation", AUGMENTATIONS, ("samples", "generator"))
MODEL = NameTable("model", MODELS, ("neuron", "T", "in_channels", "num_classes"))
NEURON = NameTable("neuron", NEURONS, ("device",))
RULE = NameTable("learning rule", LEARNING_RULES, ("network", "x", "y", "forward", "loss", "scale"))
FIGURE = NameTable("figure", FIGURES, ("block", "results"))
ATTACK = NameTable("attack", ATTACKS, ("net", "x", "y", "eps", "generator", "source"))


def options_of(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block without its name."""
    return {key: value for key, value in block.items() if key != "name"}


def check_choice(choice: NameTable, block: Named, source: Source, key: KeyPath, beside: Sequence[str] = ()) -> None:
    """Raises RecipeError unless a block names a function of a table and options of it.

    Args:
        choice: the table.
        block: at `key` of the recipe.
        source: the recipe.
        key: of the block.
        beside: keys of the block that are no options.
    """
    named = (*key, "name") if source.says((*key, "name")) else key
    model = source.told(named, choice.options_model, block.name)
    checked(model, options_of(block.options()), source, key, beside)


@functools.cache
def options_model(function: Callable[..., Any], handed: tuple[str, ...]) -> type[BaseModel]:
    """A model of the arguments of a function without those that are handed to it, made from its signature."""
    options = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in handed and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    # of these alone: types of what is handed may be known to a type checker only
    hints = get_type_hints(
        types.SimpleNamespace(__annotations__={name: option.annotation for name, option in options.items()}),
        getattr(inspect.unwrap(function), "__globals__", {}),
        include_extras=True,
    )
    fields: dict[str, Any] = {
        name: (in_yaml(hints[name]), ... if option.default is inspect.Parameter.empty else option.default)
        for name, option in options.items()
    }
    return create_model(f"{function.__name__} options", __base__=Strict, **fields)


def _is_default(field: FieldInfo, value: Any) -> bool:
    return not field.is_required() and to_jsonable_python(field.default) == to_jsonable_python(value)


def in_yaml(annotation: Any) -> Any:
    """A type as a recipe may write it: numbers that YAML reads as text, lists for any sequence."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[in_yaml(inner[0]), *inner[1:]]
    if origin in (Sequence, list, tuple):
        return list[in_yaml(inner[0])]  # type: ignore[misc]
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, map(in_yaml, inner))
    return annotation
