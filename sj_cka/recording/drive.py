"""How a batch is given to a network, and how many samples and steps that gives."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sj_cka.recording.wrappers import unwrapped

Layout = Literal["NCHW", "TNCHW", "NTCHW"]
LAYOUTS: tuple[Layout, ...] = ("NCHW", "TNCHW", "NTCHW")
Forward = Callable[[nn.Module, Any], Any]
N_NEEDED = 3  # samples of the largest probe


@dataclass(frozen=True)
class Drive:
    """How a network is run on a batch.

    Args:
        mode: "as is": the batch is given as it comes and the network makes its steps, or has none;
            "repeat": the batch `[N, ...]` is shown T times in one call, as `[T, N, ...]`; "loop": the network is called
            T times on it; "frames": the batch is `[T, N, ...]` and is given whole; "turned frames": given whole as
            `[N, T, ...]`; "frame loop": one call a frame.
        T: steps of a run; None where the network has no time, or makes its own and the number is not known yet.
        sample_axis: axis of the samples in the batch.
        forward: the caller's own way to run the network, in place of `model(batch)`.
        step_axis: where a batch that is shown T times gets its axis of steps.
        repeated: tensors of the batch, from the first on, that get one; None for all.
    """

    mode: Literal["as is", "repeat", "loop", "frames", "turned frames", "frame loop"]
    T: int | None = None
    sample_axis: int = 0
    forward: Forward | None = None
    step_axis: int = 0
    repeated: int | None = None

    def run(self, model: nn.Module, batch: Any, T: int | None = None) -> None:
        """Runs the network once over a batch, on T steps (its own number if None).

        Every call is given a copy: a first layer that works in place must change neither the caller's batch nor what
        the next call, or another network, is given.
        """
        T = self.T if T is None else T
        call = self.forward or (lambda net, x: unwrapped(net)(x))
        if self.mode in ("as is", "loop"):
            given = [batch] * (1 if self.mode == "as is" else T or 0)
        elif self.mode == "repeat":
            given = [self._repeated(batch, T or 1)]
        else:
            frames = _frames(batch, self.T, T)
            turned = frames.transpose(0, 1).contiguous() if self.mode == "turned frames" else frames
            given = list(frames) if self.mode == "frame loop" else [turned]
        for x in given:
            call(model, _map(x, lambda tensor: tensor.clone()))

    def _repeated(self, batch: Any, T: int) -> Any:
        """A batch with T equal steps in what gets them."""
        place = count()

        def shown(x: Tensor) -> Tensor:
            if self.repeated is not None and next(place) >= self.repeated:
                return x
            return x.unsqueeze(self.step_axis).expand(*x.shape[: self.step_axis], T, *x.shape[self.step_axis :])

        return _map(batch, shown)

    def take(self, batch: Any, order: Sequence[int], *, noise: float = 0, marked: int | None = None) -> Any:
        """The first samples of a batch that differ from each other, as far as there are so many, in this order.

        Args:
            batch: the batch.
            order: which of them, each as often as it is named.
            noise: what is floating point in them is replaced by seeded noise, so many times as large as the batch.
            marked: the place of one whose floating-point values become NaN, by which to see where they get to.
        """
        axis, n = self.sample_axis, self.samples(batch)
        chosen = _distinct(batch, axis, max(order) + 1)[list(order)]

        def some(x: Tensor) -> Tensor:
            if x.ndim <= axis or x.shape[axis] != n:
                return x  # a tensor that does not count the samples is left as it is
            if noise and x.is_floating_point():
                return (noise * _noise(x, axis))[list(order)].to(x).movedim(0, axis)
            taken = x.index_select(axis, chosen.to(x.device))
            if marked is not None and x.is_floating_point():
                taken.select(axis, marked).fill_(torch.nan)
            return taken

        return _map(batch, some)

    def samples(self, batch: Any) -> int:
        """Number of samples in a batch."""
        for x in tensors_in(batch):
            if x.ndim > self.sample_axis:
                return x.shape[self.sample_axis]
        raise TypeError(f"expected a batch that holds a tensor with an axis of samples, got {type(batch).__name__}")


def inputs_of(batch: Any, layout: Layout | None, forward: Forward | None) -> Any:
    """What of a loader's batch goes to the network: its first element, time first; for a caller's `forward`, all.

    An array of numbers becomes a tensor of the same dtype.
    """
    if forward is not None:
        return batch
    x = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    if isinstance(x, np.ndarray) and x.dtype.kind in "biufc":
        x = torch.from_numpy(np.require(x, requirements=["C", "W"]))
    if not isinstance(x, Tensor):
        raise TypeError(
            f"expected batches that are a tensor or start with one, got {type(batch).__name__} of "
            f"{type(x).__name__}; say how to run the network on them: forward=lambda net, batch: ..."
        )
    return x.transpose(0, 1) if layout == "NTCHW" else x


def sample_axis(layout: Layout | None, forward: Forward | None) -> int:
    """Axis of the samples in what `inputs_of` gives: frames have it second, and a caller's own batches as they come."""
    return 1 if layout == "TNCHW" or (layout == "NTCHW" and forward is None) else 0


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with all its tensors on a device."""
    return _map(batch, lambda x: x.to(device))


def _frames(batch: Tensor, expected: int | None, T: int | None) -> Tensor:
    """Frames `[T, N, ...]`; a probe on more of them sees the last one again."""
    if len(batch) != expected:
        raise ValueError(f"expected {expected} frames in every batch, as in the first, got {len(batch)}")
    more = (T or len(batch)) - len(batch)
    return torch.cat([batch, batch[-1:].expand(more, *batch.shape[1:])]) if more else batch


def _noise(x: Tensor, axis: int) -> Tensor:
    """Normal noise `[3, ...]` in place of samples, its deviation the largest value of the batch, at least 1."""
    shape = [N_NEEDED, *x.shape[:axis], *x.shape[axis + 1 :]]
    largest = float(torch.nan_to_num(x, posinf=0.0, neginf=0.0).abs().max())
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * max(1.0, largest)


def _distinct(batch: Any, axis: int, n: int) -> Tensor:
    """Where the first n different samples of a batch lie; filled up with the first ones where there are fewer."""
    x = next(x for x in tensors_in(batch) if x.ndim > axis)
    rows = x.movedim(axis, 0)
    chosen: list[int] = []
    for i in range(len(rows)):
        if len(chosen) < n and not any(torch.equal(rows[i], rows[j]) for j in chosen):
            chosen.append(i)
    chosen += [i for i in range(len(rows)) if i not in chosen][: n - len(chosen)]
    return torch.tensor(chosen, device=x.device)


def _map(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with all tensors changed, also those in tuples, lists, mappings, dataclasses and other records."""
    if isinstance(batch, Tensor):
        return change(batch)
    if (parts := _parts(batch)) is None:
        return batch
    changed = {key: _map(value, change) for key, value in parts.items()}
    kind: Any = type(batch)
    if isinstance(batch, tuple | list):
        return kind(*changed.values()) if hasattr(batch, "_fields") else kind(changed.values())
    if isinstance(batch, Mapping) and not isinstance(batch, MutableMapping):
        return kind(changed)
    copied = copy.copy(batch)
    for key, value in changed.items():
        if isinstance(batch, Mapping):
            copied[key] = value
        elif value is not parts[key]:
            object.__setattr__(copied, key, value)
    return copied


def _parts(batch: Any) -> dict[Any, Any] | None:
    """What a batch holds: entries by place or key, or the attributes of a record of tensors; None where it is none."""
    if isinstance(batch, tuple | list):
        return dict(enumerate(batch))
    if isinstance(batch, Mapping):
        return dict(batch.items())
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    attributes = getattr(batch, "__dict__", {})
    is_record = not callable(batch) and any(isinstance(value, Tensor) for value in attributes.values())
    return dict(attributes) if is_record else None


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """All tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    else:
        for value in (_parts(batch) or {}).values():
            yield from tensors_in(value)
