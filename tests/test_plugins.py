"""Tables of names: looking up, close names, and plugins of other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint

import pytest

from sj_cka import plugins
from sj_cka.claims import MEASUREMENTS
from sj_cka.data import DATASETS
from sj_cka.figures import FIGURES
from sj_cka.models import MODELS, NEURONS
from sj_cka.plugins import OptionError, UnknownName, closest, lookup

TABLES = {"data": DATASETS, "model": MODELS, "neuron": NEURONS, "figure": FIGURES}


@pytest.fixture
def fresh() -> Iterator[None]:
    """Plugins are loaded anew in this test, and forgotten after it."""
    plugins.load_plugins.cache_clear()
    yield
    plugins.load_plugins.cache_clear()


@pytest.mark.parametrize("what", TABLES)
def test_every_name_of_every_table_leads_to_a_function_with_a_first_line_of_docs(what: str) -> None:
    assert TABLES[what]
    for name in TABLES[what]:
        function: Callable[..., object] = lookup(TABLES[what], name, what)
        assert callable(function)
        assert (function.__doc__ or "").strip().partition("\n")[0].endswith((".", ";", ":", ",")) or function.__doc__


def test_every_measure_says_what_it_is_of() -> None:
    assert {measure.of for measure in MEASUREMENTS.values()} == {"network", "comparison", "time"}
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
