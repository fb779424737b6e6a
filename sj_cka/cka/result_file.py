"""The file of a result: netCDF with a checksum behind it, which is compared before the HDF5 library sees a byte.

The checksum is a line of text after the end of the HDF5 file, where readers of netCDF do not look. Files that older
versions wrote have none: they are tried in a process of their own first, and a damaged value in them is not noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np
import xarray as xr

from sj_cka.files import UnreadableFile, cause, check_hdf5, kind_of, obstacle

if TYPE_CHECKING:
    from sj_cka.cka.result import CKAResult

_SEALED = "sealed"  # attribute of a file that ends with a checksum
_CHECKSUM = re.compile(rb"\nsj_cka sha256 ([0-9a-f]{64})\n")
_LENGTH = len("\nsj_cka sha256 \n") + 64
_ALSO = "also"  # attribute: names of the groups that hold results of the same pass
# attributes of HDF5 and of netCDF
_OF_NETCDF = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_FillValue", "_NCProperties", "_nc3_strict"}
_OF_NETCDF |= {"_Netcdf4Coordinates", "_Netcdf4Dimid"}
_HELD = {"cka", "hsic_xy", "hsic_xx", "hsic_yy", "n", "layer_x", "layer_y", "step_x", "step_y"}


Make = Callable[[xr.Dataset, dict[str, "CKAResult"]], "CKAResult"]


def to_bytes(content: CKAResult) -> bytes:
    """The content of the file that `CKAResult.save` writes."""
    groups = _groups(content)
    groups[""] = groups[""].assign_attrs({_SEALED: 1})
    if len(groups) == 1:
        written = bytes(groups[""].to_netcdf(engine="h5netcdf"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.nc"
            for group, data in groups.items():
                data.to_netcdf(path, mode="a" if group else "w", group=group or None, engine="h5netcdf")
            written = path.read_bytes()
    return written + f"\nsj_cka sha256 {hashlib.sha256(written).hexdigest()}\n".encode()


def from_file(source: str | Path | BinaryIO, make: Make, trusted: bool = False) -> CKAResult:
    """Reads what `to_bytes` gave.

    Args:
        source: a path or an open file.
        make: a result of its values and of those of the same pass.
        trusted: the caller knows by a checksum of its own that this was written so; a file of before checksums is then
            read without a trial.

    Raises:
        FileNotFoundError: no file there.
        UnreadableFile: it is damaged, or no file of a result.
    """
    if isinstance(source, str | Path):
        if why := obstacle(Path(source)):
            kind = FileNotFoundError if why.startswith("found no file") else UnreadableFile
            raise kind(f"expected a result written by CKAResult.save, {why}")
        try:
            written = Path(source).read_bytes()
        except OSError as error:
            raise UnreadableFile(f"expected a result written by CKAResult.save, could not read it: {error}") from error
        return _parsed(written, str(source), make, trusted)
    return _parsed(source.read(), str(getattr(source, "name", "the content")), make, trusted)


def _parsed(written: bytes, name: str, make: Make, trusted: bool) -> CKAResult:
    sealed = _CHECKSUM.fullmatch(written[-_LENGTH:])
    if sealed is not None:
        written = written[:-_LENGTH]
        if (actual := hashlib.sha256(written).hexdigest()) != sealed[1].decode():
            raise UnreadableFile(
                f"{name}: expected the result that was saved, with sha256 {sealed[1].decode()[:12]}..., got "
                f"{actual[:12]}...: the file is damaged; take another copy of it, or compare anew"
            )
    if not written.startswith(b"\x89HDF\r\n\x1a\n"):
        kind = kind_of(written[:64]) or ("another kind of file" if written else "empty")
        raise UnreadableFile(f"{name}: expected a result written by CKAResult.save, got a file that is {kind}")
    if sealed is None and not trusted:
        with tempfile.NamedTemporaryFile(suffix=".nc") as file:
            file.write(written)
            file.flush()
            check_hdf5(Path(file.name), "xarray", name)
    try:
        with h5py.File(h5py.h5f.open_file_image(written)) as file:
            content = _read(written, file, make)
    except MemoryError:
        raise
    except Exception as error:  # of HDF5, of xarray
        raise UnreadableFile(
            f"{name}: expected a result written by CKAResult.save, could not read it: {cause(error)}; it is "
            "damaged or another kind of file"
        ) from error
    if content.data.attrs.pop(_SEALED, None) is not None and sealed is None:
        raise UnreadableFile(
            f"{name}: expected the checksum at the end that CKAResult.save writes, got none: the file was cut off, or "
            "changed by another program; take another copy of it, or compare anew"
        )
    return content


def _read(written: bytes, group: h5py.Group, make: Make) -> CKAResult:
    """The result in a group of a file."""
    links = (group.get(name, getlink=True) for name in group)
    inside = {name: group[name] for name, link in zip(group, links, strict=True) if isinstance(link, h5py.HardLink)}
    stored = {name: own for name, own in inside.items() if isinstance(own, h5py.Dataset)}
    if elsewhere := [name for name, own in stored.items() if own.external or own.is_virtual]:
        raise ValueError(f"it takes the values of {', '.join(elsewhere)} from another file")
    held = {name: own for name, own in stored.items() if not _is_axis_alone(own)}
    if lacking := sorted(_HELD - held.keys()):
        raise ValueError(f"it lacks {', '.join(lacking)}")
    if all(map(_is_plain, held.values())):
        variables = {name: (_axes(name, own), _values(own), _attributes(own)) for name, own in held.items()}
        data = xr.Dataset(variables, attrs=_attributes(group))
    else:  # somebody has put something of his own into it
        opened = xr.open_dataset(BytesIO(written), engine="h5netcdf", group=group.name, phony_dims="access")
        with opened as file:
            data = file.load()
    json.loads(data.attrs["undefined"])
    names = json.loads(data.attrs.pop(_ALSO, "[]"))
    return make(data, {name: _read(written, inside[name], make) for name in names})


# What follows reads what xarray does, in a tenth of the time that it takes by h5netcdf.


def _is_axis_alone(stored: h5py.Dataset) -> bool:
    """Whether this is an axis of netCDF without values of its own."""
    return bytes(stored.attrs.get("NAME", b"")).startswith(b"This is a netCDF dimension but not a netCDF variable")


def _is_plain(stored: h5py.Dataset) -> bool:
    """Whether this is a variable of a result as comparisons make them: numbers or texts that mean what they are."""
    text = h5py.check_string_dtype(stored.dtype)
    if stored.dtype.kind not in "fiu" and (text is None or text.length is not None):
        return False
    fill = stored.attrs.get("_FillValue", np.nan)
    return set(stored.attrs) <= _OF_NETCDF | {"title"} and bool(np.isnan(fill).all())


def _axes(name: str, stored: h5py.Dataset) -> list[str]:
    """Names of the axes of a variable; one along an axis of its own name says where that is."""
    if stored.is_scale:
        return [name]
    return [PurePosixPath(axis[0].name).name for axis in stored.dims]


def _values(stored: h5py.Dataset) -> np.ndarray:
    text = h5py.check_string_dtype(stored.dtype) is not None
    return np.asarray(stored.asstr()[()]).astype(str) if text else stored[()]


def _attributes(of: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Attributes that are not netCDF's own: of one number that number, of several texts a list."""
    own = {name: of.attrs[name] for name in of.attrs if name not in _OF_NETCDF}
    for name, value in own.items():
        if np.shape(value) == (1,):
            own[name] = value[0]
        elif isinstance(value, np.ndarray) and value.dtype == object:
            own[name] = value.tolist()
    return own


def _groups(content: CKAResult, group: str = "") -> dict[str, xr.Dataset]:
    """Group of the file -> what lies in it."""
    data = content.data.assign_attrs({_ALSO: json.dumps(list(content.also))}) if content.also else content.data
    parts = [_groups(own, f"{group}/{name}") for name, own in content.also.items()]
    return {group: data} | {name: part for part_groups in parts for name, part in part_groups.items()}
