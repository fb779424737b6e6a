"""Data: event sets, from the real sample of N-MNIST and from small ones in the published formats; no network."""

import contextlib
import hashlib
import inspect
import io
import itertools
import json
import os
import re
import shutil
import threading
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from spikingjelly.datasets import n_mnist
from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number, load_ATIS_bin

from sj_cka import progress
from sj_cka.data import DATASETS, DataError, Frames, bin_events, bin_spikes
from sj_cka.data.events import EVENT_SETS, frame_files, integration, preparation, recordings, sets
from sj_cka.data.samples import fingerprint
from sj_cka.files import check_hdf5, hdf5_trial
from sj_cka.plugins import OptionError
from sj_cka.recipe.choices import DATA

EVERY = pytest.mark.parametrize("name", sorted(EVENT_SETS))
BOTH = pytest.mark.parametrize("split_by", ["number", "time"])
nmnist = EVENT_SETS["nmnist"]


@pytest.fixture(autouse=True)
def _tried_here(monkeypatch):
    """Files of spike trains are tried without a process for each; the test of damaged ones uses the real thing."""

    def check(path):
        with contextlib.suppress(Exception):
            hdf5_trial.try_to_read("h5py", str(path))

    monkeypatch.setattr(recordings, "check_hdf5", check)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def urlopen(*args, **kwargs):
        pytest.fail("the network was asked for")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.delenv("SJ_CKA_DATA", raising=False)


@pytest.fixture
def no_reading(monkeypatch):
    """From when it is called on, no recording can be read."""

    def forbid():
        for name in ("_loaded", "_of_h5"):
            monkeypatch.setattr(recordings, name, lambda *args: pytest.fail("a recording was to be read"))

    return forbid


def real(root, split):
    """The files of a split of the real sample, in the order of the frames."""
    return sorted((root / "NMNIST" / "extract" / split.title()).glob("*/*.bin"))


def frames_folder(root, name="NMNIST"):
    [found] = [path for path in (root / name / "sj_cka_frames").iterdir() if path.is_dir()]
    return found


# the real sample


@pytest.mark.sampled(1)
@pytest.mark.parametrize("nmnist_root", ["some", "all"], indirect=True)
def test_every_event_of_the_real_recordings_is_counted_once(nmnist_root):
    for split_by in ("number", "time"):
        data = nmnist(nmnist_root, T=10, split_by=split_by)
        for split, x in (("train", data.x_train), ("test", data.x_test)):
            files = real(nmnist_root, split)
            assert x.shape == (len(files), 10, 2, 34, 34)
            assert x.flatten(1).sum(1).tolist() == [file.stat().st_size // 5 for file in files]


def test_labels_are_the_digits_and_the_report_tells_how_much_of_the_set_was_there(nmnist_sample):
    data = nmnist(nmnist_sample)
    assert isinstance(data, Frames)
    for split, y in (("train", data.y_train), ("test", data.y_test)):
        assert y.tolist() == [int(file.parent.name) for file in real(nmnist_sample, split)]
        assert y.unique().tolist() == list(range(10))
        assert y.dtype == torch.int64
    assert data.classes == 10
    assert data.held_out == ()
    [told] = data.remarks
    assert told == "N-MNIST: 100 training and 20 test recordings were there, of 60,000 and 10,000 published."


def test_by_number_the_frames_are_spikingjelly_s_own(nmnist_sample):
    data = nmnist(nmnist_sample, T=10)
    for split, x in (("train", data.x_train), ("test", data.x_test)):
        for own, file in zip(x, real(nmnist_sample, split), strict=True):
            expected = integrate_events_by_fixed_frames_number(load_ATIS_bin(file), "number", 10, 34, 34)
            assert np.array_equal(own, expected)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("nmnist_root", "dark"), [("some", 2), ("all", 7)], indirect=["nmnist_root"])
def test_by_time_they_are_too_but_for_those_that_have_a_time_without_events(nmnist_root, dark):
    data = nmnist(nmnist_root, T=50, split_by="time")
    failed = 0
    for own, file in zip(data.x_test, real(nmnist_root, "test"), strict=True):
        try:
            expected = integrate_events_by_fixed_frames_number(load_ATIS_bin(file), "time", 50, 34, 34)
        except IndexError:
            failed += 1
            assert (own.flatten(1).sum(1) == 0).any()
            assert own.sum() == file.stat().st_size // 5
            continue
        assert np.array_equal(own, expected)
    assert failed == dark


def test_a_smaller_size_adds_pixels_up(nmnist_sample):
    whole, half = nmnist(nmnist_sample).x_test, nmnist(nmnist_sample, size=[17, 17]).x_test
    assert torch.equal(half, whole.unfold(-2, 2, 2).unfold(-2, 2, 2).sum((-1, -2), dtype=half.dtype))
    other = nmnist(nmnist_sample, size=[5, 21]).x_test
    assert other.shape == (20, 10, 2, 5, 21)
    assert torch.equal(other.sum((3, 4)), whole.sum((3, 4)))


def test_the_second_call_reads_no_recording(nmnist_sample, no_reading):
    first = nmnist(nmnist_sample, T=4)
    no_reading()
    again = nmnist(nmnist_sample, T=4)
    assert again.fingerprint == first.fingerprint
    assert again.remarks == first.remarks
    assert torch.equal(again.x_train, first.x_train)
    assert torch.equal(again.y_test, first.y_test)


def test_the_fingerprint_is_that_of_the_arrays(nmnist_sample):
    data = nmnist(nmnist_sample, T=2)
    arrays = (data.x_train, data.y_train, data.x_test, data.y_test)
    assert data.fingerprint == fingerprint(array.numpy() for array in arrays)


def test_frames_are_never_all_in_memory(nmnist_sample):
    nmnist(nmnist_sample, T=1)
    tracemalloc.start()
    try:
        data = nmnist(nmnist_sample, T=200)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert data.x_train.nbytes / 2**20 > 40
    assert peak < 12, f"{peak:.0f} MiB"


# every set, from its published format


def expected_frames(name, events, T, split_by):
    if name == "shd":
        seconds, units = events
        return bin_spikes(np.rint(seconds * 1e6).astype(int), units, T=T, D=700, split_by=split_by)
    t, x, y, p = events
    _, _, H, W = sets.event_shape(name).sample
    return bin_events(t, x, y, p, T=T, H=H, W=W, split_by=split_by)


@EVERY
@BOTH
def test_a_set_in_its_published_format_gives_the_frames_of_its_events(name, split_by, formats, tmp_path):
    made = formats.small_set(name, tmp_path)
    data = EVENT_SETS[name](tmp_path, T=3, split_by=split_by)
    whole = made["train"] + made["test"]
    assert len(data.x_train) + len(data.x_test) == len(whole)
    assert data.x_train.shape[1:] == data.x_test.shape[1:] == sets.event_shape(name, T=3).sample
    assert data.x_train.dtype == torch.uint8
    if data.held_out:
        # our split: the same recordings, in another order
        rows = list(zip(data.y_train.tolist() + data.y_test.tolist(), [*data.x_train, *data.x_test], strict=True))
        for label, events in whole:
            expected = expected_frames(name, events, 3, split_by).to(torch.uint8)
            [at] = [i for i, (y, x) in enumerate(rows) if y == label and torch.equal(x, expected)]
            rows.pop(at)
        assert not rows
        return
    for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        assert y.tolist() == [label for label, _ in made[split]]
        for own, (_, events) in zip(x, made[split], strict=True):
            assert torch.equal(own.float(), expected_frames(name, events, 3, split_by))


@EVERY
def test_recordings_that_spikingjelly_prepared_are_enough(name, formats, tmp_path):
    formats.small_set(name, tmp_path)
    first = EVENT_SETS[name](tmp_path, T=2)
    folder = tmp_path / formats.FOLDERS[name]
    if name == "shd":
        for link in (folder / "events_h5").iterdir():
            os.replace(link.resolve(), link)
    shutil.rmtree(folder / "extract")
    shutil.rmtree(folder / "sj_cka_frames")
    again = EVENT_SETS[name](tmp_path, T=2)
    assert again.fingerprint == first.fingerprint
    assert {path.name for path in folder.iterdir()} == {"events_h5" if name == "shd" else "events_np", "sj_cka_frames"}


@EVERY
def test_the_shape_of_a_set_is_known_without_it(name):
    published = {
        "nmnist": ((7, 2, 34, 34), 10, 60_000, 10_000),
        "cifar10_dvs": ((7, 2, 128, 128), 10, 9_000, 1_000),
        "dvs128_gesture": ((7, 2, 128, 128), 11, 1_176, 288),
        "n_caltech101": ((7, 2, 180, 240), 101, 8_709 - 878, 878),
        "shd": ((7, 700), 20, 8_156, 2_264),
    }
    assert sets.event_shape(name, T=7) == published[name]
    assert EVENT_SETS[name] is DATASETS[name]


@pytest.mark.parametrize("size", [[34], [0, 34], [34, 35], [35, 34], [3, 3, 3]])
def test_a_size_that_the_camera_does_not_have_is_refused(size, formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    with pytest.raises(OptionError, match=r"expected size as \[H, W\], from 1 to the 34 rows and 34 columns .* got \["):
        nmnist(tmp_path, size=size)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"T": 0}, "expected T, a number of frames from 1, got 0"),
        ({"split_by": "times"}, 'expected split_by "number" or "time", got \'times\''),
        ({"on_error": "ignore"}, 'expected on_error "raise" or "skip", got \'ignore\''),
    ],
)
def test_an_option_without_a_meaning_is_refused(option, message):
    with pytest.raises(OptionError, match=message):
        nmnist(Path("anywhere"), **option)


@EVERY
def test_a_recipe_may_say_what_the_functions_take(name):
    size, as_numbers = ({}, {}) if name == "shd" else ({"size": [10, "12"]}, {"size": [10, 12]})
    block = {"name": name, "root": "here", "cache": "there", "split_by": "time", "on_error": "skip", **size}
    kept = DATA.without_defaults(block)
    assert kept == {"name": name, "split_by": "time", "on_error": "skip", **as_numbers}
    assert DATA.without_defaults({"name": name, "root": "here", "on_error": "raise"}) == {"name": name}
    with pytest.raises(ValueError, match="on_error"):
        DATA.options_model(name).model_validate({"on_error": "ignore"})


def test_only_what_spikingjelly_can_fetch_may_be_downloaded():
    can = {name for name, function in EVENT_SETS.items() if "download" in inspect.signature(function).parameters}
    assert can == {"cifar10_dvs", "shd"}


# our split


def test_a_split_that_is_ours_is_a_tenth_of_each_class_and_is_told_with_its_recordings(formats, tmp_path):
    formats.small_set("cifar10_dvs", tmp_path)
    data = EVENT_SETS["cifar10_dvs"](tmp_path, T=1, size=[8, 8])
    assert data.y_train.bincount().tolist() == [9, 9, 9]
    assert data.y_test.bincount().tolist() == [1, 1, 1]
    assert "CIFAR10-DVS has no published split: 3 of its 30 recordings, a tenth of each class" in data.remarks[1]
    # the first of SHA-256 of "0/class/name", worked out by hand
    expected = []
    for group in ("airplane", "bird", "cat"):
        names = [f"{group}/cifar10_{group}_{i}" for i in range(10)]
        expected.append(min(names, key=lambda name: hashlib.sha256(f"0/{name}".encode()).hexdigest()))
    assert data.held_out == tuple(expected)
    assert expected == ["airplane/cifar10_airplane_8", "bird/cifar10_bird_9", "cat/cifar10_cat_6"]


def test_a_recording_more_changes_the_split_by_no_more_than_one(formats, tmp_path):
    formats.small_set("n_caltech101", tmp_path)
    before = EVENT_SETS["n_caltech101"](tmp_path, T=1, size=[6, 8])
    assert len(before.x_test) == 3  # at least one of a class of three
    events = formats.recording(180, 240, 999)
    file = "NCaltech101/extract/Caltech101/accordion/image_0009.bin"
    formats.put(tmp_path / file, formats.atis(*events))
    after = EVENT_SETS["n_caltech101"](tmp_path, T=1, size=[6, 8])
    assert len(set(before.held_out) - set(after.held_out)) <= 1
    assert len(before.x_train) + len(before.x_test) + 1 == len(after.x_train) + len(after.x_test)


def test_a_class_of_one_recording_cannot_be_split(formats, tmp_path):
    formats.small_set("n_caltech101", tmp_path)
    folder = tmp_path / "NCaltech101/extract/Caltech101/accordion"
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match=r"train recordings of class accordion .*\(a class needs two, one for each"):
        EVENT_SETS["n_caltech101"](tmp_path)


# where things lie


@EVERY
def test_the_root_comes_from_the_environment_where_none_is_given(name, formats, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"got none; give data\.root .* SJ_CKA_DATA"):
        EVENT_SETS[name]()
    formats.small_set(name, tmp_path)
    monkeypatch.setenv("SJ_CKA_DATA", str(tmp_path))
    assert len(EVENT_SETS[name](T=1).x_test)


def test_a_root_that_is_the_folder_of_the_set_is_taken_for_it(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    inside = nmnist(tmp_path / "NMNIST", T=1)
    assert frames_folder(tmp_path).is_dir()
    assert inside.fingerprint == nmnist(tmp_path, T=1).fingerprint


@EVERY
def test_a_missing_set_is_refused_with_what_to_put_where_and_nothing_is_made(name, formats, tmp_path):
    reader = {
        "nmnist": "Train.zip, Test.zip from https://www.garrickorchard.com/datasets/n-mnist",
        "cifar10_dvs": "airplane.zip from https://ndownloader.figshare.com/files/7712788; automobile.zip from",
        "dvs128_gesture": "DvsGesture.tar.gz from https://ibm.ent.box.com/",
        "n_caltech101": "Caltech101.zip from https://www.garrickorchard.com/datasets/n-caltech101",
        "shd": "shd_train.h5.zip from https://zenkelab.org/datasets/shd_train.h5.zip; shd_test.h5.zip from",
    }
    folder = tmp_path / "none" / formats.FOLDERS[name]
    can = r"or set data\.download: true$" if name in ("cifar10_dvs", "shd") else "SpikingJelly cannot download them$"
    message = f"expected the set in {folder}, .* put into {folder}/download: {re.escape(reader[name])}.*"
    with pytest.raises(DataError, match=f"{message} or put what they hold, .*, into {folder}/extract.*{can}"):
        EVENT_SETS[name](tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_single_missing_archive_is_named(formats, tmp_path):
    formats.put(tmp_path / "NMNIST/download/Train.zip", b"")
    with pytest.raises(DataError, match=r"nor in download Test\.zip; put into .*/download: Test\.zip from"):
        nmnist(tmp_path)
    assert (tmp_path / "NMNIST/download/Train.zip").exists()


def archives_of(root):
    """The small N-MNIST as its two archives; their checksums."""
    sums = {}
    extract, download = root / "NMNIST/extract", root / "NMNIST/download"
    download.mkdir()
    for split in ("Train", "Test"):
        with zipfile.ZipFile(download / f"{split}.zip", "w") as packed:
            for path in sorted((extract / split).rglob("*.bin")):
                packed.write(path, path.relative_to(extract))
        sums[split] = hashlib.md5((download / f"{split}.zip").read_bytes()).hexdigest()
    shutil.rmtree(extract)
    return sums


def publish(monkeypatch, sums):
    resources = [(f"{split}.zip", "https://nowhere", md5) for split, md5 in sums.items()]
    monkeypatch.setattr(n_mnist.NMNIST, "resource_url_md5", classmethod(lambda cls: resources))


def test_published_archives_are_unpacked_and_kept(formats, tmp_path, monkeypatch):
    made = formats.small_set("nmnist", tmp_path)
    publish(monkeypatch, archives_of(tmp_path))
    formats.put(tmp_path / "NMNIST/download/notes.txt", b"SpikingJelly would try to unpack this")
    data = nmnist(tmp_path, T=1)
    assert data.y_train.tolist() == [label for label, _ in made["train"]]
    assert (tmp_path / "NMNIST/download/Train.zip").is_file()


def test_an_archive_of_another_checksum_is_refused_and_left_as_it_is(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    sums = archives_of(tmp_path)
    message = rf"download/Train\.zip: expected the published archive, with md5 2095.*, got {sums['Train']}: .* left as"
    with pytest.raises(DataError, match=message):
        nmnist(tmp_path)
    assert (tmp_path / "NMNIST/download/Train.zip").is_file()
    assert {path.name for path in (tmp_path / "NMNIST").iterdir()} == {"download", "sj_cka_frames"}


def test_a_download_goes_through_spikingjelly_s_addresses(formats, tmp_path, monkeypatch):
    formats.small_set("shd", tmp_path / "there")
    asked = []

    def fetch(url, root, filename, md5):
        asked.append(url)
        with zipfile.ZipFile(Path(root) / filename, "w") as packed:
            packed.write(tmp_path / "there/SHD/extract" / filename.removesuffix(".zip"), filename.removesuffix(".zip"))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    with pytest.raises(DataError, match=r"set data\.download: true"):
        EVENT_SETS["shd"](tmp_path / "here")
    assert asked == []
    data = EVENT_SETS["shd"](tmp_path / "here", download=True)
    assert asked == [f"https://zenkelab.org/datasets/shd_{split}.h5.zip" for split in ("train", "test")]
    assert data.fingerprint == EVENT_SETS["shd"](tmp_path / "there").fingerprint
    EVENT_SETS["shd"](tmp_path / "here", T=2, download=True)
    assert len(asked) == 2


def test_a_failing_download_is_told_with_its_cause_and_leaves_nothing_half(tmp_path, monkeypatch):
    def fetch(url, root, filename, md5):
        (Path(root) / filename).write_bytes(b"half")
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    message = r"expected to download shd_train\.h5\.zip from https://.*could not: RuntimeError: File not found or"
    with pytest.raises(DataError, match=message):
        EVENT_SETS["shd"](tmp_path, download=True)
    assert not list(tmp_path.rglob("*.zip"))


# what SpikingJelly's preparation leaves behind


def test_a_marker_that_spikingjelly_left_does_no_harm_and_is_gone_after_a_conversion(formats, tmp_path):
    folder = tmp_path / "NMNIST"
    folder.mkdir()
    for error in (NotImplementedError, RuntimeError):  # the second because of the marker
        with pytest.raises(error):
            n_mnist.NMNIST(str(folder), train=True)
    made = formats.small_set("nmnist", tmp_path)
    assert (folder / "events_np.building").exists()
    assert len(nmnist(tmp_path, T=1).x_train) == len(made["train"])
    assert len(n_mnist.NMNIST(str(folder), train=True)) == len(made["train"])


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a part"])
def test_a_conversion_goes_on_from_what_is_there(before, formats, tmp_path):
    made = formats.small_set("nmnist", tmp_path)
    folder = tmp_path / "NMNIST" / "events_np"
    if before != "nothing":
        folder.mkdir()
    if before == "a part":
        nmnist(tmp_path, T=1)
        shutil.rmtree(folder / "test")
        (folder / "train/0/00001.npz").unlink()
        (folder.parent / "events_np.building").touch()
    data = nmnist(tmp_path, T=2)
    assert [len(data.x_train), len(data.x_test)] == [len(made["train"]), len(made["test"])]
    assert {path.name for path in folder.parent.iterdir()} == {"extract", "events_np", "sj_cka_frames"}


def test_a_part_with_nothing_to_go_on_from_is_refused(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    nmnist(tmp_path, T=1)
    shutil.rmtree(tmp_path / "NMNIST/extract")
    (tmp_path / "NMNIST/events_np.building").touch()
    with pytest.raises(DataError, match=r"a preparation that did not finish, as events_np\.building beside it says"):
        nmnist(tmp_path, T=1)


def test_links_to_spike_trains_that_lead_nowhere_are_made_anew(formats, tmp_path):
    formats.small_set("shd", tmp_path / "a")
    first = EVENT_SETS["shd"](tmp_path / "a", T=1)
    (tmp_path / "a").rename(tmp_path / "b")
    assert EVENT_SETS["shd"](tmp_path / "b", T=2).x_train.shape[0] == len(first.x_train)


def test_class_folders_that_the_set_does_not_have_are_refused(formats, tmp_path):
    formats.small_set("cifar10_dvs", tmp_path)
    EVENT_SETS["cifar10_dvs"](tmp_path, T=1, size=[4, 4])
    for i in range(8):
        (tmp_path / f"CIFAR10DVS/events_np/more{i}").mkdir()
    with pytest.raises(DataError, match=r"up to 10 class folders in .*, got 11: airplane, .*; move away what is no"):
        EVENT_SETS["cifar10_dvs"](tmp_path, T=1, size=[4, 4])


def test_splits_of_different_classes_are_refused(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    shutil.rmtree(tmp_path / "NMNIST/extract/Test/2")
    with pytest.raises(DataError, match=r"the same class folders in train and test of .*, only one of both has 2"):
        nmnist(tmp_path)


# frames on disk


def test_other_frames_are_kept_beside(formats, tmp_path, no_reading):
    formats.small_set("nmnist", tmp_path)
    choices = [{"T": 2}, {"T": 3}, {"T": 2, "split_by": "time"}, {"T": 2, "size": [17, 34]}, {"T": 2, "size": [34, 17]}]
    first = [nmnist(tmp_path, **choice) for choice in choices]
    assert len({data.fingerprint for data in first}) == len(choices)
    no_reading()
    assert [nmnist(tmp_path, **choice).fingerprint for choice in choices] == [data.fingerprint for data in first]
    assert nmnist(tmp_path, T=2, size=[34, 34]).fingerprint == first[0].fingerprint


def test_frames_follow_the_recordings(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    before = nmnist(tmp_path, T=1)
    formats.put(tmp_path / "NMNIST/extract/Train/1/00007.bin", formats.atis(*formats.recording(34, 34, 5)))
    after = nmnist(tmp_path, T=1)
    assert len(after.x_train) == len(before.x_train) + 1


def test_what_is_done_to_the_tensors_does_not_reach_the_files(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    data = nmnist(tmp_path, T=1)
    before = data.x_train.sum()
    data.x_train.zero_()
    assert nmnist(tmp_path, T=1).x_train.sum() == before > 0


def test_frames_may_lie_elsewhere_and_nothing_is_written_to_the_root(formats, tmp_path):
    formats.small_set("nmnist", tmp_path / "root")
    before = sorted(tmp_path.glob("root/**/*"))
    data = nmnist(tmp_path / "root", T=1, cache=tmp_path / "cache")
    assert sorted(tmp_path.glob("root/**/*")) == before
    assert frames_folder(tmp_path / "cache").is_dir()
    assert data.fingerprint == nmnist(tmp_path / "root", T=1).fingerprint


def test_a_folder_that_cannot_be_written_asks_for_another_one(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    (tmp_path / "NMNIST/sj_cka_frames").write_text("in the way")
    with pytest.raises(DataError, match=r"expected to write into .*/NMNIST, could not: .*; give data\.cache, a folder"):
        nmnist(tmp_path)


def test_too_little_room_is_told_before_anything_is_read(formats, tmp_path, monkeypatch):
    formats.small_set("nmnist", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10_000}))
    with pytest.raises(DataError, match=r"room for frames of 0\.0 GB, .* has 0\.0 GB; give data\.cache"):
        nmnist(tmp_path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: os.truncate(folder / "x_train.npy", 5000), r"x_train\.npy cannot be read: ValueError"),
        (lambda folder: os.truncate(folder / "x_test.npy", 0), r"x_test\.npy cannot be read: (EOFError|ValueError)"),
        (lambda folder: (folder / "y_test.npy").unlink(), r"y_test\.npy cannot be read: FileNotFoundError"),
        (lambda folder: np.save(folder / "y_train.npy", np.zeros(3)), r"y_train\.npy: expected int64 \[6\], got floa"),
        (lambda folder: flip(folder / "x_train.npy", 1000), r"expected arrays with the fingerprint .*: one is damaged"),
        (lambda folder: flip(folder / "y_test.npy", 136), r"expected arrays with the fingerprint .*: one is damaged"),
        (lambda folder: flip(folder / "x_test.npy", 20), r"x_test\.npy cannot be read: "),
        (lambda folder: flip(folder / "meta.json", '"classes": 3', 11), r"json cannot be read: ValueError: it is not"),
        (lambda folder: (folder / "meta.json").unlink(), r"meta\.json cannot be read: FileNotFoundError"),
        (lambda folder: (folder / "meta.json").write_text("{"), r"meta\.json cannot be read: JSONDecodeError"),
        (lambda folder: (folder / "meta.json").write_text("{}"), r"meta\.json cannot be read: KeyError"),
    ],
)
def test_frames_that_were_damaged_are_named_and_made_anew(harm, message, formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    first = nmnist(tmp_path, T=2).fingerprint
    harm(frames_folder(tmp_path))
    with pytest.warns(UserWarning, match=message):
        again = nmnist(tmp_path, T=2)
    assert (
        again.fingerprint
        == first
        == fingerprint(array.numpy() for array in (again.x_train, again.y_train, again.x_test, again.y_test))
    )


def flip(path, place, shift=0):
    """Flips a bit of a byte of a file, or of that so far behind a text."""
    raw = bytearray(path.read_bytes())
    at = place if isinstance(place, int) else raw.index(place.encode()) + shift
    raw[at] ^= 1
    path.write_bytes(raw)


def test_frames_are_compared_with_their_fingerprint_only_where_their_files_changed(formats, tmp_path, monkeypatch):
    formats.small_set("nmnist", tmp_path)
    nmnist(tmp_path, T=2)
    taken = []

    def fingerprint(folder, _taken=frame_files._fingerprint):
        taken.append(folder)
        return _taken(folder)

    monkeypatch.setattr(frame_files, "_fingerprint", fingerprint)
    nmnist(tmp_path, T=2)
    assert taken == []
    os.utime(frames_folder(tmp_path) / "x_train.npy", (1, 1))
    nmnist(tmp_path, T=2)
    nmnist(tmp_path, T=2)
    assert len(taken) == 1
    (frames_folder(tmp_path) / "whole.json").unlink()  # as of earlier versions
    nmnist(tmp_path, T=2)
    assert len(taken) == 2


def test_frames_that_an_earlier_version_wrote_are_used(formats, tmp_path, no_reading):
    formats.small_set("nmnist", tmp_path)
    data = nmnist(tmp_path, T=2)
    path = frames_folder(tmp_path) / "meta.json"
    meta = json.loads(path.read_text())
    del meta["sha256"]
    path.write_text(json.dumps(meta, indent=1))
    no_reading()
    assert nmnist(tmp_path, T=2).fingerprint == data.fingerprint


def test_a_run_that_is_killed_leaves_nothing_half(formats, tmp_path, monkeypatch):
    made = formats.small_set("nmnist", tmp_path)
    calls = itertools.count()

    def counted(*args, _counted=integration.counted):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return _counted(*args)

    monkeypatch.setattr(integration, "counted", counted)
    with pytest.raises(KeyboardInterrupt):
        nmnist(tmp_path, T=2)
    assert [path for path in (tmp_path / "NMNIST/sj_cka_frames").iterdir() if path.is_dir()] == []
    data = nmnist(tmp_path, T=2)
    # what a run leaves that had no time to clear up
    folder = frames_folder(tmp_path)
    folder.rename(folder.with_name(folder.name + ".part"))
    assert nmnist(tmp_path, T=2).fingerprint == data.fingerprint
    assert frames_folder(tmp_path) == folder
    assert len(data.x_train) == len(made["train"])


def test_processes_that_find_no_frames_at_once_make_them_once(formats, tmp_path, monkeypatch):
    formats.small_set("nmnist", tmp_path)
    nmnist(tmp_path, T=1)
    made, found, together = [], [], threading.Barrier(3, timeout=20)

    def kept(*args, quiet=False, _kept=sets.kept):
        frames = _kept(*args, quiet=quiet)
        if frames is None and not quiet:
            together.wait()
        return frames

    monkeypatch.setattr(sets, "kept", kept)
    monkeypatch.setattr(integration, "finish", lambda *args, _finish=integration.finish: made.append(_finish(*args)))
    threads = [threading.Thread(target=lambda: found.append(nmnist(tmp_path, T=2).fingerprint)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(made) == 1


@pytest.mark.parametrize(
    ("n", "dtype"), [(255, torch.uint8), (256, torch.int16), (32_767, torch.int16), (32_768, torch.int32)]
)
@pytest.mark.parametrize("split", ["Train", "Test"])
def test_counts_above_255_widen_the_files_without_loss(n, dtype, split, formats, tmp_path):
    made = formats.small_set("nmnist", tmp_path)
    one = np.zeros(n, int)
    formats.put(tmp_path / f"NMNIST/extract/{split}/1/00000.bin", formats.atis(one, one + 5, one + 7, one + 1))
    data = nmnist(tmp_path, T=1)
    assert data.x_train.dtype == data.x_test.dtype == dtype
    at = (data.y_train if split == "Train" else data.y_test).tolist().index(1)
    x = data.x_train if split == "Train" else data.x_test
    assert x[at].sum() == n == x[at, :, 1, 7, 5].sum()
    for other in (0, -1):
        expected = bin_events(*made[split.lower()][other][1], T=1, H=34, W=34)
        assert torch.equal(x[other].float(), expected)
    assert data.fingerprint == fingerprint(a.numpy() for a in (data.x_train, data.y_train, data.x_test, data.y_test))


# damaged recordings


def in_npz(**change):
    """A recording of four events as SpikingJelly keeps it, with arrays changed; None leaves one out."""
    arrays = {"t": [0, 1, 2, 3], "x": [0, 1, 2, 3], "y": [0, 1, 2, 3], "p": [0, 1, 0, 1]} | change
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(own, np.uint32) for name, own in arrays.items() if own is not None})
    return file.getvalue()


DAMAGED = [
    pytest.param(in_npz()[:-30], "it cannot be read: expected arrays, could not read it: BadZipFile", id="cut off"),
    pytest.param(in_npz()[:200] + b"?" + in_npz()[201:], "it cannot be read: ", id="a byte changed"),
    pytest.param(b"", "it cannot be read: .* it is an empty file", id="empty file"),
    pytest.param(b"no archive", "it cannot be read: .* it is text, 'no archive'", id="text"),
    pytest.param(in_npz(p=None), r"expected arrays t, x, y, p, got t, x, y", id="no polarity"),
    pytest.param(in_npz(t=[0, 1, 2]), "expected one value of each .* 3 of t_us, 4 of x", id="a time missing"),
    pytest.param(in_npz(t=[], x=[], y=[], p=[]), "it holds no events", id="no events"),
    pytest.param(in_npz(x=[0, 34, 0, 0]), "expected x from 0 to 33, .* got 34 at event 1", id="x outside"),
    pytest.param(in_npz(y=[0, 0, 99, 0]), "expected y from 0 to 33, .* got 99 at event 2", id="y outside"),
    pytest.param(in_npz(p=[0, 1, 2, 1]), "expected p from 0 to 1, OFF or ON, got 2", id="polarity"),
    pytest.param(in_npz(t=[0, 9, 8, 9]), "expected times that do not fall, got 8 us after 9 us", id="backwards"),
]


@pytest.mark.sampled(len(DAMAGED))
@pytest.mark.parametrize(("content", "message"), DAMAGED)
@pytest.mark.parametrize("size", [[34, 17], None])
def test_a_damaged_recording_is_named_or_left_out_and_told(content, message, size, formats, tmp_path, no_reading):
    made = formats.small_set("nmnist", tmp_path)
    whole = nmnist(tmp_path, T=2, size=size)
    shutil.rmtree(tmp_path / "NMNIST/extract")
    path = tmp_path / "NMNIST/events_np/train/1/00000.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"N-MNIST: {path}: {message}.*; fetch .*, or .* by data\.on_error: skip$"):
        nmnist(tmp_path, T=2, size=size)
    told = rf"1 of 6 training recordings was left out as damaged: train/1/00000\.npz: {message}"
    with pytest.warns(UserWarning, match=told):
        data = nmnist(tmp_path, T=2, size=size, on_error="skip")
    at = [label for label, _ in made["train"]].index(1)
    kept = [i for i in range(6) if i != at]
    assert torch.equal(data.x_train, whole.x_train[kept])
    assert torch.equal(data.y_train, whole.y_train[kept])
    assert torch.equal(data.x_test, whole.x_test)
    no_reading()
    again = nmnist(tmp_path, T=2, size=size, on_error="skip")
    assert re.match(told, again.remarks[-1])
    assert again.remarks == data.remarks
    # and frames without it are no answer where it is not to be left out
    with pytest.raises(DataError, match=f"{path}: {message}"):
        nmnist(tmp_path, T=2, size=size)


def test_a_damaged_recording_that_was_replaced_is_read_again(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    whole = nmnist(tmp_path, T=2).fingerprint
    path = tmp_path / "NMNIST/events_np/train/1/00000.npz"
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))  # of the same size
    shutil.rmtree(frames_folder(tmp_path))
    with pytest.warns(UserWarning, match="1 of 6 training"):
        nmnist(tmp_path, T=2, on_error="skip")
    path.write_bytes(good)
    os.utime(path, ns=(1, 1))
    assert nmnist(tmp_path, T=2).fingerprint == whole


def test_every_recording_left_out_is_counted_and_kept_in_the_meta_data(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    nmnist(tmp_path, T=1)
    bad = [f"train/{label}/00000.npz" for label in range(3)] + ["test/2/00001.npz"]
    for name in bad:
        (tmp_path / "NMNIST/events_np" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"3 of 6 training recordings and 1 of 6 test .*and 1 more\.$"):
        data = nmnist(tmp_path, T=3, on_error="skip")
    assert (len(data.x_train), len(data.x_test)) == (3, 5)
    [folder] = (tmp_path / "NMNIST/sj_cka_frames").glob("3x*")
    assert [entry["file"] for entry in json.loads((folder / "meta.json").read_text())["skipped"]] == bad


def test_all_recordings_of_a_class_cannot_be_left_out(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    nmnist(tmp_path, T=1)
    for i in range(2):
        (tmp_path / f"NMNIST/events_np/test/2/0000{i}.npz").write_bytes(b"")
    message = r"all test recordings of class 2 are damaged, the first is test/2/00000\.npz: .* an empty file; fetch"
    with pytest.raises(DataError, match=message):
        nmnist(tmp_path, T=2, on_error="skip")


# damaged sources


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["nmnist", "n_caltech101"])
@pytest.mark.parametrize("left", [0, 5 * 7 + 1, 1, 2, 3, 4, 5 * 7 + 2, 5 * 7 + 3, 5 * 7 + 4])
def test_a_bin_file_that_was_cut_off_is_named_or_left_out(name, left, formats, tmp_path):
    made = formats.small_set(name, tmp_path)
    sources = {"nmnist": "Train/1/00000.bin", "n_caltech101": "Caltech101/accordion/image_0000.bin"}
    path = tmp_path / formats.FOLDERS[name] / "extract" / sources[name]
    content = path.read_bytes()
    path.write_bytes(content[:left])
    size = [7, 9]
    why = "the file is empty" if left == 0 else f"expected 5 bytes an event, got {left} bytes: .* event {left // 5}"
    with pytest.raises(DataError, match=f"{path}: {why}; fetch the file anew, or"):
        EVENT_SETS[name](tmp_path, size=size)
    assert not (tmp_path / formats.FOLDERS[name] / "events_np").exists()
    with pytest.warns(UserWarning, match=rf"1 of .* was left out as damaged: .*00\.npz: {sources[name]}: {why}"):
        data = EVENT_SETS[name](tmp_path, size=size, on_error="skip")
    total = len(made["train"]) + len(made["test"])
    assert len(data.x_train) + len(data.x_test) == total - 1
    with pytest.raises(DataError, match=f"{path}: {why}"):
        EVENT_SETS[name](tmp_path, size=size)
    path.write_bytes(content)
    data = EVENT_SETS[name](tmp_path, size=size)
    assert len(data.x_train) + len(data.x_test) == total


def test_a_recording_that_spikingjelly_made_of_a_file_that_was_cut_off_is_not_trusted(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    path = tmp_path / "NMNIST/extract/Train/1/00000.bin"
    path.write_bytes(path.read_bytes()[:-4])  # SpikingJelly takes a file that ends after the column
    (tmp_path / "NMNIST/events_np").mkdir()
    n_mnist.NMNIST.create_raw_from_extracted(tmp_path / "NMNIST/extract", tmp_path / "NMNIST/events_np")
    with pytest.raises(DataError, match=rf"{path}: expected 5 bytes an event"):
        nmnist(tmp_path)
    with pytest.warns(UserWarning, match="1 of 6 training recordings was left out"):
        assert len(nmnist(tmp_path, on_error="skip").x_train) == 5


SOURCES = {
    "cifar10_dvs": ("bird/cifar10_bird_3.aedat", slice(-4), "expected 8 bytes an event, got 316 bytes: the file"),
    "dvs128_gesture": ("DvsGesture/user01_train.aedat", slice(-6), "the file is cut off in packet 2, or its header"),
}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_file_that_cannot_be_converted_is_named_or_left_out(name, formats, tmp_path, no_reading):
    made = formats.small_set(name, tmp_path)
    source, end, why = SOURCES[name]
    path = tmp_path / formats.FOLDERS[name] / "extract" / source
    content = path.read_bytes()
    path.write_bytes(content[end])
    with pytest.raises(DataError, match=f"{path}: {why}.*; fetch the file anew, or"):
        EVENT_SETS[name](tmp_path, T=1)
    # the others are not converted again
    assert list((tmp_path / formats.FOLDERS[name] / "events_np").rglob("*.npz"))
    lost = 1 if name == "cifar10_dvs" else 11
    with pytest.warns(UserWarning, match=rf"^[^:]*: {lost} of .* left out as damaged: .*{source}: {why}"):
        data = EVENT_SETS[name](tmp_path, T=1, on_error="skip")
    total = len(made["train"]) + len(made["test"])
    assert len(data.x_train) + len(data.x_test) == total - lost
    with pytest.MonkeyPatch.context() as patch:
        # it is not tried again as long as the file is the same
        patch.setattr(preparation, "_convert_one", lambda *args: pytest.fail("it was tried again"))
        assert EVENT_SETS[name](tmp_path, T=1, on_error="skip").fingerprint == data.fingerprint
        with pytest.raises(DataError, match=f"{path}: {why}"):
            EVENT_SETS[name](tmp_path, T=1)
    path.write_bytes(content)
    data = EVENT_SETS[name](tmp_path, T=1)
    assert len(data.x_train) + len(data.x_test) == total


def test_a_trial_without_its_table_is_named_or_left_out(formats, tmp_path):
    formats.small_set("dvs128_gesture", tmp_path)
    (tmp_path / "DVS128Gesture/extract/DvsGesture/user01_train_labels.csv").unlink()
    why = r"its table user01_train_labels\.csv cannot be read: FileNotFoundError"
    with pytest.raises(DataError, match=rf"extract/DvsGesture/user01_train\.aedat: {why}"):
        EVENT_SETS["dvs128_gesture"](tmp_path, T=1)
    with pytest.warns(UserWarning, match=rf"1 of 12 training recordings was .*: DvsGesture/user01_train\.aedat: {why}"):
        data = EVENT_SETS["dvs128_gesture"](tmp_path, T=1, on_error="skip")
    assert data.y_train.tolist() == data.y_test.tolist() == list(range(11))


def test_a_gesture_without_events_is_a_damaged_recording(formats, tmp_path):
    formats.small_set("dvs128_gesture", tmp_path)
    path = tmp_path / "DVS128Gesture/extract/DvsGesture/user01_train_labels.csv"
    text = path.read_text().splitlines()
    text[3] = "3,900000,950000"
    path.write_text("\n".join(text))
    with pytest.raises(DataError, match=r"train/2/user01_train_0\.npz: it holds no events; remove it, so"):
        EVENT_SETS["dvs128_gesture"](tmp_path, T=1)


# files of another kind


def test_what_is_hidden_is_no_data_wherever_it_lies(formats, tmp_path):
    formats.small_set("nmnist", tmp_path / "clean")
    formats.small_set("nmnist", tmp_path / "own")
    expected = nmnist(tmp_path / "clean", T=2)

    def litter(folder, suffix):
        for place in (folder, folder / "1"):
            for name in (".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"):
                formats.put(place / name / "1" / f"0{suffix}", b"?")
            for name in (f"._00000{suffix}", ".DS_Store", "Thumbs.db", "desktop.ini"):
                formats.put(place / name, b"?" * 7)

    for split in ("Train", "Test"):
        litter(tmp_path / "own/NMNIST/extract" / split, ".bin")
    litter(tmp_path / "own/NMNIST/extract", ".bin")
    assert nmnist(tmp_path / "own", T=2).fingerprint == expected.fingerprint
    for split in ("train", "test"):
        litter(tmp_path / "own/NMNIST/events_np" / split, ".npz")
    assert nmnist(tmp_path / "own", T=2, split_by="time").y_train.tolist() == expected.y_train.tolist()
    shutil.rmtree(tmp_path / "own/NMNIST/extract")
    shutil.rmtree(tmp_path / "own/NMNIST/sj_cka_frames")
    assert nmnist(tmp_path / "own", T=2).fingerprint == expected.fingerprint


def test_a_folder_that_holds_what_is_hidden_alone_is_an_empty_one(formats, tmp_path):
    formats.put(tmp_path / "NMNIST/extract/.DS_Store", b"?")
    with pytest.raises(DataError, match=r"expected the set in .*, found neither recordings"):
        nmnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("n_caltech101", "101/yin_yang/a.aedat", "aedat2", "101/yin_yang/a.aedat, a recording in the format AEDAT 2.0"),
        ("nmnist", "1/a.png", b"\x89PNG\r\n\x1a\n", "1/a.png, a PNG image"),
        ("cifar10_dvs", "airplane.mat", b"MATLAB 5.0 MAT-file", "airplane.mat, a MATLAB file"),
        ("shd", "train.h5", b"\x89HDF\r\n\x1a\n", "train.h5, an HDF5 file"),
        ("dvs128_gesture", "user01.aedat", "aedat3", "user01.aedat, a recording in the format AEDAT 3.1"),
    ],
)
def test_a_folder_of_another_set_is_told_by_what_lies_in_it(name, file, content, message, formats, tmp_path):
    written = content if isinstance(content, bytes) else getattr(formats, content)(*formats.recording(34, 34, 0))
    formats.put(tmp_path / formats.FOLDERS[name] / "extract" / file, written)
    with pytest.raises(DataError, match=rf"expected .* in {tmp_path}.*extract, got none, but {message}; put it there"):
        EVENT_SETS[name](tmp_path)


FOREIGN = [
    ("n_caltech101", "Caltech101/accordion/image_0001.bin", "aedat2", ", it is a recording in the format AEDAT 2.0"),
    ("nmnist", "Train/1/00000.bin", b"\x89PNG\r\n\x1a\n..", ", it is a PNG image"),
    ("nmnist", "Train/1/00001.bin", "wide", "camera of N-MNIST with 34 rows and 34 columns .or it is another camera's"),
    ("cifar10_dvs", "bird/cifar10_bird_3.aedat", "aedat3", "AEDAT 2.0 .*, it is .* in the format AEDAT 3.1"),
    ("dvs128_gesture", "DvsGesture/user01_train.aedat", "aedat2", "AEDAT 3.1 .*, it is .* in the format AEDAT 2.0"),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), FOREIGN)
def test_a_recording_of_another_format_or_camera_is_named_or_left_out(name, file, content, message, formats, tmp_path):
    made = formats.small_set(name, tmp_path)
    if content == "wide":
        content = formats.atis(*formats.recording(180, 240, 5))
    written = content if isinstance(content, bytes) else getattr(formats, content)(*formats.recording(34, 34, 0))
    path = tmp_path / formats.FOLDERS[name] / "extract" / file
    path.write_bytes(written)
    named = r"events_np/train/1/00001\.npz" if file.endswith("1/00001.bin") else f"extract/{file}"
    with pytest.raises(DataError, match=f"{named}: {'expected .*' if named[0] == 'e' else ''}{message}"):
        EVENT_SETS[name](tmp_path, T=1)
    with pytest.warns(UserWarning, match=rf"left out as damaged: .*{message}"):
        data = EVENT_SETS[name](tmp_path, T=1, on_error="skip")
    lost = 11 if name == "dvs128_gesture" else 1
    assert len(data.x_train) + len(data.x_test) == len(made["train"]) + len(made["test"]) - lost


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("n_caltech101", "Caltech101/accordion/a.aedat", "aedat2", r"\(\.bin\) .* it is .* in the format AEDAT 2\.0"),
        ("nmnist", "Train/1/00000.png", b"\x89PNG\r\n\x1a\n..", r"\(\.bin\) alone in .*, it is a PNG image"),
        ("cifar10_dvs", "bird/cifar10_bird_3.bin", "atis", r"\(\.aedat\) alone in .*, it is another file"),
        ("cifar10_dvs", "bird/cifar10_bird_3.aedat4", b"#!AER-DAT4.0\r\n", r"it is .* in the format AEDAT 4\.0"),
    ],
)
def test_what_lies_among_recordings_and_is_none_is_told(name, file, content, message, on_error, formats, tmp_path):
    formats.small_set(name, tmp_path)
    written = content if isinstance(content, bytes) else getattr(formats, content)(*formats.recording(34, 34, 0))
    formats.put(tmp_path / formats.FOLDERS[name] / "extract" / file, written)
    with pytest.raises(DataError, match=f"extract/{file}: expected recordings .*{message}; move it away"):
        EVENT_SETS[name](tmp_path, T=1, on_error=on_error)


def test_recordings_outside_of_class_folders_are_told(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    nmnist(tmp_path, T=1)
    for stray in ("train/00000.npz", "train/1/more/00000.npz"):
        formats.put(tmp_path / "NMNIST/events_np" / stray, in_npz())
        found = stray.removesuffix("/00000.npz") if "more" in stray else stray
        with pytest.raises(DataError, match=f"expected recordings in class folders, got .*{found}; move it away"):
            nmnist(tmp_path, T=2)
        (tmp_path / "NMNIST/events_np" / stray).unlink()


CLOCKS = {
    "nmnist": ("NMNIST/extract/Train/1/00000.bin", "atis", 2**23),
    "n_caltech101": ("NCaltech101/extract/Caltech101/accordion/image_0000.bin", "atis", 2**23),
    "cifar10_dvs": ("CIFAR10DVS/extract/bird/cifar10_bird_3.aedat", "aedat2", 2**32),
}


@pytest.mark.parametrize("name", sorted(CLOCKS))
def test_a_clock_that_begins_anew_changes_no_frame(name, formats, tmp_path):
    found = []
    for begin in (0, 150_000):
        formats.small_set(name, tmp_path / str(begin))
        file, write, clock = CLOCKS[name]
        t, x, y, p = formats.recording(34, 34, 7)
        formats.put(tmp_path / str(begin) / file, getattr(formats, write)((t - begin) % clock, x, y, p))
        found.append(EVENT_SETS[name](tmp_path / str(begin), T=4, split_by="time").fingerprint)
    assert found[0] == found[1]


def test_marks_of_the_clock_are_counted_as_time_and_not_as_events(formats, tmp_path):
    formats.small_set("nmnist", tmp_path)
    one = np.zeros(6, int)
    t, y = np.array([0, 8000, 100, 900, 50, 60]), np.array([1, 2, 240, 3, 240, 4])
    formats.put(tmp_path / "NMNIST/extract/Train/1/00000.bin", formats.atis(t, one, y, one))
    found = nmnist(tmp_path, T=4, split_by="time").x_train[2]
    t = [0, 8000, 8192 + 900, 2 * 8192 + 60]
    expected = bin_events(t, one[:4], [1, 2, 3, 4], one[:4], T=4, H=34, W=34, split_by="time")
    assert torch.equal(found.float(), expected)
    formats.put(tmp_path / "NMNIST/extract/Train/1/00000.bin", formats.atis(one[:2], one[:2], one[:2] + 240, one[:2]))
    shutil.rmtree(tmp_path / "NMNIST/events_np")
    with pytest.raises(DataError, match="it holds no events but marks of its clock"):
        nmnist(tmp_path, T=4)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("trials_to_train.txt", b"\xff\xfe\x00", r"train\.txt: expected a list of trials, could not read it: Unicode"),
        ("trials_to_test.txt", b"../../../etc/passwd\n", r"txt: line 1: expected the name of .* got '\.\./\.\./"),
        ("trials_to_test.txt", b"user00_test.aedat\n<html>\n", "line 2: expected the name of .* got '<html>'"),
        ("user01_train_labels.csv", b"a,b,c\n", "names no gesture"),
        ("user01_train_labels.csv", b"a,b,c\n1,2\n", "expected class, start and end, got '1,2'"),
        ("user01_train_labels.csv", b"a,b,c\n12,2,3\n", "expected a class from 1 to 11 .* got 12, 2, 3"),
        ("user01_train_labels.csv", b"a,b,c\n1,-2,3\n", "times from 0, got 1, -2, 3"),
        ("user01_train_labels.csv", b"a,b,c\n1,2,x\n", "cannot be read: ValueError"),
        ("user01_train_labels.csv", b"\xff,\n\xff", "cannot be read: UnicodeDecodeError"),
    ],
)
def test_a_list_or_table_of_trials_that_is_none_is_told(file, content, message, formats, tmp_path):
    formats.small_set("dvs128_gesture", tmp_path)
    formats.put(tmp_path / "DVS128Gesture/extract/DvsGesture" / file, content)
    with pytest.raises(DataError, match=message):
        EVENT_SETS["dvs128_gesture"](tmp_path, T=1)


# spike trains


@pytest.mark.parametrize(
    ("spike", "message"),
    [
        ((np.array([0.1, np.nan]), np.array([1, 2])), "expected finite times in seconds"),
        ((np.array([0.1, np.inf]), np.array([1, 2])), "expected finite times in seconds"),
        ((np.array([0.1, 0.2]), np.array([1, 700])), "expected unit from 0 to 699, a unit, got 700 at event 1"),
        ((np.array([0.1, 0.2, 0.3]), np.array([1, 2])), "expected one value of each .* 3 of t_us, 2 of unit"),
        ((np.array([]), np.array([])), "it holds no events"),
    ],
)
def test_a_damaged_spike_train_is_named_or_left_out(spike, message, formats, tmp_path):
    formats.small_set("shd", tmp_path)
    own = [formats.spikes(i) for i in range(22)]
    own[20] = spike
    formats.put_shd(tmp_path / "SHD/extract/shd_train.h5", own, [i % 20 for i in range(22)])
    with pytest.raises(DataError, match=rf"events_h5/shd_train\.h5, recording 20: {message}"):
        EVENT_SETS["shd"](tmp_path)
    with pytest.warns(UserWarning, match=rf"1 of 22 training recordings was left .*h5, recording 20: {message}"):
        data = EVENT_SETS["shd"](tmp_path, on_error="skip")
    assert len(data.x_train) == 21


def test_spikes_that_are_listed_unit_by_unit_are_put_in_order(formats, tmp_path):
    formats.small_set("shd", tmp_path)
    by_time = EVENT_SETS["shd"](tmp_path, T=4)
    own = []
    for i in range(22):
        t, unit = formats.spikes(i)
        # the order of spikes at one time is kept
        order = np.argsort(unit, kind="stable")
        own.append((t[order], unit[order]))
    formats.put_shd(tmp_path / "SHD/extract/shd_train.h5", own, [i % 20 for i in range(22)])
    shutil.rmtree(tmp_path / "SHD/sj_cka_frames")
    by_unit = EVENT_SETS["shd"](tmp_path, T=4, split_by="time")
    shutil.rmtree(tmp_path / "SHD/extract")
    formats.small_set("shd", tmp_path)
    shutil.rmtree(tmp_path / "SHD/sj_cka_frames")
    assert by_unit.fingerprint == EVENT_SETS["shd"](tmp_path, T=4, split_by="time").fingerprint
    assert by_time.x_train.sum() == by_unit.x_train.sum()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([20] + [0] * 21, "expected labels 0 to 19, got 20 of recording 0"),
        ([0] * 21, r"integer labels, got labels \[21\], times \[22\], units \[22\], labels of uint16"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_wrong_labels_are_refused(labels, message, on_error, formats, tmp_path):
    formats.small_set("shd", tmp_path)
    formats.put_shd(tmp_path / "SHD/extract/shd_train.h5", [formats.spikes(i) for i in range(22)], labels)
    with pytest.raises(DataError, match=message):
        EVENT_SETS["shd"](tmp_path, on_error=on_error)


HARMS = {
    "no labels": (lambda file: file.__delitem__("labels"), "it cannot be read: KeyError"),
    "no spikes": (lambda file: file.__delitem__("spikes"), "it cannot be read: KeyError"),
    "another set": (lambda file: (file.__delitem__("labels"), file.__setitem__("labels/a", 1)), "it cannot be read: "),
    "billions": (
        lambda file: [
            (file.__delitem__(name), file.create_dataset(name, (10**12,), "i2", chunks=(99,)))
            for name in ("labels", "spikes/times", "spikes/units")
        ],
        "it announces 1,000,000,000,000 recordings, more than it has bytes",
    ),
}


@pytest.mark.parametrize("harm", sorted(HARMS))
def test_another_file_of_spike_trains_is_told(harm, formats, tmp_path):
    formats.small_set("shd", tmp_path)
    make, message = HARMS[harm]
    with h5py.File(tmp_path / "SHD/extract/shd_train.h5", "r+") as file:
        make(file)
    with pytest.raises(DataError, match=rf"shd_train\.h5: {message}"):
        EVENT_SETS["shd"](tmp_path)


def test_a_file_of_spike_trains_that_keeps_its_library_busy_for_ever_is_told(formats, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "check_hdf5", check_hdf5)
    formats.small_set("shd", tmp_path)
    path = tmp_path / "SHD/extract/shd_train.h5"
    raw = bytearray(path.read_bytes())
    at = raw.find(b"GCOL") + 16
    raw[at : at + 64] = bytes(64)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"shd_train\.h5: it cannot be read: .* the HDF5 library comes to no end"):
        EVENT_SETS["shd"](tmp_path)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_of_spike_trains_that_was_cut_off_is_refused_as_a_whole(on_error, formats, tmp_path):
    formats.small_set("shd", tmp_path)
    path = tmp_path / "SHD/extract/shd_test.h5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"events_h5/shd_test\.h5: it cannot be read: OSError: .*; fetch"):
        EVENT_SETS["shd"](tmp_path, on_error=on_error)


def test_a_split_without_its_file_is_refused(formats, tmp_path):
    formats.small_set("shd", tmp_path)
    (tmp_path / "SHD/extract/shd_test.h5").unlink()
    with pytest.raises(DataError, match=r"expected shd_train\.h5 and shd_test\.h5 in .*, missing: shd_test\.h5"):
        EVENT_SETS["shd"](tmp_path)


# progress


def test_in_a_log_progress_is_a_line_now_and_then_and_silence_can_be_had(capsys, monkeypatch):
    for show, seconds in ((True, 0), (True, 60), (False, 0)):
        monkeypatch.setattr(progress, "SHOW", show)
        monkeypatch.setattr(progress, "LOG_SECONDS", seconds)
        with progress.bar(2_000, "N-MNIST: counting events") as count:
            count(1_500)
        expected = r"N-MNIST: counting events: 1,500/2,000, 0 s\n" if show and not seconds else ""
        assert re.fullmatch(expected, capsys.readouterr().err)
