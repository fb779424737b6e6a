"""What is loaded when: nothing heavy before a name is used, and every name in whatever order it is asked for."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sj_cka

HEAVY = ["h5py", "jinja2", "numpy", "pandas", "plotly", "pydantic", "scipy", "sklearn", "spikingjelly", "torch"]
HEAVY += ["torchvision", "tqdm", "xarray", "yaml"]


def loaded(code: str) -> list[str]:
    """The heavy packages that a new Python holds after some code, which must print nothing on the way."""
    tell = f"; import json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    command = [sys.executable, "-W", "error", "-c", code + tell]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "code",
    [
        "import sj_cka; dir(sj_cka); sj_cka.__version__; hasattr(sj_cka, 'unknown'); from sj_cka import plugins",
        "import sj_cka.cli",
    ],
    ids=["package", "command line"],
)
def test_nothing_heavy_is_loaded_before_a_name_is_used(code: str) -> None:
    assert loaded(code) == []


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "from sj_cka.cli import app; from typer.testing import CliRunner; "
        "asked = ('-h', '--help', 'run -h', 'report --help', 'list -h', 'schema -h', 'doctor -h', '--version'); "
        "assert all(CliRunner().invoke(app, words.split()).exit_code == 0 for words in asked)"
    )
    assert set(loaded(code)) <= {"pydantic"}  # some versions of typer parse with it


def test_every_public_name_is_there_when_it_is_used() -> None:
    assert set(sj_cka.__all__) <= set(dir(sj_cka))
    assert sj_cka.CKA is importlib.import_module("sj_cka.cka.accumulator").CKA
    assert sj_cka.run is importlib.import_module("sj_cka.study").run
    names: dict[str, object] = {}
    exec("from sj_cka import *", names)
    assert names.keys() - {"__builtins__"} == set(sj_cka.__all__)
    assert all(callable(names[name]) for name in sj_cka.__all__)


@pytest.mark.parametrize("name", ["models", "attacks", "typed"])
def test_a_part_is_there_without_an_import_of_its_own(name: str) -> None:
    assert getattr(sj_cka, name) is importlib.import_module(f"sj_cka.{name}")


@pytest.mark.parametrize("name", ["comapre", "cka.gram", "", "__wrapped__", "tests"])
def test_another_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match="module 'sj_cka' has no attribute"):
        getattr(sj_cka, name)


def test_cka_is_the_function_and_the_package_in_whatever_order_they_are_asked_for() -> None:
    function = importlib.import_module("sj_cka.cka.measures").cka
    X = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    assert sj_cka.cka(X, X) == function(X, X)
    assert function(X, X) == pytest.approx(1)
    assert sj_cka.cka.MEASURES.keys() == {"cka", "rsa", "procrustes"}  # type: ignore[attr-defined]
    assert inspect.signature(sj_cka.cka) == inspect.signature(function)
    assert pickle.loads(pickle.dumps(sj_cka.cka)) is sj_cka.cka
    with pytest.warns(sj_cka.UndefinedCKA, match="X: silent") as told:
        sj_cka.cka(0 * X, X)
    assert told[0].filename == __file__


def test_type_checkers_see_what_is_there_at_run_time() -> None:
    tree = ast.parse(Path(sj_cka.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: getattr(importlib.import_module(str(node.module)), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen.keys() == set(sj_cka.__all__)
    assert {name for name in seen if getattr(sj_cka, name) is not seen[name]} == {"cka"}  # tested above
    # if they saw __getattr__, they would take any name for one of ours
    assert "__getattr__" in {node.name for node in block.orelse if isinstance(node, ast.FunctionDef)}


def imported(tree: ast.Module) -> set[str]:
    """The modules of this package that a file imports, anywhere in it, but for type checkers alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sj_cka":
            names |= {f"sj_cka.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("sj_cka.")}


def test_imports_go_one_way_between_the_rooms_of_the_house() -> None:
    root = Path(sj_cka.__file__).parent
    below: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        room = path.relative_to(root).with_suffix("").parts[0]
        used = {name.split(".")[1] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        below.setdefault(room, set()).update(used - {room})
    order = list(graphlib.TopologicalSorter(below).static_order())  # a CycleError names the rooms of a circle
    assert len(order) > 20
    downstairs = ["cka", "recording", "twins", "attacks", "training", "models", "data", "neurons"]
    assert max(map(order.index, downstairs)) < min(map(order.index, ["jobs", "preflight", "plan", "results", "study"]))
    upstairs = {"recipe", "jobs", "job", "preflight", "plan", "results", "study", "engine", "store", "report"}
    assert [(room, below[room] & upstairs) for room in downstairs if below[room] & upstairs] == []
