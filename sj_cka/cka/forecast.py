"""What a comparison will take, told before it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import torch

from sj_cka.cka.arguments import Space
from sj_cka.cka.gram import raw_grams
from sj_cka.cka.memory import in_words
from sj_cka.cka.minibatches import Minibatch
from sj_cka.cka.observables import held_bytes, steps_of
from sj_cka.cka.observed_network import ObservedNetwork
from sj_cka.cka.permutations import STEPS
from sj_cka.recording import own_run, preserved, reset_states, to_evaluation

_TRIED = 8  # samples that the forward pass is timed on


def size(networks: Iterable[ObservedNetwork], n: int) -> tuple[int, int, int]:
    """Grams, their bytes, and bytes of features held, for a minibatch of n samples of these networks."""
    count = rows = held = 0
    for network in networks:
        T = network.plan.T
        for observable, taps in network.taps.items():
            steps = [steps_of(tap, T, observable) for tap in taps]
            count += sum(steps)
            rows += sum(steps) + (len(taps) if T > 1 else 0)  # and the sums over steps
            held += held_bytes(taps, T, n, observable)
    return count, rows * (n * (n - 1) // 2) * 8, held


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
