"""Claims and design as they stood at the first run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sj_cka import frozen
from sj_cka.recipe import read
from sj_cka.store import Store

Write = Callable[..., Path]


def test_what_a_study_says_at_its_first_run_is_kept(recipe_file: Write, tmp_path: Path) -> None:
    store, study = Store(tmp_path / "store"), read(recipe_file())
    held = frozen.freeze(study, store, 0, 40)
    assert frozen.told(held).endswith("before any of its jobs was finished (of 40)")
    again = frozen.freeze(study, store, 40, 40)
    assert again == held
    assert frozen.changes(again) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("says: Shortcuts help", "says: Shortcuts harm"), "claim 'Shortcuts help.'; claim 'Shortcuts harm.'"),
        (("    source: nobody\n", "    source: nobody\n    margin: 0.1\n    reason: so\n"), "claim 'Shortcuts help.'"),
        (("seeds: 2", "seeds: 3"), "seeds"),
        (("  epochs: 1", "  epochs: 2"), "networks"),
        (("x: all.snn, y: none.snn", "x: all.snn, y: none.snn, seeds: across"), "comparisons"),
    ],
)
def test_a_later_change_is_told(change: tuple[str, str], named: str, recipe_file: Write, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = frozen.freeze(read(recipe_file()), store, 0, 40)
    later = frozen.freeze(read(recipe_file(change)), store, 40, 40)
    assert later[0] == first[0]
    (note,) = frozen.changes(later)
    assert note.startswith(f"After the first run of {first[0].when} the recipe was changed, on ")
    assert note.endswith(f": {named}.")
    # back to what it was is a second change, not none
    assert len(frozen.changes(frozen.freeze(read(recipe_file()), store, 40, 40))) == 2


def test_what_was_changed_is_not_primary_any_more(recipe_file: Write, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    held = frozen.freeze(read(recipe_file()), store, 0, 40)
    assert frozen.late(held) == {}
    margin = ("    source: nobody\n", "    source: nobody\n    margin: 0.1\n    reason: so\n")
    changed = frozen.freeze(read(recipe_file(margin)), store, 40, 40)
    assert list(frozen.late(changed)) == ["Shortcuts help."]
    again = frozen.freeze(read(recipe_file()), store, 40, 40)  # as it was at first
    assert frozen.late(again) == {}
    design = frozen.freeze(read(recipe_file(("  epochs: 1", "  epochs: 2"))), store, 40, 40)
    assert list(frozen.late(design)) == ["Shortcuts help."]  # all rest on it


def test_every_claim_is_kept_though_sentences_begin_alike_or_are_alike(recipe_file: Write, tmp_path: Path) -> None:
    def two(ends: tuple[str, str], value: float) -> Path:
        says, accuracy = "s" * 80, "{measure: accuracy, network: all.snn}"
        claims = "".join(
            f"  - {{test: above, value: {of}, says: {says}{end}, source: s, a: {accuracy}}}\n"
            for end, of in zip(ends, (value, 0.5), strict=True)
        )
        return recipe_file(("claims:\n", f"claims:\n{claims}"))

    for ends in (("1", "2"), ("", "")):
        store = Store(tmp_path / f"store{ends[0]}")
        frozen.freeze(read(two(ends, 0.5)), store, 0, 40)
        assert len(frozen.changes(frozen.freeze(read(two(ends, 0.6)), store, 0, 40))) == 1


def test_titles_of_figures_and_questions_may_change(recipe_file: Write, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    frozen.freeze(read(recipe_file()), store, 0, 40)
    changed = read(recipe_file(("question: ", "question: Really, ")))
    assert frozen.changes(frozen.freeze(changed, store, 40, 40)) == []


def test_a_study_of_another_profile_or_with_other_settings_is_another(recipe_file: Write, tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store"), recipe_file()
    frozen.freeze(read(path), store, 0, 40)
    assert len(frozen.freeze(read(path, settings=["seeds=3"]), store, 0, 60)) == 1
    assert len(list((store.root / "claims").iterdir())) == 2


def test_a_file_that_cannot_be_read_is_none(recipe_file: Write, tmp_path: Path) -> None:
    store, study = Store(tmp_path / "store"), read(recipe_file())
    frozen.freeze(study, store, 0, 40)
    (file,) = (store.root / "claims").iterdir()
    for content in (b"", b"[{", b'{"a": 1}', b"[1]"):
        file.write_bytes(content)
        held = frozen.freeze(study, store, 7, 40)
        assert frozen.told(held).endswith("when 7 jobs were finished (of 40)")
        assert len(json.loads(file.read_text())) == 1


def test_a_store_that_cannot_be_written_is_told_of_nothing_and_stops_nothing(
    recipe_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(frozen, "whole", refuse)
    assert len(frozen.freeze(read(recipe_file()), Store(tmp_path / "store"), 0, 40)) == 1
