"""The spiking twin of a feed-forward artificial network: the same layers, with neurons in place of activations."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sj_cka.neurons import NEURONS
from sj_cka.plugins import lookup
from sj_cka.recording.state import is_multi_step, is_neuron
from sj_cka.recording.wrappers import bare, check_network
from sj_cka.twins.uses import ACTIVATIONS, Uses, over_time, uses_of

Neuron = Callable[[], nn.Module] | Mapping[str, Any] | str


def snn_twin(
    ann: nn.Module,
    T: int,
    neuron: Neuron = "lif",
    *,
    activations: tuple[type[nn.Module], ...] = ACTIVATIONS,
) -> nn.Module:
    """A copy of a feed-forward network with a spiking neuron for every use of an activation.

    A ReLU that the network uses twice becomes two neurons under its name, or one use would leave its state to the
    other; `compare` pairs them as `relu#0` and `relu#1` with the uses of the ReLU. Layers without a state see
    `[T*N, ...]`, so that batch normalisation is over all steps. Names, weights and buffers are those of the network;
    neurons add parameters of their own, if they have any.

    The twin takes `[N, ...]`, shown T times, or `[T, N, ...]`, and gives `[T, N, classes]`. Which of them it is is told
    by the first convolution; a network without one takes `[N, ...]`. Its states are reset by the caller
    (`sj_cka.recording.reset_states`).

    Args:
        ann: the network, e.g. of torchvision, or an artificial twin (`ann_twin`); it is left as it is.
        T: number of time steps, from 1.
        neuron: a name of NEURONS, a mapping with `name` and its options, or what makes a new multi-step neuron.
        activations: types of modules that become neurons.

    Raises:
        ValueError: T or the neuron cannot be used, or the network: see `uses_of`.

    Example:
        >>> import torch
        >>> snn_twin(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), T=3)(torch.ones(5, 4)).shape
        torch.Size([3, 5, 2])
    """
    check_steps(T)
    check_network(ann)
    ann = bare(ann)
    make = _factory(neuron)
    uses = Counter(uses_of(ann, activations))
    twin = copy.deepcopy(ann)
    before: list[nn.Module] = []
    for name, count in uses.items():
        put(twin, name, Uses([_made(make, before) for _ in range(count)], T))
    over_time(twin)
    return twin


def _made(make: Callable[[], nn.Module], before: list[nn.Module]) -> nn.Module:
    """One neuron, which is none of those made before."""
    new = make()
    if not (is_neuron(new) and is_multi_step(new)):
        raise ValueError(
            f'neuron: expected a neuron of SpikingJelly in multi-step mode (step_mode="m"), got {type(new).__name__}'
        )
    if any(new is other for other in before):
        raise ValueError(
            "neuron: expected what makes a new neuron for every use, or one use would leave its state to the other; "
            f"got the same {type(new).__name__} again"
        )
    before.append(new)
    return new


def check_steps(T: int) -> None:
    """Raises ValueError unless T is a number of steps."""
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"expected T, the number of time steps, as an integer from 1, got {T!r}")


def put(net: nn.Module, name: str, node: Uses) -> None:
    """Puts neurons in the place of an activation, on the network's device."""
    activation = net.get_submodule(name)
    node.train(activation.training)
    node.outer_mode = "m" if is_multi_step(activation) else "s"
    if (parameter := next(net.parameters(), None)) is not None:
        node.to(parameter.device)
    net.set_submodule(name, node)


def _factory(neuron: Neuron) -> Callable[[], nn.Module]:
    if not isinstance(neuron, str | Mapping):
        return neuron
    options = {"name": neuron} if isinstance(neuron, str) else dict(neuron)
    make = lookup(NEURONS, options.pop("name", "lif"), "neuron")
    return lambda: make(**options)
