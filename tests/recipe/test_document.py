"""What a YAML text says, what people or parsers would not all read alike, and what would take for ever to read."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sj_cka.recipe import RecipeError, read
from sj_cka.recipe import document as module
from sj_cka.recipe.document import DocumentFault, parsed

ROOT = Path(__file__).resolve().parents[2]
Write = Callable[..., Path]

# text -> place and key path, and what the message holds
FAULTS: dict[str, tuple[str, str]] = {
    # numbers
    "a: 010": ("1: a: ", "got 010, and a leading zero makes a number octal to some: write a decimal number"),
    "a: [1,\n 007]": ("2: a[1]: ", "leading zero"),
    "a: 09": ("1: a: ", "leading zero"),
    "a: -00.5": ("1: a: ", "leading zero"),
    "a: 0o10": ("1: a: ", "it is octal, hexadecimal or binary to some"),
    "a: 0x1F": ("1: a: ", "it is octal, hexadecimal or binary to some"),
    "a: +0b1": ("1: a: ", "it is octal, hexadecimal or binary to some"),
    "a: 1_000": ("1: a: ", "with underscores it is a number to some, and a text to others"),
    "a: 1_0.5": ("1: a: ", "with underscores"),
    "a: 1:30": ("1: a: ", "with colons it is a number of base 60 to some"),
    "a: 1:30:00.5": ("1: a: ", "with colons"),
    f"a: {'9' * 5000}": ("1: a: ", "expected a number of at most 100 characters, got one of 5,000"),
    f"a: 0.{'1' * 200}": ("1: a: ", "expected a number of at most 100 characters, got one of 202"),
    # dates
    "a: 2024-01-31": ("1: a: ", "got 2024-01-31, which is a date in YAML: put it into quotes"),
    "a:\n  b: 2024-13-45": ("2: a.b: ", "which is a date in YAML"),
    "a: 2024-1-3 10:00:00 Z": ("1: a: ", "which is a date in YAML"),
    # tags
    "a: !!timestamp x": ("1: a: ", "expected a value without the tag !!timestamp"),
    "a: !!bool maybe": ("1: a: ", "expected true or false after !!bool, got 'maybe'"),
    "a: !!int +": ("1: a: ", "expected a number"),
    "a: !!int 4.5": ("1: a: ", "expected a whole number after !!int, got '4.5'"),
    "a: !!float x": ("1: a: ", "expected a number"),
    "a: !!python/object/apply:os.system [x]": ("1: a: ", "without the tag !!python/object/apply:os.system"),
    "a: !!set {x}": ("1: a: ", "without the tag !!set"),
    "a: !mine 3": ("1: a: ", "without the tag !mine"),
    "a: !!binary aGk=": ("1: a: ", "without the tag !!binary"),
    # keys
    "a: 1\na: 2": ("2: a: ", "expected each key once, it is given twice"),
    "a: {b: 1, c: 2, b: 1}": ("1: a.b: ", "expected each key once"),
    "010: 3": ("1: ", "expected a text as key, got 010, and a leading zero"),
    "no: 3": ("1: ", "expected a text as key, got no, which is a truth value in YAML: put it into quotes"),
    "a: {1.5: 2}": ("1: a: ", "expected a text as key, got 1.5, which is a number in YAML"),
    "~: 3": ("1: ", "expected a text as key, got ~, which is nothing in YAML"),
    "2024-01-31: x": ("1: ", "expected a text as key, got 2024-01-31, which is a date"),
    "? [a, b]\n: c": ("1: ", "expected a text as key, got a list or a map"),
    # merges and aliases
    "a: 1\n<<: 5": ("2: <<: ", "expected a map of keys to merge, or a list of them, got 5"),
    "<<: [{a: 1}, x]": ("1: <<: ", "expected a map of keys to merge, or a list of them, got 'x'"),
    "a: &a {<<: *a}": ("1: a.<<: ", "an alias stands for itself"),
    "a: &a [*a]": ("1: a[0]: ", "an alias stands for itself"),
    "a: &a [*b]": ("1: a[0]: ", "found undefined alias 'b'"),
    # what cannot be seen
    "a: 1\na\u00a0b: 2": ("2: ", "expected no U+00A0 NO-BREAK SPACE, which cannot be seen, in line 2, column 2"),
    "a: 1\nseeds:\u00a01": ("2:7: ", "expected no U+00A0 NO-BREAK SPACE, which cannot be seen"),
    "a: res\u200bnet": ("1: a: ", "expected no U+200B ZERO WIDTH SPACE, which cannot be seen, in line 1, column 7"),
    "a: [x, \u202ey]": ("1: a[1]: ", "expected no U+202E RIGHT-TO-LEFT OVERRIDE"),
    "a: x\ufeff": ("1: a: ", "expected no U+FEFF ZERO WIDTH NO-BREAK SPACE"),
    "a: x\n\u2003b: 2": ("2: ", "expected no U+2003 EM SPACE, which cannot be seen, in line 2, column 1"),
    "a: x\x00": ("1:5: ", "not valid YAML: character U+0000 NULL"),
    "a: x\x1b[3m": ("1:5: ", "not valid YAML: character U+001B"),
    'title: "\\e[31m"': ("1: title: ", r"got '\x1b[31m', with U+001B"),
    'title: "\\ud800"': ("1: title: ", r"got '\ud800', with U+D800"),
    # backslashes
    'a: "C:\\new\\t.npz"': (
        "1: a: ",
        r"got 'C:\new\t.npz', with U+000A LINE FEED: in double quotes a backslash",
    ),
    'a: "C:\\Users\\x"': ("1:9: a: ", "write a path in single quotes, or with forward slashes"),
    'a: "D:\\data"': ("1:8: a: ", "found unknown escape character 'd': in double quotes a backslash begins an escape"),
    'a: "C:\\_x"': ("1: a: ", "with U+00A0 NO-BREAK SPACE: in double quotes a backslash begins an escape"),
    # syntax
    "a: x\nb: {name: y": ("2:12: b: ", "not valid YAML: expected ',' or '}'"),
    "a:\n\tb: 4": ("2:1: a: ", "not valid YAML: a tab where spaces are expected"),
    "a: 'x": ("1:6: a: ", "not valid YAML: found unexpected end of stream"),
    "a: b: c": ("1:5: ", "not valid YAML: mapping values are not allowed here"),
    "a: x\n---\nb: y": ("2: ", "expected one document, got another one"),
    "%YAML 3.0\n---\na: 1": ("1:1: ", "not valid YAML: found incompatible YAML document"),
}


@pytest.mark.parametrize("loaders", [module._LOADERS, [yaml.SafeLoader]], ids=["fastest", "python"])
def test_what_cannot_be_read_in_one_way_is_told_with_its_place_and_key(
    loaders: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOADERS", loaders)
    for text, (place, message) in FAULTS.items():
        with pytest.raises(DocumentFault) as caught:
            parsed(text)
        assert str(caught.value).startswith(place), (text, caught.value)
        assert message in str(caught.value), (text, caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[0, -3, +4, 0.5, .5, 5., 1.5e+3, -.inf, 100]", [0, -3, 4, 0.5, 0.5, 5.0, 1500.0, float("-inf"), 100]),
        ("[1e3, 8/255, 1.5e3, x_1, _1, 1.2.3, 12:75, 1-2, 0b, 3x3]", None),  # texts, also to PyYAML
        ("[true, No, ON, ~, null, '', '010', \"1:30\", '2024-01-31']", None),
        (
            "[!!str 010, !!int '4', !!float 1e-3, !!bool true, !!null '', ! 5, !!seq [], !!map {}]",
            ["010", 4, 0.001, True, None, "5", [], {}],
        ),
        ("a: &a {x: 1, y: {z: 2}}\nb:\n  <<: *a\n  y: 3\nc: {<<: [*a, {x: 5, w: 4}]}\nd: *a", None),
        ("title: Espace\u00a0fine\nsays: a\u200db\nquestion: |\n  two\n  lines\nnote: >\n  one\n  two", None),
        ("\ufefftitle: x\n# r\u00a0emark\na: 'C:\\new'", {"title": "x", "a": "C:\\new"}),
        ("# nothing\n", None),
    ],
)
def test_everything_else_is_read_as_yaml_has_it(text: str, value: Any) -> None:
    assert parsed(text.lstrip("\ufeff")).content == (yaml.safe_load(text) if value is None else value)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_recipes_are_read_as_pyyaml_reads_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    read = parsed(text)
    assert read.content == yaml.safe_load(text)
    lines = text.splitlines()
    for key, written in read.written.below.items():
        assert written.place.key == (key,)
        assert lines[written.place.line - 1].startswith(f"{key}:")


def test_what_is_merged_or_an_alias_stands_where_it_was_written() -> None:
    below = parsed("base: &b\n  x: 1\nm:\n  <<: *b\n  y: 3\nk: *b").written.below
    assert below["m"].below["x"].place == (("base", "x"), 2)
    assert below["m"].below["y"].place == (("m", "y"), 5)
    assert below["k"].place == (("k",), 6)
    assert below["k"].below["x"].place == (("base", "x"), 2)


def lists(text: str, depth: int) -> str:
    return "[" * depth + text + "]" * depth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &a0 [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"b{i}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]\n" for i in range(30)),
            "b3[1]: expected at most 20,000 values",
        ),
        ("a: &a {b: 1}\n" + "".join(f"c{i}: {{<<: *a}}\n" for i in range(9000)), "expected at most 20,000 values"),
        (f"a: [{'x, ' * 30_000}]", "expected at most 20,000 values"),
        ("a: " + lists("", 500), "expected at most 50 levels of maps and lists, got more"),
        ("a: " + "{b: " * 100_000, "expected at most 50 levels"),
        ("- " * 100_000, "expected at most 50 levels"),
    ],
    ids=["aliases", "merges", "values", "500 levels", "levels of maps", "levels of entries"],
)
def test_no_document_takes_long_whatever_it_stands_for(text: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(DocumentFault, match=message.replace("[", r"\[").replace("]", r"\]")):
        parsed(text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", ":1: expected a recipe, a map of keys, got nothing"),
        (b"# only a comment\n", ":1: expected a recipe, a map of keys, got nothing"),
        (b"- title: x\n- y\n", ":1: expected a recipe, a map of keys, got [{'title'"),
        (b"just words\n", ":1: expected a recipe, a map of keys, got 'just words'"),
        ("title: x\n".encode("utf-16"), ":1:1: expected a YAML text in UTF-8, got UTF-16: save it anew"),
        (b"title: x\nquestion: caf\xe9?\n", ":2:14: expected a YAML text in UTF-8, got the byte 0xe9, which is 'é'"),
        (b"title: x\n" * 200_000, ": expected a recipe of at most 1,000,000 bytes, got more"),
    ],
    ids=["empty", "comment", "list", "words", "UTF-16", "Latin-1", "long"],
)
def test_a_file_that_is_no_recipe_is_told_with_its_line(tmp_path: Path, raw: bytes, told: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(raw)
    with pytest.raises(RecipeError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{told}")


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for path, got in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe.yaml", "a pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path / "loop.yaml", "could not read it: .*symbolic links"),
        (tmp_path / ("x" * 300), "could not read it: .*too long"),
        (Path("a\0b.yaml"), "could not read it: embedded null byte"),
    ):
        with pytest.raises(RecipeError, match=f"expected a .*{got}"):
            read(path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are texts")
def test_a_path_that_is_not_utf_8_is_read_and_shown_in_escapes(recipe_file: Write) -> None:
    path = recipe_file()
    odd = path.rename(path.with_name(os.fsdecode(b"caf\xe9.yaml")))
    assert read(odd).name == "caf\udce9"
    odd.write_text("title: 010")
    with pytest.raises(RecipeError, match=r"caf\\udce9\.yaml:1: title: got 010"):
        read(odd)


def test_a_file_of_windows_is_read_as_any_other(recipe_file: Write) -> None:
    path = recipe_file()
    text = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert read(path).source.text == text.decode()
    path.write_bytes(text.replace(b"\n", b"\r\n").replace(b"  T: 2", b"  T: 02"))
    with pytest.raises(RecipeError, match=r"tiny\.yaml:6: snn\.T: got 02"):
        read(path)


def test_a_message_is_one_line_of_at_most_500_characters() -> None:
    told = str(RecipeError(f"{'p' * 4000}.yaml:3: a\nb\x00: expected this"))
    assert len(told) <= 500
    assert told.startswith("ppp")
    assert told.endswith(r".yaml:3: a\nb\x00: expected this")
    assert len(str(RecipeError("\x00" * 499))) <= 500
