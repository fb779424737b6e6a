"""npz files of users: arrays, or one error that names the file and what is wrong."""

import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from sj_cka.files import UnreadableFile, opened_npz


def arrays():
    random = np.random.default_rng(0)
    return {"a": random.integers(0, 99, (5, 4), dtype=np.uint8), "b": np.asfortranarray(random.random((3, 2)))}


def saved(path, save=np.savez, **held):
    save(path, **(held or arrays()))
    return path


def marked(path, offset, value):
    """Writes two bytes into every local and central header of an archive."""
    raw = bytearray(path.read_bytes())
    for signature, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        at = -1
        while (at := raw.find(signature, at + 1)) >= 0:
            raw[at + offset + shift : at + offset + shift + 2] = struct.pack("<H", value)
    path.write_bytes(raw)


def header(shape, descr="<f8"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_as_numpy_reads_them_and_can_be_written_to(save, tmp_path):
    held = arrays() | {"empty": np.zeros((0, 3)), "scalar": np.float32(2), "big": np.arange(3, dtype=">i4")}
    with opened_npz(saved(tmp_path / "x.npz", save, **held)) as file, np.load(tmp_path / "x.npz") as expected:
        assert list(file) == list(expected)
        for name in file:
            assert file[name].dtype == expected[name].dtype
            assert np.array_equal(file[name], expected[name])
            assert file[name].flags.writeable
            assert file[name].flags.f_contiguous == expected[name].flags.f_contiguous


def test_what_macos_and_notebooks_add_is_no_array(tmp_path):
    path = saved(tmp_path / "x.npz")
    with zipfile.ZipFile(path, "a") as file:
        for name in ("__MACOSX/._a.npy", ".DS_Store", ".ipynb_checkpoints/a.npy", "folder/"):
            file.writestr(name, b"whatever")
    with opened_npz(path) as file:
        assert list(file) == ["a", "b"]


KINDS = {
    "npy": (lambda path: path.write_bytes(header((3,)) + bytes(24)), r"it is \.npy, a single NumPy array"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1])), "it is a pickle of Python"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "it is an HDF5 file"),
    "empty file": (lambda path: path.write_bytes(b""), "it is an empty file"),
    "empty zip": (lambda path: archive(path, {}), ""),
    "page": (lambda path: path.write_bytes(b"<!DOCTYPE html><p>404"), "it is a page of the web"),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "a pointer of Git LFS"),
    "zstd": (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd\0"), "it is compressed by zstd"),
    "text": (lambda path: path.write_text("1,2,3"), "it is text, '1,2,3'"),
    "zeros": (lambda path: path.write_bytes(bytes(99)), "it is zeros"),
    "noise": (lambda path: path.write_bytes(b"\xd1\xa7\x99\x01" * 40), "another kind of file, or a damaged one"),
    "folder": (lambda path: path.mkdir(), "found a folder at"),
    "pipe": (os.mkfifo, "found a pipe at"),
    "missing": (lambda path: None, "found no file at"),
    "link": (lambda path: path.symlink_to("nowhere"), "found a link that leads nowhere at"),
    "ring": (lambda path: path.symlink_to(path), "could not look at"),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_another_kind_of_file_is_named(kind, tmp_path):
    make, message = KINDS[kind]
    path = tmp_path / "x.npz"
    make(path)
    if kind == "empty zip":
        with opened_npz(path) as file:
            assert list(file) == []
        return
    with pytest.raises(UnreadableFile, match=message) as told, opened_npz(path):
        pass
    assert "x.npz" in str(told.value)


def test_a_name_that_no_file_can_have_is_told(tmp_path):
    with pytest.raises(UnreadableFile, match="could not look at"), opened_npz(tmp_path / "a\0b"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path):
    saved(tmp_path / "x.npz").chmod(0)
    with pytest.raises(UnreadableFile, match="PermissionError"), opened_npz(tmp_path / "x.npz"):
        pass


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (6, 1, "got an encrypted one"),
        (8, 9, "compressed by Deflate64"),
        (8, 12, "compressed by bzip2"),
        (8, 14, "compressed by LZMA"),
        (8, 93, "compressed by zstd"),
        (8, 77, "compressed by method 77"),
    ],
)
def test_an_archive_that_numpy_does_not_write_is_refused_by_its_member(offset, value, message, tmp_path):
    path = saved(tmp_path / "x.npz")
    marked(path, offset, value)
    with opened_npz(path) as file, pytest.raises(UnreadableFile, match=rf"x\.npz: a\.npy: expected .*{message}; write"):
        file["a"]


MEMBERS = {
    "text": (b"hello", "expected an array, got text, 'hello'"),
    "nothing": (b"", "expected an array, got empty"),
    "an image": (b"\x89PNG\r\n\x1a\n...", "expected an array, got a PNG image"),
    "objects": (header((1,), "|O") + pickle.dumps([print]), "an array of Python objects, which is not read"),
    "terabytes": (header((10**12,)) + bytes(80), r"expected 8,000,000,000,000 bytes of float64 \[1000000000000\]"),
    "an overflow": (header((2**40, 2**40)) + bytes(80), "expected 9,671,406,556,917,033,397,649,408 bytes"),
    "a negative shape": (header((-2, -5)) + bytes(80), "as its header says, got 80"),
    "too little": (header((11,)) + bytes(80), "expected 88 bytes of .* got 80"),
    "too much": (header((9,)) + bytes(80), "expected 72 bytes of .* got 80"),
    "no type": (header((10,), "nonsense") + bytes(80), "could not read it"),
    "no shape": (header("'ten'") + bytes(80), "could not read it"),
    "no header": (b"\x93NUMPY\1\0\x40\0" + b"(" * 64, "could not read it"),
    "records": (b"\x93NUMPY\3\0" + header((1,))[8:] + bytes(8), r"got version 3 of \.npy|version \(3, 0\)"),
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("kind", sorted(MEMBERS))
def test_a_member_that_is_no_array_is_refused_and_the_others_are_not(kind, method, tmp_path):
    content, message = MEMBERS[kind]
    good = header((2,)) + bytes(16)
    path = archive(tmp_path / "x.npz", {"bad.npy": content, "good.npy": good}, method)
    with opened_npz(path) as file:
        assert file["good"].tolist() == [0, 0]
        with pytest.raises(UnreadableFile, match=rf"x\.npz: bad\.npy: .*{message}"):
            file["bad"]


def test_two_arrays_of_one_name_are_refused(tmp_path):
    path = archive(tmp_path / "x.npz", {"a": header((2,)) + bytes(16), "a.npy": header((2,)) + bytes(16)})
    with pytest.raises(UnreadableFile, match="got two called 'a'"), opened_npz(path):
        pass


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_announced_sizes_take_no_memory_before_they_are_found_wrong(method, tmp_path):
    path = archive(tmp_path / "x.npz", {"a.npy": header((500,)) + bytes(4000)}, method)
    raw = bytearray(path.read_bytes())
    at = raw.find(b"PK\1\2") + 24
    raw[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with opened_npz(path) as file, pytest.raises(UnreadableFile, match="it announces 4,294,967,294"):
            file["a"]
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_anywhere_is_told_or_changes_nothing(save, tmp_path):
    path = saved(tmp_path / "x.npz", save)
    raw = path.read_bytes()
    told = read = 0
    for place in range(0, len(raw), 7):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        try:
            with opened_npz(path) as file:
                found = {name: file[name] for name in file}
        except UnreadableFile as error:
            told += str(path) in str(error)
            continue
        read += 1
        assert {name: X.tolist() for name, X in found.items()} == {name: X.tolist() for name, X in arrays().items()}
    assert told > 40
    assert told + read == len(range(0, len(raw), 7))


def test_an_error_of_whoever_reads_is_left_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), opened_npz(saved(tmp_path / "x.npz")):
        raise ZeroDivisionError
    with pytest.raises(KeyError), opened_npz(tmp_path / "x.npz") as file:
        file["none"]
