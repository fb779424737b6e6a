"""Data sets: labelled images and event recordings as arrays, from one table."""

from __future__ import annotations

from collections.abc import Callable

from sj_cka.data.augment import AUGMENTATIONS
from sj_cka.data.binning import bin_events, bin_spikes
from sj_cka.data.event_sets import EVENT_SETS, event_shape
from sj_cka.data.frames import Frames
from sj_cka.data.images import Images, digits, npz
from sj_cka.data.imagined import Shape, imagine
from sj_cka.data.samples import DataError, Samples
from sj_cka.data.torchvision_sets import SHAPES, TORCHVISION_SETS

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "EVENT_SETS",
    "SHAPES",
    "DataError",
    "Frames",
    "Images",
    "Samples",
    "Shape",
    "bin_events",
    "bin_spikes",
    "digits",
    "event_shape",
    "imagine",
    "npz",
]

DATASETS: dict[str, Callable[..., Samples]] = {"digits": digits, "npz": npz, **TORCHVISION_SETS, **EVENT_SETS}
