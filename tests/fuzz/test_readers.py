"""A thousand damaged files of each reader: one clean error that names the file, or what was written; no hang, no crash.

Files are read in a process of its own that a timer of CPU time ends after two seconds with one file, so that neither a
loop nor a crash in C ends the test. Where a format has no checksum, other values than those that were written are no
fault of the reader: there only errors, hangs and crashes count.
"""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import torch

from sj_cka import CKA, CKAResult, compare_features
from sj_cka.data import DataError, npz
from sj_cka.data.events import frame_files, preparation, raw_files, recordings
from sj_cka.data.events.formats import read_aedat2, read_aedat3, read_atis
from sj_cka.data.events.recordings import Item, counted
from sj_cka.data.events.sets import _SETS
from sj_cka.data.torchvision_sets import mnist
from sj_cka.files import UnreadableFile, hdf5

pytestmark = pytest.mark.fuzz
COUNT = 1000
FORMATS = SimpleNamespace(**run_path(str(Path(__file__).parents[1] / "data" / "events" / "conftest.py")))
SECONDS = 2.0
TRIAL_SECONDS = 0.2  # many of these files have no end, and a whole one takes milliseconds


# what is done to a file


def damaged(raw, random):
    """The bytes of a file with bits flipped, cut off, a block zeroed, blocks swapped, noise in it or behind it."""
    data = bytearray(raw)
    size = len(data)
    block = int(random.integers(1, max(2, min(257, size // 2))))
    a, b = (int(random.integers(0, max(1, size - block))) for _ in range(2))
    kind = random.choice(["flips", "cut", "zeros", "swap", "noise", "more"], p=[0.4, 0.1, 0.2, 0.1, 0.1, 0.1])
    if kind == "flips":
        for place in random.integers(0, size, random.integers(1, 9)):
            data[place] ^= 1 << int(random.integers(8))
    elif kind == "cut":
        del data[int(random.integers(0, size)) :]
    elif kind == "zeros":
        data[a : a + block] = bytes(block)
    elif kind == "swap":
        data[a : a + block], data[b : b + block] = data[b : b + block], data[a : a + block]
    elif kind == "noise":
        data[a : a + block] = random.bytes(block)
    else:
        data += random.bytes(block)
    return bytes(data[: size + block])


# what is read: (folder) -> files to be damaged; (folder) -> value


def digest(*values):
    found = hashlib.sha256()
    for value in values:
        found.update(value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def images(folder, save):
    random = np.random.default_rng(0)
    x = {
        f"x_{split}": random.integers(0, 256, (n, 4, 3, 1), dtype=np.uint8) for split, n in (("train", 6), ("test", 3))
    }
    save(folder / "x.npz", **x, y_train=np.arange(6) % 3, y_test=np.arange(3))
    return ["x.npz"]


def read_images(folder):
    return npz(folder / "x.npz").fingerprint


FEATURES = {name: np.random.default_rng(i).normal(size=(2, 6, 3)) for i, name in enumerate(("conv1", "block/fc"))}


def features_npz(folder, save):
    save(folder / "x.npz", **FEATURES)
    return ["x.npz"]


def features_h5(folder, **options):
    checked = {"fletcher32": True, "chunks": (1, 3, 3)} if options else {}
    with h5py.File(folder / "x.h5", "w", **options) as file:
        for name, X in FEATURES.items():
            file.create_dataset(name, data=X, **checked)
    return ["x.h5"]


def read_features(folder, name):
    found = compare_features(folder / name, into=CKA(samples=False), progress=False)
    return digest(found.data.cka, json.dumps([found.layers_x, found.layers_y]).encode())


def events(H, W, n=30):
    random = np.random.default_rng(0)
    t = np.sort(random.integers(0, 300_000, n))
    return t, random.integers(0, W, n), random.integers(0, H, n), random.integers(0, 2, n)


def raw(folder, write):
    (folder / "x.bin").write_bytes(write(*events(34, 34)))
    return ["x.bin"]


def recording(folder, save):
    save(folder / "x.bin", **dict(zip("txyp", events(34, 34), strict=True)))
    if not (folder / "x.bin").exists():
        (folder / "x.bin.npz").rename(folder / "x.bin")
    return ["x.bin"]


def read_recording(folder, known, read):
    path = folder / "x.bin"
    try:
        return digest(counted(Item("x.bin", 0, partial(read, path)), _SETS[known], (3, 2, 8, 8), "time"))
    except ValueError as error:  # whoever calls adds the name of the file
        raise DataError(f"{path}: {error}") from error


def shd(folder):
    random = np.random.default_rng(0)
    with h5py.File(folder / "x.h5", "w") as file:
        file["labels"] = np.arange(5, dtype=np.uint16)
        for name, dtype in (("times", np.float16), ("units", np.uint16)):
            column = file.create_dataset(f"spikes/{name}", (5,), dtype=h5py.vlen_dtype(dtype))
            for i in range(5):
                column[i] = np.sort(random.integers(0, 700, 4 + i)).astype(dtype)
    return ["x.h5"]


def read_shd(folder):
    path, found = folder / "x.h5", []
    for item in recordings._of_h5(_SETS["shd"], path):
        try:
            found.append(counted(item, _SETS["shd"], (3, 700), "number"))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
    return digest(*found)


def frames(folder):
    parts = {}
    for split, n in (("train", 6), ("test", 3)):
        parts[split] = frame_files.Counts(folder / f"x_{split}.npy", (2, 2, 3, 4))
        for i in range(n):
            parts[split].add(np.random.default_rng(i).integers(0, 9, (2, 2, 3, 4)))
    labels = {"y_train": np.arange(6) % 3, "y_test": np.arange(3)}
    meta = {"classes": 3, "told": ["Six of nine."], "held_out": ["a", "b"], "skipped": []}
    frame_files.finish(folder, parts["train"], parts["test"], labels, meta)
    return ["x_train.npy", "y_train.npy", "x_test.npy", "y_test.npy", "meta.json", "whole.json"]


def read_frames(folder):
    found = frame_files.open_frames(folder, frame_files.read_meta(folder))
    told = json.dumps([found.classes, found.fingerprint, found.remarks, found.held_out]).encode()
    return digest(told, found.x_train, found.y_train, found.x_test, found.y_test)


def trials(folder):
    (folder / "DvsGesture").mkdir()
    for split in ("train", "test"):
        (folder / f"DvsGesture/trials_to_{split}.txt").write_text(f"user1_{split}.aedat\nuser2_{split}.aedat\n")
        for user in (1, 2):
            table = "class,startTime_usec,endTime_usec\n1,0,100\n2,100,200\n2,300,400\n"
            (folder / f"DvsGesture/user{user}_{split}_labels.csv").write_text(table)
            (folder / f"DvsGesture/user{user}_{split}.aedat").touch()
    return ["DvsGesture/trials_to_train.txt", "DvsGesture/trials_to_test.txt", "DvsGesture/user1_train_labels.csv"]


def read_trials(folder):
    try:
        return digest(repr(raw_files.find_trials(folder)).encode())
    except ValueError as error:  # whoever calls adds the name of the set
        raise DataError(str(error)) from error


def unconverted(folder):
    (folder / "sj_cka_frames").mkdir()
    (folder / "a.aedat").touch()
    known = {"a.aedat": {"wrong": "it is cut off", "state": preparation.state_of(folder / "a.aedat")}}
    (folder / "sj_cka_frames/unconverted.json").write_text(json.dumps(known))
    return ["sj_cka_frames/unconverted.json"]


def read_unconverted(folder):
    [source] = preparation._known_broken([raw_files.EventSource("a.aedat", ("a.npz",))], folder, folder)
    assert isinstance(source.wrong, str)
    return "known"


def result(folder, sealed):
    random = np.random.default_rng(0)
    xy, xx, yy = random.random((2, 2, 1, 1)), random.random((2, 2, 2)) + 1, random.random((1, 1, 1)) + 1
    found = CKAResult.from_hsic(["a", "b"], ["a"], hsic_xy=xy, hsic_xx=xx, hsic_yy=yy, n=9, attrs={"x": "SNN"})
    (folder / "x.nc").write_bytes(found.to_bytes() if sealed else bytes(found.data.to_netcdf(engine="h5netcdf")))
    return ["x.nc"]


def read_result(folder):
    found = CKAResult.load(folder / "x.nc").data
    return digest(repr(found.attrs).encode(), *(found[name] for name in found.variables))


def idx(folder):
    random = np.random.default_rng(0)
    (folder / "MNIST/raw").mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind, content in (("images-idx3", random.bytes(3 * 784)), ("labels-idx1", bytes([0, 1, 2]))):
            shape = (3, 28, 28) if kind == "images-idx3" else (3,)
            head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
            (folder / f"MNIST/raw/{split}-{kind}-ubyte").write_bytes(head + content)
    return [f"MNIST/raw/{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


class Reader(NamedTuple):
    """What is written and read; `checked` where a checksum guards the values; the errors; the share of the thousand."""

    make: object
    read: object
    checked: bool
    errors: tuple = (DataError,)
    share: float = 1.0


read_h5 = partial(read_features, name="x.h5")
READERS = {
    "images, npz stored": Reader(partial(images, save=np.savez), read_images, True, share=0.5),
    "images, npz deflated": Reader(partial(images, save=np.savez_compressed), read_images, True, share=0.5),
    "features, npz": Reader(
        partial(features_npz, save=np.savez), partial(read_features, name="x.npz"), True, (UnreadableFile,)
    ),
    "features, h5": Reader(features_h5, read_h5, False, (UnreadableFile, ValueError)),
    "features, h5 with checksums": Reader(
        partial(features_h5, libver="latest"), read_h5, True, (UnreadableFile, ValueError)
    ),
    "events, bin": Reader(
        partial(raw, write=FORMATS.atis), partial(read_recording, known="nmnist", read=read_atis), False
    ),
    "events, aedat 2": Reader(
        partial(raw, write=FORMATS.aedat2), partial(read_recording, known="cifar10_dvs", read=read_aedat2), False
    ),
    "events, aedat 3": Reader(
        partial(raw, write=FORMATS.aedat3), partial(read_recording, known="dvs128_gesture", read=read_aedat3), False
    ),
    "events, npz": Reader(
        partial(recording, save=np.savez_compressed),
        partial(read_recording, known="nmnist", read=recordings._loaded),
        True,
    ),
    "events, h5": Reader(shd, read_shd, False),
    "lists of trials": Reader(trials, read_trials, False),
    "what could not be converted": Reader(unconverted, read_unconverted, False, ()),
    "frames": Reader(frames, read_frames, True, (frame_files.DamagedFrames,)),
    "a result": Reader(partial(result, sealed=True), read_result, True, (UnreadableFile,), 0.8),
    "a result of before checksums": Reader(partial(result, sealed=False), read_result, False, (UnreadableFile,), 0.2),
    "images, idx": Reader(idx, lambda folder: mnist(folder).fingerprint, False),
}


# the process in which it is read


_TRIALS = """
import os, signal, sys
from runpy import run_path
import xarray.backends.h5netcdf_
try_to_read = run_path(sys.argv[1])["try_to_read"]
for line in sys.stdin:
    reader, seconds, path = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, float(seconds))
        try:
            try_to_read(reader, path)
        finally:
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def trials_in_forks():
    """`check_hdf5` without an interpreter for each file: the same trial in copies of one small process, shorter."""
    command = [sys.executable, "-c", _TRIALS, str(hdf5._TRIAL)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process, pytest.MonkeyPatch.context() as patch:

        def check(path, reader="h5py", name=""):
            process.stdin.write(f"{reader}\t{TRIAL_SECONDS}\t{path}\n")
            process.stdin.flush()
            if (number := int(process.stdout.readline())) < 0:
                raise hdf5._lost(name or str(path), -number)

        for module in ("sj_cka.cka.features", "sj_cka.cka.result_file", "sj_cka.data.events.recordings"):
            patch.setattr(f"{module}.check_hdf5", check)
        yield
        process.stdin.close()


def outcome(read, folder):
    try:
        return "value", read(folder), ""
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return "error", kinds, str(error)


def outcomes(read, folder, files, start, seconds):
    """Of damaged files from number `start` on, until the process that reads them is lost; ends with a None then."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        with os.fdopen(write_end, "wb") as out:
            for name, whole, content in files[start:]:
                (folder / name).write_bytes(content)
                signal.setitimer(signal.ITIMER_PROF, seconds)
                found = outcome(read, folder)
                signal.setitimer(signal.ITIMER_PROF, 0)
                (folder / name).write_bytes(whole)
                pickle.dump(found, out)
                out.flush()
        os._exit(0)
    os.close(write_end)
    found = []
    with os.fdopen(read_end, "rb") as held:
        while True:
            try:
                found.append(pickle.load(held))
            except EOFError:
                break
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return found, number


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_damaged_file_is_one_clean_error_or_what_was_written(name, tmp_path, trials_in_forks):
    reader = READERS[name]
    torch.set_num_threads(1)
    names = reader.make(tmp_path)
    reader.read(tmp_path)  # imports what it needs
    began = time.process_time()
    original = reader.read(tmp_path)
    seconds = max(SECONDS, 50 * (time.process_time() - began))  # on a machine that is slow
    random = np.random.default_rng(sorted(READERS).index(name))
    files = []
    while len(files) < COUNT * reader.share:
        file = names[len(files) % len(names)]
        whole = (tmp_path / file).read_bytes()
        if (content := damaged(whole, random)) != whole:
            files.append((file, whole, content))
    faults, errors, at = [], 0, 0
    while at < len(files):
        found, number = outcomes(reader.read, tmp_path, files, at, seconds)
        for (file, _, content), (kind, value, message) in zip(files[at:], found, strict=False):
            if kind == "error":
                errors += 1
                clean = any(own.__name__ in value for own in reader.errors) and str(tmp_path) in message
                if not clean or len(message) > 1000 or "\n" in message:
                    faults.append((file, content, value[0], message))
            elif reader.checked and value != original:
                faults.append((file, content, "other values", ""))
        at += len(found)
        if at < len(files):
            faults.append((*files[at][::2], f"ended by signal {-number}", ""))
            (tmp_path / files[at][0]).write_bytes(files[at][1])
            at += 1
    told = "\n".join(f"{file}: {what}: {message[:300]}" for file, _, what, message in faults[:10])
    assert not faults, f"{len(faults)} of {len(files):,}\n{told}"
    assert errors > len(files) // 20 or not reader.errors
