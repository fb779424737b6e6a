"""The folder of a report, believed only if it holds what was written into it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sj_cka.claims import Claimed, read_claims
from sj_cka.integrity import MANIFEST, Damaged, Manifest
from sj_cka.provenance import STUDY, Provenance
from sj_cka.report.edition import OF

_CLAIMS = "claims.csv"


@dataclass(frozen=True)
class Report:
    """A report as its folder tells it.

    Args:
        folder: of the report.
        claims: in the recipe's order.
        study: what its run was; None in a report of an earlier version, which does not tell.
        sha256: of claims.csv, as its manifest has it; "" where there is no manifest.
    """

    folder: Path
    claims: tuple[Claimed, ...]
    study: Provenance | None
    sha256: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.resolve().name

    @property
    def of(self) -> tuple[str, str]:
        """Recipe and profile; of an earlier version as the name of its folder tells them."""
        if self.study is not None:
            return self.study.recipe, self.study.profile
        recipe, _, profile = self.name.partition("-")
        return recipe, profile or "quick"


def read_reports(places: Iterable[Path]) -> tuple[list[Report], list[Damaged]]:
    """The reports at or below some folders, by name, and what is wrong with those that are damaged.

    Raises:
        OSError: a place is no folder, or there is no report in it.
    """
    reports, damaged = [], []
    folders = {folder.resolve(): folder for place in places for folder in _folders(place)}
    for folder in folders.values():
        try:
            reports.append(read_report(folder))
        except Damaged as error:
            damaged.append(error)
    return sorted(reports, key=lambda report: (report.name, report.folder)), damaged


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        raise NotADirectoryError(f"expected a folder with reports, got {place}, which is none: run a study first")
    found = {path.parent for name in (_CLAIMS, STUDY) for path in place.rglob(name) if path.is_file()}
    seen = [folder for folder in found if not any(part.startswith(".") for part in folder.relative_to(place).parts)]
    if not seen:
        raise FileNotFoundError(f"expected a folder with reports, found none in {place}: run a study first")
    return sorted(seen)


def read_report(folder: Path) -> Report:
    """A report from its folder.

    What is listed in its manifest and is there must be what was written; a page and tables that are not kept (git has
    none of the pages) may be gone.

    Raises:
        Damaged: something is not what was written, or what the ledger needs is gone.
    """
    if not any(os.path.lexists(folder / name) for name in (MANIFEST, STUDY)):  # of an earlier version
        return Report(folder, _claims(folder, (folder / _CLAIMS).read_bytes()), None, "")
    manifest = Manifest.read(folder, OF)
    if _CLAIMS not in manifest.files:
        raise Damaged(f"{folder / MANIFEST} is damaged: it does not list {_CLAIMS}")
    needed = {_CLAIMS, STUDY} & manifest.files.keys()
    there = [name for name in manifest.files if name in needed or os.path.lexists(folder / name)]
    held = {name: manifest.read_file(folder, name) for name in there}
    study = _study(folder, held[STUDY]) if STUDY in held else None
    return Report(folder, _claims(folder, held[_CLAIMS]), study, manifest.files[_CLAIMS].sha256)


def _claims(folder: Path, content: bytes) -> tuple[Claimed, ...]:
    try:
        return tuple(read_claims(content))
    except ValueError as error:
        raise Damaged(f"{folder / _CLAIMS} cannot be read: {error}") from error


def _study(folder: Path, content: bytes) -> Provenance:
    try:
        return Provenance.parse(content)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise Damaged(f"{folder / STUDY} cannot be read: {reason[:300]}") from error
