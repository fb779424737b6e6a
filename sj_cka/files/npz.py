"""Arrays of an .npz file, each read when it is asked for, and refused before it takes more than the file can hold."""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from sj_cka.files.access import UnreadableFile, cause, head_of, is_hidden, kind_of, obstacle, shown

_DEFLATE_AT_MOST = 1032  # bytes of content a byte: 258 for two bits
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz", 98: "PPMd", 99: "AES"}
_CHUNK = 1 << 20
_HEADER = 1 << 16  # longer headers are not NumPy's
_AFRESH = "write it anew by numpy.savez or numpy.savez_compressed"
_FETCH = f"fetch the file anew, or {_AFRESH}"


@contextmanager
def opened_npz(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Name -> array of an .npz file; what is not asked for is not read.

    Hidden members, such as macOS adds, are left out.

    Raises:
        UnreadableFile: there is no such file, or it is another or damaged; from an access, if an array is damaged,
            compressed in a way that NumPy does not write, encrypted, of Python objects, or no array.
    """
    with _zip(path) as file:
        yield _Members(path, file)


def _zip(path: Path) -> zipfile.ZipFile:
    if why := obstacle(path):
        raise UnreadableFile(f"expected an .npz file, {why}")
    try:
        head = head_of(path)
        if head.startswith(b"PK"):
            return zipfile.ZipFile(path)
    except Exception as error:
        raise _damaged(path, error) from error
    found = kind_of(head) or ("another kind of file, or a damaged one" if head else "an empty file")
    why = f"expected an .npz file, could not read it: it is {found}"
    raise UnreadableFile(str(path), why, "write one by numpy.savez")


class _Members(Mapping[str, np.ndarray]):
    """The arrays of an open archive."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path, self._file = path, file
        self._size = path.stat().st_size
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in file.infolist():
            if info.filename.endswith("/") or any(is_hidden(part) for part in info.filename.split("/")):
                continue
            name = info.filename.removesuffix(".npy")
            if name in self._infos:
                raise UnreadableFile(
                    str(path), f"expected arrays of different names, got two called {shown(name)!r}", _AFRESH
                )
            self._infos[name] = info

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._infos[name]
        where = f"{self._path}: {shown(info.filename)}"
        self._check(where, info)
        try:
            return _array(where, self._content(info))
        except UnreadableFile:
            raise
        except Exception as error:
            raise _damaged(where, error) from error

    def _check(self, where: str, info: zipfile.ZipInfo) -> None:
        """Refuses what cannot be read, and sizes that the file cannot hold."""
        if info.flag_bits & 1:
            raise UnreadableFile(where, "expected plain arrays, got an encrypted one", _AFRESH)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
            why = f"expected an array as numpy.savez writes it (stored or deflated), got one compressed by {method}"
            raise UnreadableFile(where, why, _AFRESH)
        most = info.compress_size * (_DEFLATE_AT_MOST if info.compress_type == zipfile.ZIP_DEFLATED else 1)
        if info.compress_size > self._size or info.file_size > most + _DEFLATE_AT_MOST:
            raise UnreadableFile(
                where,
                f"expected an array that fits a file of {self._size:,} bytes, it announces {info.file_size:,}: the "
                "file is damaged or cut off",
                _FETCH,
            )

    def _content(self, info: zipfile.ZipInfo) -> bytearray:
        content = bytearray(info.file_size)
        view, at = memoryview(content), 0
        with self._file.open(info) as member:
            while chunk := member.read(_CHUNK):  # at its end the checksum is compared
                view[at : at + len(chunk)] = chunk
                at += len(chunk)
        if at != len(content):
            raise EOFError(f"{at:,} of {len(content):,} bytes")
        return content


def _array(where: str, content: bytearray) -> np.ndarray:
    head = io.BytesIO(content[:_HEADER])
    if not content.startswith(npy.MAGIC_PREFIX):
        found = kind_of(bytes(content[:64])) or ("empty" if not content else "something else")
        raise UnreadableFile(where, f"expected an array, got {found}", f"leave it out, or {_AFRESH}")
    version = npy.read_magic(head)
    if version not in ((1, 0), (2, 0)):
        raise UnreadableFile(where, f"expected a plain array, got version {version} of .npy, of records", _AFRESH)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(head)
    if dtype.hasobject:
        raise UnreadableFile(where, "expected numbers, got an array of Python objects, which is not read", _AFRESH)
    announced, there = math.prod(shape) * dtype.itemsize, len(content) - head.tell()
    if announced != there or any(length < 0 for length in shape):
        raise UnreadableFile(
            where,
            f"expected {announced:,} bytes of {dtype} {list(shape)}, as its header says, got {there:,}",
            _FETCH,
        )
    if not announced:
        return np.empty(shape, dtype)
    array = np.frombuffer(content, dtype, offset=head.tell())
    return np.require(array.reshape(shape, order="F" if fortran_order else "C"), requirements="A")


def _damaged(where: object, error: Exception) -> Exception:
    """The one error for whatever zipfile, zlib and NumPy raise; a lack of memory is no fault of the file."""
    if isinstance(error, MemoryError):
        return MemoryError(f"{where}: {error}")
    return UnreadableFile(str(where), f"expected arrays, could not read it: {cause(error)}", _FETCH)
