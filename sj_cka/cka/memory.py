"""Memory that a comparison takes: a bound on it, files beyond the bound, and a forecast with the time beside it."""

import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.arguments import expect_one_of
from sj_cka.cka.gram import raw_grams
from sj_cka.cka.minibatches import Minibatch
from sj_cka.cka.observables import Spatial, held_bytes, steps_of
from sj_cka.cka.observed_network import ObservedNetwork
from sj_cka.cka.own_terms import numbers_held
from sj_cka.cka.permutations import STEPS
from sj_cka.recording import own_run, preserved, reset_states, to_evaluation

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_TRIED = 8  # samples that the forward pass is timed on


@dataclass(frozen=True)
class Space:
    """Rare options of `compare`: of memory and of space.

    Args:
        memory: bound on the centred Grams of a minibatch, e.g. "2GB"; beyond it they, and what is computed of them, lie
            in a temporary file. What every sample contributes (`CKA(samples=)`) is part of the result and not of the
            bound. The number of samples never changes. None: no bound.
        spatial: "mean" averages maps `[N, C, H, W]` over space first; "flatten" takes every pixel as a feature.
        forecast: print layers, Grams, bytes and estimated seconds before running.

    Raises:
        ValueError: what is no size, or no name of these.
    """

    memory: str | int | None = None
    spatial: Spatial = "flatten"
    forecast: bool = False

    def __post_init__(self) -> None:
        expect_one_of("spatial", self.spatial, "flatten", "mean")
        if self.memory is not None:
            bytes_of(self.memory)

    @property
    def limit(self) -> int | None:
        """The bound in bytes."""
        return None if self.memory is None else bytes_of(self.memory)


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


def size(networks: Iterable[ObservedNetwork], n: int) -> tuple[int, int, int]:
    """Grams, their bytes, and bytes of features held, for a minibatch of n samples of these networks.

    The bytes of Grams hold those of single units that wait for their last step.
    """
    count = rows = held = units = 0
    for network in networks:
        T = network.plan.T
        for observable, taps in network.taps.items():
            steps = [steps_of(tap, T, observable) for tap in taps]
            count += sum(steps)
            rows += sum(steps) + (len(taps) if T > 1 else 0)  # and the sums over steps
            held += held_bytes(taps, T, n, observable)
            if observable in ("output", "membrane"):
                called = (tap for tap in taps if tap.time == "calls")
                units += sum(T * numbers_held(n, tap.width, tap.units, T) for tap in called)
    return count, (rows * (n * (n - 1) // 2) + units) * 8, held


def expect_held(networks: Iterable[ObservedNetwork], n: int, space: Space) -> None:
    """Raises ValueError where features that wait for their last step are more than the bound on memory."""
    networks = list(networks)
    held = size(networks, n)[2]
    if space.limit is not None and held > space.limit:
        words = {"rate": "observe='rate'", "latency": "observe='latency'", STEPS: "the permutation of steps"}
        who = [words[name] for name in words if name in networks[0].observables]
        raise ValueError(
            f"memory={space.memory!r}: {' and '.join(who)} hold{'' if who[1:] else 's'} {in_words(held)} of features, "
            "because the network is called once a step: take fewer layers=, smaller batches or more memory"
        )


def forecast(networks: Mapping[str, ObservedNetwork], batch: Minibatch, batches: int | None, limit: int | None) -> str:
    """A page on layers, Grams, bytes and estimated seconds, timed on a few samples.

    Args:
        networks: by side.
        batch: the first.
        batches: their number, if known.
        limit: bytes, of `memory=`.
    """
    n = batch.n
    count, stored, held = size(networks.values(), n)
    lines: list[str] = []
    work = seconds = 0.0
    for network in networks.values():
        drive, T = network.plan.drive, network.plan.T
        how = {"as is": "as it comes", "repeat": f"repeated {T} times", "loop": f"in {T} calls"}.get(
            drive.mode, drive.mode
        )
        lines.append(
            f"{network.side}: {type(network.model).__name__} on {network.device}, {len(network.plan.taps)} layers, "
            f"{T} step{'s' if T > 1 else ''}; input {how}"
        )
        for tap in network.plan.taps:
            steps = {"axis": f"{T} steps in an axis", "calls": f"{T} calls", "static": "once"}[tap.time]
            lines.append(f"  {tap.layer}: {tap.width} features, {steps}{' (neuron)' if tap.neuron else ''}")
        for observable, taps in network.taps.items():
            work += sum(steps_of(tap, T, observable) * tap.width for tap in taps)
        tried = min(_TRIED, n)
        some = drive.take(batch.inputs(network.side, network.device), range(tried))
        with preserved(network.model), torch.no_grad(), own_run():
            to_evaluation(network.model)
            reset_states(network.model)
            began = _now(network.device)
            drive.run(network.model, some)
            seconds += (_now(network.device) - began) * n / tried
    X = torch.rand(1, n, 2048, device=networks["x"].device, dtype=torch.float32)
    raw_grams(X)
    began = _now(X.device)
    raw_grams(X)
    seconds += (_now(X.device) - began) / 2048 * work
    where = "in memory" if limit is None or stored <= limit else "in a temporary file"
    waiting = f", {in_words(held)} of features held until their last step" if held else ""
    total = f", about {seconds * batches:.1f} s in all {batches}" if batches else ""
    lines.append(f"{count} Grams of {n} samples, {in_words(stored)} {where}{waiting}")
    return "\n".join([*lines, f"about {seconds:.1f} s for a minibatch of {n}{total}"])


def _now(device: torch.device) -> float:
    """Seconds, once a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
