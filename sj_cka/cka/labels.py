"""Labels, inputs and groups of the samples of a batch: what stands beside networks in a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sj_cka.cka.layer_grams import Grams, grams
from sj_cka.cka.minibatches import Minibatch, labels_of
from sj_cka.recording.drive import tensors_in

Reference = Literal["input", "labels"]


def reference_grams(what: Reference, batch: Minibatch) -> Grams:
    """Centred Gram of a batch's inputs, or of its labels: one layer of that name.

    Labels give 1 for two samples of the same class and 0 otherwise; labels of several numbers are taken as features.
    Frames are concatenated over time. In a batch for a caller's `forward` the input is the first tensor that holds more
    than a number for each sample, or else the first with an axis of samples.

    Raises:
        TypeError: a batch without labels, or without a tensor of its samples.
    """
    if what == "labels":
        return grams({"labels": _as_features(_labels(batch))})
    axis = batch.sample_axis
    given = batch.inputs("x", torch.device("cpu"))
    holding = [x for x in tensors_in(given) if x.ndim > axis and x.shape[axis] == batch.n]
    if not holding:
        raise TypeError(
            f"the Gram of the input needs batches that hold a tensor of their {batch.n} samples, got "
            f"{type(given).__name__} without one"
        )
    inputs = next((x for x in holding if x.ndim > axis + 1), holding[0])
    return grams({"input": inputs.movedim(axis, 0).flatten(1).unsqueeze(0)})


def _labels(batch: Minibatch) -> np.ndarray:
    labels = labels_of(batch.items[0])
    if labels is None:
        raise TypeError(f"expected batches (inputs, labels), got {type(batch.items[0]).__name__} without labels")
    if len(labels) != batch.n:
        raise ValueError(f"expected a label for each of {batch.n} samples, got labels of shape {tuple(labels.shape)}")
    return labels


def _as_features(labels: np.ndarray) -> Tensor:
    if labels.ndim > 1 and labels.dtype.kind != "U":
        return torch.tensor(labels).flatten(1).unsqueeze(0)
    if labels.ndim > 1:
        raise TypeError(f"expected one text as the label of a sample, got labels of shape {labels.shape}")
    _, classes = np.unique(labels, return_inverse=True)
    return torch.nn.functional.one_hot(torch.from_numpy(classes)).to(torch.float32).unsqueeze(0)


def group_masks(groups: Any, batch: Minibatch) -> dict[str, Tensor] | None:
    """Name -> bool `[n]` of the samples in each group that a comparison asks for.

    Args:
        groups: "labels"; a mapping name -> mask over all samples; ids of all samples; or a function of what the loader
            gives that returns ids or such a mapping for it.
        batch: the batch.

    Raises:
        ValueError: another text, or too few ids or masks.
    """
    if groups is None:
        return None
    chosen: Any
    if isinstance(groups, str):
        if groups != "labels":
            raise ValueError(f'expected groups="labels", ids, masks or a function of the batch, got {groups!r}')
        chosen = _labels(batch)
    elif callable(groups):
        chosen = groups(batch.items[0])
    elif isinstance(groups, Mapping):
        chosen = {name: _part(mask, batch, f"mask {name!r}") for name, mask in groups.items()}
    else:
        chosen = _part(groups, batch, "ids")
    if isinstance(chosen, Mapping):
        return {str(name): _mask(mask) for name, mask in chosen.items()}
    ids = [str(value) for value in (chosen.tolist() if hasattr(chosen, "tolist") else list(chosen))]
    if len(ids) != batch.n:
        raise ValueError(f"groups: expected an id for each of {batch.n} samples, got {len(ids)}")
    return {name: torch.tensor([value == name for value in ids]) for name in sorted(set(ids))}


def _mask(values: Any) -> Tensor:
    """A mask as a tensor, from anything like an array."""
    return torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values).tolist())


def _part(values: Any, batch: Minibatch, what: str) -> Any:
    if not isinstance(values, Tensor | list | tuple):
        values = np.asarray(values)  # slices go by place; a Series would look its labels up
    end = batch.place + batch.n
    if len(values) < end:
        raise ValueError(f"groups: expected {what} of all samples, at least {end} of them, got {len(values)}")
    return values[batch.place : end]
