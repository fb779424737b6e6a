"""CKA between every layer and time step of any two networks, over a loader."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sj_cka.cka.accumulator import CKA, MIN_SAMPLES, Grams
from sj_cka.cka.gram import CentredGrams, centred_grams
from sj_cka.cka.result import CKAResult
from sj_cka.recording import LayerSpec, Layout, Observation, Plan, inputs_of, plan, preserved, reset_states, to_device
from sj_cka.recording.axes import Tap
from sj_cka.recording.drive import Drive, Forward, sample_axis


def compare(
    x: nn.Module,
    y: nn.Module | None = None,
    loader: Iterable[Any] | Tensor | None = None,
    *,
    layers: LayerSpec = None,
    layers_x: LayerSpec = None,
    layers_y: LayerSpec = None,
    T: int | None = None,
    layout: Layout | None = None,
    forward: Forward | None = None,
    observe: str = "output",
    batches: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    allow_train: bool = False,
) -> CKAResult:
    """CKA between every layer and every time step of two networks, in one pass over a loader.

    Grams are taken inside forward hooks, so that memory holds n^2 numbers for a layer and step and never the
    activations, and a later in-place operation cannot change what was seen. Whatever the networks are, their weights,
    buffers, neuron states, training flags and the random state are the same afterwards.

    Each network is given the batch `[N, ...]` as it is. If it makes no time steps of that, it is shown the batch T
    times (multi-step neurons: as `[T, N, ...]`; single-step neurons: in T calls). A network without neurons has one
    step.

    Args:
        x: a network: SpikingJelly's or any other PyTorch module, in evaluation mode.
        y: the network to compare with; None compares x with itself.
        loader: batches, each a tensor `[N, ...]` or a tuple that starts with one; or one such tensor. Iterated once.
        layers: dotted names, globs, module types or predicates `(name, module) -> bool` for both networks; None for
            every neuron, every other leaf that is called and every block output, without the last Linear.
        layers_x, layers_y: the same for one network.
        T: time steps; needed where a network does not make its own.
        layout: what the loader gives: "NCHW" (samples first; the default), or frames as "TNCHW" or "NTCHW".
        forward: `lambda net, batch: ...`, how to run a network on a batch of the loader, in place of all of this.
        observe: "output": what a layer puts out, spikes where it is a neuron.
        batches: use the first so many batches; None for all.
        device: where to run; None for where the network's parameters are.
        progress: show a progress bar.
        allow_train: run a network that is in training mode in evaluation mode, and put it back, without an error.

    Returns:
        A `CKAResult`; what is undefined is NaN and named in `result.undefined`. A batch of fewer than 4 samples cannot
        be used and is left out with a warning that names it.

    Raises:
        ValueError: no usable batch, networks in training mode, layers that are not there, a missing or wrong T.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
        >>> result = compare(net, loader=torch.randn(32, 3), progress=False)
        >>> [round(float(v), 6) for v in result.paired()]
        [1.0, 1.0]
    """
    if loader is None:
        raise ValueError("compare needs loader=: batches of images, e.g. a torch DataLoader or one tensor [N, ...]")
    if observe != "output":
        raise ValueError(f'expected observe="output", got {observe!r}')
    if batches is not None and batches < 1:
        raise ValueError(f"expected batches to be at least 1, got {batches}")
    networks = {"x": x, "y": x if y is None else y}
    wanted = {"x": layers if layers_x is None else layers_x, "y": layers if layers_y is None else layers_y}
    # one pass serves both sides where they are the same layers of the same network
    same = networks["x"] is networks["y"] and wanted["x"] is wanted["y"]
    sides = ("x",) if same else ("x", "y")
    for side in sides:
        if networks[side].training and not allow_train:
            raise ValueError(
                f"network {side} is in training mode: batch normalisation would use, and change, the statistics of "
                f"each batch. Call {side}.eval() first, or pass allow_train=True to run it in evaluation mode"
            )
    bar = tqdm(total=batches or _length(loader), desc="comparing", unit="batch", disable=not progress, leave=False)
    with preserved(x, networks["y"]), bar:
        source = iter([loader] if isinstance(loader, Tensor) else loader)
        head, inputs = _usable(itertools.islice(source, batches), layout, forward)
        on = {side: _device(networks[side], device) for side in sides}
        plans = {}
        for side in sides:
            try:
                batch = to_device(inputs, on[side])
                plans[side] = plan(networks[side], batch, layers=wanted[side], T=T, layout=layout, forward=forward)
            except (ValueError, TypeError, RuntimeError) as error:
                raise ValueError(f"network {side} ({type(networks[side]).__name__}): {error}") from error
        sums, left_out = CKA(), []
        for number, item in enumerate(itertools.islice(itertools.chain(head, source), batches)):
            inputs = inputs_of(item, layout, forward)
            if (n := plans["x"].drive.samples(inputs)) < MIN_SAMPLES:
                left_out.append(number)
                warnings.warn(
                    f"batch {number} holds {n} samples and is left out: the unbiased HSIC needs at least {MIN_SAMPLES}",
                    stacklevel=2,
                )
                continue
            seen = {side: _grams(networks[side], plans[side], to_device(inputs, on[side])) for side in sides}
            sums.update_grams(seen["x"], seen["x"] if same else seen["y"])
            bar.update()
    attrs = {side: type(network).__name__ for side, network in networks.items()}
    return sums.compute({**attrs, "batches": sums.batches, "batches_left_out": str(left_out)})


def _usable(source: Iterator[Any], layout: Layout | None, forward: Forward | None) -> tuple[list[Any], Any]:
    """The batches up to the first that can be used, and what of that one goes to the networks."""
    head: list[Any] = []
    for item in source:
        head.append(item)
        inputs = inputs_of(item, layout, forward)
        if Drive("as is", sample_axis=sample_axis(layout, forward)).samples(inputs) >= MIN_SAMPLES:
            return head, inputs
    if not head:
        raise ValueError("the loader gave no batch")
    raise ValueError(f"expected batches of at least {MIN_SAMPLES} samples, got none: raise the loader's batch_size")


def _device(network: nn.Module, wish: torch.device | str | None) -> torch.device:
    """Where a network runs: where its parameters are, unless told."""
    if wish is not None:
        return torch.device(wish)
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _grams(model: nn.Module, plan: Plan, batch: Any) -> Grams:
    """Centred Grams of every layer and step of one network on one batch."""
    n = plan.drive.samples(batch)
    found: dict[str, dict[int, CentredGrams]] = {layer: {} for layer in plan.layers}

    def receive(tap: Tap, step: int, rows: Tensor) -> None:
        found[tap.layer][step] = centred_grams(rows.flatten(2) if rows.ndim > 2 else rows.unsqueeze(-1))

    observation = Observation(model, plan, n, receive)
    try:
        model.eval()
        reset_states(model)
        with torch.no_grad():
            plan.drive.run(model, batch)
    finally:
        observation.close()
    observation.check()
    rows: list[Tensor] = []
    reasons: list[str | None] = []
    index: list[list[int]] = []
    for steps in found.values():
        here = [steps[step] for step in sorted(steps)]
        count = sum(len(grams.reasons) for grams in here)
        index.append([len(reasons) + (t if count == plan.T else 0) for t in range(plan.T)])
        rows += [grams.rows for grams in here]
        reasons += [reason for grams in here for reason in grams.reasons]
    return Grams(plan.layers, torch.cat(rows), torch.tensor(index), tuple(reasons), n)


def _length(loader: Any) -> int | None:
    try:
        return len(loader) if not isinstance(loader, Tensor) else 1
    except TypeError:
        return None
