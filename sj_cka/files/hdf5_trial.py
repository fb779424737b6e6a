"""Reads an HDF5 file as far as its own structure leads, in a process that may be lost: see `sj_cka.files.hdf5`.

Run as a script, and so without an import of sj_cka, which would take longer than the trial.
"""

import contextlib
import signal
import sys
import time
from typing import Any


def walk(group: Any, above: tuple[Any, ...] = ()) -> None:
    """Visits groups, layouts and ragged arrays, whose chains of blocks a damaged file can close to a ring."""
    import h5py

    place = h5py.h5o.get_info(group.id).addr
    if place in above:
        return
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Group):
            walk(item, (*above, place))
        elif isinstance(item, h5py.Dataset):
            if item.chunks is not None and item.shape is not None:
                item.id.get_num_chunks()
            if h5py.check_vlen_dtype(item.dtype) and item.ndim == 1:
                for i in range(item.shape[0]):
                    item[i]


def try_to_read(reader: str, path: str) -> None:
    """Reads; whatever is raised is raised to the caller."""
    if reader == "h5py":
        import h5py

        with h5py.File(path, "r") as file:
            walk(file)
        return
    import xarray as xr

    with xr.open_datatree(path, engine="h5netcdf") as tree:
        tree.load()


def main() -> None:
    reader, seconds, path = sys.argv[1:]
    __import__({"h5py": "h5py", "xarray": "xarray.backends.h5netcdf_"}[reader])
    if hasattr(signal, "setitimer"):
        # SIGPROF ends the process. Where CPU time runs slowly, so did the imports, which read far more than a file asks
        signal.setitimer(signal.ITIMER_PROF, max(float(seconds), 2 * time.process_time()))
    # the caller meets the same error, and words it
    with contextlib.suppress(Exception):
        try_to_read(reader, path)


if __name__ == "__main__":
    main()
