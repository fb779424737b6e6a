"""CKA of features that were taken elsewhere: arrays in memory, npz or HDF5 files."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, Never

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sj_cka.cka.accumulator import CKA
from sj_cka.cka.arguments import by_side, refuse_unknown
from sj_cka.cka.gram import as_tensor
from sj_cka.cka.layer_grams import MIN_SAMPLES
from sj_cka.cka.minibatches import Minibatch, group_masks
from sj_cka.cka.permutations import classes_of
from sj_cka.cka.result import CKAResult
from sj_cka.files import UnreadableFile, cause, check_hdf5, head_of, kind_of, obstacle, opened_npz, shown
from sj_cka.plugins import closest

Features = Mapping[str, Any] | str | Path
Layers = str | Sequence[str] | None
_PACKED, _ALWAYS = 1032, 10**9  # an array of HDF5 may be so many times its file, as of deflate, or have so many bytes


def compare_features(
    x: Features,
    y: Features | None = None,
    *,
    layers: Layers | Mapping[str, Layers] = None,
    batch_size: int | None = None,
    given: Any = None,
    groups: Any = None,
    into: CKA | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
    **unknown: Never,
) -> CKAResult:
    """CKA between features `{layer: [T, N, ...]}` of other frameworks, of hardware or of recordings.

    Args:
        x: layer -> array (NumPy, torch, or anything that slices) of T steps, N samples and features; T = 1 for layers
            without time; more steps than samples are warned of. Or the path of an .npz or HDF5 file of such arrays.
        y: the other side, of the same samples in the same order; None compares x with itself.
        layers: names or globs of the layers of both sides, or `{"x": ..., "y": ...}`, in the order of the result; None
            for all: of a mapping or an .npz file in its own order, of an HDF5 file in that of their creation if the
            file tracks it, else sorted with numbers as numbers (conv2 before conv10).
        batch_size: samples of a minibatch, at least 4; None takes all at once.
        given: array `[N, ...]` whose Gram `CKAResult.partial` takes out.
        groups: ids of all samples, or name -> mask over them. Ids are also the classes of permutations within them
            (`CKA(permutations={"classes": 200})`).
        into, progress: as of `compare`.
        device: where Grams are taken.

    Returns:
        A `CKAResult`. The last samples are left out where they are fewer than 4; `batches_left_out` names their batch.

    Raises:
        ValueError: arrays whose shapes do not fit, fewer than 4 samples, a file without arrays, a name or glob that
            matches no layer; as `UnreadableFile` a file that is damaged or of another kind.
        FileNotFoundError: no file there.

    Example:
        >>> g = np.random.default_rng(0)
        >>> chip = {"core0": g.random((4, 30, 16)), "core1": g.random((4, 30, 8))}  # [T, N, neurons]
        >>> compare_features(chip, progress=False).matrix().loc["core0", "core0"].round(6).item()
        1.0
    """
    refuse_unknown(compare_features, unknown)
    sums = CKA() if into is None else into.ready()
    with ExitStack() as files:
        sides = _sides(x, y, layers, files)
        N = _samples(sides, given)
        _warn_of_many_steps(sides.values())
        classes = _classes(groups, N) if sums.permutations["classes"] else None
        for part in _parts(N, batch_size, progress):
            n = part.stop - part.start
            if n < MIN_SAMPLES:
                sums.leave_out(n)
                continue
            parts = [{layer: as_tensor(X[:, part]).to(device) for layer, X in side.items()} for side in sides.values()]
            z = None if given is None else {"given": as_tensor(given[part]).to(device).unsqueeze(0)}
            masks = group_masks(groups, Minibatch(sums.read, part.start, n, (None, None), None, None))
            sums.update(*parts, given=z, groups=masks, labels=None if classes is None else classes[part])
    names = {"x": "x", "y": "y" if y is not None else "x", "observe": "features"}
    return sums.compute(names | {"batches_left_out": str(sums.left_out)})


def _sides(x: Features, y: Features | None, layers: Any, files: ExitStack) -> dict[str, dict[str, Any]]:
    """What messages call a side, with its file if it is one -> its layers that were asked for; x alone without y."""
    wanted = by_side("layers", layers)
    features = {"x": x} if y is None and not isinstance(layers, Mapping) else {"x": x, "y": x if y is None else y}
    sides = {}
    for side, source in features.items():
        name = side if isinstance(source, Mapping) else f"{side} ({source})"
        sides[name] = _opened(source, name, wanted[side], files)
    return sides


def _classes(groups: Any, N: int) -> Tensor:
    """Classes of all samples, from their ids."""
    if groups is None or isinstance(groups, Mapping) or callable(groups):
        raise ValueError(
            'permutations={"classes": ...}: expected groups= as the class of each sample, got '
            f"{'none' if groups is None else type(groups).__name__}"
        )
    return classes_of(groups, N)


def _parts(N: int, batch_size: int | None, progress: bool) -> Iterator[slice]:
    """Where each minibatch lies among N samples, with a progress bar."""
    size = N if batch_size is None else batch_size
    if min(size, N) < MIN_SAMPLES:
        raise ValueError(f"expected at least {MIN_SAMPLES} samples in a minibatch, got {min(size, N)} of N = {N}")
    for first in tqdm(range(0, N, size), desc="comparing", unit="batch", disable=not progress, leave=False):
        yield slice(first, min(first + size, N))


def _samples(sides: Mapping[str, Mapping[str, Any]], given: Any) -> int:
    """N, after a look at every array."""
    counts = Counter(X.shape[1] for side in sides.values() for X in side.values() if len(X.shape) > 2)
    N = counts.most_common(1)[0][0] if counts else 0  # most will be right
    for name, side in sides.items():
        if not side:
            raise ValueError(f"{name}: expected at least one layer of features, got none")
        counts = Counter(X.shape[0] for X in side.values() if len(X.shape) > 2 and X.shape[0] != 1)
        steps = max(counts, key=lambda T: (counts[T], T)) if counts else 1
        for layer, X in side.items():
            if wrong := _unlike_features(X, N, steps):
                raise ValueError(f"{name}: layer {layer!r}: expected {wrong}; leave out what is no layer by layers=")
    if given is not None and len(given) != N:
        raise ValueError(f"given: expected [N, ...] of the same N = {N} samples, got shape {np.shape(given)}")
    return N


def _unlike_features(X: Any, N: int, steps: int) -> str:
    """What was expected of an array and what it is, in words; "" where it is features of N samples."""
    shape = tuple(X.shape)
    kind = X.dtype if isinstance(getattr(X, "dtype", None), np.dtype) else np.dtype(float)
    if kind.kind not in "biuf" or kind.itemsize > 8:
        return f"real numbers of at most 64 bits, got {kind}"
    if len(shape) < 3:
        return (
            f"features [T, N, ...] with an axis of steps, of samples and of features, got shape {shape}; for features "
            "[N, D] without time give X[None]"
        )
    if shape[1] != N or shape[0] not in (1, steps):
        return f"features [T, N, ...] with T = 1 or {steps} and N = {N}, got shape {shape}"
    return ""


def _warn_of_many_steps(sides: Iterable[Mapping[str, Any]]) -> None:
    """Warns of more steps than samples, as in features [N, C, ...] without an axis of steps."""
    many = ((layer, X.shape) for side in sides for layer, X in side.items() if X.shape[0] > X.shape[1])
    for layer, shape in islice(many, 1):
        warnings.warn(
            f"layer {layer!r} of shape {tuple(shape)} is read as [T, N, ...], {shape[0]} steps of {shape[1]} samples; "
            "if it is [N, ...] without time, give X[None]",
            stacklevel=3,
        )


def _opened(features: Features, side: str, layers: Layers, files: ExitStack) -> dict[str, Any]:
    """Layer -> array of features, in memory or still in their file; those that were asked for."""
    if isinstance(features, Mapping):
        return {name: X if hasattr(X, "shape") else np.asarray(X) for name, X in _chosen(features, side, layers)}
    path = Path(features)
    if why := obstacle(path):
        kind = FileNotFoundError if why.startswith("found no file") else UnreadableFile
        raise kind(f"{side}: expected features in memory or an .npz or HDF5 file, {why}")
    with _read(path):
        head, is_hdf5 = head_of(path), h5py.is_hdf5(path)
    if path.suffix == ".npz" or head.startswith(b"PK"):
        return dict(_chosen(files.enter_context(opened_npz(path)), side, layers))
    if not is_hdf5:
        held = kind_of(head) or "another kind of file"
        raise UnreadableFile(f"{side}: expected an .npz or HDF5 file, got {path}: it is {held}")
    check_hdf5(path)
    with _read(path):
        file = files.enter_context(h5py.File(path, "r"))
        known = {name: _Stored(path, name, X) for name, X in _datasets(file["/"])}
    return dict(_chosen(known, side, layers))


class _Stored:
    """An array in an HDF5 file, of which a part is read when it is indexed; errors name the file and the array."""

    def __init__(self, path: Path, name: str, X: h5py.Dataset) -> None:
        self.shape, self.dtype = tuple(X.shape or ()), X.dtype
        self._path, self._name, self._X = path, name, X

    def __getitem__(self, part: Any) -> np.ndarray:
        with _read(self._path, self._name):
            announced, size = self.dtype.itemsize * prod(self.shape), self._path.stat().st_size
            if announced > max(_PACKED * size, _ALWAYS):
                raise ValueError(f"it announces {announced:,} bytes, which a file of {size:,} bytes cannot hold")
            return np.asarray(self._X[part])


@contextmanager
def _read(path: Path, name: str = "") -> Iterator[None]:
    """Whatever a reader of HDF5 raises, as one error that names the file."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path}: {name}: {error}") from error
    except Exception as error:
        where = f"{path}: {shown(name)}" if name else path
        raise UnreadableFile(f"{where}: expected arrays in HDF5, could not read: {cause(error)}") from error


def _chosen(features: Mapping[str, Any], side: str, layers: Layers) -> Iterator[tuple[str, Any]]:
    """The layers that names or globs stand for, in their order, each once; the others are not read."""
    known = list(features)
    names: dict[str, None] = {}
    for pattern in known if layers is None else [layers] if isinstance(layers, str) else layers:
        matching = [pattern] if pattern in known else [name for name in known if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(f"{side}: layers: {pattern!r} matches none of {len(known)}{closest(pattern, known)}")
        names |= dict.fromkeys(matching)
    for name in names:
        yield name, features[name]


def _datasets(group: h5py.Group, above: tuple[Any, ...] = ()) -> Iterator[tuple[str, h5py.Dataset]]:
    """The datasets in a group of a file and in the groups in it, by their paths."""
    place = h5py.h5o.get_info(group.id).addr
    if place in above:
        raise ValueError(f"group {group.name} holds itself")
    names = list(group)
    if not group.id.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED:
        names.sort(key=_natural)
    for name in names:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield item.name.lstrip("/"), item
        elif isinstance(item, h5py.Group):
            yield from _datasets(item, (*above, place))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts numbers in names as numbers."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
