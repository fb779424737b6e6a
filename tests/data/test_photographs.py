"""Patches of photographs: where they lie, what is taken out of them, and the pictures that they are of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import sklearn
import torch
from sklearn.neighbors import KNeighborsClassifier

import sj_cka
from sj_cka.cka import cka
from sj_cka.data import DataError, Images, digits, photographs, photos
from sj_cka.data.photographs import PHOTOGRAPHS
from sj_cka.plugins import OptionError

NAMES = list(PHOTOGRAPHS)
COLOURED = ["astronaut", "chelsea", "coffee", "ihc", "hubble", "retina", "rocket", "china", "flower"]


def patches_of(data: Images, name: str, classes: list[str] = NAMES) -> tuple[np.ndarray, np.ndarray]:
    """Training and test patches of a picture, `[N, C, H, W]`."""
    label = classes.index(name)
    return data.x_train[data.y_train == label].numpy(), data.x_test[data.y_test == label].numpy()


def every_patch(picture: np.ndarray, size: int) -> tuple[dict[bytes, int], int]:
    """All patches of a picture `[C, H, W]` as bytes -> first column, and the width: by the formula, one by one."""
    C, H, W = picture.shape
    half = picture[:, : H // 2 * 2, : W // 2 * 2].reshape(C, H // 2, 2, W // 2, 2).mean((2, 4))
    found = {}
    for row in range(half.shape[1] - size + 1):
        for column in range(half.shape[2] - size + 1):
            patch = half[:, row : row + size, column : column + size]
            centred = patch - patch.mean((1, 2), keepdims=True)
            if (std := centred.std()) > 1:
                found[np.clip(np.round(128 + 16 * centred / std), 0, 255).astype(np.uint8).tobytes()] = column
    return found, half.shape[2]


@pytest.mark.parametrize(("name", "colour"), [("coins", False), ("chelsea", True)])
def test_training_patches_lie_left_of_all_test_patches(name: str, colour: bool) -> None:
    size, picture = 12, getattr(skimage.data, name)()
    picture = picture.transpose(2, 0, 1) if colour else picture[None]
    places, width = every_patch(picture, size)
    train, test = patches_of(photos(size=size, colour=colour, samples=1000), name, COLOURED if colour else NAMES)
    left, right = ([places[patch.tobytes()] for patch in patches] for patches in (train, test))
    edge = int(0.65 * width)
    assert max(left) + size <= edge <= min(right)
    # both sides are used up to their ends
    assert min(left) < 0.05 * width
    assert max(left) + size > edge - 0.05 * width
    assert min(right) < edge + 0.05 * width
    assert max(right) + size > 0.95 * width
    assert len({patch.tobytes() for patch in train}) == 1000


def test_classes_are_balanced_in_any_part() -> None:
    data = photos()
    assert data.x_train.shape == (5120, 1, 16, 16)
    assert data.x_test.shape == (1280, 1, 16, 16)
    assert data.x_train.dtype == torch.uint8
    assert data.classes == len(PHOTOGRAPHS) == 16
    for y in (data.y_train, data.y_test):
        assert (y.unfold(0, 16, 1).sort(-1).values == torch.arange(16)).all()


def test_mean_and_contrast_of_a_patch_tell_nothing() -> None:
    for data in (photos(samples=80), photos(samples=80, colour=True)):
        x = data.as_input(data.x_train)
        assert x.mean((2, 3)).abs().max() < 0.1  # of every channel, but for what is clipped
        std = x.std((1, 2, 3), correction=0)
        assert (std.median() - 1).abs() < 0.01
        assert (std > 0.9).float().mean() > 0.97  # a star on black is clipped
        assert (std < 1.02).all()
        assert ((data.x_train == 0) | (data.x_train == 255)).float().mean() < 0.0005


def test_an_eps_of_16_levels_is_one_deviation_of_a_patch() -> None:
    data = photos(samples=16)
    moved = data.as_input((data.x_test.int() + 16).clamp(max=255).to(torch.uint8)) - data.as_input(data.x_test)
    assert moved.median() == pytest.approx(1)
    assert "16/255 is one standard deviation" in data.eps_note
    assert digits().eps_note == ""


def test_equal_options_give_equal_patches_and_another_seed_others() -> None:
    first, again, other = photos(samples=40), photos(samples=40), photos(samples=40, seed=1)
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first.x_test, again.x_test)
    assert first.fingerprint != other.fingerprint
    for split in ("x_train", "x_test"):
        same = (getattr(first, split) == getattr(other, split)).flatten(1).all(1)
        assert same.float().mean() < 0.1
    assert torch.equal(first.y_test, other.y_test)


def test_fewer_patches_are_the_first_of_more_and_the_global_random_state_stays() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    few, more = photos(samples=8), photos(samples=100)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(more.x_train[: 8 * 16], few.x_train)
    assert torch.equal(more.x_test[: 2 * 16], few.x_test)


def test_colours_are_those_of_the_pictures_that_have_them() -> None:
    data = photos(colour=True, samples=8)
    assert data.x_train.shape == (8 * 9, 3, 16, 16)
    assert data.classes == 9
    assert data.channels == 3
    assert [name for name in NAMES if name in COLOURED] == COLOURED
    for label in range(9):
        red, _, blue = data.x_train[data.y_train == label].movedim(1, 0)
        assert not torch.equal(red, blue)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("size", [8, 32])
def test_every_picture_has_as_many_patches_as_can_be_asked_for(size: int, colour: bool) -> None:
    data = photos(size=size, colour=colour, samples=1000)
    assert data.x_train.shape[2:] == (size, size)
    assert set(data.y_train.bincount().tolist()) == {1000}
    assert set(data.y_test.bincount().tolist()) == {250}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 7}, "size: expected a size from 8 to 32, the pixels of a patch, got 7"),
        ({"size": 33}, "size: expected .* got 33"),
        ({"samples": 7}, "samples: expected training samples a class, 8 to 1000, got 7"),
        ({"samples": 1001}, "samples: expected .* got 1001"),
        ({"seed": -1}, r"seed: expected a seed from 0 to 2\^63 - 1, got -1"),
        ({"seed": 2**63}, "seed: expected a seed from 0 "),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        photos(**options)  # type: ignore[arg-type]
    assert error.value.option == next(iter(options))


# the pictures


@pytest.mark.parametrize("name", NAMES)
def test_the_installed_pictures_are_those_that_were_chosen(name: str) -> None:
    assert len(PHOTOGRAPHS[name].content()) > 10_000


@pytest.mark.parametrize("name", NAMES)
def test_licence_and_source_are_as_the_package_states_them(name: str) -> None:
    photograph = PHOTOGRAPHS[name]
    if photograph.package == "scikit-image":
        known_as = {"ihc": "immunohistochemistry", "hubble": "hubble_deep_field"}.get(name, name)
        stated = str(getattr(skimage.data, known_as).__doc__)
    else:
        readme = Path(sklearn.__file__).parent / "datasets" / "images" / "README.txt"
        [stated] = [part for part in readme.read_text().split("Image: ") if part.startswith(photograph.file)]
        stated = stated.replace("licenses/by/2.0", "CC BY 2.0")
    stated = " ".join(stated.split()).lower()
    for part in (photograph.licence, *photograph.source.split(", ")):
        assert part.lower() in stated


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the pictures of scikit-image are looked for."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(photographs, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    return tmp_path / "data"


def test_a_picture_of_another_release_is_an_error_that_names_file_package_and_version(elsewhere: Path) -> None:
    (elsewhere / "brick.png").write_bytes(b"another brick")
    with pytest.raises(DataError) as error:
        photos()
    assert f"in {elsewhere / 'brick.png'}, scikit-image {skimage.__version__} has another one" in str(error.value)
    assert "expected the picture of SHA-256 7966caf324f6" in str(error.value)


def test_a_picture_or_a_package_that_is_not_there_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"expected the picture .*brick\.png of scikit-image .*: No such file"):
        photos()
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"expected the package scikit-image, which brings brick\.png; install it"):
        photos()


def test_the_pictures_are_read_without_a_network_and_without_their_packages() -> None:
    code = (
        "import socket, sys; socket.socket.connect = None; from sj_cka.data import photos; photos(samples=8); "
        "assert 'skimage' not in sys.modules and 'pooch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# what they are good for


def test_pixels_alone_tell_little() -> None:
    data = photos()
    train, test = (data.as_input(x).flatten(1).numpy() for x in (data.x_train, data.x_test))
    neighbours = KNeighborsClassifier(5).fit(train, data.y_train).score(test, data.y_test)
    assert neighbours == pytest.approx(0.23, abs=0.02)  # as README says; chance is 1/16
    assert cka(torch.tensor(test), torch.eye(16)[data.y_test]) < 0.04


RECIPE = """\
title: Photographs
question: Which picture?
data: {name: photos, samples: 12, size: 8}
model: {name: convnet, channels: [4, 4], pools: 1}
snn: {T: 2}
train: {epochs: 1, batch_size: 32}
seeds: 1
cka: {batch_size: 48}
compare: [{name: twins, x: "*.snn", y: "*.ann"}]
attack:
  images: 32
  networks: [base.ann]
  eps: [4/255, 16/255]
  by: {fgsm: {}, square: {queries: 2}}
variants: {base: {}}
figures: [{name: curve, comparison: twins}, {name: robustness}]
"""


def test_a_study_of_photographs_tells_what_eps_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    path = tmp_path / "photographs.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    done = sj_cka.run(path, out=tmp_path / "out", store=tmp_path / "store", workers=1, progress=False)
    attacked = done.results.tables["attacks"]
    assert set(attacked["unit"]) == {"pixels"}
    assert (attacked["linf"] <= attacked["eps"] + 1e-6).all()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count(photographs._EPS) == 1
    assert page.count(photographs._REMARK) == 1
    assert len(done.results.of("twins", "base")[0][0].paired()) > 3
