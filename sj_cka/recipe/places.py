"""Where in a recipe something is written, and the error that says so."""

from __future__ import annotations

from typing import Any, NamedTuple

KeyPath = tuple[str | int, ...]
_LONGEST = 500  # characters of a message


class RecipeError(ValueError):
    """A recipe that cannot be run; the message gives file, line and key path, what was expected and what came.

    The message is one line of at most 500 characters, cut in its middle; what a terminal would not show stands as an
    escape.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST - 200]} ... {message[-160:]}"
        legible = visible(message)
        if len(legible) > _LONGEST:  # every escape is longer than what it stands for
            legible = f"{legible[: _LONGEST - 200]} ... {legible[-160:]}"
        super().__init__(legible)


class Place(NamedTuple):
    """Where something is written: its key path there, and the line of the file; 0 for the command line."""

    key: KeyPath
    line: int


class Written(NamedTuple):
    """The place of a value, and of all that is in it by key or index."""

    place: Place
    below: dict[str | int, Written]


def dotted(key: KeyPath) -> str:
    """A key path as people write it.

    Example:
        >>> dotted(("claims", 2, "a", "variant"))
        'claims[2].a.variant'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def labelled(key: KeyPath) -> str:
    """A key path in front of a message; '' for none. A long one is cut in its middle."""
    text = dotted(key)
    text = text if len(text) <= 160 else f"{text[:80]} ... {text[-60:]}"
    return f"{text}: " if key else ""


def shown(value: Any) -> str:
    """A value as YAML writes it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def visible(text: str) -> str:
    r"""A text in which what cannot be seen stands as an escape.

    Example:
        >>> visible("a\N{NO-BREAK SPACE}b\n")
        'a\\xa0b\\n'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
