"""Public sets of event recordings, read through SpikingJelly's dataset classes: their frames, kept on disk.

Where the files lie. In the data root each set has a folder of its own (NMNIST, CIFAR10DVS, DVS128Gesture, NCaltech101,
SHD), laid out as SpikingJelly lays it out: the published archives in `download/`, what they hold in `extract/`, its
recordings in `events_np/` (SHD: `events_h5/`). Any one of the three is enough; what is missing after it is made. A data
root that has no such folder, but itself holds one of the three, is taken for the folder of the set.

What is written. Frames go to `sj_cka_frames/` in that folder, or in a folder of the same name under `cache`; there each
choice of T, split_by and size has a folder of its own, which may be removed at any time. It is used as long as the
names and sizes of the recordings are the same.

Labels are 0 to classes - 1 in the order of the sorted names of the class folders, as in SpikingJelly ("10" stands
before "2"); of SHD, those of the file.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, get_args

from filelock import FileLock

from sj_cka.data.events.binning import SplitBy
from sj_cka.data.events.formats import ATIS_BYTES, Clock, read_aedat2, read_atis
from sj_cka.data.events.integration import Wanted, integrate, kept, key_of
from sj_cka.data.events.preparation import FRAMES, STEPS, OnError, look, prepare, refuse_lost
from sj_cka.data.events.raw_files import EventSet, as_they_are, cut_trial, each_by, find_trials, one_each
from sj_cka.data.events.recordings import listed
from sj_cka.data.samples import DataError, Frames, Shape, data_root
from sj_cka.files import cause
from sj_cka.plugins import check_option

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ATIS = Clock(bits=23, mark=240)

_SETS = {
    "nmnist": EventSet(
        title="N-MNIST",
        module="n_mnist",
        reader="NMNIST",
        folder="NMNIST",
        archives=("Train.zip", "Test.zip"),
        extracted="Train/<digit>/<name>.bin and Test/<digit>/<name>.bin",
        find=one_each({"Train": "train", "Test": "test"}, ".bin", ATIS_BYTES),
        convert=each_by(read_atis),
        clock=_ATIS,
        sensor=(34, 34),
        published=Shape((1, 2, 34, 34), 10, 60_000, 10_000),
    ),
    "cifar10_dvs": EventSet(
        title="CIFAR10-DVS",
        module="cifar10_dvs",
        reader="CIFAR10DVS",
        folder="CIFAR10DVS",
        archives=tuple(f"{name}.zip" for name in _CIFAR10),
        extracted="<class>/<name>.aedat",
        find=one_each({"": ""}, ".aedat"),
        convert=each_by(read_aedat2),
        clock=Clock(bits=32),
        splits=(),
        sensor=(128, 128),
        published=Shape((1, 2, 128, 128), 10, 9_000, 1_000),
    ),
    "dvs128_gesture": EventSet(
        title="DVS128 Gesture",
        module="dvs128_gesture",
        reader="DVS128Gesture",
        folder="DVS128Gesture",
        archives=("DvsGesture.tar.gz",),
        extracted="DvsGesture/ with trials_to_train.txt, trials_to_test.txt, <trial>.aedat and <trial>_labels.csv",
        find=find_trials,
        convert=cut_trial,
        sensor=(128, 128),
        # as SpikingJelly cuts the trials; Amir et al. 2017 count 1,342 gestures
        published=Shape((1, 2, 128, 128), 11, 1_176, 288),
    ),
    "n_caltech101": EventSet(
        title="N-Caltech101",
        module="n_caltech101",
        reader="NCaltech101",
        folder="NCaltech101",
        archives=("Caltech101.zip",),
        extracted="Caltech101/<class>/<name>.bin",
        find=one_each({"Caltech101": ""}, ".bin", ATIS_BYTES),
        convert=each_by(read_atis),
        clock=_ATIS,
        splits=(),
        sensor=(180, 240),
        # 8,709 recordings; a tenth of each class of Caltech101 without Faces, to the nearest, makes 878
        published=Shape((1, 2, 180, 240), 101, 7_831, 878),
    ),
    "shd": EventSet(
        title="SHD",
        module="shd",
        reader="SpikingHeidelbergDigits",
        folder="SHD",
        archives=("shd_train.h5.zip", "shd_test.h5.zip"),
        extracted="shd_train.h5 and shd_test.h5",
        find=as_they_are("shd_train.h5", "shd_test.h5"),
        sensor=(700,),
        published=Shape((1, 700), 20, 8_156, 2_264),
        h5=("shd_train.h5", "shd_test.h5"),
    ),
}


def nmnist(
    root: Path | None = None,
    T: int = 10,
    split_by: SplitBy = "number",
    size: Sequence[int] | None = None,
    on_error: OnError = "raise",
    cache: Path | None = None,
) -> Frames:
    """N-MNIST (Orchard et al. 2015): the digits of MNIST before a moving camera of 34 x 34 pixels, 70,000 recordings.

    The published split into 60,000 for training and 10,000 for testing. Frames are those of `bin_events`.

    Args:
        root: folder that holds the sets, each in a folder of its own; None stands for the environment variable
            SJ_CKA_DATA.
        T: number of frames of a recording, from 1.
        split_by: whether a frame is a number of events or a time, see `bin_events`.
        size: rows H and columns W of a frame, up to those of the camera; None for these. The event at row y of H0 is
            counted at row y H // H0, columns alike, so that counts stay.
        on_error: what is done about a recording that is damaged, has an event outside the sensor, or time that runs
            backwards: "raise", or "skip" to leave it out; then `remarks` says so.
        cache: folder for all that is written; None for the set's own.

    Returns:
        counts `[N, T, 2, H, W]` on disk, of uint8 where no count is above 255, else int16 or int32; and int64 labels.

    Raises:
        DataError: no root was given; files are missing, and the message says which to put where; a recording is
            damaged; all of a class are; or nothing can be written.
    """
    return _read("nmnist", root, T, split_by, size, on_error, cache)


def cifar10_dvs(
    root: Path | None = None,
    T: int = 10,
    split_by: SplitBy = "number",
    size: Sequence[int] | None = None,
    on_error: OnError = "raise",
    cache: Path | None = None,
    download: bool = False,
) -> Frames:
    """CIFAR10-DVS (Li et al. 2017): 10,000 images of CIFAR-10 before an event camera of 128 x 128 pixels, ten classes.

    No split is published. Ours takes a tenth of each class for testing, to the nearest recording and at least one:
    those whose class and file name come first by their SHA-256 with a seed of 0, so that it depends on nothing else.
    SpikingJelly's `split_to_train_test_set` takes the last tenth of a class as the files are sorted, or draws by
    numpy's global generator, and reads every recording for it.

    Args:
        root, T, split_by, size, on_error, cache: see `nmnist`.
        download: whether archives that are missing are to be fetched; without it no network is used.

    Raises:
        DataError: as of `nmnist`, or the download failed.
    """
    return _read("cifar10_dvs", root, T, split_by, size, on_error, cache, download)


def dvs128_gesture(
    root: Path | None = None,
    T: int = 10,
    split_by: SplitBy = "number",
    size: Sequence[int] | None = None,
    on_error: OnError = "raise",
    cache: Path | None = None,
) -> Frames:
    """DVS128 Gesture (Amir et al. 2017): eleven gestures of hand and arm before an event camera of 128 x 128 pixels.

    The published split by persons, 1,176 for training and 288 for testing as SpikingJelly cuts the trials. Arguments
    and errors are those of `nmnist`.
    """
    return _read("dvs128_gesture", root, T, split_by, size, on_error, cache)


def n_caltech101(
    root: Path | None = None,
    T: int = 10,
    split_by: SplitBy = "number",
    size: Sequence[int] | None = None,
    on_error: OnError = "raise",
    cache: Path | None = None,
) -> Frames:
    """N-Caltech101 (Orchard et al. 2015): images of Caltech101 before a moving camera of 180 x 240 pixels, 101 classes.

    No split is published; ours is that of `cifar10_dvs`. Arguments and errors are those of `nmnist`.
    """
    return _read("n_caltech101", root, T, split_by, size, on_error, cache)


def shd(
    root: Path | None = None,
    T: int = 10,
    split_by: SplitBy = "number",
    on_error: OnError = "raise",
    cache: Path | None = None,
    download: bool = False,
) -> Frames:
    """Spiking Heidelberg Digits (Cramer et al. 2020): spoken digits as spikes of 700 channels of a model of the ear.

    The published split into 8,156 for training and 2,264 for testing, twenty classes. Times are rounded to microseconds
    (the file holds them in seconds, in 16 bits) and put in order. Frames are those of `bin_spikes`, `[N, T, 700]`.

    Args:
        root, T, split_by, on_error, cache: see `nmnist`.
        download: see `cifar10_dvs`.

    Raises:
        DataError: as of `cifar10_dvs`.
    """
    return _read("shd", root, T, split_by, None, on_error, cache, download)


EVENT_SETS: dict[str, Callable[..., Frames]] = {
    "nmnist": nmnist,
    "cifar10_dvs": cifar10_dvs,
    "dvs128_gesture": dvs128_gesture,
    "n_caltech101": n_caltech101,
    "shd": shd,
}


def event_shape(name: str, T: int = 10, size: Sequence[int] | None = None, **others: Any) -> Shape:
    """What a set holds, as published, without its files.

    Args:
        name: in `EVENT_SETS`.
        T, size: see `nmnist`.
        others: options that change nothing about it.

    Raises:
        OptionError: T below 1, or a size that the camera does not have.

    Example:
        >>> event_shape("dvs128_gesture", T=16, size=[64, 32])
        Shape(sample=(16, 2, 64, 32), classes=11, train=1176, test=288)
    """
    known = _SETS[name]
    check_option(T >= 1, "T", "T, a number of frames from 1", f"{T} for {known.title}")
    if len(known.sensor) == 1:
        return known.published._replace(sample=(T, *known.sensor))
    sides = known.sensor if size is None else tuple(size)
    fits = len(sides) == 2 and all(1 <= side <= most for side, most in zip(sides, known.sensor, strict=True))
    most = f"the {known.sensor[0]} rows and {known.sensor[1]} columns of the camera"
    check_option(fits, "size", f"size as [H, W], from 1 to {most}", f"{list(sides)} for {known.title}")
    return known.published._replace(sample=(T, 2, *sides))


EVENT_SHAPES: dict[str, Callable[..., Shape]] = {name: partial(event_shape, name) for name in _SETS}


def _read(
    name: str,
    root: Path | None,
    T: int,
    split_by: SplitBy,
    size: Sequence[int] | None,
    on_error: OnError,
    cache: Path | None,
    download: bool = False,
) -> Frames:
    known = _SETS[name]
    check_option(
        split_by in get_args(SplitBy), "split_by", 'split_by "number" or "time"', f"{split_by!r} for {known.title}"
    )
    check_option(
        on_error in get_args(OnError), "on_error", 'on_error "raise" or "skip"', f"{on_error!r} for {known.title}"
    )
    wanted = Wanted(event_shape(name, T, size).sample, split_by, on_error)
    folder = data_root(known.title, root)
    try:
        folder = _folder(known, folder)
        written = folder if cache is None else data_root(known.title, cache) / known.folder
        return _frames(known, folder, written, wanted, download)
    except OSError as error:
        raise DataError(f"{known.title}: expected the set in {folder}, could not read it: {cause(error)}") from error


def _frames(known: EventSet, folder: Path, written: Path, wanted: Wanted, download: bool) -> Frames:
    found = look(known, folder, written)
    if found is None or found.missing:
        nothing = found is None and not download and not (folder / "download").is_dir()
        with nullcontext() if nothing else _locked(known, written):
            found = prepare(known, folder, written, wanted.on_error, download)
    refuse_lost(known, found, wanted.on_error)
    recordings = listed(known, found)
    at = written / FRAMES / key_of(wanted, recordings)
    if (frames := kept(known, found, at, wanted.on_error)) is None:
        with _locked(known, written):
            # another process may have written it meanwhile
            if (frames := kept(known, found, at, wanted.on_error, quiet=True)) is None:
                integrate(known, found, recordings, at, wanted)
                frames = kept(known, found, at, wanted.on_error)
    assert frames is not None
    return frames


def _folder(known: EventSet, root: Path) -> Path:
    own = root / known.folder
    return root if not own.is_dir() and any((root / step).is_dir() for step in STEPS) else own


@contextmanager
def _locked(known: EventSet, written: Path) -> Iterator[None]:
    """One process at a time, in a folder that can be written; errors in writing there are told."""
    try:
        (written / FRAMES).mkdir(parents=True, exist_ok=True)
        with FileLock(written / FRAMES / ".lock"):
            yield
    except OSError as error:
        raise DataError(
            f"{known.title}: expected to write into {written}, could not: {cause(error)}; give data.cache, a folder "
            "that can be written and has room"
        ) from error
