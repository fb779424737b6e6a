"""Arguments of `compare` and `compare_features`: what differs between the sides, choices, and old names."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sj_cka.plugins import closest

_NOW = {  # name of before -> how it is said now
    "to": 'y="labels" or y="input"',
    "y_loader": 'loader={"x": ..., "y": ...}',
    "layers_x": 'layers={"x": ..., "y": ...}',
    "layers_y": 'layers={"x": ..., "y": ...}',
    "null": 'into=CKA(permutations={"steps": 1})',
    "measures": "into=CKA(measures=...)",
    "permutations": "into=CKA(permutations=...)",
    "samples": "into=CKA(samples=...)",
    "memory": "space=Space(memory=...)",
    "spatial": "space=Space(spatial=...)",
    "plan": "space=Space(forecast=True)",
}


def by_side(name: str, value: Any) -> dict[str, Any]:
    """Side -> an argument that is one for both, or a mapping `{"x": ..., "y": ...}`; None where that has none.

    Raises:
        TypeError: a pair of numbers of steps.
        ValueError: other keys.
    """
    if name == "T" and isinstance(value, tuple | list):
        raise TypeError(f'expected T as one number of steps or {{"x": 4, "y": 8}}, got {value!r}')
    if not isinstance(value, Mapping):
        return {"x": value, "y": value}
    if not value or set(value) - {"x", "y"}:
        raise ValueError(f'{name}: expected one for both sides or {{"x": ..., "y": ...}}, got keys {list(value)}')
    return {side: value.get(side) for side in "xy"}


def expect_one_of(name: str, value: Any, *known: Any) -> None:
    """Raises ValueError where a choice is none of those there are."""
    if value not in known:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, known))}, got {value!r}")


def refuse_unknown(function: Callable[..., Any], unknown: Mapping[str, Any]) -> None:
    """Raises TypeError for names that a function does not take; of one of before it says how it is said now."""
    taken = [name for name in inspect.signature(function).parameters if name != "unknown"]
    for name in unknown:
        now = _NOW.get(name, "")
        if now.partition("=")[0] in taken:
            raise TypeError(f"{function.__name__}() takes no {name}= any more: give {now}")
        raise TypeError(f"{function.__name__}() got an unexpected argument {name!r}{closest(name, taken)}")
