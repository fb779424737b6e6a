"""10,000 damaged recipes: each is read, or refused by one clear sentence, and none takes long."""

from __future__ import annotations

import ast
import copy
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sj_cka.recipe import RecipeError, read

pytestmark = pytest.mark.fuzz

ROOT = Path(__file__).resolve().parents[2]
PARTS, PER_PART = 10, 1000
SECONDS, CHARACTERS = 2.0, 500

# what is put in place of a value, as text
WORDS = """
~ null true no On 0 -1 1 2 3.5 1e3 1e999 -1e999 .inf -.inf .nan 8/255 1/0 010 09 0o7 0x1F 1_000 1:30 12:75 1e-400
2024-01-31 2024-13-45 [] {} [[]] [1,2] * *.snn *a &a <<: ! !!int !!str ? - --- ... @ ` % | > # : :: , ; = ==
'x "x "\\e" "\\ud800" "C:\\new" "D:\\data" 'it''s' a.b.c ../../x ~nouser/x /dev/zero base.snn base.snn@init
base.snn@² base.snn@99999 *.ann lif ²% ١٢ max 99.9% pairs other same quick 1000000 1000001 1700000000000000000
140737488355328 9223372036854775808 -9223372036854775808
"""
NASTY = [
    *WORDS.split(),
    *("9" * 30, "9" * 5000, "-" + "9" * 99, "0." + "1" * 98, f"{'9' * 90}/{'3' * 9}", "x" * 3000, "x." * 2000),
    *("[" * 500, "[" + "1, " * 3000 + "1]", "{a: b}", "{<<: *a}", "{<<: 5}", "[*a, *a]", "!!set {a, b}"),
    *("!!python/object/apply:os.system [x]", "!!timestamp x", "!!bool maybe", "!!float x", "!!binary aGk="),
    *(
        "\u00a0",
        "a\u00a0b",
        "x\u200b",
        "\ufeff",
        "\u202e",
        "\u2028",
        "\x85",
        "\x00",
        "\x1b[31m",
        "\t",
        "\r",
        "\U0001f600",
    ),
    *("{model.depth: [8, 14]}", "{snn.T: [1, 2, 4]}", "{a.b: 3}", "{train.poison: [{target: 0, share: 0.1}]}"),
    *("[{name: twins, x: '*.snn', y: '*.ann'}]", "{name: resnet, depth: 8}"),
]
# and as data
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3.5, 0.1, -0.0, 1e-300, 1e39, 10**6, 10**6 + 1, 2**47, 2**63, 10**99, -(10**50)),
    *(float("inf"), float("nan"), " ", "x" * 3000, "9" * 99 + "/7", "\n", "\t", "\u00a0", "\ud800", *WORDS.split()),
    *(
        "resnet",
        "npz",
        "digits",
        "pgd",
        "noise_like",
        "transfer",
        "accuracy",
        "trend",
        "snn.T",
        [],
        {},
        [[]],
        [1, 2, 3],
    ),
    *([0.1, 0.2], ["*"], ["*.snn"], {"name": "x"}, {"a": None}, {"name": "lif", "tau": "x"}, {"model": {"depth": 8}}),
    *({"T": 2}, {"snn.T": [1, 2, "x"]}, {"model.depth": [8]}, {"train.poison": [{"target": 0, "share": 0.1}, None]}),
    *({"a.b": [1]}, [{"name": "twins", "x": "*.snn", "y": "*.ann"}], {"name": "pgd", "eps": [0.1]}, list(range(300))),
    *({"like": "pgd", "name": "noise_like"}, {"name": "transfer", "source": "*.ann"}),
]
FASTEST = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def recipes() -> list[str]:
    """Every recipe of the checkout, and those that stand in its tests."""
    found = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes").glob("*.yaml"))]
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            value = node.value if isinstance(node, ast.Assign) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value.startswith("title:"):
                found.append(value.value)
    return found


def _line(change: Callable[[list[str], int, random.Random], None]) -> Callable[[str, random.Random], str]:
    def mutated(text: str, draw: random.Random) -> str:
        lines = text.split("\n")
        change(lines, draw.randrange(len(lines)), draw)
        return "\n".join(lines)

    return mutated


def _move(lines: list[str], i: int, draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines)), lines.pop(i))


def _indent(lines: list[str], i: int, draw: random.Random) -> None:
    lines[i] = (
        draw.choice([" ", "  ", "    ", "\t", "\u00a0", "- "]) + lines[i] if draw.random() < 0.6 else lines[i][1:]
    )


def _swapped(pattern: str, choices: Callable[[str], list[str]]) -> Callable[[str, random.Random], str]:
    """Puts another text in place of one that matches."""
    found = re.compile(pattern)

    def mutated(text: str, draw: random.Random) -> str:
        spans = [match.span(1) for match in found.finditer(text)]
        if not spans:
            return text
        a, b = draw.choice(spans)
        return text[:a] + draw.choice(choices(text)) + text[b:]

    return mutated


def _keys(text: str) -> list[str]:
    return [*re.findall(r"([\w.]+):", text), "<<", "010", "no", "~", "x" * 2000, "\u00a0T", "a b", "", "*", "T", "name"]


def _flipped(text: str, draw: random.Random) -> bytes:
    raw = bytearray(text.encode("utf-8"))
    for _ in range(draw.choice([1, 1, 2, 8])):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return bytes(raw)


def _cut(text: str, draw: random.Random) -> bytes:
    raw = text.encode("utf-8")
    a = draw.randrange(len(raw))
    return raw[:a] + (b"" if draw.random() < 0.5 else raw[a + draw.randrange(1, 200) :])


def _inserted(text: str, draw: random.Random) -> str:
    a = draw.randrange(len(text))
    return text[:a] + draw.choice(NASTY) + text[a:]


TEXTS: list[Callable[[str, random.Random], str]] = [
    _line(lambda lines, i, draw: lines.pop(i) and None),
    _line(lambda lines, i, draw: lines.insert(i, lines[i])),
    _line(_move),
    _line(_indent),
    *[_swapped(r"[:,\[-] ([^\s,\[\]{}#]+)", lambda text: NASTY)] * 5,  # a value
    _swapped(r": (\[[^\]\n]*\]|\{[^}\n]*\})", lambda text: NASTY),  # a list or a map
    *[_swapped(r"([\w.]+):", _keys)] * 2,
    _inserted,
]
LAST: list[Callable[[str, random.Random], str | bytes]] = [*[lambda text, draw: text] * 4, _flipped, _cut]


def _damaged(text: str, draw: random.Random) -> bytes:
    """The text with one to three mutations: most are no YAML."""
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        text = draw.choice(TEXTS)(text, draw)
    last = draw.choice(LAST)(text or "x", draw)
    return last if isinstance(last, bytes) else last.encode("utf-8", "surrogatepass")


def _spots(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every container of some data with each of its keys or indexes."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found.append((value, key))
        _spots(value[key], found)
    return found


def _changed(text: str, draw: random.Random) -> bytes:
    """What it says with one to three changes, as YAML again: what the checks of blocks and names get to see."""
    content = yaml.load(text, FASTEST)
    for _ in range(draw.choice([1, 1, 2, 3])):
        spots = _spots(content, [])
        if not spots:
            break
        (inside, key), (other, there) = draw.choice(spots), draw.choice(spots)
        change = draw.randrange(6)
        if change == 0:
            del inside[key]
        elif change == 1 and isinstance(inside, dict):
            inside[draw.choice(_keys(text))] = inside.pop(key)
        elif change == 2:
            inside[key] = copy.deepcopy(other[there])
        else:
            inside[key] = copy.deepcopy(draw.choice(VALUES))
    return json.dumps(content, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")


def mutated(texts: list[str], seed: int) -> bytes:
    """A damaged recipe."""
    draw = random.Random(seed)
    return (_damaged if seed % 2 else _changed)(draw.choice(texts), draw)


def told(path: Path, raw: bytes) -> str:
    """What is said of a recipe; '' of one that can be read. AssertionError: a hang, or a message that is too long."""
    path.write_bytes(raw)
    began = time.process_time()
    try:
        read(path)
        message = ""
    except RecipeError as error:
        message = str(error)
    taken = time.process_time() - began
    assert taken < SECONDS, f"{taken:.1f} s"
    assert len(message) <= CHARACTERS, message
    assert message.isprintable(), message
    assert not message or message.startswith((f"{path}:", "--set")), message
    return message


@pytest.mark.parametrize("part", range(PARTS))
def test_a_damaged_recipe_is_read_or_refused_by_one_clear_sentence(part: int, tmp_path: Path) -> None:
    texts, refused = recipes(), 0
    for seed in range(part * PER_PART, (part + 1) * PER_PART):
        raw = mutated(texts, seed)
        try:
            refused += bool(told(tmp_path / "r.yaml", raw))
        except Exception as error:
            raise AssertionError(f"mutated(recipes(), {seed}): {type(error).__name__}: {error}") from error
    assert PER_PART / 3 < refused < PER_PART  # most mutations are faults, some are not
