"""What nobody has run, and what has no report."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sj_cka import recipe
from sj_cka.ledger.reports import Report


class Unrun(NamedTuple):
    """Profiles of a recipe without a report.

    Args:
        name: of the recipe.
        file: None where only a report tells of it.
        never: profiles that nobody has run.
        unreported: others that have no report here.
    """

    name: str
    file: Path | None
    never: tuple[str, ...]
    unreported: tuple[str, ...]


def unrun(recipes: Path, reports: Sequence[Report]) -> list[Unrun]:
    """What is missing of every recipe of a folder, and of those that only reports know, by name.

    The profile `smoke`, which is for tests, is none that anybody misses; a run with other settings than seeds is of no
    profile.

    Raises:
        RecipeError: a recipe cannot be read.
    """
    reported = {report.of for report in reports if report.study is None or not report.study.changed}
    found = []
    for path in recipes.glob("*.yaml"):
        known = recipe.read(path)
        profiles = dict.fromkeys(["quick", *known.recipe.profiles])
        missing = [name for name in profiles if name != "smoke" and (known.name, name) not in reported]
        never = tuple(name for name in missing if name in known.recipe.never_run)
        found.append(Unrun(known.name, path, never, tuple(name for name in missing if name not in never)))
    names = {one.name for one in found}
    others = {report.study.recipe: report.study.never_run for report in reports if report.study is not None}
    for name, profiles_of in others.items():
        if name not in names:
            never = tuple(profile for profile in profiles_of if (name, profile) not in reported)
            found.append(Unrun(name, None, never, ()))
    return sorted((one for one in found if one.never or one.unreported), key=lambda one: one.name)
