"""What stands on the page of a study, and writing it: one HTML file, and the figures once more as PNG."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from plotly.offline import get_plotlyjs

from sj_cka.claims import TESTS, Finding, Verdict
from sj_cka.disk import whole
from sj_cka.figures.drawing import Section

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One claim and what became of it.

    Attributes:
        sentence: the claim, as a statement that can be false.
        verdict: what follows for it.
        role: "primary" or "exploratory".
        value: the measured value and its interval, as text.
        levels: value, floor and ceiling of each arm, side by side.
        details: what stands beside it, a sentence each.
        source: where the claim was made.
    """

    sentence: str
    verdict: Verdict
    role: str
    value: str
    levels: tuple[str, ...]
    details: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"expected a verdict out of {get_args(Verdict)}, got {self.verdict!r}")


def answer(finding: Finding) -> Answer:
    """A judged claim as the page states it."""
    value = f"{finding.measured}; {TESTS[finding.test].effect} {_numbers(finding)}"
    if finding.needed:
        value += f"; {finding.needed} would decide it, if effect and spread stay as they are"
    levels, details = tuple(_levels(finding)), tuple(_details(finding))
    return Answer(finding.says, finding.verdict, finding.role, value, levels, details, finding.source)


def _levels(finding: Finding) -> Iterator[str]:
    """Arms that have a floor or a ceiling."""
    for key, levels in finding.arms.items():
        beside = {"floor": levels.floor, "noise ceiling": levels.ceiling, "change since first weights": levels.change}
        known = [f"{name} {value:.3f}" for name, value in beside.items() if pd.notna(value)]
        if known:
            yield f"{key}: {levels.value:.3f}, {', '.join(known)}"


def _details(finding: Finding) -> Iterator[str]:
    if finding.note:
        yield finding.note
    why = f": {finding.reason}" if finding.reason else ""
    yield f"margin of practical equivalence {finding.margin:g}{why}" if finding.margin else f"no margin{why}"
    if finding.primary:
        over = finding.corrected
        together = f"{over.low:+.3f} to {over.high:+.3f}" if pd.notna(over.low) else "undefined"
        yield f"p {finding.p:.2g}, {finding.p_corrected:.2g} after Holm; interval of all primary claims {together}"
    else:
        yield f"p {finding.p:.2g}, not corrected for the number of claims"
    yield from finding.controls
    if finding.agreement is not None:
        others = f"; not {', '.join(finding.agreement.others)}" if finding.agreement.others else ""
        yield f"{finding.agreement} specifications of layers, scale and time agree{others}"


def _numbers(finding: Finding) -> str:
    estimate = finding.estimate
    if pd.isna(estimate.mean):
        return "undefined"
    if estimate.n < 2:
        return f"{estimate.mean:+.3f} (one seed, no interval)"
    between = f"{estimate.low:+.3f} to {estimate.high:+.3f}"
    return f"{estimate.mean:+.3f} ({finding.confidence} % interval {between}, {estimate.n} seeds)"


@dataclass(frozen=True)
class Page:
    """A study from its question to the recipe that it ran.

    Attributes:
        title: name of the study.
        question: what it asks, in a sentence or two.
        answers: the claims with their verdicts.
        sections: figures and tables, in the order in which they are read.
        provenance: what the run was: seeds, versions, device, neuron backend, commit, time, ...
        recipe_text: the recipe as it was read.
        notes: what a reader must know before believing the rest (samples left out, undefined layers, ...).
    """

    title: str
    question: str
    answers: tuple[Answer, ...]
    sections: tuple[Section, ...]
    provenance: Mapping[str, str]
    recipe_text: str
    notes: tuple[str, ...] = ()


def write_page(page: Page, path: Path) -> Path:
    """Write a study's page as one HTML file that opens offline; an older page stays whole until the new one is.

    Args:
        page: what stands on it. Text is shown as it is: nothing in it is taken for HTML.
        path: the file to write; missing folders are made.

    Returns:
        The path of the page.

    Example:
        >>> answer = Answer("Shortcuts raise CKA.", "holds", "primary", "0.31 [0.28, 0.34]", (), (), "Li")
        >>> page = Page("Shortcuts", "What do they do?", (answer,), (), {"seeds": "0, 1, 2"}, "name: shortcuts")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_page(page, Path(folder) / "report.html").name
        'report.html'
    """
    with whole(path) as file:
        file.write(_html(page).encode())
    return path


def write_pngs(figures: Mapping[str, go.Figure], folder: Path, *, timeout_s: float | None = None) -> list[Path]:
    """Write figures as PNG files, all with one start of the browser; a slider's first frame is drawn.

    Needs kaleido (the extra `png`) and a Chromium or Chrome: one that kaleido itself has downloaded, else the file that
    the variable BROWSER_PATH names, else an installed one. Without them nothing is written, and a warning in the log
    says why.

    Args:
        figures: name of the file without its ending -> figure. One without a width is drawn 1000 pixels wide.
        folder: where the files go; made if missing.
        timeout_s: seconds after which a browser that does not answer is given up; a minute and 10 s a figure unless
            given.

    Returns:
        The files written, in the order of the figures; empty if there is no browser that works.

    Raises:
        RuntimeError: a browser works, but a figure could not be drawn.
        ValueError: a name that is no file's name.
    """
    if not figures:
        return []
    if strange := [name for name in figures if Path(name).name != name]:
        raise ValueError(f"expected the name of a file without a folder, got {strange[0]!r}")
    if obstacle := why_no_png():
        logger.warning("no PNG files: %s", obstacle)
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".png-", dir=folder) as unfinished:
        drawn = [Path(unfinished) / f"{name}.png" for name in figures]
        seconds = 60 + 10 * len(figures) if timeout_s is None else timeout_s
        if obstacle := _draw([_still(figure) for figure in figures.values()], drawn, Path(unfinished), seconds):
            logger.warning("no PNG files: %s", obstacle)
            return []
        written = [folder / path.name for path in drawn]
        for source, target in zip(drawn, written, strict=True):
            os.replace(source, target)
    return written


def _html(page: Page) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    here = files("sj_cka.report")
    template = environment.from_string(here.joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        page=page,
        verdicts=get_args(Verdict),
        counts=Counter(answer.verdict for answer in page.answers),
        sections=[
            {
                "title": section.title,
                "note": section.note,
                "panels": [
                    {"label": panel.label, "height": figure.layout.height or 450, "json": _figure_json(figure)}
                    for panel in section.panels
                    for figure in [panel.figure]
                ],
                "table": None if section.table is None else _rows(section.table),
            }
            for section in page.sections
        ],
        style=Markup(here.joinpath("style.css").read_text(encoding="utf-8")),
        script=Markup(here.joinpath("script.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def _figure_json(figure: go.Figure) -> Markup:
    """The figure for a <script> element, where `</script>` or `<!--` inside a string would end or hide the rest."""
    # Read and written again, because Plotly spends six characters on every slash of its base64 arrays.
    text = json.dumps(json.loads(figure.to_json(validate=False)), separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))


def _rows(table: pd.DataFrame) -> dict[str, Any]:
    """A table as text: headings, rows, and which columns hold numbers."""
    if table.index.names != [None]:
        table = table.reset_index()
    return {
        "headings": [str(column) for column in table.columns],
        "numeric": [is_numeric_dtype(kind) and not is_bool_dtype(kind) for kind in table.dtypes],
        "rows": [[_cell(value) for value in row] for row in table.itertuples(index=False, name=None)],
    }


def _cell(value: Any) -> str:
    if value is None or value is pd.NaT or value != value:  # NaN is the one value that differs from itself
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2g}"


def _still(figure: go.Figure) -> dict[str, Any]:
    """The figure without sliders and buttons, which nobody can move on a picture."""
    still = go.Figure(figure)
    still.layout.sliders = still.layout.updatemenus = None
    still.update_layout((figure.layout.meta or {}).get("still", {}))
    return dict(json.loads(still.to_json(validate=False)))


def why_no_png() -> str | None:
    """What is missing before a browser can even be started, and how to get it; None if nothing is."""
    if find_spec("kaleido") is None:
        return "kaleido is not installed: pip install 'sj-cka[png]'"
    named = os.environ.get("BROWSER_PATH")
    if named and not (Path(named).is_file() and os.access(named, os.X_OK)):
        return f"BROWSER_PATH names {named!r}, which is no program"
    from choreographer.browsers.chromium import Chromium

    if Chromium.find_browser(skip_local=False) is None:
        return "no Chromium or Chrome found: install one, or name it in the variable BROWSER_PATH"
    return None


# kaleido waits for ever for a browser that starts and says nothing, and its thread then keeps Python from ending. So
# it runs in a process of its own, which can be stopped. Its page asks the network for MathJax unless it is given some
# other script; plotly.io has no way to say "none", so it gets an empty one.
_DRAW = """
import json, sys
import plotly.io
from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError
job = json.load(sys.stdin)
plotly.io.defaults.mathjax = job.pop("mathjax")
try:
    plotly.io.write_images(**job, format="png", scale=2, validate=False)
except (BrowserClosedError, BrowserFailedError, ChromeNotFoundError, TimeoutError) as error:
    sys.exit("browser: " + " ".join([type(error).__name__, *map(str, error.args)]).replace("\\n", " "))
"""


def _draw(figures: list[dict[str, Any]], paths: list[Path], scratch: Path, timeout_s: float) -> str | None:
    """Draw each figure into its file; what stood in the way if the browser does not work."""
    mathjax = scratch / "no-mathjax.js"
    mathjax.write_text("")
    job = {
        "fig": figures,
        "file": [str(path) for path in paths],
        "width": [figure["layout"].get("width", 1000) for figure in figures],
        "height": [figure["layout"].get("height", 600) for figure in figures],
        "mathjax": str(mathjax),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DRAW], input=json.dumps(job), capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return f"the browser did not answer within {timeout_s:g} s"
    last_line = done.stderr.strip().rpartition("\n")[2]
    if done.returncode != 0 and last_line.startswith("browser: "):
        return last_line.removeprefix("browser: ")
    # Where single figures fail, kaleido ends as if all were well.
    missing = [path.stem for path in paths if not path.exists()]
    if done.returncode != 0 or missing:
        raise RuntimeError(f"kaleido could not draw {missing}, exit code {done.returncode}:\n{done.stderr}")
    return None
