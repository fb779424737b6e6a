"""The README says what is so."""

import re
from pathlib import Path

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
    assert [link for link in links if link not in headings and not (ROOT / link).is_file()] == []


def test_the_recipes_that_it_names_are_there():
    named = set(re.findall(r"recipes/\w+\.(?:yaml|py|json)", README))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
