"""Tables of names: looking up, close names, and plugins of other packages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

from sj_cka import plugins
from sj_cka.claims import MEASUREMENTS
from sj_cka.cli import app
from sj_cka.data import DATASETS
from sj_cka.engine import ENGINES
from sj_cka.plugins import OptionError, UnknownName, closest, lookup
from sj_cka.recipe.choices import ATTACK, AUGMENTATION, DATA, FIGURE, MODEL, NEURON, RULE, NameTable

ENGINE = NameTable("engine", ENGINES, ("store", "missing", "workers"))
CHOICES = [DATA, AUGMENTATION, MODEL, NEURON, RULE, ATTACK, FIGURE, ENGINE]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Plugins are loaded anew in this test, and forgotten after it."""
    plugins.load_plugins.cache_clear()
    yield
    plugins.load_plugins.cache_clear()


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.what)
def test_every_name_of_every_table_is_that_of_a_function_with_docs_that_takes_what_is_handed(choice: NameTable) -> None:
    assert choice.table
    for name in choice.table:
        function = choice.function(name)
        assert (function.__doc__ or "").strip()
        assert set(choice.handed) - {"source"} <= inspect.signature(function).parameters.keys()
        assert not set(choice.handed) & choice.options_model(name).model_fields.keys()


def test_every_measure_says_what_it_is_of() -> None:
    assert {measure.of for measure in MEASUREMENTS.values()} == {"network", "comparison"}
    assert all(measure.label for measure in MEASUREMENTS.values())


def test_an_unknown_name_is_told_with_the_closest_ones() -> None:
    with pytest.raises(UnknownName, match=r"^unknown data set 'digts'; did you mean 'digits' or 'digits_dvs'\?$"):
        lookup(DATASETS, "digts", "data set")
    with pytest.raises(UnknownName, match=r"^unknown data set 'xyz'; known: digits, digits_dvs, npz, .*$"):
        lookup(DATASETS, "xyz", "data set")


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("resnt", ["resnet", "vgg"], "; did you mean 'resnet'?"),
        ("no0", ["no1", "no2", "all"], "; did you mean 'no2' or 'no1'?"),
        ("x", ["resnet", "vgg"], "; known: resnet, vgg"),
        ("x", map(str, range(14)), "; known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..."),
        ("x", [], ""),
    ],
)
def test_close_names_are_offered_or_else_the_known_ones(name: str, known: list[str], hint: str) -> None:
    assert closest(name, known) == hint


def register() -> None:
    """Stands for the function of another package."""
    TABLE["theirs"] = dict


TABLE: dict[str, Callable[..., object]] = {"ours": list}


def test_another_package_adds_names_by_an_entry_point(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("theirs", "somewhere:register", "sj_cka.plugins")
    monkeypatch.setattr(EntryPoint, "load", lambda self: register)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == "sj_cka.plugins" else [])
    monkeypatch.delitem(TABLE, "theirs", raising=False)
    assert lookup(TABLE, "ours", "thing") is list
    assert lookup(TABLE, "theirs", "thing") is dict
    assert plugins.load_plugins() == ("theirs",)
    with pytest.raises(UnknownName, match="did you mean 'theirs'"):
        lookup(TABLE, "their", "thing")


def test_a_bad_option_says_which_one() -> None:
    error = OptionError("depth", "expected 20, got 21")
    assert error.option == "depth"
    assert str(error) == "depth: expected 20, got 21"


@pytest.mark.parametrize("command", [["list"], ["schema"], ["run", "tiny.yaml", "--dry-run"]], ids=" ".join)
def test_a_plugin_that_cannot_be_loaded_is_named_in_one_sentence(
    fresh: None, monkeypatch: pytest.MonkeyPatch, recipe_file: Callable[..., object], command: list[str]
) -> None:
    recipe_file()
    entry = EntryPoint("theirs", "sj_cka_not_there:register", "sj_cka.plugins")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1
    assert told.stderr == (
        "error: plugin 'theirs' (sj_cka_not_there:register): ModuleNotFoundError: No module named 'sj_cka_not_there'; "
        "mend or uninstall it\n"
    )
