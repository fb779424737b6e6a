"""Files that come from outside, read so that whatever is in them is what was asked for or one error that names them.

`kinds` tells what a file is, `npz` reads arrays of a zip archive, `hdf5` makes sure that HDF5's library comes to an end
with a file. Nothing here knows what the content means.
"""

from sj_cka.files.hdf5 import check_hdf5
from sj_cka.files.kinds import UnreadableFile, cause, head_of, is_hidden, kind_of, obstacle, reading, shown
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
