"""What the jobs of every recipe are: their specs, on which the keys of finished work depend, as they were recorded."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from sj_cka import recipe
from sj_cka.engine import in_order
from sj_cka.job import canonical
from sj_cka.plan import plan

ROOT = Path(__file__).parents[1]
PINNED: dict[str, dict[str, list[object]]] = json.loads((ROOT / "tests" / "pinned.json").read_text())


def recorded(path: Path, profile: str, settings: tuple[str, ...] = ()) -> dict[str, list[object]]:
    """Kind of job -> how many there are, and a hash of all their specs as canonical JSON.

    Without the fingerprints of the data, which rest on the last digits of a processor's sines; `needs` holds hashes of
    specs that are made likewise.
    """
    jobs = in_order(plan(recipe.read(path, profile, settings), imagined=True).jobs)
    texts: dict[str, str] = {}
    specs: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        needs = {name: hashlib.sha256(texts[key].encode()).hexdigest() for name, key in job.spec["needs"].items()}
        texts[job.key] = canonical(job.spec | {"data": job.spec["data"]["options"], "needs": needs})
        specs[job.kind].append(texts[job.key])
    return {
        kind: [len(texts), hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]]
        for kind, texts in sorted(specs.items())
    }


def test_every_profile_of_every_recipe_is_pinned() -> None:
    recipes = {path.stem: recipe.read(path).recipe for path in (ROOT / "recipes").glob("*.yaml")}
    assert set(PINNED) == {f"{name} {profile}" for name, own in recipes.items() for profile in ("quick", *own.profiles)}


@pytest.mark.sampled
@pytest.mark.parametrize("name", PINNED)
def test_the_specs_of_all_jobs_are_as_they_were(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name or default in a spec would have everybody's finished jobs done again.

    Where that is meant, with a kind's version raised, PINNED is written anew from `recorded`, and the commit says why.
    """
    monkeypatch.delenv("SJ_CKA_DATA", raising=False)
    stem, profile = name.split()
    settings = ()
    if name == "cifar_small quick":  # its images are the user's
        images = (np.arange(400 * 32 * 32 * 3) % 251).astype(np.uint8).reshape(400, 32, 32, 3)
        np.savez(
            tmp_path / "images.npz",
            **{f"x_{split}": images for split in ("train", "test")},
            **{f"y_{split}": np.arange(400) % 10 for split in ("train", "test")},
        )
        settings = (f"data.path={tmp_path / 'images.npz'}",)
    assert recorded(ROOT / "recipes" / f"{stem}.yaml", profile, settings) == PINNED[name]
