"""Are layers exchangeable? One network with a layer of another in place of its own, and the accuracy that is left.

Features of layer l of x are put in the place of those of y's layer of that name through an affine map, and y goes on
from there (model stitching: Lenc & Vedaldi 2015, arXiv 1411.5908; Bansal et al. 2021, arXiv 2106.07682). The map is
fitted to y's features by least squares, not trained on the labels (direct matching: Csiszarik et al. 2021, NeurIPS 34),
so that nothing is learnt of the task; a map that is trained for it may leave more. CKA asks
whether two layers arrange samples alike; this asks whether y can go on with what x says.

Of maps `[C, H, W]` one map over channels serves all pixels (a 1 x 1 convolution), of anything else it is over all
features of a sample. Each step of y has a map of its own, from x's features at the same step, or at its only one where
x has no time; where y has none, from the mean over x's steps. Networks that draw random numbers, as spikes for an
image, draw alike here; in a comparison each draws its own.

A layer inside a residual block has a way around it, so that something is left whatever is put there: `constant` says
how much, and `random` what a linear map makes of untrained features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import factorial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sj_cka.exchange.affine_map import AffineMap, RidgeFit
from sj_cka.exchange.layer_swap import Form, SwappableNetwork, same_draws
from sj_cka.recording import LayerSpec, Layout, as_written, plan_observation, preserved, to_evaluation

RIDGE = 1e-6
_MAPPED = ("accuracy", "self", "random", "constant")  # columns of what is put in place through a map
_PROBED = 4  # samples that the layers of two networks are told from
MOST = 2**25  # numbers of the sums that a map is fitted on
Prepare = Callable[[Tensor], Tensor]


class Exchanged(NamedTuple):
    """What is left of a network's accuracy.

    Args:
        layers: a row a layer, accuracies in 0..1 on the samples, see `exchange`.
        x: accuracy of x itself.
        whole: accuracy of y itself.
        left_out: layer that both have -> why it is not exchanged.
    """

    layers: pd.DataFrame
    x: float
    whole: float
    left_out: Mapping[str, str]


def exchange(
    x: nn.Module,
    y: nn.Module,
    fit: Tensor,
    samples: Tensor,
    labels: Tensor,
    *,
    untrained: nn.Module | None = None,
    layers: LayerSpec = None,
    layout: Layout | None = None,
    prepare: Prepare | None = None,
    ridge: float = RIDGE,
    orders: int = 3,
    seed: int = 0,
    batch_size: int = 128,
) -> Exchanged:
    """Accuracy of y with one layer at a time replaced by x's of that name, or by its own in another order of steps.

    See `sj_cka.exchange`. For each layer y runs 3 times on the samples, once more with `untrained`, and once for every
    order of its steps. The networks run in evaluation mode, each batch from reset states, and are left as they were.
    Memory holds what all layers put out for one minibatch, and for each map S D (D + D') numbers of 8 bytes, of S
    steps of y, D features of x or y and D' of y; layers of which that is more than 256 MiB are not exchanged.

    Args:
        x, y: trained networks on one device, that make their time steps, if any, in one call and give logits
            `[n, classes]` or `[T, n, classes]`, of which the mean over T counts. Both have as many steps, or one has
            none.
        fit: samples that the maps are fitted on, `[N, ...]`, at least 3; others than those that accuracy is measured
            on. Twice as many as a layer of vectors has features will do; with about as many, least squares fits noise
            (layers of 128 left an MLP .58 of digits on 128 samples, .97 on 256: `python benchmarks/exchange.py`).
        samples: those that accuracy is measured on, `[N, ...]`.
        labels: theirs, `[N]`, whole numbers from 0.
        untrained: x with its first weights, for the control `random`.
        layers: those that are exchanged, as of `compare`; None: all that it compares and both have, also before the
            first neuron; those that cannot be exchanged are left out and named: of other shapes in both, of too many
            features, and those that y does not go on from when their own features are put back, or whatever is put
            there.
        layout: of what the networks are given, as of `compare`: "TNCHW" of frames, None for samples first.
        prepare: from samples `[n, ...]` to what the networks are given; None for as they are.
        ridge: of the maps, above 0, in units of the mean variance of x's features, see `RidgeFit`. The default leaves
            the map from a layer to itself the identity: `self` lost nothing in MLPs and ResNet-8s on digits, with 1e-2
            up to 3 of 360 (the same script), since neurons near their threshold fire or not.
        orders: so many orders of the steps, each other than their own, or as many as there are.
        seed: that they are drawn from.
        batch_size: samples that are run at once.

    Returns:
        Accuracies: of x, of y (`whole`), and of y by layer, in its order, in the columns

        - layer: its name.
        - steps: of it in y; 1 where it does not change with time.
        - accuracy: with x's features in its place.
        - self: with its own, through a map that is fitted in the same way: what fitting alone costs, as where a unit is
          silent on `fit` alone.
        - random: with those of `untrained`; NaN without.
        - constant: with the mean of its own over `fit`, of maps by channel: what is left where it tells nothing.
        - permuted: with its own steps in another order, the same for all samples; mean over the orders. Of a layer of
          one step `whole`: it counts at every step. NaN in a network without time.

    Raises:
        ValueError: no layer that both have, layers that are named and do not go together (maps of other sizes, maps
            and vectors, other numbers of steps), networks that are called once a step, logits of another shape, too few
            samples, features that are not finite, or a number out of range.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> samples = torch.randn(60, 3)
        >>> found = exchange(net, net, samples, samples, net(samples).argmax(1), ridge=1e-9)
        >>> found.layers[["layer", "accuracy", "self"]]
          layer  accuracy  self
        0     0       1.0   1.0
        1     1       1.0   1.0
    """
    _expect_numbers(fit, samples, labels, orders, batch_size)
    device = next((parameter.device for parameter in y.parameters()), torch.device("cpu"))

    def given(part: Tensor) -> Tensor:
        part = part.to(device)
        return part if prepare is None else prepare(part)

    pair = exchangeable(x, y, given(fit[:_PROBED]), layers=layers, layout=layout)
    sources = {"accuracy": pair.x, "self": pair.y}
    if untrained is not None:
        sources["random"] = SwappableNetwork(untrained, pair.x.plan, "x untrained")
    models = [network.model for network in sources.values()]
    with as_written(), preserved(*models), same_draws(device):
        for network in sources.values():
            to_evaluation(network.model)
        maps = _fitted(pair.y, sources, map(given, fit.split(batch_size)), ridge)
        taken = {tap.layer: step_orders(pair.y.steps(tap), orders, seed) for tap in pair.y.plan.taps}
        right: dict[tuple[str, str], int] = {}
        of_x = whole = 0
        for part, true in zip(samples.split(batch_size), labels.split(batch_size), strict=True):
            torch.rand((), device=device)  # a batch has its own draws
            batch, answers = given(part), true.to(device)
            of_x += _right(pair.x.logits(batch), answers)
            whole += _right(pair.y.logits(batch), answers)
            seen = {name: network.features(batch) for name, network in sources.items()}
            for tap in pair.y.plan.taps:
                here = {name: features.pop(tap.layer) for name, features in seen.items()}
                for name, new in _replacements(here, maps[tap.layer], taken[tap.layer]):
                    count = right.get((tap.layer, name), 0)
                    right[tap.layer, name] = count + _right(pair.y.logits(batch, tap, new), answers)
    N, T = len(samples), pair.y.plan.T
    rows = []
    for tap in pair.y.plan.taps:
        columns = {name: right.get((tap.layer, name), np.nan) / N for name in _MAPPED}
        drawn = len(taken[tap.layer])
        permuted = right[tap.layer, "permuted"] / drawn if drawn else whole if T > 1 else np.nan
        rows.append({"layer": tap.layer, "steps": pair.y.steps(tap), **columns, "permuted": permuted / N})
    return Exchanged(pd.DataFrame(rows), of_x / N, whole / N, pair.left_out)


class Pair(NamedTuple):
    """Two networks with the layers that can be exchanged between them, and why others of both cannot."""

    x: SwappableNetwork
    y: SwappableNetwork
    left_out: dict[str, str]


def exchangeable(
    x: nn.Module, y: nn.Module, batch: Tensor, *, layers: LayerSpec = None, layout: Layout | None = None
) -> Pair:
    """The layers of two networks that can be exchanged, found on a few samples.

    Args:
        x, y: the networks.
        batch: what they are given, at least 3 samples.
        layers, layout: as of `exchange`.

    Raises:
        ValueError: as of `exchange`, of layers and networks.
    """
    if layout not in (None, "TNCHW"):
        raise ValueError(f"expected frames time first, layout TNCHW, got {layout}: turn them round in prepare")
    with as_written(), preserved(x, y):
        networks = []
        for called, model in (("x", x), ("y", y)):
            to_evaluation(model)
            plan = plan_observation(model, batch, layers=layers, layout=layout)
            networks.append(SwappableNetwork(model, plan, called))
        of_x, of_y = networks
        forms = [network.forms(batch) for network in networks]
        both = [layer for layer in of_y.plan.layers if layer in forms[0]]
        if not both:
            few = [", ".join(network.plan.layers[:6]) for network in networks]
            raise ValueError(f"expected layers that both networks have by name, got {few[0]} of x and {few[1]} of y")
        steps = [{tap.layer: network.steps(tap) for tap in network.plan.taps} for network in networks]
        left_out = {}
        for layer in both:
            if why := _unlike(forms[0][layer], forms[1][layer], steps[0][layer], steps[1][layer]):
                left_out[layer] = why
        refused, unread = of_y.keeping([layer for layer in both if layer not in left_out]).put_back(batch)
        left_out |= refused
    if left_out and (layers is not None or len(left_out) == len(both)):
        layer, why = next(iter(left_out.items()))
        raise ValueError(f"layer {layer!r}: {why}; choose layers= without it")
    left_out |= dict.fromkeys(unread, "network y does not read what it puts out")
    if not (kept := [layer for layer in both if layer not in left_out]):
        raise ValueError(f"expected a layer that network y reads, got {', '.join(unread)}")
    return Pair(of_x.keeping(kept), of_y.keeping(kept), left_out)


def _unlike(a: Form, b: Form, S_x: int, S_y: int) -> str:
    """Why features of one form and number of steps cannot be mapped to those of another; "" where they can."""
    if a.space != b.space:
        return f"expected maps of one size, or vectors, in both networks, got {a} of x and {b} of y"
    if len({1, S_x, S_y}) > 2:
        return f"expected as many steps in both networks, or one, got {S_x} of x and {S_y} of y"
    D = max(a.D, b.D)  # y's own features are mapped, too
    if (size := S_y * D * (D + b.D)) > MOST:
        most, takes = (f"{8 * numbers / 2**20:,.0f} MiB" for numbers in (MOST, size))
        return f"expected features of which a map takes at most {most}, one from {a} to {b} takes {takes}"
    return ""


def step_orders(T: int, most: int, seed: int) -> list[list[int]]:
    """Different orders of T steps, none of them their own, drawn from a seed: as many as asked for, or as there are.

    Example:
        >>> step_orders(2, 3, seed=0), step_orders(1, 3, seed=0)
        ([[1, 0]], [])
    """
    generator = torch.Generator().manual_seed(seed)
    own, found = list(range(T)), list[list[int]]()
    while len(found) < min(most, factorial(T) - 1):
        order = torch.randperm(T, generator=generator).tolist()
        if order != own and order not in found:
            found.append(order)
    return found


def _fitted(
    y: SwappableNetwork, sources: Mapping[str, SwappableNetwork], batches: Iterator[Tensor], ridge: float
) -> dict[str, dict[str, AffineMap]]:
    """Layer -> name of a source -> the map from its features to those of y."""
    fits = {layer: {name: RidgeFit(ridge) for name in sources} for layer in y.plan.layers}
    for batch in batches:
        torch.rand((), device=batch.device)  # a batch has its own draws
        seen = {name: network.features(batch) for name, network in sources.items()}
        for layer, of_layer in fits.items():
            Y = seen["self"][layer]
            for name, fit in of_layer.items():
                X = _at_steps(seen[name][layer], len(Y))
                fit.add(X.flatten(1, 2), Y.flatten(1, 2))
    return {layer: {name: fit.solve() for name, fit in of_layer.items()} for layer, of_layer in fits.items()}


def _at_steps(X: Tensor, S: int) -> Tensor:
    """Features `[S', n, P, D]` at S steps: at the same ones, at every one the only one, or their mean."""
    return X.double().mean(0, keepdim=True) if S == 1 else X.expand(S, *X.shape[1:])


def _replacements(
    features: Mapping[str, Tensor], maps: Mapping[str, AffineMap], orders: list[list[int]]
) -> Iterator[tuple[str, Tensor]]:
    """What is put in place of a layer of y: name of the column, features `[S, n, P, D]`."""
    own = features["self"]
    S, n, P, _ = own.shape
    of_sources = {name: (to_y, _at_steps(features[name], S)) for name, to_y in maps.items()}
    for name, (to_y, X) in (of_sources | {"constant": (maps["self"].blind, own)}).items():
        yield name, to_y(X.flatten(1, 2)).unflatten(1, (n, P))
    for order in orders:
        yield "permuted", own[order]


def _right(scores: Tensor, labels: Tensor) -> int:
    return int((scores.argmax(1) == labels).sum())


def _expect_numbers(fit: Tensor, samples: Tensor, labels: Tensor, orders: Any, batch_size: Any) -> None:
    if len(fit) < 3 or len(samples) < 1:
        raise ValueError(f"expected 3 samples or more to fit maps on and 1 to test, got {len(fit)} and {len(samples)}")
    if labels.shape != (len(samples),):
        raise ValueError(
            f"expected a label for each of {len(samples)} samples, got labels of shape {tuple(labels.shape)}"
        )
    if orders < 1 or batch_size < 1:
        raise ValueError(f"expected orders and batch_size from 1, got {orders} and {batch_size}")
