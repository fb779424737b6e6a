"""Claims, margins and design of a study as they stood at its first run, so that a later change shows."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from sj_cka.disk import FORBIDDEN, whole
from sj_cka.job import canonical
from sj_cka.recipe import Study
from sj_cka.store import Store

_SHOWN = 60  # characters of a claim


class Frozen(NamedTuple):
    """What a study said at a time.

    Args:
        when: UTC.
        finished: how many of its jobs were finished then.
        jobs: of how many.
        said: part of the study -> hash of what the recipe said of it.
    """

    when: str
    finished: int
    jobs: int
    said: dict[str, str]

    @property
    def design(self) -> dict[str, str]:
        """The parts that are no claims: seeds, networks, comparisons, ..."""
        return {part: said for part, said in self.said.items() if not part.startswith(_CLAIM)}

    @property
    def claims(self) -> dict[str, str]:
        """Sentence of a claim -> hash of what is said of it."""
        return {part.removeprefix(_CLAIM): said for part, said in self.said.items() if part.startswith(_CLAIM)}


def freeze(study: Study, store: Store, finished: int, jobs: int) -> list[Frozen]:
    """What a study said at its first run and whenever it had changed since, with what it says now as the last.

    Kept in the folder `claims` of the store, by name, title, profile and settings of the study. In a store that cannot
    be written it is kept for this call alone.
    """
    file, said = _file(study, store), _said(study)
    held = _read(file)
    if held and held[-1].said == said:
        return held
    held.append(Frozen(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), finished, jobs, said))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as written:
            written.write(json.dumps([frozen._asdict() for frozen in held], indent=1).encode())
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
    return held


def told(held: Sequence[Frozen]) -> str:
    """When the claims were fixed, in words."""
    first = held[0]
    before = f"when {first.finished} jobs were finished" if first.finished else "before any of its jobs was finished"
    return f"{first.when}, {before} (of {first.jobs})"


def changes(held: Sequence[Frozen]) -> list[str]:
    """What was changed after the first run, and when, in sentences."""
    notes = []
    for before, after in pairwise(held):
        differing = "; ".join(_shortened(part) for part in _differing(before, after))
        notes.append(f"After the first run of {held[0].when} the recipe was changed, on {after.when}: {differing}.")
    return notes


def late(held: Sequence[Frozen]) -> dict[str, str]:
    """Sentence of a claim -> why it cannot be primary: it, or what all rest on, is not what it was at the first run."""
    first, last = held[0], held[-1]
    why = f"exploratory: changed on {last.when}, after the first run of {first.when}"
    kept = first.claims if first.design == last.design else {}
    return {claim: why for claim in last.claims if kept.get(claim) != last.claims[claim]}


def _differing(before: Frozen, after: Frozen) -> list[str]:
    parts = [*before.said, *(part for part in after.said if part not in before.said)]
    return [part for part in parts if before.said.get(part) != after.said.get(part)]


_CLAIM = "claim "


def _said(study: Study) -> dict[str, str]:
    """Part -> hash: claims of one sentence with their margins, and what networks, attacks and comparisons are."""
    recipe, parts = study.recipe, dict[str, Any]()
    for claim in recipe.claims:
        parts.setdefault(f"{_CLAIM}{claim.says}", []).append(_plain(claim))
    parts |= {
        "seeds": list(study.seeds),
        "networks": {
            name: [c.data, c.model, _plain(c.snn), c.ann_input, _plain(c.train)] for name, c in study.conditions.items()
        },
        "conversion": _plain(recipe.converted),
        "comparisons": [*map(_plain, recipe.compare), _plain(recipe.cka)],
        "evaluations": [*map(_plain, recipe.evaluate)],
        "attacks": None if recipe.attack is None else _plain(recipe.attack),
        "jobs": recipe.jobs,
    }
    return {part: hashlib.sha256(canonical(value).encode()).hexdigest()[:16] for part, value in parts.items()}


def _shortened(part: str) -> str:
    text = part.removeprefix(_CLAIM)
    if text == part:
        return part
    return f"claim {text[:_SHOWN]!r}{'...' if len(text) > _SHOWN else ''}"


def _plain(block: BaseModel) -> Any:
    """A block without what equals its default: a new key then changes nothing."""
    return block.model_dump(mode="json", exclude_defaults=True)


def _file(study: Study, store: Store) -> Path:
    identity = canonical([study.name, study.recipe.title, study.profile, list(study.settings)])
    return store.root / "claims" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.json"


def _read(file: Path) -> list[Frozen]:
    """What is kept; nothing where there is no file, or none that can be read: then this is the first run."""
    try:
        return [Frozen(**entry) for entry in json.loads(file.read_bytes())]
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return []
