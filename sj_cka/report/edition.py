"""The folder of a report as one unit: built beside its place, and swapped for the earlier one when all is in it.

What the earlier report wrote goes with it: what its manifest lists, and holds still what was written. Anything else in
the folder is somebody's own and is brought over, under another name (`name.kept`) where the new report has a file of
that name. In a report of an earlier version, without a manifest, the names of tables and figures tell.
"""

import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock

from sj_cka.disk import try_folder, whole, writing
from sj_cka.figures import FIGURES
from sj_cka.integrity import MANIFEST, Damaged, Manifest, seal

logger = logging.getLogger(__name__)
# of reports without a manifest
_TABLES = "cka accuracy evaluated dynamics cost attacks backdoors history firing_rates claims undefined test_split "
_TABLES += "fisher information alignment alignment_at_end alignment_by_step locality locality_in_space locality_in_time"
OF = "report"
"""What the manifest of a report says that its files are of."""

_LONGEST = 100


class Edition:
    """The place of a report.

    Args:
        folder: where it is to lie; a link to a folder stays a link.
        fixed: what must stay where it is (the store, the recipe): a folder that holds one of these, the working folder
            or a mount, or lies where nothing can be made, is not swapped; its files are laid over one by one.
    """

    def __init__(self, folder: Path, fixed: Sequence[Path] = ()) -> None:
        self.folder = folder.resolve()
        self.swapped = _swappable(self.folder, [Path.cwd(), *fixed])
        self.home = self.folder.parent if self.swapped else self.folder
        name = self.folder.name
        short = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        self.stem = f".{short}"

    def try_out(self) -> None:
        """Tries whether the report can be written, and puts right what an interrupted run left.

        Raises:
            OSError: as `try_folder`.
        """
        try_folder(self.home if os.path.isdir(self.folder) else self.folder, "the report")
        if os.path.isdir(self.home) and (self._left("old") or self._left("new")):
            with self._held():
                self._recover()

    @contextmanager
    def made(self, safe: str) -> Iterator[Path]:
        """An empty folder for the files of the report, which takes its place once all are written.

        Args:
            safe: what is safe where that fails, in words.

        Raises:
            OSError: it could not be written; the earlier report is still there.
        """
        with writing(self.folder, "the report", safe):
            self.home.mkdir(parents=True, exist_ok=True)
            with self._held():
                self._recover()
                new = self.home / f"{self.stem}-new-{secrets.token_hex(8)}"
                new.mkdir()
                try:
                    yield new
                    sealed = {path.name: path.read_bytes() for path in new.iterdir() if path.is_file()}
                    with whole(new / MANIFEST) as file:
                        file.write(Manifest.over(OF, sealed).content())
                    self._swap(new) if self.swapped else _lay_over(new, self.folder)
                finally:
                    shutil.rmtree(new, ignore_errors=True)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Holds the place against other runs; the lock goes with the process."""
        lock = self.home / f"{self.stem}-lock"
        with FileLock(lock):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    def _left(self, what: str) -> list[Path]:
        ours = re.compile(re.escape(f"{self.stem}-{what}-") + "[0-9a-f]{16}")
        return [path for path in self.home.iterdir() if ours.fullmatch(path.name)]

    def _recover(self) -> None:
        """Ends what a run that was killed between two steps of a swap began."""
        for new in self._left("new"):
            shutil.rmtree(new, ignore_errors=True)
        for old in self._left("old"):
            if os.path.lexists(self.folder):
                _bring_over(old, self.folder)
            else:
                old.rename(self.folder)

    def _swap(self, new: Path) -> None:
        old = self.home / f"{self.stem}-old-{secrets.token_hex(8)}"
        if os.path.lexists(self.folder):
            self.folder.rename(old)
        try:
            new.rename(self.folder)
        except BaseException:
            if os.path.lexists(old):
                old.rename(self.folder)
            raise
        if os.path.lexists(old):
            _bring_over(old, self.folder)


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Writes a table with six decimals; an older file stays whole until the new one is."""
    with whole(path) as file:
        table.to_csv(file, index=False, float_format="%.6f", lineterminator="\n")
    return path


def _swappable(folder: Path, fixed: Sequence[Path]) -> bool:
    if not os.path.isdir(folder):
        return True
    if any(path.resolve().is_relative_to(folder) for path in fixed):
        return False
    mounts = any(map(os.path.ismount, (folder, *(path for path in folder.iterdir() if path.is_dir()))))
    return not mounts and all(os.access(path, os.W_OK | os.X_OK) for path in (folder, folder.parent))


def _written(folder: Path) -> set[str]:
    """Names of the files in a folder that a report wrote there, and nobody has changed since."""
    try:
        seals = Manifest.read(folder, OF).files
    except Damaged:
        if not _is_report(folder):
            return set()
        there = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
        return {path.name for path in there if path.name == MANIFEST or _by_name(path)}
    files = {name: folder / name for name in seals}
    plain = {name: path for name, path in files.items() if path.is_file() and not path.is_symlink()}
    return {MANIFEST, *(name for name, path in plain.items() if seal(path.read_bytes()) == seals[name])}


def _is_report(folder: Path) -> bool:
    """Whether a folder without a manifest is that of a report: each has a table of claims."""
    try:
        return (folder / "claims.csv").read_bytes().startswith(b"claim,test,")
    except OSError:
        return False


def _by_name(path: Path) -> bool:
    """Whether reports have a file of this name."""
    if path.suffix == ".png":
        return any(path.stem == figure or path.stem.startswith(f"{figure}_") for figure in FIGURES)
    return path.name in ("report.html", "study.json") or (path.suffix == ".csv" and path.stem in _TABLES.split())


def _bring_over(old: Path, folder: Path) -> None:
    """Moves what is somebody's own from the folder of an earlier report, and removes the rest."""
    written = _written(old)
    for path in old.iterdir():
        if path.name not in written:
            path.rename(_free(folder, path.name))
    shutil.rmtree(old)


def _lay_over(new: Path, folder: Path) -> None:
    """Puts the files of a report into a folder that stays where it is."""
    written, names = _written(folder), {path.name for path in new.iterdir()}
    (folder / MANIFEST).unlink(missing_ok=True)  # until it is back the report is not whole
    for name in written - names:
        (folder / name).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: name == MANIFEST):
        if name not in written and os.path.lexists(folder / name):
            (folder / name).rename(_free(folder, name))
        (new / name).replace(folder / name)


def _free(folder: Path, name: str) -> Path:
    """Where a file that is somebody's own may lie: under its name, or, where that is taken, under one like it."""
    path, count = folder / name, 1
    while os.path.lexists(path):
        path = folder / (f"{name}.kept" if count == 1 else f"{name}.kept-{count}")
        count += 1
    if path.name != name:
        logger.warning(
            "%s was not written by a study, or was changed since: it is kept as %s", folder / name, path.name
        )
    return path
