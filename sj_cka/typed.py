"""Types of what a recipe may hold: blocks that refuse unknown keys, names, and numbers as YAML gives them, bounded."""

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LONGEST_NUMBER = 100  # characters
# what no study comes near; fields whose own bound is lower state it
MOST, LARGEST = 10**6, 1e38
_DECIMAL = r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_FRACTION = r"[+-]?(0|[1-9][0-9]*) ?/ ?[1-9][0-9]*"


def number(value: Any) -> Any:
    """The number that a text stands for where YAML reads one as text (8e-3, 1e3, 8/255); no text is left as it is.

    Raises:
        ValueError: another text, or a truth value, which Python would take for 0 or 1.

    Example:
        >>> number("8e-3"), number("1/4"), number(5)
        (0.008, 0.25, 5)
    """
    if isinstance(value, str) and len(value) <= LONGEST_NUMBER:
        if re.fullmatch(_DECIMAL, value):
            return float(value)
        if re.fullmatch(_FRACTION, value):
            return float(Fraction(value.replace(" ", "")))
    if isinstance(value, str | bool):
        raise ValueError("expected a number")
    return value


def several(value: Any) -> Any:
    """One value as the list of it, a list as it is."""
    return value if isinstance(value, list) else [value]


# one number each, wherever it stands
MOST_STEPS, MOST_THREADS = 10_000, 1024  # more threads than a machine has end in a fault of the system
SEEDS = 2**47  # a seed and 16 bits for its streams are to fit 64

# the bounds behind the validator: in front of it those of a field would not replace them
Int = Annotated[int, BeforeValidator(number), Field(ge=-MOST, le=MOST)]
Float = Annotated[float, BeforeValidator(number), Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Seed = Annotated[int, BeforeValidator(number), Field(lt=SEEDS)]
Depth = Annotated[int, Field(le=2000)]  # of a network; the deepest that was ever trained had 1,202 layers
Name = Annotated[str, Field(pattern=r"^[\w-]+$", max_length=100)]


class Strict(BaseModel):
    """A block of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
