"""What a scalar of YAML stands for, where all who read it agree; what they do not agree on is refused.

YAML 1.1, which PyYAML reads, takes 010 for 8, 1:30 for 90 and 2024-01-31 for a date; YAML 1.2 and people do not. Truth
values that are words (yes, no, on, off) are kept: blocks refuse them where a name or a number is meant.
"""

import functools
import re
from typing import Any

from sj_cka.typed import LONGEST_NUMBER, number

TAG = "tag:yaml.org,2002:"
_NOTHING = ("", "~", "null", "Null", "NULL")
_TRUTHS = dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS = {form: truth for word, truth in (("yes", True), ("on", True), ("no", False), ("off", False))
          for form in (word, word.capitalize(), word.upper())}  # fmt: skip
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?)")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_DATE = re.compile(
    r"\d{4}-\d\d?-\d\d?(?:(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d\d?(?::\d\d)?))?)?"
)
# why readers differ on what looks like a number
_DIFFERS = {
    "a leading zero makes a number octal to some": re.compile(r"[-+]?0[0-9_]+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"),
    "it is octal, hexadecimal or binary to some, and a text to others": re.compile(
        r"[-+]?0(?:[oO][0-7_]+|[xX][0-9a-fA-F_]+|[bB][01_]+)"
    ),
    "with underscores it is a number to some, and a text to others": re.compile(
        r"[-+]?(?:[0-9]*_[0-9_]*(?:\.[0-9_]*)?|[0-9]*\.[0-9]*_[0-9_]*)(?:[eE][-+]?[0-9]+)?"
    ),
    "with colons it is a number of base 60 to some, and a text to others": re.compile(
        r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    ),
}


@functools.lru_cache(maxsize=4096)
def plain(text: str) -> Any:
    """What a scalar without quotes and tag stands for: nothing, a truth value, a number, or a text.

    Raises:
        ValueError: not all who read YAML agree.
    """
    if text in _NOTHING:
        return None
    if text in _TRUTHS or text in _WORDS:
        return _TRUTHS.get(text, _WORDS.get(text))
    if text[0] not in "+-.0123456789":
        return text
    if _DATE.fullmatch(text):
        raise ValueError(f"got {text}, which is a date in YAML: put it into quotes")
    if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
        if len(text) > LONGEST_NUMBER:
            raise ValueError(f"expected a number of at most {LONGEST_NUMBER} characters, got one of {len(text):,}")
        return int(text) if _INT.fullmatch(text) else float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    for why, pattern in _DIFFERS.items():
        if pattern.fullmatch(text):
            got = text if len(text) <= 60 else f"{text[:57]}..."
            raise ValueError(f"got {got}, and {why}: write a decimal number, or put a text into quotes")
    return text


def tagged(tag: str, text: str) -> Any:
    """What a scalar with a tag stands for.

    Raises:
        ValueError: the tag is none of the plain ones, or the text is not of its kind.
    """
    kind = tag.removeprefix(TAG)
    if kind in ("str", "!"):
        return text
    if kind == "null" and text in _NOTHING:
        return None
    if kind == "bool" and text in _TRUTHS:
        return _TRUTHS[text]
    if kind in ("int", "float"):
        value = number(text)
        if kind == "float" or value == int(value):
            return float(value) if kind == "float" else int(value)
    if kind in ("null", "bool", "int"):
        what = {"null": "nothing", "bool": "true or false", "int": "a whole number"}[kind]
        raise ValueError(f"expected {what} after !!{kind}, got {text[:60]!r}")
    raise ValueError(f"expected a value without the tag {written(tag)}")


def written(tag: str) -> str:
    """A tag as it stands in a file."""
    text = f"!!{tag.removeprefix(TAG)}" if tag.startswith(TAG) else tag
    return text if len(text) <= 60 else f"{text[:57]}..."
