"""CKA between every layer and time step of any two networks, over a loader."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sj_cka.cka.accumulator import CKA, MIN_SAMPLES, Grams
from sj_cka.cka.gram import CentredGrams, centred_grams
from sj_cka.cka.result import CKAResult
from sj_cka.recording import LayerSpec, Layout, Observation, Plan, inputs_of, plan, preserved, reset_states, to_device
from sj_cka.recording.axes import Tap
from sj_cka.recording.drive import Forward


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

    Each network is given the batch `[N, ...]` as it is. If it makes no time steps of that, it is shown the batch T times
    (multi-step neurons: as `[T, N, ...]`; single-step neurons: in T calls). A network without neurons has one step.

    Args:
        x: a network: SpikingJelly's or any other PyTorch module, in evaluation mode.
        y: the network to compare with; None compares x with itself.
        loader: batches, each a tensor `[N, ...]` or a tuple that starts with one; or one such tensor. It is iterated once.
        layers: dotted names, globs, module types or predicates `(name, module) -> bool` for both networks; None for every
            neuron, every other leaf that is called and every block output, without the last Linear.
        layers_x, layers_y: the same for one network.
        T: time steps; needed where a network does not make its own.
        layout: what the loader gives: "NCHW" (samples first; the default), or frames as "TNCHW" or "NTCHW".
        forward: `lambda net, batch: ...`, how to run a network on a batch of the loader, in place of all of this.
        observe: "output": what a layer puts out, spikes where it is a neuron.
        batches: use the first so many batches; None for all.
        device: where to run; None for where the network's parameters are.
        progress: show a progress bar.
        allow_train: compare a network in training mode as it is in that mode's evaluation, without an error.

    Returns:
        A `CKAResult`; what is undefined is NaN and named in `result.undefined`. A batch of fewer than 4 samples cannot be
        used and is left out with a warning that names it.

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
    same = y is None or y is x
    sides = (
        [("x", x, layers_x or layers)]
        if y is None or y is x
        else [("x", x, layers_x or layers), ("y", y, layers_y or layers)]
    )
    if same and layers_y is not None:
        sides, same = [("x", x, layers_x or layers), ("y", x, layers_y)], False
    for name, model, _ in sides:
        if model.training and not allow_train:
            raise ValueError(
                f"network {name} is in training mode: batch normalisation would use, and change, the statistics of each "
                f"batch. Call {name}.eval() first, or pass allow_train=True to compare it in evaluation mode and put it back"
            )
    source = iter([loader] if isinstance(loader, Tensor) else loader)
    first = next(source, None)
    if first is None:
        raise ValueError("the loader gave no batch")
    total = batches if batches is not None else _length(loader)
    bar = tqdm(total=total, desc="comparing", unit="batch", disable=not progress, leave=False)
    with preserved(x, *([y] if y is not None else [])), bar:
        watched = []
        for name, model, wanted in sides:
            on = (
                torch.device(device)
                if device is not None
                else next((p.device for p in model.parameters()), torch.device("cpu"))
            )
            batch = to_device(inputs_of(first, layout, forward), on)
            try:
                seen = plan(model, batch, layers=wanted, T=T, layout=layout, forward=forward)
            except (ValueError, TypeError) as error:
                raise type(error)(f"network {name} ({type(model).__name__}): {error}") from error
            watched.append((model, seen, on))
        sums, left_out = CKA(), []
        for number, item in enumerate(itertools.islice(itertools.chain([first], source), batches)):
            n = watched[0][1].drive.samples(inputs_of(item, layout, forward))
            if n < MIN_SAMPLES:
                left_out.append(number)
                warnings.warn(
                    f"batch {number} holds {n} samples and is left out: the unbiased HSIC needs at least {MIN_SAMPLES}",
                    stacklevel=2,
                )
                continue
            seen_by = [
                _grams(model, seen, to_device(inputs_of(item, layout, forward), on)) for model, seen, on in watched
            ]
            sums.update_grams(seen_by[0], seen_by[0] if same else seen_by[1])
            bar.update()
    if not sums.batches:
        raise ValueError(f"expected batches of at least {MIN_SAMPLES} samples, got none: raise the loader's batch_size")
    names = {name: type(model).__name__ for name, model, _ in sides}
    attrs = {
        "x": names["x"],
        "y": names.get("y", names["x"]),
        "batches": sums.batches,
        "batches_left_out": str(left_out),
    }
    return sums.compute(attrs)


def _grams(model: nn.Module, plan: Plan, batch: Any) -> Grams:
    """Centred Grams of every layer and step of one network on one batch."""
    n = plan.drive.samples(batch)
    found: dict[str, dict[int | None, CentredGrams]] = {layer: {} for layer in plan.layers}

    def receive(tap: Tap, step: int | None, rows: Tensor) -> None:
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
    rows, reasons, index = [], [], []
    for steps in found.values():
        here = [steps[key] for key in sorted(steps, key=lambda step: step or 0)]
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
