"""Who makes the time axis: how a batch is given to a network, and how many samples and steps that gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sj_cka.recording.state import is_neuron
from sj_cka.recording.trace import Trace, trace

Layout = Literal["NCHW", "TNCHW", "NTCHW"]
LAYOUTS: tuple[Layout, ...] = ("NCHW", "TNCHW", "NTCHW")
Forward = Callable[[nn.Module, Any], Any]
N_NEEDED = 3  # samples of the largest probe


@dataclass(frozen=True)
class Drive:
    """How a network is run on a batch.

    Args:
        mode: "as is": the batch is given as it comes and the network makes its steps, or has none;
            "repeat": the batch `[N, ...]` is shown T times, as `[T, N, ...]`; "loop": the network is called T times on
            it; "frames": the batch is `[T, N, ...]` and is given whole; "frame loop": one call a frame.
        T: steps of a run; None where the network has no time, or makes its own and the number is not known yet.
        sample_axis: axis of the samples in the batch.
        forward: the caller's own way to run the network, in place of `model(batch)`.
    """

    mode: Literal["as is", "repeat", "loop", "frames", "frame loop"]
    T: int | None = None
    sample_axis: int = 0
    forward: Forward | None = None

    def run(self, model: nn.Module, batch: Any, T: int | None = None) -> None:
        """Runs the network once over a batch, on T steps (its own number if None)."""
        T = self.T if T is None else T
        call = self.forward or (lambda net, x: net(x))
        if self.mode == "as is":
            call(model, batch)
        elif self.mode == "repeat":
            call(model, batch.unsqueeze(0).repeat(T, *[1] * batch.ndim))
        elif self.mode == "loop":
            for _ in range(T or 0):
                call(model, batch)
        elif self.mode == "frames":
            call(model, _frames(batch, self.T, T))
        else:
            for frame in _frames(batch, self.T, T):
                call(model, frame)

    def take(self, batch: Any, n: int) -> Any:
        """The first n samples of a batch that differ from each other, as far as there are so many."""
        axis, count = self.sample_axis, self.samples(batch)
        chosen = _distinct(batch, axis, n)

        def some(x: Tensor) -> Tensor:  # a tensor that does not count the samples is left as it is
            return x.index_select(axis, chosen.to(x.device)) if x.ndim > axis and x.shape[axis] == count else x

        return _map(batch, some)

    def samples(self, batch: Any) -> int:
        """Number of samples in a batch."""
        for x in _tensors(batch):
            if x.ndim > self.sample_axis:
                return x.shape[self.sample_axis]
        raise TypeError(f"expected a batch that holds a tensor with an axis of samples, got {type(batch).__name__}")


def inputs_of(batch: Any, layout: Layout | None, forward: Forward | None) -> Any:
    """What of a loader's batch goes to the network: its first element, time first; for a caller's `forward`, all."""
    if forward is not None:
        return batch
    x = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
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


def find_drive(model: nn.Module, batch: Any, T: int | None, layout: Layout | None, forward: Forward | None) -> Drive:
    """How a network is to be run on batches like this one, found by running it on two and three samples.

    The batch is given as it is. If that raises, or if a neuron takes the samples for steps, the batch is shown T times;
    single-step neurons that were called once are called T times; otherwise the network makes its own steps.

    Raises:
        ValueError: T is missing where it is needed, or differs from the network's own number.
    """
    if T is not None and (isinstance(T, bool) or not isinstance(T, int) or T < 1):
        raise ValueError(f"expected T, the number of time steps, as an integer from 1, got {T!r}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"expected layout to be one of {', '.join(LAYOUTS)}, got {layout!r}")
    frames = layout in ("TNCHW", "NTCHW")
    drive = Drive("as is", sample_axis=sample_axis(layout, forward), forward=forward)
    if (n := drive.samples(batch)) < N_NEEDED:
        raise ValueError(f"samples are told from steps by probes on {N_NEEDED} samples, got a batch of {n}")
    neurons = [module for module in model.modules() if is_neuron(module)]
    single = bool(neurons) and all(getattr(m, "step_mode", "s") == "s" for m in neurons)
    if forward is None and frames:
        given = batch.shape[0]
        if T is not None and T != given:
            raise ValueError(
                f"expected frames [T, N, ...] with T = {T}, got a batch of shape {tuple(batch.shape)} ({layout})"
            )
        whole = Drive("frames", given, sample_axis=1)
        loops = single and (steps_are_samples(model, whole, batch) or _own_steps(model, whole, batch) != given)
        return replace(whole, mode="frame loop") if loops else whole
    if not (failed := steps_are_samples(model, drive, batch)):
        if not neurons:
            return drive
        own = _own_steps(model, drive, batch)
        if not (single and own == 1 and forward is None):
            if forward is not None and T is not None and own is not None and own % T == 0:
                own = T  # the caller says so: its neurons are used several times in a step
            if T is not None and own is not None and T != own:
                raise ValueError(
                    f"the network makes {own} time steps of its own, T = {T} was asked for: pass T={own}, or none. "
                    f"If it makes none but uses a neuron {own} times in a step, run it yourself: T={T}, "
                    f"forward=lambda net, batch: [net(batch) for _ in range({T})]"
                )
            return replace(drive, T=own)
    if forward is not None:
        raise ValueError(f"forward= does not give the network time steps and samples apart: {failed}")
    if T is None and not neurons:
        raise ValueError(f"it does not run on the batch: {failed}")
    if T is None:
        raise ValueError(
            f"{failed or 'the network makes no time steps of its own'}: pass T=, how often the input is to be shown"
        )
    repeated = Drive("repeat" if failed else "loop", T)
    try:
        trace(model, lambda: repeated.run(model, repeated.take(batch, 2)))
    except Exception as error:  # told in full: the network's own words are the reason
        shape = f"N, {', '.join(map(str, batch.shape[1:]))}"
        raise ValueError(
            f"the network cannot be run. On [{shape}]: {failed or 'it made one step only'}. On [T, {shape}]: {error}. "
            "Set all its layers to one step mode (functional.set_step_mode), or say how to run it: "
            "forward=lambda net, batch: ..."
        ) from error
    return repeated


def steps_are_samples(model: nn.Module, drive: Drive, batch: Any) -> str:
    """Why a batch cannot be given as it is: the network raises, or a neuron takes samples for steps; '' if it can."""
    try:
        two, three = (trace(model, lambda n=n: drive.run(model, drive.take(batch, n))) for n in (2, 3))  # type: ignore[misc]
    except Exception as error:  # whatever a network says to input without a time axis
        return f"{type(error).__name__}: {error}"
    modules = dict(model.named_modules())
    for name, shapes in two.inputs.items():
        others = three.inputs.get(name, [])
        if len(shapes) * 3 == len(others) * 2:
            return f"neuron {name!r} is called once for each sample"
        multi = getattr(modules[name], "step_mode", "s") == "m"
        if multi and others and shapes[0][0] * 3 == others[0][0] * 2:
            return f"multi-step neuron {name!r} takes the samples for time steps"
    return ""


def _own_steps(model: nn.Module, drive: Drive, batch: Any) -> int | None:
    return own_steps(model, trace(model, lambda: drive.run(model, drive.take(batch, 2))))


def own_steps(model: nn.Module, seen: Trace) -> int | None:
    """Number of time steps that a network makes itself: the neurons' time axis, or their number of calls."""
    modules = dict(model.named_modules())
    multi = [shapes[0][0] for name, shapes in seen.inputs.items() if getattr(modules[name], "step_mode", "s") == "m"]
    single = [len(shapes) for name, shapes in seen.inputs.items() if getattr(modules[name], "step_mode", "s") == "s"]
    return max(multi) if multi else min(single, default=None)


@contextmanager
def steps_set(model: nn.Module, old: int, new: int) -> Iterator[bool]:
    """Sets every attribute `T` of a network that equals `old` to `new` while it lasts; yields whether there was one."""
    modules = [m for m in model.modules() if type(m.__dict__.get("T")) is int and m.__dict__["T"] == old]
    try:
        for module in modules:
            module.__dict__["T"] = new
        yield bool(modules)
    finally:
        for module in modules:
            module.__dict__["T"] = old


def _frames(batch: Tensor, expected: int | None, T: int | None) -> Tensor:
    """Frames `[T, N, ...]`; a probe on more of them sees the last one again."""
    if len(batch) != expected:
        raise ValueError(f"expected {expected} frames in every batch, as in the first, got {len(batch)}")
    more = (T or len(batch)) - len(batch)
    return torch.cat([batch, batch[-1:].expand(more, *batch.shape[1:])]) if more else batch


def _distinct(batch: Any, axis: int, n: int) -> Tensor:
    """Where the first n different samples of a batch lie; filled up with the first ones where there are fewer."""
    x = next(x for x in _tensors(batch) if x.ndim > axis)
    rows = x.movedim(axis, 0)
    chosen: list[int] = []
    for i in range(len(rows)):
        if len(chosen) < n and not any(torch.equal(rows[i], rows[j]) for j in chosen):
            chosen.append(i)
    chosen += [i for i in range(len(rows)) if i not in chosen][: n - len(chosen)]
    return torch.tensor(chosen, device=x.device)


def _map(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {key: _map(value, change) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_map(value, change) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(_map(value, change) for value in batch)
    return batch


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _tensors(value)
