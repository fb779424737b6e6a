"""Spiking twins of a feed-forward artificial network: neurons in place of activations, to train or converted."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based.ann2snn.modules import VoltageHook
from torch import Tensor, nn

from sj_cka.neurons import NEURONS
from sj_cka.plugins import lookup
from sj_cka.recording.state import is_multi_step, is_neuron, preserved, to_evaluation
from sj_cka.recording.wrappers import as_written, bare, check_network
from sj_cka.twins.uses import ACTIVATIONS, Uses, over_time, uses_of

NeuronSpec = Callable[[], nn.Module] | Mapping[str, Any] | str


def snn_twin(
    ann: nn.Module,
    T: int,
    neuron: NeuronSpec = "lif",
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
        >>> snn_twin(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), T=3)(torch.ones(5, 4)).shape
        torch.Size([3, 5, 2])
    """
    ann = _checked(ann, T)
    make, before = _factory(neuron), list[nn.Module]()
    uses = Counter(uses_of(ann, activations))
    nodes = {name: Uses([_made(make, before) for _ in range(count)], T) for name, count in uses.items()}
    return over_time(copy.deepcopy(ann), nodes)


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


class ScaledUses(Uses):
    """Integrate-and-fire neurons for each use of a ReLU, whose spikes are worth what the ReLU puts out at most.

    The input is divided by the scale of its use, the spikes are multiplied with it; hooks see the spikes themselves,
    0 or 1.
    """

    scales: Tensor

    def __init__(self, scales: Sequence[float], T: int) -> None:
        super().__init__([sj_neuron.IFNode(v_reset=None, step_mode="m") for _ in scales], T)
        self.register_buffer("scales", torch.tensor(scales))

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes times their scale, `[T*N, ...]`."""
        scale = self.scales[self.use]
        return super().__call__(x / scale) * scale


def converted_snn(ann: nn.Module, loader: Iterable[Any] | None, T: int, *, mode: str | float = "99.9%") -> nn.Module:
    """A spiking network converted from a feed-forward ReLU network: rates of firing stand for activations.

    Every use of a ReLU becomes integrate-and-fire neurons with soft reset, whose threshold is the largest activation
    seen there, or a percentile (Rueckauer et al. 2017, Frontiers in Neuroscience 11, 682). It is the rate-coding
    conversion of SpikingJelly's `ann2snn` without fusing batch normalisation, its thresholds and its arithmetic, but in
    the module tree of the network in place of a traced graph: every layer and block keeps its name, and so pairs with
    the network's own. 32 to 128 steps bring the accuracy near that of the network.

    Takes `[N, ...]`, shown T times, or `[T, N, ...]`, and gives `[T, N, classes]`, the class scores their mean over T.
    Its states are reset by the caller (`sj_cka.recording.reset_states`).

    Args:
        ann: the trained network, or artificial twin (`ann_twin`); it is run in evaluation mode, and left as it was.
        loader: batches that the thresholds are taken from: tensors, or tuples or lists that start with one. None:
            thresholds of 1, to load a `state_dict` into.
        T: number of time steps, from 1.
        mode: SpikingJelly's name of the threshold: "max", a percentile like "99.9%", or a fraction of the largest.

    Returns:
        The network, in evaluation mode, on the device of the given one.

    Raises:
        ValueError: T, the mode or the loader cannot be used; activations that are not finite, or a ReLU that puts out
            nothing above 0 on all batches; activations other than ReLU; or a network that `uses_of` refuses.

    Example:
        >>> ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> converted_snn(ann, [torch.rand(16, 4)], T=32)(torch.rand(5, 4)).shape
        torch.Size([32, 5, 2])
    """
    ann = _checked(ann, T)
    uses = uses_of(ann)
    for name in dict.fromkeys(uses):
        if not isinstance(relu := ann.get_submodule(name), nn.ReLU):
            raise ValueError(
                f"expected ReLU alone, {name!r} is a {type(relu).__name__}: rates of firing cannot stand for it"
            )
    ones = {name: [1.0] * count for name, count in Counter(uses).items()}
    scales = ones if loader is None else _scales(ann, uses, loader, mode)
    return over_time(copy.deepcopy(ann).eval(), {name: ScaledUses(some, T) for name, some in scales.items()})


def _scales(ann: nn.Module, uses: list[str], loader: Iterable[Any], mode: str | float) -> dict[str, list[float]]:
    """What SpikingJelly's VoltageHook makes of the activations: of each module, for its uses in order."""
    hooks = [VoltageHook(mode=mode) for _ in uses]
    calls: list[str] = []

    def note(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        if calls == uses:
            raise ValueError(f"the forward uses more activations than torch.fx found: {name!r} beyond {uses}")
        if not torch.isfinite(output).all():
            raise ValueError(f"{name!r} puts out NaN or infinite values on a batch: no threshold can be had")
        _note(hooks[len(calls)], output, mode)
        calls.append(name)

    parameter = next(ann.parameters(), None)
    with as_written(), preserved(ann), ExitStack() as registered, torch.no_grad():
        for name in dict.fromkeys(uses):
            registered.callback(ann.get_submodule(name).register_forward_hook(partial(note, name)).remove)
        to_evaluation(ann)
        for batch in loader:
            x = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
            if not isinstance(x, Tensor):
                raise ValueError(
                    f"loader: expected batches that are a tensor or start with one, got {type(x).__name__}"
                )
            calls.clear()
            ann(x.to("cpu" if parameter is None else parameter.device, copy=True))  # it may work in place
            if calls != uses:
                raise ValueError(f"expected the activations to be used in the order {uses}, the forward used {calls}")
    if not calls:
        raise ValueError("loader: expected at least one batch to take thresholds from, got none")
    scales: dict[str, list[float]] = {name: [] for name in uses}
    for name, hook in zip(uses, hooks, strict=True):
        scales[name].append(scale := float(hook.scale))
        if not scale > 0:
            raise ValueError(
                f"{name!r} puts out nothing above 0 (threshold {scale:g}): give more batches, a higher percentile than "
                f'{mode!r} or mode="max"'
            )
    return scales


def _note(hook: VoltageHook, output: Tensor, mode: str | float) -> None:
    """Shows a batch's activations to SpikingJelly's hook."""
    try:
        hook(output)
    except NotImplementedError as error:
        expected = 'expected mode "max", a percentile like "99.9%" or a fraction in (0, 1]'
        raise ValueError(f"{expected}, got {mode!r}") from error
    except RuntimeError as error:  # torch.quantile takes 16 million numbers at most
        raise ValueError(
            f"a batch is too large for a percentile ({error}): give smaller batches, or mode='max'"
        ) from error


def _checked(ann: nn.Module, T: int) -> nn.Module:
    """The network inside its wrappers; raises unless it is one and T a number of steps."""
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"expected T, the number of time steps, as an integer from 1, got {T!r}")
    check_network(ann)
    return bare(ann)


def _factory(neuron: NeuronSpec) -> Callable[[], nn.Module]:
    if not isinstance(neuron, str | Mapping):
        return neuron
    options = {"name": neuron} if isinstance(neuron, str) else dict(neuron)
    make = lookup(NEURONS, options.pop("name", "lif"), "neuron")
    return lambda: make(**options)
