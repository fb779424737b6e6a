"""HDF5 files of unknown making: a damaged one can keep the HDF5 library in a loop, or end the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

from sj_cka.files.access import UnreadableFile

_TRIAL = Path(__file__).with_name("hdf5_trial.py")
_SECONDS, _BYTES, _MOST = 1.0, 2e5, 100.0  # of CPU: for a small file, beside a second for so many bytes; at most
_WAIT = 600.0  # seconds by the clock, where processes have no timer of their CPU time, or the file cannot be had


def check_hdf5(path: Path, reader: Literal["h5py", "xarray"] = "h5py", name: str = "") -> None:
    """Makes sure that reading a file comes to an end, by reading it in a process of its own; takes half a second.

    What a reader raises there is no matter: it raises it here again, where it can be caught.

    Args:
        path: of the file.
        reader: what will be read: groups, layouts and ragged arrays by h5py, or everything by xarray.
        name: of the file in messages; empty for its path.

    Raises:
        UnreadableFile: the reader came to no end within a second of CPU time and one more for 200 kB (at most 100; and
            no less than twice what its imports took, on a machine that is slow), or the process died.
        OSError: no process could be started.
    """
    seconds = min(_SECONDS + path.stat().st_size / _BYTES, _MOST)
    command = [sys.executable, "-P", str(_TRIAL), reader, str(seconds), os.path.abspath(path)]
    try:
        run = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=_WAIT + seconds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except subprocess.TimeoutExpired as error:
        raise _lost(name or str(path), 0) from error
    if run.returncode < 0:
        raise _lost(name or str(path), -run.returncode)
    if run.returncode:
        said = run.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(f"{path}: expected to try the file in a process of its own, it failed: {(said or ['?'])[-1]}")


def _lost(name: str, number: int) -> UnreadableFile:
    """The error for a file whose reader was ended by a signal of this number, 0 where it was given up."""
    why = "comes to no end" if number in (0, getattr(signal, "SIGPROF", 0)) else f"dies of signal {number}"
    return UnreadableFile(
        name,
        f"expected an HDF5 file that can be read, the HDF5 library {why} with it: it is damaged",
        "fetch or make it anew",
    )
