"""Tables of names, how a name is looked up in them, and how another package adds to them."""

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TypeVar

Entry = TypeVar("Entry")


class BrokenPlugin(RuntimeError):
    """An installed plugin that cannot be loaded; the message says which, and why."""


class UnknownName(ValueError):
    """A name that is in no table; the message lists the known ones, closest first."""


def closest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?', or '; known: ...', to end an error message with."""
    name, known = str(name), list(known)
    # nothing is close to a text that long, and to look would take seconds
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) if len(name) <= 100 else []
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"; known: {shown}" if known else ""


def lookup(table: Mapping[str, Entry], name: str, what: str) -> Entry:
    """The entry of a table.

    Args:
        table: name -> function, or what holds one.
        name: the name asked for.
        what: what the table holds, for the message ("data set").

    Raises:
        UnknownName: no such entry, in the table or in an installed plugin.
    """
    if name not in table:
        load_plugins()
    if name not in table:
        raise UnknownName(f"unknown {what} {name!r}{closest(name, table)}")
    return table[name]


@functools.cache
def load_plugins() -> tuple[str, ...]:
    """Calls every entry point of the group `sj_cka.plugins` once; each adds its functions to the tables it knows.

    A plugin is a function without arguments, e.g. `def register(): sj_cka.models.MODELS["mynet"] = mynet`.

    Raises:
        BrokenPlugin: one cannot be imported, or its function raised.
    """
    names = []
    for entry in entry_points(group="sj_cka.plugins"):
        try:
            entry.load()()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise BrokenPlugin(f"plugin {entry.name!r} ({entry.value}): {why}; mend or uninstall it") from error
        names.append(entry.name)
    return tuple(names)


@contextmanager
def named(what: str) -> Iterator[None]:
    """Notes at an exception in which entry of a table it was raised, for who reads the traceback."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised in {what}")
        raise


class OptionError(ValueError):
    """An option of a table's function has a bad value; `option` names it, so that a recipe can point at its line."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(option, message)
        self.option, self.message = option, message

    def __str__(self) -> str:
        return f"{self.option}: {self.message}"


def check_option(fits: bool, option: str, expected: str, got: object) -> None:
    """Raises OptionError, with what was expected and what came, where an option does not fit."""
    if not fits:
        raise OptionError(option, f"expected {expected}, got {got}")
