"""HDF5 files that keep the library busy for ever."""

import h5py
import numpy as np
import pytest

from sj_cka.files import UnreadableFile, check_hdf5


def endless(path):
    """Ragged arrays whose heap holds zeros, which the library walks for ever."""
    with h5py.File(path, "w") as file:
        file.create_dataset("ragged", (3,), dtype=h5py.vlen_dtype(np.float16))[:] = [np.ones(i + 2) for i in range(3)]
    raw = bytearray(path.read_bytes())
    at = raw.find(b"GCOL") + 16
    raw[at : at + 64] = bytes(64)
    path.write_bytes(raw)
    return path


def test_a_file_without_an_end_is_told(tmp_path):
    with pytest.raises(UnreadableFile, match=r"x\.h5: expected an HDF5 file .*, the HDF5 library comes to no end"):
        check_hdf5(endless(tmp_path / "x.h5"))


def test_a_whole_file_and_one_that_a_reader_refuses_pass(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/b"] = np.ones((3, 4))
        file["a/c"] = file["a"]
    check_hdf5(tmp_path / "x.h5")
    (tmp_path / "y.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    check_hdf5(tmp_path / "y.h5", "xarray")


def test_a_process_that_cannot_be_started_or_fails_is_no_fault_of_the_file(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.h5", "w"):
        pass
    monkeypatch.setattr("sj_cka.files.hdf5._TRIAL", tmp_path / "none.py")
    with pytest.raises(OSError, match=r"a process of its own, it failed: .*none"):
        check_hdf5(tmp_path / "x.h5")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match="python"):
        check_hdf5(tmp_path / "x.h5")
