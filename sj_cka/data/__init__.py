"""Data sets: labelled images and event recordings as arrays, from one table."""

from collections.abc import Callable

from sj_cka.data.augment import AUGMENTATIONS
from sj_cka.data.events import EVENT_SETS, EVENT_SHAPES, bin_events, bin_spikes, digits_dvs, photos_dvs, saccades
from sj_cka.data.images import digits, npz
from sj_cka.data.photographs import photos
from sj_cka.data.samples import AbsentData, DataError, Frames, Images, Samples, Shape, imagine
from sj_cka.data.torchvision_sets import TORCHVISION_SETS, TORCHVISION_SHAPES

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "SHAPES",
    "AbsentData",
    "DataError",
    "Frames",
    "Images",
    "Samples",
    "Shape",
    "bin_events",
    "bin_spikes",
    "digits",
    "digits_dvs",
    "imagine",
    "npz",
    "photos",
    "photos_dvs",
    "saccades",
]

DATASETS: dict[str, Callable[..., Samples]] = {
    "digits": digits,
    "digits_dvs": digits_dvs,
    "npz": npz,
    "photos": photos,
    "photos_dvs": photos_dvs,
    **TORCHVISION_SETS,
    **EVENT_SETS,
}

# what a public set holds as published: a function of the options of the set of that name
SHAPES: dict[str, Callable[..., Shape]] = {**TORCHVISION_SHAPES, **EVENT_SHAPES}
