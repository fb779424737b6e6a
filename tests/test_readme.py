"""The README says what is so."""

import re
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_code_runs(monkeypatch, capsys):
    monkeypatch.setattr(go.Figure, "show", lambda self: None)
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    assert names["result"].data.sizes["step_x"] == 4
    assert "silent" in capsys.readouterr().out


def test_its_files_and_pictures_are_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    headings = {f"#{heading.lower().replace(' ', '-')}" for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    assert [link for link in links if link not in headings and not (ROOT / link.partition("#")[0]).is_file()] == []


def test_the_recipes_that_it_names_are_there():
    named = set(re.findall(r"recipes/\w+\.(?:yaml|py|json)", README))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


LINK = re.compile(r"\[[^\]]*\]\(figures/README\.md#([\w-]+)\)")


def decimals(text: str) -> list[str]:
    """The numbers with a decimal point in a text, without signs and leading zeros."""
    return [number.lstrip("0") for number in re.findall(r"(?<![\w.])\d*\.\d+", text)]


def test_what_it_says_of_studies_is_what_the_ledger_says():
    """Every number before a link to a row of the ledger is one of that row, or of its line in claims.csv."""
    ledger = (ROOT / "figures" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r'^\| <a id="([\w-]+)"></a>(.*)$', ledger, re.MULTILINE))
    said = 0
    for paragraph in README.split("\n\n"):
        begin = 0
        for link in LINK.finditer(paragraph):
            assert link[1] in rows, f"{link[1]} is no row of the ledger"
            known = decimals(rows[link[1]])
            folder, _, number = link[1].rpartition("-")
            if number.isdigit():
                line = pd.read_csv(ROOT / "figures" / folder / "claims.csv").iloc[int(number) - 1]
                known += [str(abs(value)) for value in line if isinstance(value, float)]
                known += decimals(" ".join(value for value in line if isinstance(value, str)))
            for told in decimals(paragraph[begin : link.start()]):
                places = len(told.partition(".")[2])
                shown = {f"{scale * float(one):.{places}f}".lstrip("0") for one in known for scale in (1, 100)}
                assert told in shown, f"{told} is not in {link[1]}"
                said += 1
            begin = link.end()
    assert said > 10
