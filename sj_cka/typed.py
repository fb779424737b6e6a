"""Types of what a recipe may hold: blocks that refuse unknown keys, names, and numbers as YAML gives them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_DECIMAL = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_FRACTION = r"[+-]?\d+ ?/ ?0*[1-9]\d*"


def number(value: Any) -> Any:
    """The number that a text stands for where YAML reads one as text (8e-3, 1e3, 8/255); no text is left as it is.

    Raises:
        ValueError: another text, or a truth value, which Python would take for 0 or 1.

    Example:
        >>> number("8e-3"), number("1/4"), number(5)
        (0.008, 0.25, 5)
    """
    if isinstance(value, str) and re.fullmatch(_DECIMAL, value):
        return float(value)
    if isinstance(value, str) and re.fullmatch(_FRACTION, value):
        return float(Fraction(value.replace(" ", "")))
    if isinstance(value, str | bool):
        raise ValueError("expected a number")
    return value


def several(value: Any) -> Any:
    """One value as the list of it, a list as it is."""
    return value if isinstance(value, list) else [value]


Int = Annotated[int, BeforeValidator(number)]
Float = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[\w-]+$")]


class Strict(BaseModel):
    """A block of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
