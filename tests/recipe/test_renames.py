"""Keys under their old names: taken for one release, with a warning that says where they stand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from sj_cka.recipe import RecipeError, read

Write = Callable[..., Path]
NEW = """\
title: Old
question: Are old names taken?
data: {name: digits}
model: {name: mlp}
seeds: 1
attack:
  eps: 0.1
  by:
    square: {}
    half: {name: square, rate: 0.5, eps_max: 0.5}
compare:
  - {name: inside, x: base.snn, y: base.snn, permutation_test: true}
  - {name: under, x: base.snn, y: base.snn, attack_y: square}
profiles:
  smoke:
    attack: {by: {half: {eps_max: 1.0}}}
    compare:
      - {name: under, x: base.snn, y: base.snn, attack_y: half}
"""
OLD = NEW.replace("permutation_test", "timing_null").replace("attack_y", "data_y").replace("eps_max", "most")


def told(path: Path, profile: str = "quick", settings: tuple[str, ...] = ()) -> list[str]:
    """The warnings about names that reading a recipe gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        read(path, profile, settings)
    return [str(warning.message) for warning in caught]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    return path


def test_an_old_name_is_taken_for_the_new_one_and_told_with_file_line_and_key(old: Path) -> None:
    assert sorted(told(old)) == sorted(
        [
            f"{old}:10: attack.by.half.most: write eps_max, the name of this key now",
            f"{old}:12: compare[0].timing_null: write permutation_test, the name of this key now",
            f"{old}:13: compare[1].data_y: write attack_y, the name of this key now",
            f"{old}:16: profiles.smoke.attack.by.half.most: write eps_max, the name of this key now",
            f"{old}:18: profiles.smoke.compare[0].data_y: write attack_y, the name of this key now",
        ]
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("profile", ["quick", "smoke"])
def test_a_recipe_with_old_names_says_what_the_one_with_new_names_says(old: Path, profile: str, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(NEW)
    assert told(new, profile) == []
    assert read(old, profile).recipe == read(new, profile).recipe


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_fault_at_an_old_name_is_told_where_it_stands(old: Path) -> None:
    old.write_text(OLD.replace("most: 0.5", "most: x"))
    with pytest.raises(RecipeError, match=r"old\.yaml:10: attack\.by\.half\.most: expected a number, got 'x'"):
        read(old)
    assert told(Path(old), settings=("attack.by.half.most=0.2",))[-1].startswith("--set: attack.by.*.most: write eps_m")


def test_a_key_under_both_names_is_refused(old: Path) -> None:
    old.write_text(NEW.replace("eps_max: 0.5", "eps_max: 0.5, most: 0.5"))
    with pytest.raises(RecipeError, match=r"old\.yaml:10: attack\.by\.half\.most: expected eps_max alone"):
        read(old)


def test_no_recipe_here_has_an_old_name() -> None:
    for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml"):
        assert told(path) == []
