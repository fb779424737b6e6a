"""The formats in which cameras write recordings: events `t` [us], `x`, `y`, `p` of a file, checked on reading.

Their clocks begin anew when their bits are full.
"""

import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sj_cka.files import head_of, kind_of

Events = dict[str, np.ndarray]
ATIS_BYTES = 5
_MAGIC = 4  # bytes that tell a file of another kind from events, which may begin with any two
_DVS128 = 0x7FFF  # of an address: seven bits of row, seven of column, one of polarity
_POLARITY = 1  # type of the packets of AEDAT 3 that hold events of pixels


class Clock(NamedTuple):
    """How a format counts microseconds.

    Args:
        bits: of a time; after the largest comes 0 again.
        mark: row y of events that are none, each of which says that `mark_us` have passed; None where there are none.
        mark_us: what such an event adds to all times from it on, as in the reader that was published with the sets
            (Orchard et al. 2015).
    """

    bits: int
    mark: int | None = None
    mark_us: int = 1 << 13

    def running(self, t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times `[K]` that run on where the clock began anew, and which events `[N]` these K are: marks are none.

        A time that falls by more than half of what the clock can count is that of a clock that began anew; one that
        falls by less runs backwards, and stays as it is.

        Example:
            >>> Clock(bits=23).running(np.array([2**23 - 2, 1]), np.array([0, 0]))[0] - 2**23
            array([-2,  1])
        """
        marks = np.zeros(len(t), bool) if self.mark is None else y == self.mark
        real = ~marks
        t = t[real]
        passed = np.diff(np.cumsum(marks)[real], prepend=0)  # marks since the event before
        wrapped = np.zeros(len(t), bool)
        wrapped[1:] = t[:-1] - t[1:] > 1 << self.bits - 1
        # a mark where the clock begins anew stands for that
        added = self.mark_us * np.maximum(passed - wrapped, 0) + (1 << self.bits) * wrapped
        return t + np.cumsum(added), real


def read_atis(path: Path) -> Events:
    """Events of N-MNIST and N-Caltech101, of five bytes: x, y, and polarity in bit 23 above 23 bits of time.

    Raises:
        ValueError: a file of another kind, or one that was cut off.
    """
    raw = _content(path, "events of 40 bits of an ATIS camera (.bin)")
    if why := cut_off(len(raw), ATIS_BYTES):
        raise ValueError(why)
    x, y, high, middle, low = np.frombuffer(raw, np.uint8).reshape(-1, ATIS_BYTES).astype(np.uint32).T
    return {"t": (high & 127) << 16 | middle << 8 | low, "x": x, "y": y, "p": high >> 7}


def read_aedat2(path: Path) -> Events:
    """Events of a DVS128 in AEDAT 2.0: lines that begin with #, then 32 bits of address and of time, big-endian.

    The camera counts from the other corner and turned by a right angle, and ON is 0; as SpikingJelly reads CIFAR10-DVS.

    Raises:
        ValueError: another format, addresses of another camera, or a file that was cut off.
    """
    raw = _content(path, "a recording in AEDAT 2.0 (.aedat)", "2.0")
    at = 0
    while raw.startswith(b"#", at):
        at = raw.find(b"\n", at) + 1 or len(raw)
    if why := cut_off(len(raw) - at, 8):
        raise ValueError(why)
    address, t = np.frombuffer(raw, ">u4", offset=at).reshape(-1, 2).astype(np.uint32).T
    if len(wrong := np.flatnonzero(address & ~np.uint32(_DVS128))):
        chip = re.search(rb"AEChip: *([\x21-\x7e]+)", raw[:at])
        of = f"the header names {chip[1].decode()}" if chip else "another camera's, or a damaged file's"
        raise ValueError(
            f"expected addresses of a DVS128, in the bits of {_DVS128:#x}, got {address[wrong[0]]:#x} at event "
            f"{wrong[0]}: {of}"
        )
    return {"t": t, "x": 127 - (address >> 8), "y": 127 - (address >> 1 & 127), "p": 1 - (address & 1)}


def read_aedat3(path: Path) -> Events:
    """Events of pixels in AEDAT 3.1: lines that begin with #, then packets of a header of 28 bytes and events of eight.

    Raises:
        ValueError: another format, a packet whose header says what cannot be, or a file that was cut off.
    """
    raw = _content(path, "a recording in AEDAT 3.1 (.aedat)", "3.1")
    at, last = 0, b"#"
    while last.startswith(b"#") and last != b"#!END-HEADER":
        end = raw.find(b"\n", at) + 1 or len(raw)
        last, at = raw[at:end].rstrip(b"\r\n"), end
    if last != b"#!END-HEADER":
        raise ValueError("expected lines with # up to #!END-HEADER, got none: the file is damaged")
    parts, packet = [], 0
    while at < len(raw):
        if len(raw) - at < 28:
            raise ValueError(f"the file is cut off in the header of packet {packet}")
        kind, _, size, _, overflow, capacity, number, _ = struct.unpack_from("<HHIIIIII", raw, at)
        at += 28
        if at + size * capacity > len(raw):
            raise ValueError(f"the file is cut off in packet {packet}, or its header is damaged")
        if kind == _POLARITY:
            if size != 8 or number > capacity or overflow >= 1 << 31:
                raise ValueError(
                    f"expected events of 8 bytes in packet {packet}, got {number:,} of {capacity:,} with {size:,} "
                    f"bytes and {overflow:,} wraps of the clock: its header is damaged"
                )
            pairs = np.frombuffer(raw, "<u4", 2 * number, at).reshape(-1, 2).astype(np.int64)
            parts.append(np.stack([pairs[:, 0], pairs[:, 1] | overflow << 31]))
        at, packet = at + size * capacity, packet + 1
    address, t = np.concatenate(parts, 1) if parts else np.zeros((2, 0), np.int64)
    return {"t": t, "x": address >> 17, "y": address >> 2 & 0x7FFF, "p": address >> 1 & 1}


def cut_off(size: int, event_bytes: int) -> str:
    """Why so many bytes are not whole events; empty where they are."""
    if size == 0:
        return "the file is empty"
    if size % event_bytes:
        event = size // event_bytes
        return f"expected {event_bytes} bytes an event, got {size:,} bytes: the file is cut off in event {event}"
    return ""


def another_kind(path: Path, expected: str, aedat: str = "") -> str:
    """Why a file is not of the kind that is expected, by how it begins; empty where nothing speaks against it.

    Args:
        path: of the file.
        expected: the kind, in words.
        aedat: version of AEDAT, where it must be that.
    """
    head = head_of(path)
    found = kind_of(head, _MAGIC)
    if not head or found == f"a recording in the format AEDAT {aedat}" or not (found or aedat):
        return ""
    return f"expected {expected}, it is {found or kind_of(head) or 'another kind of file, or a damaged one'}"


def _content(path: Path, expected: str, aedat: str = "") -> bytes:
    if why := another_kind(path, expected, aedat):
        raise ValueError(why)
    raw = path.read_bytes()
    if not raw:
        raise ValueError("the file is empty")
    return raw
