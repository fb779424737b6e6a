"""The file of a recipe: its content, and for every key the line that says it, also after something was laid over it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sj_cka.plugins import closest

KeyPath = tuple[str | int, ...]
_SET = "--set"
_TEXT, _JOIN = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_KEYS = {"bool": "a truth value", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}


class RecipeError(ValueError):
    """A recipe that cannot be run; the message gives file, line and key path, what was expected and what came."""


class Place(NamedTuple):
    """Where in the file something is written; line 0 for what was set on the command line."""

    key: KeyPath
    line: int


@dataclass(frozen=True)
class Source:
    """A recipe as plain data.

    Args:
        path: its file.
        text: the file as it stands.
        content: what it says, with all that was laid over it.
        written: key path in the content -> where it is written.
    """

    path: Path
    text: str
    content: dict[str, Any]
    written: dict[KeyPath, Place]

    def error(self, key: KeyPath, message: str) -> RecipeError:
        """An error at a key path of the content, or at the nearest one above it that is written."""
        near = self._nearest(key)
        place = self.written.get(near, Place((), 1))
        where = f"{self.path}:{place.line}" if place.line else _SET
        return RecipeError(f"{where}: {_labelled((*place.key, *key[len(near) :]))}{message}")

    def _nearest(self, key: KeyPath) -> KeyPath:
        """The longest part of a key path, from its start, that is written; () if none is."""
        return next((key[:i] for i in range(len(key), 0, -1) if key[:i] in self.written), ())

    def at(self, key: KeyPath) -> Any:
        """The content at a path of keys, None where there is none."""
        found: Any = self.content
        for part in key:
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def over(self, change: dict[str, Any], at: KeyPath, *, null_removes: bool = False) -> Source:
        """This content with a change laid over it: maps join, anything else is replaced, and so are other data.

        Args:
            change: what to lay over it.
            at: key path where the change is written.
            null_removes: a null takes its key away; else it is a value like any other.
        """
        written = dict(self.written)

        def brought(key: KeyPath) -> dict[KeyPath, Place]:
            """Where what the change says at and below a key of the content is written."""
            whole = (*at, *key)
            found = {k[len(at) :]: place for k, place in self.written.items() if k[: len(whole)] == whole}
            # a sweep writes one value for a whole key path: its place is that of the value
            return found or {key: self.written.get(self._nearest(whole), Place(key, 0))}

        def join(below: dict[str, Any], above: dict[str, Any], here: KeyPath) -> dict[str, Any]:
            joined = dict(below)
            for name, value in above.items():
                key = (*here, name)
                maps = isinstance(value, dict) and isinstance(below.get(name), dict)
                if maps and not _other_data(key, below[name], value):
                    joined[name] = join(below[name], value, key)
                    continue
                for replaced in [k for k in written if k[: len(key)] == key]:
                    del written[replaced]
                written.update(brought(key))
                if maps:
                    joined[name] = join({}, value, key)
                    continue
                if value is None and null_removes:
                    joined.pop(name, None)
                else:
                    joined[name] = copy.deepcopy(value)
            return joined

        return Source(self.path, self.text, join(self.content, change, ()), written)

    def set(self, setting: str) -> Source:
        """This content with one value set from outside the file.

        Args:
            setting: `key.path=value`; the value is YAML.

        Raises:
            RecipeError: another form, a value that is no YAML, or a key below what is no map.
        """
        where, equals, value = setting.partition("=")
        key = tuple(where.split("."))
        if not equals or not all(key):
            raise RecipeError(f"{_SET}: expected KEY.PATH=VALUE, e.g. data.path=mine.npz, got {setting!r}")
        try:
            content = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"{_SET} {where}: expected a value in YAML, got {value!r}") from error
        for i in range(1, len(key)):
            if self.at(key[:i]) is not None and not isinstance(self.at(key[:i]), dict):
                got = f"{where[: -len(key[-1]) - 1]} is {shown(self.at(key[:i]))}"
                raise RecipeError(f"{_SET} {where}: expected a map of keys at {'.'.join(key[:i])}, but {got}")
        change: Any = content
        for part in reversed(key):
            change = {part: change}
        return self.over(change, (_SET,))


def read_source(path: Path) -> Source:
    """Reads a YAML file.

    Raises:
        RecipeError: no such file, no YAML, no map, a key that is given twice or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = closest(path.name, [p.name for p in sorted(path.parent.glob("*.yaml"))]) if path.parent.is_dir() else ""
        raise RecipeError(f"{path}: expected a recipe, found no such file{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: expected a YAML text in UTF-8, could not read it: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        written = dict(_places(path, node, ()))
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(path, error) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise RecipeError(f"{path}:{line}: not valid YAML: character {chr(error.character)!r}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, RecipeError):
            raise
        reason = "an alias stands for itself" if isinstance(error, RecursionError) else error
        raise RecipeError(f"{path}: not valid YAML: {reason}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}:1: expected a recipe, a map of keys, got {shown(content)}")
    return Source(path, text, content, written)


def dotted(key: KeyPath) -> str:
    """A key path as people write it.

    Example:
        >>> dotted(("claims", 2, "a", "variant"))
        'claims[2].a.variant'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def shown(value: Any) -> str:
    """A value as YAML writes it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _other_data(key: KeyPath, below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Whether these are data under another name, of recipe or variant: options of one set mean nothing to another."""
    return key[-1] == "data" and "name" in above and above["name"] != below.get("name")


def _places(path: Path, node: Any, key: KeyPath) -> Iterator[tuple[KeyPath, Place]]:
    """Every key path below a YAML node with its place."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.tag == _JOIN:
                continue
            here = (*key, name.value)
            if name.tag != _TEXT:
                what = _KEYS.get(name.tag.rpartition(":")[2])
                got = f"{name.value}, which is {what} in YAML: put it into quotes" if what else "a list or a map"
                raise RecipeError(f"{path}:{line}: {_labelled(key)}expected a text as key, got {got}")
            if name.value in seen:
                raise RecipeError(f"{path}:{line}: {dotted(here)}: expected each key once, it is given twice")
            seen.add(name.value)
            yield here, Place(here, line)
            yield from _places(path, value, here)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield (*key, i), Place((*key, i), value.start_mark.line + 1)
            yield from _places(path, value, (*key, i))


def _labelled(key: KeyPath) -> str:
    return f"{dotted(key)}: " if key else ""


def _not_yaml(path: Path, error: yaml.MarkedYAMLError) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    problem = str(error.problem or error.context)
    if re.search(r"found character '\\t'", problem):
        problem = "a tab where spaces are expected: YAML is indented with spaces"
    context = f" ({error.context})" if error.context and error.problem else ""
    return RecipeError(f"{where}: not valid YAML: {problem}{context}")
