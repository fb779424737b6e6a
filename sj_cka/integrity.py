"""What files held when they were written: a file is believed only if its size and its hash are those.

    manifest.json   {"of": "<key of a job>", "files": {"cka.nc": {"bytes": 20480, "sha256": "9f86..."}, ...}}

It is written last, beside the files. In a file of its own that is replaced as a whole (a checkpoint) it is the first
line.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MANIFEST = "manifest.json"
_CONTENT = "content"  # name of what follows a manifest in one file
_LONGEST = 1 << 24  # bytes of a manifest


class Damaged(OSError):
    """A file that does not hold what was written into it, or is gone; the message names it."""


class Seal(NamedTuple):
    """Size and hash of a file."""

    bytes: int
    sha256: str


def seal(content: bytes) -> Seal:
    """The seal of a content."""
    return Seal(len(content), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Manifest:
    """The seals of the files of a folder.

    Args:
        of: what they are the files of, e.g. the key of a job: files of another do not stand in for them.
        files: name -> seal.
    """

    of: str
    files: Mapping[str, Seal]

    @classmethod
    def over(cls, of: str, files: Mapping[str, bytes]) -> Manifest:
        """The manifest of files that are to be written."""
        return cls(of, {name: seal(content) for name, content in files.items()})

    @classmethod
    def parse(cls, content: bytes, where: str, of: str) -> Manifest:
        """A manifest from its bytes.

        Raises:
            Damaged: it is none, or that of something else.
        """
        try:
            told = json.loads(content)
            found = cls(told["of"], {name: Seal(**entry) for name, entry in told["files"].items()})
            plain = all(type(entry.bytes) is int and isinstance(entry.sha256, str) for entry in found.files.values())
            if not plain or found.content() != content or any(Path(name).name != name for name in found.files):
                raise ValueError("of another form")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Damaged(f"{where} is damaged: it is no manifest") from error
        if found.of != of:
            raise Damaged(f"{where} is not of this but of {found.of!r}")
        return found

    @classmethod
    def read(cls, folder: Path, of: str) -> Manifest:
        """The manifest in a folder.

        Raises:
            Damaged: there is none, it is none, or that of something else.
        """
        return cls.parse(_content(folder / MANIFEST, None), str(folder / MANIFEST), of)

    def content(self) -> bytes:
        """The file, one line."""
        files = {name: entry._asdict() for name, entry in self.files.items()}
        return json.dumps({"of": self.of, "files": files}).encode() + b"\n"

    def read_file(self, folder: Path, name: str) -> bytes:
        """The content of a file in its folder.

        Raises:
            Damaged: it is gone, or not what was written.
        """
        expected = self.files[name]
        content = _content(folder / name, expected.bytes)
        if seal(content) != expected:
            raise Damaged(f"{folder / name} is damaged: its SHA-256 is not the one that was written down")
        return content

    def check(self, folder: Path) -> None:
        """Reads every file once.

        Raises:
            Damaged: the first that is gone, or not what was written.
        """
        for name in self.files:
            self.read_file(folder, name)


def sealed(content: bytes, of: str) -> bytes:
    """A content with its manifest before it."""
    return Manifest.over(of, {_CONTENT: content}).content() + content


def unsealed(content: bytes, of: str) -> bytes:
    """The reverse of `sealed`.

    Raises:
        Damaged: it is not what was written, or that of something else.
    """
    first, _, rest = content.partition(b"\n")
    expected = Manifest.parse(first + b"\n", "its first line", of).files
    if expected.keys() != {_CONTENT}:
        raise Damaged("its first line is damaged: it is no manifest")
    if len(rest) != expected[_CONTENT].bytes:
        raise Damaged(f"expected {expected[_CONTENT].bytes} bytes after its first line, got {len(rest)}")
    if seal(rest) != expected[_CONTENT]:
        raise Damaged("it is damaged: its SHA-256 is not the one that was written down")
    return rest


def _content(path: Path, size: int | None) -> bytes:
    """What a file holds, looked at only if it has the size; None: any that a manifest may have."""
    try:
        if not path.is_file():
            raise Damaged(f"{path} is {'no file' if path.exists() else 'missing'}")
        found = path.stat().st_size
        if (found > _LONGEST) if size is None else (found != size):
            expected = f"at most {_LONGEST}" if size is None else size
            raise Damaged(f"{path} is damaged: expected {expected} bytes, got {found}")
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
