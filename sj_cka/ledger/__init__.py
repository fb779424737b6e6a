"""One table of every claim of every study, as the reports tell them: `reports` reads these, `runs` puts together those
of one study, `unrun` says what is missing, and `markdown` writes it all down."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sj_cka.ledger.markdown import counted, markdown
from sj_cka.ledger.reports import read_reports
from sj_cka.ledger.runs import studies
from sj_cka.ledger.unrun import unrun

__all__ = ["Ledger", "ledger"]


class Ledger(NamedTuple):
    """A ledger.

    Args:
        text: Markdown.
        counted: how many claims it has, and what became of them, in a sentence.
        damaged: the reports that were left out, and why.
    """

    text: str
    counted: str
    damaged: tuple[str, ...]


def ledger(places: Iterable[Path], recipes: Path = Path("recipes"), beside: Path = Path()) -> Ledger:
    """The ledger of all reports below some folders.

    Args:
        places: folders that are, or hold, those of reports.
        recipes: folder of recipes, for what nobody has run.
        beside: folder that the links of the text start from.

    Raises:
        OSError: a place is no folder, or there is no report in it.
        RecipeError: a recipe cannot be read.
    """
    reports, damaged = read_reports(places)
    found = studies(reports)
    missing = unrun(recipes, reports)
    told = tuple(map(str, damaged))
    return Ledger(markdown(found, missing, told, beside, any(recipes.glob("*.yaml"))), counted(found), told)
