"""CKA of features that were taken elsewhere: arrays in memory, npz or HDF5 files."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Never

import numpy as np
import torch
from tqdm.auto import tqdm

from sj_cka.cka.accumulator import CKA
from sj_cka.cka.arguments import by_side, refuse_unknown
from sj_cka.cka.feature_files import Features, opened
from sj_cka.cka.gram import as_tensor
from sj_cka.cka.labels import group_masks
from sj_cka.cka.layer_grams import MIN_SAMPLES
from sj_cka.cka.minibatches import Minibatch
from sj_cka.cka.result import CKAResult

Layers = str | Sequence[str] | None


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
        groups: ids of all samples, or name -> mask over them.
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
        for part in _parts(N, batch_size, progress):
            n = part.stop - part.start
            if n < MIN_SAMPLES:
                sums.leave_out(n)
                continue
            parts = [{layer: as_tensor(X[:, part]).to(device) for layer, X in side.items()} for side in sides.values()]
            z = None if given is None else {"given": as_tensor(given[part]).to(device).unsqueeze(0)}
            masks = group_masks(groups, Minibatch(sums.read, part.start, n, (None, None), None, None))
            sums.update(*parts, given=z, groups=masks)
    names = {"x": "x", "y": "y" if y is not None else "x", "observe": "features"}
    return sums.compute(names | {"batches_left_out": str(sums.left_out)})


def _sides(x: Features, y: Features | None, layers: Any, files: ExitStack) -> dict[str, Mapping[str, Any]]:
    """What messages call a side, with its file if it is one -> its layers that were asked for; x alone without y."""
    wanted = by_side("layers", layers)
    features = {"x": x} if y is None and not isinstance(layers, Mapping) else {"x": x, "y": x if y is None else y}
    sides = {}
    for side, source in features.items():
        name = side if isinstance(source, Mapping) else f"{side} ({source})"
        sides[name] = files.enter_context(opened(source, name, wanted[side]))
    return sides


def _parts(N: int, batch_size: int | None, progress: bool) -> Iterator[slice]:
    """Where each minibatch lies among N samples, with a progress bar."""
    size = N if batch_size is None else batch_size
    if min(size, N) < MIN_SAMPLES:
        raise ValueError(f"expected at least {MIN_SAMPLES} samples in a minibatch, got {min(size, N)} of N = {N}")
    for first in tqdm(range(0, N, size), desc="comparing", unit="batch", disable=not progress, leave=False):
        yield slice(first, min(first + size, N))


def _samples(sides: Mapping[str, Mapping[str, Any]], given: Any) -> int:
    """N, after a look at every shape."""
    shapes = [{layer: tuple(X.shape) for layer, X in side.items()} for side in sides.values()]
    fit = [shape for side in shapes for shape in side.values() if len(shape) > 2]
    N = Counter(shape[1] for shape in fit).most_common(1)[0][0] if fit else 0  # most will be right
    for name, side in sides.items():
        for layer, X in side.items():
            kind = X.dtype if isinstance(getattr(X, "dtype", None), np.dtype) else np.dtype(float)
            if kind.kind not in "biuf" or kind.itemsize > 8:
                raise ValueError(
                    f"{name}: layer {layer!r}: expected real numbers of at most 64 bits, got {kind}; leave out what is "
                    "no layer by layers="
                )
    for name, side in zip(sides, shapes, strict=True):
        if not side:
            raise ValueError(f"{name}: expected at least one layer of features, got none")
        counts = Counter(shape[0] for shape in side.values() if len(shape) > 2 and shape[0] != 1)
        steps = max(counts, key=lambda T: (counts[T], T)) if counts else 1
        for layer, shape in side.items():
            if len(shape) < 3:
                raise ValueError(
                    f"{name}: layer {layer!r}: expected features [T, N, ...] with an axis of steps, of samples and of "
                    f"features, got shape {shape}; for features [N, D] without time give X[None], and leave out what "
                    "is no layer by layers="
                )
            if shape[1] != N or shape[0] not in (1, steps):
                raise ValueError(
                    f"{name}: layer {layer!r}: expected features [T, N, ...] with T = 1 or {steps} and N = {N}, got "
                    f"shape {shape}; leave out what is no layer by layers="
                )
    if given is not None and len(given) != N:
        raise ValueError(f"given: expected [N, ...] of the same N = {N} samples, got shape {np.shape(given)}")
    return N


def _warn_of_many_steps(sides: Iterable[Mapping[str, Any]]) -> None:
    """Warns of more steps than samples, as in features [N, C, ...] without an axis of steps."""
    for side in sides:
        for layer, X in side.items():
            T, N = X.shape[:2]
            if T > N:
                warnings.warn(
                    f"layer {layer!r} of shape {tuple(X.shape)} is read as [T, N, ...], {T} steps of {N} samples; if "
                    "it is [N, ...] without time, give X[None]",
                    stacklevel=3,
                )
                return
