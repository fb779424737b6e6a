"""Options that a recipe gives to the functions of a table, checked against their signatures."""

from __future__ import annotations

import functools
import inspect
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, StrictBool, create_model
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from sj_cka.typed import Float, Int, Strict

# what the study itself hands to a function of a table; the rest of its arguments may stand in a recipe
_HANDED = {"neuron", "device", "samples", "generator", "net", "x", "y", "eps", "source"}
_HANDED_TO_MODELS = {"T", "in_channels", "num_classes"}  # besides the neuron, by which one knows them
# how a data set gets here, not what it is
_MEANS = {"download"}
_PLAIN: dict[Any, Any] = {int: Int, float: Float, bool: StrictBool}


@functools.cache
def options_model(function: Callable[..., Any]) -> type[BaseModel]:
    """A model of the options that a recipe may give to a function of a table, made from its signature."""
    fields: dict[str, Any] = {}
    parameters = inspect.signature(function, eval_str=True).parameters
    handed = _HANDED | (_HANDED_TO_MODELS if "neuron" in parameters else set())
    for name, parameter in parameters.items():
        if name in handed or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[name] = (_in_yaml(parameter.annotation), default)
    return create_model(f"{function.__name__} options", __base__=Strict, **fields)


def typed(function: Callable[..., Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """A block's options as values of the types that the function names, with `name`."""
    given = options_model(function).model_validate({key: value for key, value in block.items() if key != "name"})
    return {"name": block["name"], **{key: getattr(given, key) for key in given.model_fields_set}}


def without_defaults(function: Callable[..., Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """A block as plain data, options equal to their default left out: a new option then changes no spec.

    Paths are left out too, and whether a download is allowed: what the data are counts, not where they lie.
    """
    fields = options_model(function).model_fields
    return {
        key: to_jsonable_python(value)
        for key, value in typed(function, block).items()
        if key == "name" or not (isinstance(value, Path) or key in _MEANS or _is_default(fields[key], value))
    }


def _is_default(field: FieldInfo, value: Any) -> bool:
    return not field.is_required() and to_jsonable_python(field.default) == to_jsonable_python(value)


def _in_yaml(annotation: Any) -> Any:
    """A type as a recipe may write it: numbers that YAML reads as text, lists for any sequence."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[_in_yaml(inner[0]), *inner[1:]]
    if origin in (Sequence, list, tuple):
        return list[_in_yaml(inner[0])]  # type: ignore[misc]
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, map(_in_yaml, inner))
    return annotation
