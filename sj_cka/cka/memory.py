"""Space for centred Grams: in memory, or beyond a bound in a temporary file."""

from __future__ import annotations

import re
import tempfile
from math import prod

import numpy as np
import torch
from torch import Tensor

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def bytes_of(memory: str | int) -> int:
    """Number of bytes that "2GB", "500 MB", "1GiB" or a number stands for.

    Raises:
        ValueError: none of these.

    Example:
        >>> bytes_of("2GB"), bytes_of("1 KiB"), bytes_of(500)
        (2000000000, 1024, 500)
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", str(memory).lower())
    if parts is None or isinstance(memory, bool):
        raise ValueError(f'expected a size in bytes, e.g. memory="2GB" or memory=2_000_000_000, got {memory!r}')
    return int(float(parts[1]) * _UNITS[parts[2] or ""])


def in_words(size: float) -> str:
    """A size as one reads it.

    Example:
        >>> in_words(2_400_000_000), in_words(15_700_000), in_words(900)
        ('2.4 GB', '15.7 MB', '900 bytes')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} bytes"


def in_file(shape: tuple[int, ...]) -> Tensor:
    """Float64 of a shape that lies in a temporary file (in `TMPDIR`, if that is set), which is gone with the tensor."""
    with tempfile.TemporaryFile(prefix="sj_cka-") as file:  # the mapping keeps it until it is freed itself
        file.truncate(max(1, prod(shape)) * 8)
        return torch.from_numpy(np.memmap(file, dtype=np.float64, mode="r+", shape=shape))
