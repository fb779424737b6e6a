"""A YAML document as plain data, with the place of every key: read in one pass, in time and depth that are bounded."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from sj_cka.recipe.places import KeyPath, Place, Written, labelled, shown
from sj_cka.recipe.scalars import TAG, plain, tagged, written

DEPTH, VALUES = 50, 20_000  # of a document; what aliases stand for counts each time
_PROSE = ("title", "question", "source", "says")  # keys of texts that are shown as they are
_KINDS: dict[type, str] = {bool: "a truth value", int: "a number", float: "a number", type(None): "nothing"}
_BACKSLASHES = "in double quotes a backslash begins an escape: write a path in single quotes, or with forward slashes"
# libyaml where it is there: it takes a tenth of the time
_LOADERS: list[Any] = [*([yaml.CSafeLoader] if yaml.__with_libyaml__ else []), yaml.SafeLoader]


class DocumentFault(ValueError):
    """What is wrong with a document, and where: `place`, "line:" or "line:column:", and the key path."""

    def __init__(self, place: str, key: KeyPath, message: str) -> None:
        super().__init__(f"{place}: {labelled(key)}{message}")
        self.message = message


class Document(NamedTuple):
    """What a YAML text says, and where it says it."""

    content: Any
    written: Written


def parsed(text: str) -> Document:
    """A YAML text as data.

    Raises:
        DocumentFault: it is no YAML, or holds what people and readers of YAML do not all take for the same.
    """
    if odd := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line, column = _counted(text, odd.start())
        raise DocumentFault(f"{line}:{column}", (), f"not valid YAML: character {_named(odd.group())}")
    for loader in _LOADERS:
        builder = _Builder(text)
        try:
            for event in yaml.parse(text, Loader=loader):
                builder.add(event)
            return Document(builder.content, builder.top)
        except yaml.MarkedYAMLError as error:  # the words are those of the last: of the parser in Python
            fault = _not_yaml(text, builder.here, error)
    raise fault


@dataclass
class _Frame:
    """A map or list that is being read."""

    content: Any
    written: Written
    anchor: str | None
    size: int = 1
    key: str | int | None = None
    merged: list[tuple[dict[str, Any], Written]] = field(default_factory=list)


class _Builder:
    """Puts the events of a parser together; no recursion, so that no depth can end Python."""

    def __init__(self, text: str) -> None:
        self.text, self.content, self.top = text, None, Written(Place((), 1), {})
        self.frames: list[_Frame] = []
        self.anchors: dict[Any, tuple[Any, Written, int]] = {}  # content, where it is written, its size
        self.values = 0

    @property
    def here(self) -> KeyPath:
        """The key path of what is being read."""
        return tuple(frame.key for frame in self.frames if frame.key is not None)

    def add(self, event: Any) -> None:
        """The next event of the parser."""
        if isinstance(event, yaml.ScalarEvent):
            frame = self.frames[-1] if self.frames else None
            if frame is not None and frame.key is None and isinstance(frame.content, dict):
                self._begin(frame, event)
            else:
                self._put(self._scalar(event), self._place(event), 1, event.anchor, event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._open(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = self.frames.pop()
            content, below = _joined(done)
            self._put(content, Written(done.written.place, below), done.size, done.anchor, event)
        elif isinstance(event, yaml.AliasEvent):
            known = self.anchors.get(event.anchor)
            if known is None:
                within = any(frame.anchor == event.anchor for frame in self.frames)
                what = "an alias stands for itself" if within else f"found undefined alias {shown(event.anchor)}"
                raise self._fault(event, f"not valid YAML: {what}")
            self._put(*known, None, event)
        elif isinstance(event, yaml.DocumentStartEvent) and self.values:  # an empty document has a value, nothing
            raise self._fault(event, "expected one document, got another one")

    def _fault(self, event: Any, message: str) -> DocumentFault:
        return DocumentFault(str(event.start_mark.line + 1), self.here, message)

    def _place(self, event: Any) -> Written:
        return Written(Place(self.here, event.start_mark.line + 1), {})

    def _open(self, event: Any) -> None:
        frame = self.frames[-1] if self.frames else None
        is_map = isinstance(event, yaml.MappingStartEvent)
        if frame is not None and frame.key is None and isinstance(frame.content, dict):
            raise self._fault(event, "expected a text as key, got a list or a map")
        if len(self.frames) >= DEPTH:
            raise self._fault(event, f"expected at most {DEPTH} levels of maps and lists, got more")
        if event.tag not in (None, "!", TAG + ("map" if is_map else "seq")):
            raise self._fault(event, f"expected a value without the tag {written(event.tag)}")
        content: Any = {} if is_map else []
        self.frames.append(_Frame(content, self._place(event), event.anchor, key=None if is_map else 0))

    def _scalar(self, event: Any) -> Any:
        try:
            explicit = event.tag not in (None, "!")
            value = tagged(event.tag, event.value) if explicit else event.value
            if not explicit and not event.style and event.tag is None:
                value = plain(event.value)
        except ValueError as error:
            raise self._fault(event, str(error)) from None
        if isinstance(value, str):
            self._check_visible(value, event, prose=any(key in _PROSE for key in self.here[-1:]))
        return value

    def _begin(self, frame: _Frame, event: Any) -> None:
        """A key of a map."""
        name = event.value if event.style or event.tag is not None else self._key(event)
        self._check_visible(name, event, prose=False)
        merge = name == "<<" and not event.style
        twice = name in frame.content or (merge and frame.merged)
        frame.key = name
        if twice:
            raise self._fault(event, "expected each key once, it is given twice")
        if not merge:
            frame.content[name] = None
            frame.written.below[name] = self._place(event)

    def _check_visible(self, value: str, event: Any, *, prose: bool) -> None:
        """What a person cannot see in a value changes what it means; prose may have its spaces and joiners.

        Raises:
            DocumentFault: there is something, and where.
        """
        if value.isprintable():
            return
        several_lines = prose or event.style in ("|", ">")
        for c in value:
            allowed = c.isprintable() or (c in "\n\t" and several_lines)
            if allowed or (prose and unicodedata.category(c) not in ("Cc", "Cs")):
                continue
            raw = self.text[event.start_mark.index : event.end_mark.index]
            fault = f"got {shown(value)}, with {_named(c)}, which cannot be seen"
            if c in raw and c not in "\n\r":
                line, column = _counted(self.text, event.start_mark.index + raw.index(c))
                fault = f"expected no {_named(c)}, which cannot be seen, in line {line}, column {column}"
            elif event.style == '"' and "\\" in raw:
                fault = f"got {shown(value)}, with {_named(c)}: {_BACKSLASHES}"
            raise self._fault(event, fault)

    def _key(self, event: Any) -> str:
        try:
            what = _KINDS.get(type(plain(event.value)))
        except ValueError as error:
            raise self._fault(event, f"expected a text as key, {error}") from None
        if what is not None:
            got = f"{event.value[:60]}, which is {what} in YAML: put it into quotes"
            raise self._fault(event, f"expected a text as key, got {got}")
        return str(event.value)

    def _put(self, value: Any, where: Written, size: int, anchor: str | None, event: Any) -> None:
        """A finished value into the map or list that it stands in."""
        if anchor is not None:
            self.anchors[anchor] = (value, where, size)
        self.values += size if isinstance(event, yaml.AliasEvent) else 1
        if self.values > VALUES:
            raise self._fault(event, f"expected at most {VALUES:,} values, aliases counted for what they stand for")
        if not self.frames:
            self.content = value
            self.top = Written(Place((), 1), where.below)
            return
        frame = self.frames[-1]
        frame.size += size
        if isinstance(frame.content, list):
            frame.written.below[len(frame.content)] = where
            frame.content.append(value)
            frame.key = len(frame.content)
            return
        key = frame.key
        if key == "<<" and key not in frame.content:
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, dict):
                    raise self._fault(event, f"expected a map of keys to merge, or a list of them, got {shown(part)}")
            parts = [where] if isinstance(value, dict) else list(where.below.values())
            frame.merged += zip([value] if isinstance(value, dict) else value, parts, strict=True)
        else:
            assert isinstance(key, str)
            frame.content[key] = value
            frame.written.below[key] = Written(frame.written.below[key].place, where.below)
        frame.key = None


def _joined(frame: _Frame) -> tuple[Any, dict[str | int, Written]]:
    """What a map or list says, merged maps first, as PyYAML has them: what stands in it itself goes over them."""
    if not frame.merged:
        return frame.content, frame.written.below
    content: dict[str, Any] = {}
    below: dict[str | int, Written] = {}
    for merged, where in reversed(frame.merged):
        content |= merged
        below |= where.below
    return content | frame.content, below | frame.written.below


def _not_yaml(text: str, key: KeyPath, error: yaml.MarkedYAMLError) -> DocumentFault:
    mark = error.problem_mark or error.context_mark
    where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1"
    problem = str(error.problem or error.context)
    if re.search(r"found character '\\t'", problem):
        problem = "a tab where spaces are expected: YAML is indented with spaces"
    context = f" ({error.context})" if error.context and error.problem else ""
    if "double-quoted" in context and re.search("escape", problem):
        problem, context = f"{problem}: {_BACKSLASHES}", ""
    elif hidden := next(_hidden(text, error), None):
        line, column, c = hidden
        where, problem, context = f"{line}:{column}", f"expected no {_named(c)}, which cannot be seen", ""
    return DocumentFault(where, key, f"not valid YAML: {problem}{context}")


def _hidden(text: str, error: yaml.MarkedYAMLError) -> Iterator[tuple[int, int, str]]:
    """What cannot be seen in the lines that a parser stumbled over."""
    marks = [mark for mark in (error.context_mark, error.problem_mark) if mark]
    if not marks:
        return
    lines = text.split("\n")
    for i in range(marks[0].line, min(marks[-1].line + 1, len(lines))):
        for column, c in enumerate(lines[i], start=1):
            if not c.isprintable() and c not in "\t\r":
                yield i + 1, column, c


def _counted(text: str, index: int) -> tuple[int, int]:
    """Line and column of a character, from 1."""
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _named(c: str) -> str:
    """A character by code point and name."""
    names = {
        "\n": "LINE FEED",
        "\t": "TAB",
        "\r": "CARRIAGE RETURN",
        "\b": "BACKSPACE",
        "\f": "FORM FEED",
        "\0": "NULL",
    }
    name = unicodedata.name(c, names.get(c, ""))
    return f"U+{ord(c):04X}" + (f" {name}" if name else "")
