"""Data: the digits, and a user's npz file checked on reading."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from sj_cka.data import DataError, digits, npz


def arrays(**changes):
    rng = np.random.default_rng(0)
    made = {
        "x_train": rng.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
    }
    return {k: v for k, v in (made | changes).items() if v is not None}


def saved(folder, **changes):
    path = folder / "mine.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_the_digits_are_split_as_stated_and_stratified():
    data = digits()
    assert data.x_train.shape == (1437, 1, 8, 8)
    assert data.x_test.shape == (360, 1, 8, 8)
    assert data.x_train.dtype == torch.float32
    assert data.y_train.dtype == torch.int64
    assert data.classes == 10
    train, test = data.y_train.bincount() / 1437, data.y_test.bincount() / 360
    assert (train - test).abs().max() < 0.003


def test_how_small_a_test_the_digits_are_is_said_and_true():
    data = digits()
    nearest = KNeighborsClassifier(3).fit(data.x_train.flatten(1), data.y_train)
    (remark,) = data.remarks
    assert f"{100 * nearest.score(data.x_test.flatten(1), data.y_test):.1f} %" in remark


def test_the_digits_are_scikit_learn_s_each_once():
    from sklearn.datasets import load_digits

    data = digits()
    whole = torch.cat([data.x_train, data.x_test])
    found = sorted(map(tuple, (whole.flatten(1) * 16).round().int().tolist()))
    assert found == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_the_split_is_the_same_every_time():
    a, b = digits(), digits()
    assert torch.equal(a.x_test, b.x_test)
    assert a.fingerprint == b.fingerprint


def test_mean_and_std_are_those_of_the_training_split(tmp_path):
    for data in (digits(), npz(saved(tmp_path))):
        x_train, x_test = data.as_input(data.x_train), data.as_input(data.x_test)
        assert x_train.dtype == x_test.dtype == torch.float32
        assert x_train.mean((0, 2, 3)).abs().max() < 1e-5
        assert (x_train.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
        assert x_test.mean().abs() > 1e-6


def test_bytes_are_nhwc_and_stay_bytes_nchw_until_they_are_normalised(tmp_path):
    data = npz(saved(tmp_path))
    raw = arrays()["x_test"]
    assert data.x_test.shape == (6, 3, 5, 4)
    assert data.x_test.dtype == torch.uint8
    assert np.array_equal(data.x_test[2, 1].numpy(), raw[2, :, :, 1])
    back = data.as_input(data.x_test)[2, 1] * data.std[1] + data.mean[1]
    assert np.allclose(back.numpy(), raw[2, :, :, 1] / 255, atol=1e-6)


def test_floats_are_nchw_as_they_are(tmp_path):
    rng = np.random.default_rng(1)
    x = {f"x_{s}": rng.random((n, 2, 5, 4)) for s, n in (("train", 12), ("test", 6))}
    data = npz(saved(tmp_path, **x))
    assert np.allclose(data.x_test[3, 1], x["x_test"][3, 1], atol=1e-6)
    back = data.as_input(data.x_test)[3, 1] * data.std[1] + data.mean[1]
    assert np.allclose(back, x["x_test"][3, 1], atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_images_are_normalised_where_they_are(tmp_path, device):
    data = npz(saved(tmp_path))
    assert data.as_input(data.x_train.to(device)).device.type == device


def test_the_fingerprint_follows_the_content_not_the_path(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = npz(saved(tmp_path / "a")), npz(saved(tmp_path / "b"))
    other = arrays()["y_test"].copy()
    other[0] = 1
    assert first.fingerprint == second.fingerprint
    assert npz(saved(tmp_path / "b", y_test=other)).fingerprint != first.fingerprint


def nan_images():
    x = np.ones((12, 2, 4, 4), dtype=np.float32)
    x[7, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "missing: y_test; got"),
        (
            {"x_train": np.zeros((0, 5, 4, 3), np.uint8), "y_train": np.zeros(0, int)},
            r"x_train: .*empty array \[0, 5, 4, 3\]",
        ),
        (
            {"x_train": nan_images()},
            "x_train: expected finite numbers, got NaN or infinity in 1 images, first in image 7",
        ),
        ({"x_train": np.zeros((12, 20), np.uint8)}, r"x_train: expected images.*got uint8 \[12, 20\]"),
        ({"x_train": np.zeros((12, 5, 4, 3), np.int64)}, "got int64"),
        (
            {"x_train": np.zeros((12, 3, 16, 16), np.uint8)},
            r"x_train: expected uint8 images as \[N, H, W, C\], got \[12, 3, 16, 16\]: 16 channels; swap the axes",
        ),
        (
            {"x_train": np.zeros((12, 16, 16, 3), np.float32)},
            r"expected float32 images as \[N, C, H, W\], got \[12, 16, 16, 3\]: 16 channels",
        ),
        ({"y_train": np.arange(11)}, r"y_train: expected 12 integer labels, got int64 \[11\]"),
        ({"y_train": np.arange(12) / 2}, r"y_train: expected 12 integer labels, got float64"),
        ({"y_train": np.arange(12) % 3 - 1}, "y_train: expected labels from 0, got -1"),
        ({"y_test": np.array([0, 1, 2, 3, 0, 1])}, r"y_test holds the classes \[3\], which y_train lacks"),
        (
            {"x_test": np.zeros((6, 6, 4, 3), np.uint8)},
            r"training images' shape \[C, H, W\] \(3, 5, 4\), got \(3, 6, 4\)",
        ),
        ({"x_train": np.zeros((12, 5, 4, 3), np.uint8)}, "channel 0 of the training split is constant"),
        ({"x_train": np.full((12, 3, 5, 4), 1e300)}, "in 12 images, first in image 0: 1e\\+300 is beyond float32"),
        (
            {"y_train": np.arange(12)[:, None] % 3},
            r"y_train: expected 12 integer labels, got int64 \[12, 1\]; y.squeeze",
        ),
        ({"y_train": np.eye(3)[np.arange(12) % 3]}, r"got float64 \[12, 3\]; one row an image: y.argmax\(1\)"),
        ({"y_test": np.arange(6) % 3 * 1.0}, r"y_test: expected 6 integer labels, got float64 \[6\]; y.astype\(int\)"),
        ({"y_train": np.zeros(12, int), "y_test": np.zeros(6, int)}, "y_train: expected two classes or more, got 0"),
        ({"y_test": np.full(6, 2)}, "y_test: expected two classes or more, got 2 alone: shuffle before you split"),
        (
            {"x_test": arrays()["x_test"] % 2},
            "one scale, got uint8 from 0 to 255 for training and uint8 from 0",
        ),
        (
            {"x_test": np.random.default_rng(0).random((6, 3, 5, 4))},
            "got uint8 from 0 to 255 for .* float32 from 0.* to",
        ),
        ({"x_train": np.array([{}], dtype=object)}, r"x_train\.npy: expected numbers, got an array of Py"),
        ({"y_train": np.where(np.arange(12) % 3, np.nan, 1)}, "expected 12 integer labels, got float64"),
        ({"y_test": -np.arange(6)}, "y_test: expected labels from 0, got -5"),
    ],
)
def test_a_file_that_does_not_hold_what_is_needed_is_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        npz(saved(tmp_path, **changes))


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.uint64])
def test_class_ids_of_any_size_are_refused_without_taking_memory(dtype, tmp_path):
    ids = {f"y_{split}": ((np.arange(n) % 3) * 10**9).astype(dtype) for split, n in (("train", 12), ("test", 6))}
    path = saved(tmp_path, **ids)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"labels 0 to 2 in y_train, .* up to 2000000000 without \[1, 2\]"):
            npz(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("dtype", "told"),  # as which layout, and for which shapes
    [
        (np.float32, {"NCHW": [(3, 8, 8), (12, 8, 8), (5, 9, 8), (1, 8, 6), (1, 1, 9), (2, 5, 4)]}),
        (np.uint8, {"NHWC": [(8, 8, 3), (9, 8, 5), (8, 8, 5), (16, 12, 11), (5, 5, 12), (4, 4, 3)]}),
    ],
)
def test_channels_are_where_the_shape_says(tmp_path, dtype, told):
    [(layout, shapes)] = told.items()
    for shape in shapes:
        path = with_shape(tmp_path, shape, dtype)
        assert npz(path).fingerprint == npz(path, layout=layout).fingerprint


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_layout_that_is_given_is_taken(tmp_path, dtype):
    for shape in ((8, 8, 3), (3, 8, 8), (6, 6, 6), (5, 9, 8), (8, 9, 5)):
        path = with_shape(tmp_path, shape, dtype)
        with np.load(path) as file:
            x = file["x_test"]
        assert np.array_equal(npz(path, layout="NCHW").x_test.numpy(), x)
        assert np.array_equal(npz(path, layout="NHWC").x_test.numpy(), x.transpose(0, 3, 1, 2))


def with_shape(folder, shape, dtype):
    rng = np.random.default_rng(0)
    x = {f"x_{split}": (rng.random((n, *shape)) * 255).astype(dtype) for split, n in (("train", 12), ("test", 6))}
    return saved(folder, **x)


@pytest.mark.parametrize("shape", [(3, 3, 9), (3, 8, 8), (12, 8, 8), (5, 9, 8), (6, 6, 6), (9, 5, 8)])
def test_bytes_that_do_not_have_their_channels_last_for_sure_are_refused(tmp_path, shape):
    with pytest.raises(DataError, match=r"x_train: .*say layout: NHWC"):
        npz(with_shape(tmp_path, shape, np.uint8))


@pytest.mark.parametrize("shape", [(8, 8, 5), (9, 8, 5), (16, 16, 11), (5, 5, 12), (3, 3, 9), (6, 6, 6), (9, 5, 8)])
def test_floats_with_their_channels_last_are_refused_and_told_the_layout(tmp_path, shape):
    path = with_shape(tmp_path, shape, np.float32)
    H, _, C = shape
    with pytest.raises(DataError, match=f"x_train: .*: say layout: NCHW for {H} channels or layout: NHWC for {C}"):
        npz(path)


def test_splits_on_two_scales_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    train, test = rng.random((12, 3, 5, 4)) * 255, rng.random((6, 3, 5, 4))
    with pytest.raises(DataError, match=r"mine.npz: expected both splits on one scale, got float32 from .* to 25\d"):
        npz(saved(tmp_path, x_train=train, x_test=test))
    assert npz(saved(tmp_path, x_train=train, x_test=test * 255)).x_test.max() > 200


def test_a_missing_file_and_one_that_is_no_archive_are_refused(tmp_path):
    with pytest.raises(DataError, match="found no file at"):
        npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="could not read it"):
        npz(tmp_path / "text.npz")


def test_a_truncated_file_is_refused(tmp_path):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match="could not read it"):
        npz(path)


def test_real_cifar10_images_as_a_user_brings_them():
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SJ_CKA_TEST_DATA", beside))
    path = folder / "cifar10_small.npz"
    if not path.is_file():
        pytest.skip(f"no real CIFAR-10 sample at {path}; set SJ_CKA_TEST_DATA")
    data = npz(path)
    assert data.x_train.shape == (6000, 3, 32, 32)
    assert data.x_test.shape == (1000, 3, 32, 32)
    assert data.y_train.bincount().tolist() == [600] * 10
