"""The folder that holds the data sets: as a recipe gives it, or of the environment."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sj_cka.data.samples import AbsentData, DataError


def data_root(title: str, root: Path | None) -> Path:
    """The data root, with ~ written out.

    Args:
        title: of the set, for the error.
        root: as given; None stands for the environment variable SJ_CKA_DATA.

    Raises:
        DataError: neither names a folder.
    """
    given = root if root is not None else os.environ.get("SJ_CKA_DATA")
    if not given:
        raise AbsentData(
            f"{title}: expected a folder of data sets, got none; give data.root in the recipe (on the command "
            "line --set data.root=FOLDER) or set the environment variable SJ_CKA_DATA"
        )
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise DataError(f"{title}: expected a data root, got {given}: {error}; write the folder out") from error


_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def is_of_the_machine(error: Exception) -> bool:
    """Whether an error tells of a full disk or memory, not of the file that was read."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE)
