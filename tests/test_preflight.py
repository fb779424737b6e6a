"""The data of a study: what a plan may imagine, and files and networks that no machine can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sj_cka.preflight import read_data
from sj_cka.recipe import RecipeError, read
from sj_cka.study import outline

Write = Callable[..., Path]
NPZ = "{name: npz, path: images.npz}"


def imagined(recipe_file: Write, data: str) -> str:
    """The fingerprint of a data set in a dry run."""
    study = read(recipe_file((NPZ, data)))
    return next(iter(read_data(study, imagined=True).values())).samples.fingerprint


@pytest.mark.parametrize(
    "data",
    ["{name: cifar10, root: sets}", "{name: cifar10, root: sets, download: true}", "{name: mnist, root: sets/deep}"],
)
def test_a_plan_imagines_a_set_of_which_nothing_is_there_and_fetches_none(data: str, recipe_file: Write) -> None:
    assert imagined(recipe_file, data) == "imagined"


def test_a_plan_imagines_no_set_of_which_a_part_is_there_or_that_is_damaged(
    recipe_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SJ_CKA_DATA", str(tmp_path / "sets"))
    folder = tmp_path / "sets" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"x")
    with pytest.raises(RecipeError, match=r"tiny\.yaml:3: data: CIFAR-10: expected the folder cifar-10"):
        imagined(recipe_file, "{name: cifar10}")
    for name in [f"data_batch_{i}" for i in range(2, 6)] + ["test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"x")
    with pytest.raises(RecipeError, match="at least one is damaged"):
        imagined(recipe_file, "{name: cifar10}")
    archives = tmp_path / "sets" / "NMNIST" / "download"
    archives.mkdir(parents=True)
    (archives / "Train.zip").write_bytes(b"x")
    with pytest.raises(RecipeError, match=r"data: N-MNIST: expected the set in .* nor in download Test\.zip"):
        imagined(recipe_file, "{name: nmnist}")


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("{name: npz, path: ~nouser/x.npz}", "data.path"),
        ("{name: cifar10, root: ~nouser}", "data.root"),
        (f"{{name: npz, path: {'x' * 300}}}", "data.path"),
        ("{name: nmnist, root: sets, cache: ~nouser/x}", "data.cache"),
    ],
)
def test_a_path_that_no_system_has_is_told_with_its_line(data: str, key: str, recipe_file: Write) -> None:
    with pytest.raises(RecipeError, match=rf"tiny\.yaml:3: {key}: "):
        imagined(recipe_file, data)


@pytest.mark.parametrize(
    "model",
    [
        "{name: convnet, channels: [900000, 900000]}",
        "{name: mlp, inputs: 48, hidden: [40000, 40000]}",
        "{name: resnet, width: 1000}",
        "{name: vgg, width: 1e3}",
    ],
)
def test_a_network_that_would_take_all_memory_is_refused_before_it_is_made(model: str, recipe_file: Write) -> None:
    with pytest.raises(RecipeError, match=r"tiny\.yaml:4: model: expected a network of at most 1,000,000,000 param"):
        outline(
            recipe_file(("{name: resnet, depth: 8}", model), ("    model: {residual: []}\n", "    train: {lr: 0.2}\n"))
        )
