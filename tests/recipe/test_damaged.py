"""Of the damaged recipes of `make test-fuzz` the first hundred."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_a_damaged_recipe_is_read_or_refused_by_one_clear_sentence(tmp_path: Path) -> None:
    found = importlib.util.spec_from_file_location("damaged", Path(__file__).parents[1] / "fuzz" / "test_recipes.py")
    assert found is not None
    assert found.loader is not None
    fuzz = importlib.util.module_from_spec(found)
    found.loader.exec_module(fuzz)
    texts = fuzz.recipes()
    assert 50 < sum(bool(fuzz.told(tmp_path / "r.yaml", fuzz.mutated(texts, seed))) for seed in range(100)) < 100
