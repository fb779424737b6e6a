"""Data: torchvision's sets, from small ones written in the published formats; no network."""

import errno
import hashlib
import pickle
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from sj_cka.data import DataError
from sj_cka.data.torchvision_sets import TORCHVISION_SETS, TORCHVISION_SHAPES

FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
}
# a file of the training images, and what a user downloads to get it
FILES = {
    "cifar10": ("data_batch_3", "cifar-10-python.tar.gz"),
    "cifar100": ("train", "cifar-100-python.tar.gz"),
    "mnist": ("train-images-idx3-ubyte", "ossci-datasets"),
    "fashion_mnist": ("train-images-idx3-ubyte", "zalandoresearch"),
}
READERS = {
    "cifar10": torchvision.datasets.CIFAR10,
    "cifar100": torchvision.datasets.CIFAR100,
    "mnist": torchvision.datasets.MNIST,
    "fashion_mnist": torchvision.datasets.FashionMNIST,
}
EVERY = pytest.mark.parametrize("name", sorted(TORCHVISION_SETS))
CIFARS = pytest.mark.parametrize("name", ["cifar10", "cifar100"])
MNISTS = pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def urlopen(*args, **kwargs):
        pytest.fail("the network was asked for")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.delenv("SJ_CKA_DATA", raising=False)


def content(name, n_train=10, n_test=3):
    """Random images `[N, C, H, W]` and labels of both splits; labels run up to the last class."""
    random = np.random.default_rng(0)
    (C, size, _), classes, *_ = TORCHVISION_SHAPES[name]()
    made = {}
    for split, n in (("train", n_train), ("test", n_test)):
        made[f"x_{split}"] = random.integers(0, 256, (n, C, size, size), dtype=np.uint8)
        made[f"y_{split}"] = (classes - 1 - np.arange(n)) % classes
    return made


def put(name, root, monkeypatch, **changes):
    """A set in the published format; what torchvision expects of CIFAR's files becomes these files' checksums."""
    made = content(name) | changes
    folder = root / FOLDERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    if name.startswith("cifar"):
        put_cifar(name, folder, made, monkeypatch)
    else:
        for split, stem in (("train", "train"), ("test", "t10k")):
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(made[f"x_{split}"][:, 0]))
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx(made[f"y_{split}"]))
    return made


def idx(array):
    """Two zero bytes, 8 for unsigned bytes, number of axes; the axes as big-endian int32; the bytes."""
    axes = np.asarray(array.shape, dtype=">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + axes + array.astype(np.uint8).tobytes()


def put_cifar(name, folder, made, monkeypatch):
    """A batch is a pickled dict: rows of the red, green and blue plane, and a list of labels."""
    parts = 5 if name == "cifar10" else 1
    trains = [f"data_batch_{i}" for i in range(1, 6)] if name == "cifar10" else ["train"]
    test, meta = ("test_batch", "batches.meta") if name == "cifar10" else ("test", "meta")
    labels, names = ("labels", "label_names") if name == "cifar10" else ("fine_labels", "fine_label_names")
    batches = {}
    for split, files in (("train", trains), ("test", [test])):
        x, y = (np.array_split(made[f"{axis}_{split}"], parts if split == "train" else 1) for axis in "xy")
        for file, pixels, of in zip(files, x, y, strict=True):
            batches[file] = {"data": pixels.reshape(len(pixels), 3 * 32 * 32), labels: of.tolist()}
            if name == "cifar100":
                batches[file]["coarse_labels"] = [0] * len(of)
    batches[meta] = {names: [str(i) for i in range(TORCHVISION_SHAPES[name]().classes)]}
    sums = {}
    for file, batch in batches.items():
        packed = pickle.dumps(batch, protocol=2)
        (folder / file).write_bytes(packed)
        sums[file] = hashlib.md5(packed).hexdigest()
    reader = READERS[name]
    monkeypatch.setattr(reader, "train_list", [[file, sums[file]] for file in trains])
    monkeypatch.setattr(reader, "test_list", [[test, sums[test]]])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": sums[meta]})


def serve(name, monkeypatch):
    """Puts the whole set in the root whenever torchvision would fetch an archive; lists what it was asked for."""
    asked = []

    def fetch(url, *args, **kwargs):
        asked.append(url)
        given = Path(args[0] if args else kwargs["download_root"])
        root = given if name.startswith("cifar") else given.parents[1]
        assert root.is_dir()
        put(name, root, monkeypatch)

    module = "cifar" if name.startswith("cifar") else "mnist"
    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", fetch)
    return asked


def test_the_tables_name_the_same_sets_and_their_published_sizes():
    assert list(TORCHVISION_SETS) == list(TORCHVISION_SHAPES) == list(FOLDERS)
    assert TORCHVISION_SHAPES["cifar10"]() == ((3, 32, 32), 10, 50_000, 10_000)
    assert TORCHVISION_SHAPES["cifar100"](root="anywhere") == ((3, 32, 32), 100, 50_000, 10_000)
    assert TORCHVISION_SHAPES["mnist"]() == TORCHVISION_SHAPES["fashion_mnist"]() == ((1, 28, 28), 10, 60_000, 10_000)


@EVERY
def test_pixels_and_labels_are_those_of_the_files_in_their_order(name, tmp_path, monkeypatch):
    made = put(name, tmp_path, monkeypatch)
    data = TORCHVISION_SETS[name](tmp_path)
    for split in ("train", "test"):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        assert x.dtype == torch.uint8
        assert y.dtype == torch.int64
        assert np.array_equal(x.numpy(), made[f"x_{split}"])
        assert np.array_equal(y.numpy(), made[f"y_{split}"])
    assert data.classes == TORCHVISION_SHAPES[name]().classes


@CIFARS
def test_a_row_of_cifar_holds_the_planes_one_after_another(name, tmp_path, monkeypatch):
    x = content(name)["x_train"]
    x[:] = 0
    # plane 2, row 5, column 7 of a 32 x 32 image
    x.reshape(len(x), -1)[1, 2 * 1024 + 5 * 32 + 7] = 200
    put(name, tmp_path, monkeypatch, x_train=x)
    found = TORCHVISION_SETS[name](tmp_path).x_train
    assert found.nonzero().tolist() == [[1, 2, 5, 7]]
    assert found[1, 2, 5, 7] == 200


@MNISTS
def test_a_row_of_an_idx_image_is_a_row(name, tmp_path, monkeypatch):
    x = content(name)["x_test"]
    x[:] = 0
    x.reshape(len(x), -1)[2, 5 * 28 + 7] = 200
    put(name, tmp_path, monkeypatch, x_test=x)
    found = TORCHVISION_SETS[name](tmp_path).x_test
    assert found.nonzero().tolist() == [[2, 0, 5, 7]]


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ("mnist", (0.1307,), (0.3081,)),
        ("fashion_mnist", (0.2860,), (0.3530,)),
    ],
)
def test_images_are_normalised_by_the_customary_constants(name, mean, std, tmp_path, monkeypatch):
    made = put(name, tmp_path, monkeypatch)
    data = TORCHVISION_SETS[name](tmp_path)
    assert (data.mean, data.std) == (mean, std)
    last = len(mean) - 1
    expected = (made["x_test"][2, last] / 255 - mean[last]) / std[last]
    assert np.allclose(data.as_input(data.x_test)[2, last].numpy(), expected, atol=1e-5)


@EVERY
def test_the_fingerprint_follows_the_content(name, tmp_path, monkeypatch):
    made = put(name, tmp_path, monkeypatch)
    first, again = TORCHVISION_SETS[name](tmp_path), TORCHVISION_SETS[name](tmp_path)
    other = made["x_test"].copy()
    other[0, 0, 0, 0] ^= 1
    put(name, tmp_path, monkeypatch, x_test=other)
    assert first.fingerprint == again.fingerprint
    assert TORCHVISION_SETS[name](tmp_path).fingerprint != first.fingerprint


@EVERY
def test_the_root_comes_from_the_environment_where_none_is_given(name, tmp_path, monkeypatch):
    put(name, tmp_path / "there", monkeypatch)
    monkeypatch.setenv("SJ_CKA_DATA", str(tmp_path / "there"))
    assert len(TORCHVISION_SETS[name]().x_train) == 10
    with pytest.raises(DataError, match=f"data root {tmp_path}/here, with"):
        TORCHVISION_SETS[name](tmp_path / "here")


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_tilde_is_the_home_folder(by, tmp_path, monkeypatch):
    put("mnist", tmp_path / "sets", monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    if by == "environment":
        monkeypatch.setenv("SJ_CKA_DATA", "~/sets")
    assert len(TORCHVISION_SETS["mnist"](Path("~/sets") if by == "argument" else None).x_train) == 10


def test_the_home_folder_of_nobody_is_refused():
    with pytest.raises(DataError, match=r"expected a data root, got ~nobody-of-this-name: .*home"):
        TORCHVISION_SETS["mnist"](Path("~nobody-of-this-name"), download=True)


@EVERY
@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("value", [None, ""])
def test_no_root_at_all_is_refused_with_the_ways_to_give_one(name, download, value, monkeypatch):
    if value is not None:
        monkeypatch.setenv("SJ_CKA_DATA", value)
    with pytest.raises(DataError, match=r"got none; give data\.root .*--set data\.root=FOLDER.* SJ_CKA_DATA"):
        TORCHVISION_SETS[name](download=download)


@EVERY
def test_a_missing_set_is_refused_with_what_to_put_where(name, tmp_path):
    file, source = FILES[name]
    title = name.replace("cifar", "CIFAR-").replace("fashion_", "Fashion-").replace("mnist", "MNIST")
    message = f"{title}: expected the folder {FOLDERS[name]} in the data root {tmp_path}/none, with .*{file}.*; "
    message += rf"missing: all; .*{source}.*, or set data\.download: true"
    with pytest.raises(DataError, match=message):
        TORCHVISION_SETS[name](tmp_path / "none")
    assert not (tmp_path / "none").exists()


@EVERY
def test_a_single_missing_file_is_named(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch)
    file, _ = FILES[name]
    (tmp_path / FOLDERS[name] / file).unlink()
    with pytest.raises(DataError, match=f"missing: {file}; "):
        TORCHVISION_SETS[name](tmp_path)


@MNISTS
def test_packed_idx_files_alone_are_a_missing_set_that_is_to_be_unpacked(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch)
    for path in list((tmp_path / FOLDERS[name]).iterdir()):
        path.rename(path.with_name(path.name + ".gz"))
    with pytest.raises(DataError, match=r"missing: all; fetch each, with \.gz, .* and unpack it there, or"):
        TORCHVISION_SETS[name](tmp_path)


@EVERY
@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("left", [0, 7, -5])
def test_a_truncated_file_is_refused_and_left_as_it_is(name, download, left, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch)
    path = tmp_path / FOLDERS[name] / FILES[name][0]
    path.write_bytes(path.read_bytes()[:left])
    before = path.read_bytes()
    message = f"{FOLDERS[name]}, at least one is damaged .*torchvision says: .*; remove the folder {FOLDERS[name]}"
    with pytest.raises(DataError, match=message):
        TORCHVISION_SETS[name](tmp_path, download=download)
    assert path.read_bytes() == before


@MNISTS
def test_a_file_that_is_no_idx_file_is_refused(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch)
    (tmp_path / FOLDERS[name] / FILES[name][0]).write_bytes(bytes(20))
    with pytest.raises(DataError, match=r"at least one is damaged .*says: AssertionError; remove"):
        TORCHVISION_SETS[name](tmp_path)


@CIFARS
def test_a_changed_byte_of_cifar_is_refused(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch)
    path = tmp_path / FOLDERS[name] / FILES[name][0]
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"at least one is damaged .*RuntimeError: Dataset not found or corrupted"):
        TORCHVISION_SETS[name](tmp_path)


@CIFARS
def test_a_file_that_is_no_batch_is_refused_even_where_checksums_agree(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch)
    (tmp_path / FOLDERS[name] / FILES[name][0]).write_bytes(pickle.dumps({"other": 1}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    with pytest.raises(DataError, match=r"at least one is damaged .*KeyError: 'data'"):
        TORCHVISION_SETS[name](tmp_path)


@EVERY
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_label_that_is_no_class_is_refused(name, split, tmp_path, monkeypatch):
    classes = TORCHVISION_SHAPES[name]().classes
    labels = content(name)[f"y_{split}"]
    labels[1] = classes
    put(name, tmp_path, monkeypatch, **{f"y_{split}": labels})
    with pytest.raises(DataError, match=f"{split} split: expected labels 0 to {classes - 1}, got [0-9]+ to {classes}"):
        TORCHVISION_SETS[name](tmp_path)


@CIFARS
def test_a_negative_label_and_one_that_is_no_integer_are_refused(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch, y_test=np.array([0, -1, 1]))
    with pytest.raises(DataError, match=r"test split: expected labels 0 to [0-9]+, got -1 to 1"):
        TORCHVISION_SETS[name](tmp_path)
    put(name, tmp_path, monkeypatch, y_test=np.array([0, 0.5, 1]))
    with pytest.raises(DataError, match=r"test split: expected 3 integer labels, got float64 \[3\]"):
        TORCHVISION_SETS[name](tmp_path)


@EVERY
def test_fewer_labels_than_images_are_refused(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch, y_test=np.arange(2))
    with pytest.raises(DataError, match=r"test split: expected 3 integer labels, got int64 \[2\]"):
        TORCHVISION_SETS[name](tmp_path)


@MNISTS
def test_images_of_another_size_are_refused(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch, x_test=np.zeros((3, 1, 28, 20), np.uint8))
    with pytest.raises(DataError, match=r"test split: .* images \[N, 1, 28, 28\], got uint8 \[3, 1, 28, 20\]"):
        TORCHVISION_SETS[name](tmp_path)


@CIFARS
def test_pixels_that_are_no_bytes_and_a_split_without_images_are_refused(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch, x_test=np.zeros((3, 3, 32, 32), np.float32))
    with pytest.raises(DataError, match=r"expected uint8 images \[N, 3, 32, 32\], got float32 \[3, 3, 32, 32\]"):
        TORCHVISION_SETS[name](tmp_path)
    put(name, tmp_path, monkeypatch, x_test=np.zeros((0, 3, 32, 32), np.uint8), y_test=np.zeros(0, int))
    with pytest.raises(DataError, match=r"expected uint8 images \[N, 3, 32, 32\], got uint8 \[0, 3, 32, 32\]"):
        TORCHVISION_SETS[name](tmp_path)


@EVERY
def test_a_set_that_is_there_is_not_downloaded_again(name, tmp_path, monkeypatch):
    made = put(name, tmp_path, monkeypatch)
    asked = serve(name, monkeypatch)
    data = TORCHVISION_SETS[name](tmp_path, download=True)
    assert np.array_equal(data.x_test.numpy(), made["x_test"])
    assert asked == []


@EVERY
def test_nothing_is_downloaded_unless_asked(name, tmp_path, monkeypatch):
    asked = serve(name, monkeypatch)
    with pytest.raises(DataError, match=r"or set data\.download: true"):
        TORCHVISION_SETS[name](tmp_path)
    assert asked == []
    assert list(tmp_path.iterdir()) == []


@EVERY
def test_a_download_makes_the_root_and_gives_the_set(name, tmp_path, monkeypatch):
    asked = serve(name, monkeypatch)
    root = tmp_path / "new" / "root"
    data = TORCHVISION_SETS[name](root, download=True)
    assert asked
    assert np.array_equal(data.x_train.numpy(), content(name)["x_train"])
    assert np.array_equal(data.y_test.numpy(), content(name)["y_test"])


@EVERY
def test_a_download_fills_in_a_missing_file(name, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch)
    (tmp_path / FOLDERS[name] / FILES[name][0]).unlink()
    asked = serve(name, monkeypatch)
    assert len(TORCHVISION_SETS[name](tmp_path, download=True).x_train) == 10
    assert asked


@EVERY
@pytest.mark.parametrize("below", ["", "/sets"])
def test_a_root_that_cannot_be_a_folder_is_refused(name, below, tmp_path):
    (tmp_path / "file").write_text("mine")
    root = Path(f"{tmp_path}/file{below}")
    with pytest.raises(DataError, match=f"into the data root {root}, could not: (FileExists|NotADirectory)Error"):
        TORCHVISION_SETS[name](root, download=True)
    with pytest.raises(DataError, match="missing: all"):
        TORCHVISION_SETS[name](root)
    assert (tmp_path / "file").read_text() == "mine"


@EVERY
def test_a_root_that_must_not_be_written_is_refused(name, tmp_path, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.mkdir", refuse)
    with pytest.raises(DataError, match=f"data root {tmp_path}/new, could not: PermissionError: .*can be written"):
        TORCHVISION_SETS[name](tmp_path / "new", download=True)


@EVERY
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (urllib.error.URLError("no route to host"), "URLError|no route to host"),
        (TimeoutError("timed out"), "TimeoutError: timed out"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (RuntimeError("File not found\nor corrupted."), r"RuntimeError: File not found or corrupted\."),
    ],
)
def test_a_failing_download_is_told_with_its_cause_and_loses_nothing(name, error, message, tmp_path, monkeypatch):
    put(name, tmp_path, monkeypatch)
    folder = tmp_path / FOLDERS[name]
    (folder / FILES[name][0]).unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(DataError, match=f"data root {tmp_path}, could not: .*({message}).*; check the network"):
        TORCHVISION_SETS[name](tmp_path, download=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_importing_the_sets_does_not_import_torchvision():
    code = "import sys, sj_cka.data.torchvision_sets; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
