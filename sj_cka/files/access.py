"""What a file is, before anything is read from it."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UnreadableFile(ValueError):
    """A file that is not what its reader takes; the message names it and says what was found.

    Args:
        where: the file, and what in it; or the whole message.
        why: what was expected and what came, kept as `why`.
        remedy: what to do.
    """

    def __init__(self, where: str, why: str = "", remedy: str = "") -> None:
        told = f"{where}: {why}" if why else where
        super().__init__(f"{told}; {remedy}" if remedy else told)
        self.why = why or where


# what a file begins with; from the longest, since a short one may begin a file of another kind by chance
_BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file (git lfs pull fetches it)"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file"),
    (b"MATLAB 7.3 MAT-file", "a MATLAB file"),
    (b"<!DOCTYPE html", "a page of the web in place of the file"),
    (b"<!doctype html", "a page of the web in place of the file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"#ROSBAG V", "a bag of ROS"),
    (b"\x93NUMPY", ".npy, a single NumPy array"),
    (b"\xfd7zXZ\0", "compressed by xz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"<html", "a page of the web in place of the file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"Rar!", "a RAR archive"),
    (b"GIF8", "a GIF image"),
    (b"CDF\x01", "a netCDF file of version 3"),
    (b"CDF\x02", "a netCDF file of version 3"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"BZh", "compressed by bzip2"),
    (b"\x1f\x8b", "compressed by gzip"),
    *((bytes([128, version]), "a pickle of Python") for version in range(2, 6)),
)
_AEDAT = re.compile(rb"#!AER-DAT(\d\.\d)")
_OF_PROPHESEE = re.compile(rb"%\s*(Data|date|camera|evt|end|format|geometry)\b", re.IGNORECASE)
LONGEST = 64  # bytes that tell a kind

_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
# what operating systems, archivers and notebooks put beside data; all else that is hidden begins with a dot
_OF_MACHINES = {"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin", "@eadir", "__pycache__"}


def kind_of(head: bytes, least: int = 2) -> str:
    """What a file that begins so is, in words; empty where nothing is known of it.

    Args:
        head: its first `LONGEST` bytes.
        least: bytes that must agree, where the file may begin with any.

    Example:
        >>> kind_of(b"#!AER-DAT2.0")
        'a recording in the format AEDAT 2.0'
    """
    if found := _AEDAT.match(head):
        return f"a recording in the format AEDAT {found[1].decode()}"
    if _OF_PROPHESEE.match(head):
        return "a recording of a camera of Prophesee (.raw, .dat)"
    for beginning, words in _BEGINNINGS:
        if len(beginning) >= least and head.startswith(beginning):
            return words
    if least > 2 or not head:
        return ""
    if not head.strip(b"\0"):
        return "zeros"
    printable = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
    return f"text, {head[:20].decode()!r}" if printable else ""


def shown(text: object, most: int = 300) -> str:
    """What came from a file, as a part of a sentence: in one line, nothing invisible in it, and no longer than this.

    Example:
        >>> shown("a\\0 b\\n  c" + "d" * 50, most=12)
        'a\\\\x00 b cddd...'
    """
    line = " ".join(str(text).split())
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    return line if len(line) <= most else f"{line[:most]}..."


def cause(error: Exception) -> str:
    """Type and message of another library's error, in one line."""
    return shown(f"{type(error).__name__}: {error}").removesuffix(":")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever is wrong with a file is a ValueError that says so; a ValueError in plain words stays as it is.

    A full disk or memory is the machine's fault, not the file's: that is raised as it is, with a note of what was read.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE):
            error.add_note(f"while {what} was read")
            raise
        said = error.why if isinstance(error, UnreadableFile) else cause(error)
        raise ValueError(str(error) if type(error) is ValueError else f"it cannot be read: {said}") from error


def head_of(path: Path) -> bytes:
    """The first bytes of a file, for `kind_of`."""
    with open(path, "rb") as file:
        return file.read(LONGEST)


def obstacle(path: Path) -> str:
    """Why there is no file to be read, such as "found a folder at PATH"; empty where there is one.

    A pipe or a device is not opened: it may wait for ever, or never end.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"found no file at {path}" if not os.path.islink(path) else f"found a link that leads nowhere at {path}"
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        return f"could not look at {str(path)!r}: {error}"
    if stat.S_ISREG(mode):
        return ""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return f"found {next((words for test, words in kinds if test(mode)), 'a device')} at {path}"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: hidden, or of those that machines put beside data.

    Example:
        >>> [is_hidden(name) for name in ("._x.bin", ".ipynb_checkpoints", "Thumbs.db", "__MACOSX", "_x.bin")]
        [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _OF_MACHINES
