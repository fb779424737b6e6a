"""The file of a recipe: its content, and for every key the line that says it, also after something was laid over it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sj_cka.plugins import closest
from sj_cka.recipe.document import DEPTH, DocumentFault, parsed
from sj_cka.recipe.places import KeyPath, Place, RecipeError, Written, dotted, labelled, shown
from sj_cka.recipe.renames import rename

Value = TypeVar("Value")

__all__ = ["KeyPath", "RecipeError", "Source", "dotted", "read_source", "shown"]

_SET = "--set"
_BYTES = 10**6  # of a recipe; no file is read without an end
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device"}
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Source:
    """A recipe as plain data, which nobody changes.

    Args:
        path: its file.
        text: the file as it stands.
        content: what it says, with all that was laid over it.
        written: where all of the content is written.
    """

    path: Path
    text: str
    content: dict[str, Any]
    written: Written

    def error(self, key: KeyPath, message: str) -> RecipeError:
        """An error at a key path of the content, or at the nearest one above it that is written."""
        near, rest = self._nearest(key)
        where = f"{self.path}:{near.place.line}" if near.place.line else _SET
        return RecipeError(f"{where}: {labelled((*near.place.key, *rest))}{message}")

    def refuse_if(self, fault: object, key: KeyPath, message: str) -> None:
        """Raises the error of a fault at a key path, if there is one."""
        if fault:
            raise self.error(key, message)

    def told(self, key: KeyPath, function: Callable[..., Value], *args: Any) -> Value:
        """What a function gives; what it says is wrong (ValueError) becomes the error of a key path."""
        try:
            return function(*args)
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def says(self, key: KeyPath) -> bool:
        """Whether a key path is written, rather than left to its default."""
        return not self._nearest(key)[1]

    def _nearest(self, key: KeyPath) -> tuple[Written, KeyPath]:
        """Where a key path is written, or else the nearest one above it; and what is left of it below that."""
        near, rest = self.written, key
        while rest and rest[0] in near.below:
            near, rest = near.below[rest[0]], rest[1:]
        return near, rest

    def at(self, key: KeyPath) -> Any:
        """The content at a path of keys, None where there is none."""
        value: Any = self.content
        for part in key:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def over(self, change: dict[str, Any], at: KeyPath, *, null_removes: bool = False) -> Source:
        """This content with a change laid over it: maps join, anything else is replaced, and so are other data.

        Args:
            change: what to lay over it.
            at: key path where the change is written.
            null_removes: a null takes its key away; else it is a value like any other.
        """
        return self._over(change, self._nearest(at)[0], null_removes=null_removes)

    def _over(self, change: dict[str, Any], place: Written, *, null_removes: bool) -> Source:
        def join(old: Any, there: Written, new: dict[str, Any], place: Written, here: KeyPath) -> tuple[Any, Written]:
            """Two maps with their places as one; `here` is the key path of both in the content."""
            content, below = dict(old), dict(there.below)
            for name, value in new.items():
                key, at = (*here, name), _inside(place, name, here)
                joined, held = content.get(name), below.get(name, at)
                if isinstance(value, dict) and isinstance(joined, dict):
                    if _other_data(key, joined, value):
                        joined, held = {}, Written(at.place, {})
                    content[name], below[name] = join(joined, held, value, at, key)
                    continue
                below[name] = at
                if value is None and null_removes:
                    content.pop(name, None)
                else:
                    content[name] = value
            return content, Written(there.place, below)

        content, written = join(self.content, self.written, change, place, ())
        return Source(self.path, self.text, content, written)

    def set(self, setting: str) -> Source:
        """This content with one value set from outside the file.

        Args:
            setting: `key.path=value`; the value is YAML.

        Raises:
            RecipeError: another form, a value that is no YAML, or a key below what is no map.
        """
        where, equals, value = setting.partition("=")
        key = tuple(where.split("."))
        if not equals or not all(key) or len(key) > DEPTH:
            raise RecipeError(f"{_SET}: expected KEY.PATH=VALUE, e.g. data.path=mine.npz, got {shown(setting)}")
        try:
            change: Any = parsed(value).content
        except DocumentFault as error:
            expected = f"expected a value in YAML, got {shown(value)}: {error.message}"
            raise RecipeError(f"{_SET} {labelled(key)}{expected}") from error
        for i in range(1, len(key)):
            if self.at(key[:i]) is not None and not isinstance(self.at(key[:i]), dict):
                got = f"{dotted(key[:-1])} is {shown(self.at(key[:i]))}"
                raise RecipeError(f"{_SET} {labelled(key)}expected a map of keys at {dotted(key[:i])}, but {got}")
        for part in reversed(key):
            change = {part: change}
        rename(change, Written(Place((), 0), {}), _SET)
        return self._over(change, Written(Place((), 0), {}), null_removes=False)


def read_source(path: Path) -> Source:
    """Reads a YAML file.

    Raises:
        RecipeError: no such file, none that ends, no YAML, no map, a key that is given twice or is no text, or what
            readers of YAML do not agree on.
    """
    text = _text(path)
    try:
        content, written = parsed(text)
    except DocumentFault as error:
        raise RecipeError(f"{path}:{error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}:1: expected a recipe, a map of keys, got {shown(content)}")
    rename(content, written, str(path))
    return Source(path, text, content, written)


def _text(path: Path) -> str:
    """The text of a file, lines ended by a line feed, without the mark that some editors put before it."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = _KINDS.get(stat.S_IFMT(mode), "something else")
            raise RecipeError(f"{path}: expected a file with a recipe, got {what}")
        with open(path, "rb") as file:
            raw = file.read(_BYTES + 1)
    except FileNotFoundError:
        near = closest(path.name, [p.name for p in sorted(path.parent.glob("*.yaml"))]) if path.parent.is_dir() else ""
        raise RecipeError(f"{path}: expected a recipe, found no such file{near}") from None
    except RecipeError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RecipeError(f"{path}: expected a YAML text in UTF-8, could not read it: {why}") from error
    if len(raw) > _BYTES:
        raise RecipeError(f"{path}: expected a recipe of at most {_BYTES:,} bytes, got more")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = raw.count(b"\n", 0, error.start) + 1, error.start - raw.rfind(b"\n", 0, error.start)
        byte = raw[error.start]
        got = _MARKS.get(raw[:2]) or f"the byte {byte:#04x}, which is {chr(byte)!r} in Latin-1"
        raise RecipeError(f"{path}:{line}:{column}: expected a YAML text in UTF-8, got {got}: save it anew") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _inside(place: Written, name: str, here: KeyPath) -> Written:
    """The place of a key in a change; of one that is written as part of a longer path, the place of the whole.

    What a sweep changes stands at its value, what was set on the command line at its own key.
    """
    if name in place.below:
        return place.below[name]
    return Written(place.place if place.place.line else Place((*here, name), 0), {})


def _other_data(key: KeyPath, below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Whether these are data under another name, of recipe or variant: options of one set mean nothing to another."""
    return key[-1] == "data" and "name" in above and above["name"] != below.get("name")
