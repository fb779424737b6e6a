"""Event sets for the tests of data: the real sample of N-MNIST, and small ones in the published formats."""

import os
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

CAMERAS = {"nmnist": (34, 34), "cifar10_dvs": (128, 128), "dvs128_gesture": (128, 128), "n_caltech101": (180, 240)}
FOLDERS = {
    "nmnist": "NMNIST",
    "cifar10_dvs": "CIFAR10DVS",
    "dvs128_gesture": "DVS128Gesture",
    "n_caltech101": "NCaltech101",
    "shd": "SHD",
}


def _sample(root, train=None, test=None):
    """Unpacks so many of each digit of 1,000 + 100 real recordings of N-MNIST; None for all."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    archive = Path(os.environ.get("SJ_CKA_TEST_DATA", beside)) / "nmnist_small.zip"
    if not archive.is_file():
        pytest.skip(f"no real N-MNIST sample at {archive}; set SJ_CKA_TEST_DATA")
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".bin"))
        for split, most in (("Train", train), ("Test", test)):
            for digit in range(10):
                own = [name for name in names if name.startswith(f"{split}/{digit}/")]
                packed.extractall(root / "NMNIST" / "extract", own[:most])
    return root


@pytest.fixture(scope="session")
def nmnist_sample(tmp_path_factory):
    """A data root with 100 + 20 real recordings of N-MNIST, all digits among them; tests must not change them."""
    return _sample(tmp_path_factory.mktemp("sample"), 10, 2)


@pytest.fixture
def nmnist_root(request, tmp_path, nmnist_sample):
    """The same, or with the parameter "all" a root with all 1,000 + 100."""
    return nmnist_sample if request.param == "some" else _sample(tmp_path)


def recording(H, W, seed, n=40):
    """Random events t [us], x, y, p of a camera, by time."""
    random = np.random.default_rng(seed)
    t = np.sort(random.integers(0, 300_000, n))
    return t, random.integers(0, W, n), random.integers(0, H, n), random.integers(0, 2, n)


def atis(t, x, y, p):
    """Five bytes an event: x, y, and polarity in bit 23 above 23 bits of time, big-endian."""
    events = np.stack([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255], 1)
    return events.astype(np.uint8).tobytes()


def aedat2(t, x, y, p):
    """Lines with #, then address and time, big-endian; the DVS128 counts from the other corner, ON is 0."""
    address = ((127 - x) << 8) | ((127 - y) << 1) | (1 - p)
    return b"#!AER-DAT2.0\r\n# made for a test\r\n" + np.stack([address, t], 1).astype(">u4").tobytes()


def aedat3(t, x, y, p):
    """Lines with #, then packets: 28 bytes of header, and for an event 32 bits of address and 32 of time."""
    packets = b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"
    for part in np.array_split(np.arange(len(t)), 3):
        packets += struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, len(part), len(part), len(part))
        address = (x[part] << 17) | (y[part] << 2) | (p[part] << 1) | 1
        packets += np.stack([address, t[part]], 1).astype("<u4").tobytes()
    return packets


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_shd(path, spikes, labels):
    """The layout of SHD: ragged times in seconds, float16, and units; a label for each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["labels"] = np.asarray(labels, dtype=np.uint16)
        for name, dtype, axis in (("times", np.float16, 0), ("units", np.uint16, 1)):
            column = file.create_dataset(f"spikes/{name}", (len(spikes),), dtype=h5py.vlen_dtype(dtype))
            for i, spike in enumerate(spikes):
                column[i] = spike[axis].astype(dtype)


def spikes(seed, n=30):
    """Times that 16 bits hold, in seconds, by time; and units."""
    random = np.random.default_rng(seed)
    return np.sort(random.integers(0, 1024, n)) / 1024, random.integers(0, 700, n)


def small_set(name, root):
    """Puts a small set into root, in the published format, in extract/; gives split -> [(label, events)] in order."""
    extract = root / FOLDERS[name] / "extract"
    made = {"train": [], "test": []}
    if name == "nmnist":
        for split in made:
            for label in range(3):
                for i in range(2):
                    events = recording(34, 34, 100 * label + 10 * i + (split == "test"))
                    put(extract / split.title() / str(label) / f"{i:05}.bin", atis(*events))
                    made[split].append((label, events))
    elif name == "cifar10_dvs":
        for label, group in enumerate(["airplane", "bird", "cat"]):
            for i in range(10):
                events = recording(128, 128, 100 * label + i)
                put(extract / group / f"cifar10_{group}_{i}.aedat", aedat2(*events))
                made["train"].append((label, events))
    elif name == "n_caltech101":
        for label, group in enumerate(["BACKGROUND_Google", "accordion", "yin_yang"]):
            for i in range(3):
                events = recording(180, 240, 100 * label + i)
                put(extract / "Caltech101" / group / f"image_{i:04}.bin", atis(*events))
                made["train"].append((label, events))
    elif name == "dvs128_gesture":
        for split, trials in (("train", 2), ("test", 1)):
            by_label = {label: [] for label in range(11)}
            names = []
            for trial in range(trials):
                stem = f"user{trial:02}_{split}"
                names.append(f"{stem}.aedat")
                t, x, y, p = recording(128, 128, 10 * trial + (split == "test"), n=600)
                put(extract / "DvsGesture" / f"{stem}.aedat", aedat3(t, x, y, p))
                edges = np.linspace(0, 300_000, 12).astype(int)
                table = ["class,startTime_usec,endTime_usec"]
                for label in range(11):
                    table.append(f"{label + 1},{edges[label]},{edges[label + 1]}")
                    inside = (t >= edges[label]) & (t < edges[label + 1])
                    by_label[label].append((t[inside], x[inside], y[inside], p[inside]))
                put(extract / "DvsGesture" / f"{stem}_labels.csv", "\n".join(table).encode())
            put(extract / "DvsGesture" / f"trials_to_{split}.txt", ("\n".join(names) + "\n").encode())
            order = sorted(by_label, key=str)
            made[split] = [(order.index(label), events) for label in order for events in by_label[label]]
    else:
        for split, seed in (("train", 0), ("test", 50)):
            own = [spikes(seed + i) for i in range(22)]
            labels = [i % 20 for i in range(22)]
            put_shd(extract / f"shd_{split}.h5", own, labels)
            made[split] = list(zip(labels, own, strict=True))
    return made


@pytest.fixture
def formats():
    """The functions above: a test file cannot import them."""
    functions = (recording, atis, aedat2, aedat3, put, put_shd, spikes, small_set)
    return SimpleNamespace(**{f.__name__: f for f in functions}, CAMERAS=CAMERAS, FOLDERS=FOLDERS)
