"""Thousands of damaged files of a store, and a study run after each kind of damage to each of its files."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sj_cka
from sj_cka import study
from sj_cka.engine import JobFailed, in_order
from sj_cka.integrity import MANIFEST
from sj_cka.job import Job
from sj_cka.store import Store

pytestmark = pytest.mark.fuzz
FLIPS = 1000


def flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def zero(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + bytes(len(content[at : at + 64])) + content[at + 64 :]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def gone(content: bytes, draw: random.Random) -> bytes | None:
    return None


Damage = Callable[[bytes, random.Random], bytes | None]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray], tiny: str
) -> tuple[Path, Store, list[Job]]:
    """A recipe in a folder of its own, its store, and its jobs, all finished."""
    folder = tmp_path_factory.mktemp("study")
    np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]
    path = folder / "tiny.yaml"
    text = tiny[: tiny.index("figures:")] + "figures:\n  - {name: curve, comparison: twins}\n"
    for old, new in (
        ("seeds: 2", "seeds: 1"),
        ("path: images.npz", f"path: {folder / 'images.npz'}"),
        ("  none:\n    model: {residual: []}\n", ""),
        ("  - {name: shortcuts, x: all.snn, y: none.snn}\n", ""),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    done = run(path, folder / "store")
    return path, Store(folder / "store"), in_order(done.results.plan.jobs)


def run(path: Path, store: Path) -> study.StudyResult:
    with pytest.MonkeyPatch.context() as no_pictures:
        no_pictures.setenv("BROWSER_PATH", "/nowhere")
        return sj_cka.run(path, out=path.parent / "out", store=store, workers=1, progress=False)


def tables(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    history = pd.read_csv(folder / "history.csv").drop(columns=["seconds", "images_s", "memory_mb"])
    return found | {"history.csv": history.to_csv().encode()}


@pytest.mark.parametrize("damage", [flip, zero, cut], ids=lambda damage: damage.__name__)
def test_damage_anywhere_is_seen(finished: tuple[Path, Store, list[Job]], damage: Damage) -> None:
    _, store, ordered = finished
    draw = random.Random(0)
    for _ in range(FLIPS):
        job = draw.choice(ordered)
        path = draw.choice(sorted(store.folder(job.key).iterdir()))
        content = path.read_bytes()
        damaged = damage(content, draw)
        if not content or damaged == content or damaged is None:
            continue
        path.write_bytes(damaged)
        told = store.damage(job.key)
        path.write_bytes(content)
        # another hash in a manifest speaks against the file that it is of
        assert told if path.name == MANIFEST else path.name in told, path
    assert not any(store.damage(job.key) for job in ordered)


@pytest.mark.parametrize("damage", [flip, zero, cut, gone], ids=lambda damage: damage.__name__)
def test_a_run_after_damage_to_any_file_gives_the_same_tables(
    finished: tuple[Path, Store, list[Job]], tmp_path: Path, damage: Damage
) -> None:
    recipe, sound, ordered = finished
    before, draw = tables(recipe.parent / "out"), random.Random(1)
    shutil.copytree(sound.root, tmp_path / "store")
    own = [sorted(path.name for path in sound.folder(job.key).iterdir()) for job in ordered]
    for turn in range(max(map(len, own))):
        store, hit = Store(tmp_path / "store"), list[tuple[str, str]]()
        for job, names in zip(ordered, own, strict=True):
            path = store.folder(job.key) / names[turn % len(names)]
            content = path.read_bytes()
            damaged = damage(content, draw)
            if damaged is None:
                path.unlink()
            elif damaged != content:
                path.write_bytes(damaged)
            if damaged != content:
                hit.append((job.label, path.name))
        with pytest.raises(JobFailed, match=r"jobs of this study are damaged: ") as told:
            study.redraw(recipe, out=tmp_path / "out", store=store.root)
        assert [label for label, _ in hit if label not in str(told.value)] == []
        done = run(recipe, store.root)
        assert (done.done, tables(done.folder)) == (len(hit), before), turn
