"""What the answers of a network tell of its weights: Fisher information, by layer and by number of time steps.

The trace of the Fisher information of the weights theta of a layer in the first t steps (Kim et al. 2023, "Exploring
temporal information dynamics in spiking neural networks", arXiv 2211.14406, there of all weights together; with CKA in
the index terms of Lin et al. 2024, arXiv 2402.01782v1, the first version):

    F_t = E_x E_{y ~ p_t(.|x)} |d log p_t(y|x) / d theta|^2,    p_t = softmax(mean of the logits of steps 1..t)

The gradients are those of single samples: the square of the gradient of a batch's mean loss, which is found in public
code, is another quantity, smaller by about the number of samples. Gradients of spikes are surrogate gradients, as in
training, so that F hangs on the surrogate function too, and is not 0 where a layer is silent and the surrogate still
lets something through. Logarithms are natural, F is per square of a weight's unit.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sj_cka.recording import (
    as_written,
    check_network,
    from_rest,
    keep_gradients,
    named,
    preserved,
    to_evaluation,
    unwrapped,
)

ALL = "all"  # what stands in place of a layer for all of them together


def fisher_information(network: nn.Module, x: Tensor, *, axis: int = 0) -> pd.DataFrame:
    """Fisher information of the weights of every layer in the first 1..T steps, the expectation over y taken exactly.

    See `sj_cka.fisher` for the equation. It takes N T classes backward passes: on 128 digits at T = 4, 19 s of one
    CPU core for a ResNet-8, 4 s for an MLP with two hidden layers of 256.

    Args:
        network: gives logits `[N, classes]`, T is then 1, or `[T, N, classes]`; run in evaluation mode on one sample
            at a time, each from reset states, and left as it was, gradients of its parameters included.
        x: samples `[N, ...]`, on the network's device; N from 1.
        axis: that of the samples; 1 for frames of recordings, `[T, N, ...]`.

    Returns:
        A row a layer and step, layers in order, then those of layer "all", whose F is the sum of theirs:

        - layer: dotted name of the module that owns the parameters itself; "" for the network. Parameters that require
          no gradient are left out, one that several modules share is the first one's.
        - step: t, from 1.
        - fisher: F_t, mean over the samples.
        - sem: its standard error over the samples; NaN for one sample.
        - parameters: how many the layer has.

    Raises:
        ValueError: no samples, no parameters to differentiate by, logits of another shape, that are not finite or that
            hang on no parameter, or a layer named "all".

    Example:
        >>> net = nn.Linear(2, 2)  # F = sum over c of p_c |e_c - p|^2 (|x|^2 + 1)
        >>> for parameter in net.parameters():
        ...     _ = nn.init.zeros_(parameter)
        >>> fisher_information(net, torch.tensor([[1.0, 1.0], [3.0, 0.0]]))
          layer  step  fisher   sem  parameters
        0           1    3.25  1.75           6
        1   all     1    3.25  1.75           6
    """
    return _information(network, x, None, axis)


def empirical_fisher(network: nn.Module, x: Tensor, y: Tensor, *, axis: int = 0) -> pd.DataFrame:
    """The same with the labels of the samples in place of the network's own answers: N T backward passes.

    E_(x, y) |d log p_t(y|x) / d theta|^2 over samples and their labels. It is the Fisher information only where the
    network's probabilities are right, and goes to 0 with the loss (Kunstner et al. 2019, arXiv 1905.12558).

    Args:
        network, x, axis: as of `fisher_information`.
        y: labels `[N]`, whole numbers from 0.

    Returns:
        As `fisher_information`.

    Raises:
        ValueError: as of `fisher_information`, or labels that are not one a sample or no classes of the network.
    """
    if y.shape != (x.shape[axis],):
        raise ValueError(f"expected a label for each of {x.shape[axis]} samples, got labels of shape {tuple(y.shape)}")
    return _information(network, x, y.tolist(), axis)


def information_centroid(information: pd.DataFrame) -> pd.Series:
    """The step around which the information of every layer lies: sum of t F_t over the sum of F_t (Kim et al. 2023).

    Args:
        information: of `fisher_information`.

    Returns:
        Centroids from 1 to T, in steps, by layer; NaN where a layer has no information at any step.

    Example:
        >>> table = pd.DataFrame({"layer": ["fc", "fc", "all", "all"], "step": [1, 2, 1, 2], "fisher": [1.0, 3, 0, 0]})
        >>> information_centroid(table).tolist()
        [1.75, nan]
    """
    by_step = information.pivot(index="layer", columns="step", values="fisher").loc[information["layer"].unique()]
    total = by_step.sum(axis=1)
    return (by_step * by_step.columns.to_numpy(float)).sum(axis=1) / total.where(total > 0)


def _information(network: nn.Module, x: Tensor, labels: Sequence[int] | None, axis: int) -> pd.DataFrame:
    check_network(network, watched=False)
    N = x.shape[axis]
    if N < 1:
        raise ValueError(f"expected one sample or more, got samples of shape {tuple(x.shape)}")
    layers = _layers(network)
    parameters = [parameter for owned in layers.values() for parameter in owned]
    of_samples = []
    with as_written(), preserved(network), torch.enable_grad():
        to_evaluation(network)
        keep_gradients(network)
        for i in range(N):
            log_p = _log_p(network, x.narrow(axis, i, 1), i)
            label = None if labels is None else labels[i]
            of_samples.append(_squares(log_p, parameters, label))
    squares = torch.stack(of_samples).cpu()  # [N, T, parameters]
    of_layers = [part.sum(-1) for part in squares.split([len(owned) for owned in layers.values()], -1)]
    values = torch.stack([*of_layers, squares.sum(-1)], 1).numpy()  # [N, layers and all, T]
    sizes = [sum(parameter.numel() for parameter in owned) for owned in layers.values()]
    T, rows = values.shape[-1], len(layers) + 1
    return pd.DataFrame(
        {
            "layer": np.repeat([*layers, ALL], T),
            "step": np.tile(np.arange(1, T + 1), rows),
            "fisher": values.mean(0).ravel(),
            "sem": (values.std(0, ddof=1) / N**0.5).ravel() if N > 1 else np.nan,
            "parameters": np.repeat([*sizes, sum(sizes)], T),
        }
    )


def _layers(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Dotted name -> the parameters with gradients that a module owns itself, each under the first that has it."""
    layers: dict[str, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for name, module in named(network).items():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in seen]
        seen.update(map(id, own))
        if own:
            layers[name] = own
    if not layers:
        raise ValueError("expected a network with parameters that require gradients, got none")
    if ALL in layers:
        raise ValueError(f"expected no layer named {ALL!r}, which stands for all of them: rename it")
    return layers


def _log_p(network: nn.Module, sample: Tensor, i: int) -> Tensor:
    """Logarithms of the class probabilities after 1..T steps `[T, classes]`, float64: a sure network's are near 0."""
    logits: Tensor = from_rest(network, lambda: unwrapped(network)(sample.clone()))  # it may work in place
    if logits.ndim not in (2, 3) or logits.shape[-2] != 1:
        shape = tuple(logits.shape)
        raise ValueError(f"expected logits [1, classes] or [T, 1, classes] for one sample, got shape {shape}")
    if not logits.isfinite().all():
        raise ValueError(f"expected finite logits, got NaN or infinity for sample {i}")
    if not logits.requires_grad:
        raise ValueError("expected logits with gradients by the parameters, got some that hang on none of them")
    over_time = logits.double().reshape(-1, logits.shape[-1])
    steps = torch.arange(1, len(over_time) + 1, device=logits.device).unsqueeze(1)
    return (over_time.cumsum(0) / steps).log_softmax(-1)


def _squares(log_p: Tensor, parameters: Sequence[Tensor], label: int | None) -> Tensor:
    """Squared gradient by each parameter, `[T, parameters]`: that of the label, or expected over all classes."""
    classes = log_p.shape[1]
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, classes of the network, got {label}")
    p, squares = log_p.detach().exp(), log_p.new_zeros(len(log_p), len(parameters))
    for t, of_step in enumerate(log_p):
        for y in range(classes) if label is None else [label]:
            gradients = torch.autograd.grad(of_step[y], parameters, retain_graph=True, allow_unused=True)
            norms = [of_step.new_zeros(()) if g is None else g.square().sum().double() for g in gradients]
            squares[t] += (p[t, y] if label is None else 1) * torch.stack(norms).detach()
    return squares
