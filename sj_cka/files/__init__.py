"""Files that come from outside, read so that whatever is in them is what was asked for or one error that names them.

`access` tells what a file is, `npz` reads arrays of a zip archive, `hdf5` makes sure that its library ends with a
file. Nothing here knows what the content means.
"""

from sj_cka.files.access import UnreadableFile, cause, head_of, is_hidden, kind_of, obstacle, reading, shown
from sj_cka.files.hdf5 import check_hdf5
from sj_cka.files.npz import opened_npz

__all__ = [
    "UnreadableFile",
    "cause",
    "check_hdf5",
    "head_of",
    "is_hidden",
    "kind_of",
    "obstacle",
    "opened_npz",
    "reading",
    "shown",
]
