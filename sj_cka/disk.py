"""Files there whole or not at all, folders tried before they are needed, and what to say of a disk that fails."""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_LONGEST = 100  # characters of a name that a temporary one is made of


class NotWritten(OSError):
    """What could not be written: `strerror` says what and what is safe, `filename` where."""

    def __str__(self) -> str:
        return f"{self.strerror}: {self.filename}"


@contextmanager
def writing(path: Path, what: str, safe: str) -> Iterator[None]:
    """Says of a failure to write which file it was, what is safe, and what to do.

    Raises:
        NotWritten: in place of any other OSError.
    """
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        way_out = "run the same command again"
        if error.errno in _FULL:
            way_out = f"make room and {way_out}"
        elif error.errno in FORBIDDEN:
            way_out = f"give another place or the right to write there, and {way_out}"
        at = Path(error.filename) if isinstance(error.filename, str | os.PathLike) else path
        reason = f"{error.strerror or error}{'' if at == path else f': {at.name}'}"
        message = f"could not save {what} ({reason}; {safe}): {way_out}"
        raise NotWritten(error.errno or errno.EIO, message, str(path)) from error


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that takes the place of another once all is in it; else that one stays.

    Its name until then cannot be guessed, and nothing of that name is followed or written over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(beside(path.name))
    file = part.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(part)):
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def beside(name: str) -> str:
    """A hidden name that nobody can guess, for what is to become `name`; it starts with `.name-`."""
    return f".{name.lstrip('.')[:_LONGEST]}-{secrets.token_hex(8)}"


def unfit(name: str) -> str:
    """Why a text is no name for a folder, on any system; "" where it is one."""
    odd = next((letter for letter in name if letter in '/\\:*?"<>|' or not letter.isprintable()), "")
    device = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE)
    faults = {
        "it is empty": not name,
        "it means another folder": set(name) <= {"."},
        f"{odd!r} cannot stand in it": odd != "",
        f"it starts with {name[:1]!r}": name[:1] in ".- ~",
        f"it ends with {name[-1:]!r}": name[-1:] in ". ",
        "Windows keeps it for a device": device is not None,
        f"it is longer than {_LONGEST} bytes": len(name.encode(errors="replace")) > _LONGEST,
    }
    return next((fault for fault, is_there in faults.items() if is_there), "")


def set_aside(path: Path, into: Path) -> Path:
    """Moves a file or folder, whole, into a folder of its own below `into`; gives where it lies now."""
    own = into / f"{path.name.lstrip('.')[:_LONGEST]}-{secrets.token_hex(4)}"
    own.mkdir(parents=True)
    return path.rename(own / path.name)


def try_folder(folder: Path, what: str) -> None:
    """Tries whether a folder, which may not be there yet, can be written to; leaves nothing behind.

    Args:
        folder: the folder.
        what: what it is for, in words.

    Raises:
        NotADirectoryError: it, or what it is to lie in, is a file. OSError: it cannot be made, or takes no file.
    """
    expected = f"expected a folder for {what}, got {folder}"
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not os.path.isdir(there):
        kind = "a file" if os.path.exists(there) else "a link to nothing"
        raise NotADirectoryError(f"{expected}: {there} is {kind}")
    try:
        # the same names, in a folder of its own: two runs that try at once do not meet
        with TemporaryDirectory(prefix=".try-", dir=there, ignore_cleanup_errors=True) as probe:
            inner = Path(probe, folder.absolute().relative_to(there))
            inner.mkdir(parents=True, exist_ok=True)
            with whole(inner / "try") as file:
                file.write(bytes(1 << 16))
    except OSError as error:
        hint = "make room there" if error.errno in _FULL else "name another, or get the right to write there"
        message = f"{expected}, which takes no files ({error.strerror or error}): {hint}; nothing was run"
        raise NotWritten(error.errno or errno.EIO, message, str(error.filename or folder)) from error
