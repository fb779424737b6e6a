"""Any SpikingJelly network as its artificial twin: the same wiring, with ReLU in place of the spiking neurons."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based import layer as sj_layer
from torch import Tensor, nn

from sj_cka.recording.state import is_multi_step, is_neuron, neurons, outside_neurons
from sj_cka.recording.wrappers import bare, check_network, listed
from sj_cka.twins.refusals import check_translatable, warn_of_logic, without_time
from sj_cka.twins.untimed import live_tensors, no_hooks, no_watching, takes_steps, untimed, watches_nothing

Activation = Callable[[], nn.Module]
Initialiser = Callable[[nn.Module], object]
_READ_OUTS: tuple[type, ...] = (neuron.NonSpikingBaseNode, neuron.NoisyNonSpikingBaseNode)
_SIGMAS = 6.0  # a deviation that chance alone does not bring about
_FEW = 16  # below so many values a standard deviation says nothing


def ann_twin(
    net: nn.Module,
    init: Literal["same", "fresh"] = "same",
    *,
    activation: Activation = nn.ReLU,
    initialiser: Initialiser | None = None,
    build: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """The artificial twin of a spiking network: equal module names and parameter shapes, without time.

    Every spiking neuron becomes an activation, a non-spiking read-out `nn.Identity`, and `layer.Dropout`, which keeps
    its mask until a reset, `nn.Dropout`. A module with a method `without_time()`, as the recurrence of our networks,
    becomes what that gives. All else is copied as it is (see `_copied`), and neurons take their own
    parameters (PLIF's, PSN's) with them. The twin of what `snn_twin` or `converted_snn` gave is the network that it was
    made of, with one activation for all uses. The twin takes `[N, ...]` and gives `[N, ...]`, see `Untimed`.

    Args:
        net: any network of SpikingJelly's neurons (or of subclasses); it is left as it is.
        init: "same": the twin starts from the network's parameters and buffers; "fresh": from newly drawn ones (torch's
            global random state is used), with running statistics reset.
        activation: makes one activation, e.g. `nn.ReLU`; what it makes never works in place.
        initialiser: for "fresh": draws all parameters of a network of this class in place, e.g.
            `SpikingVGG._initialize_weights`, after `reset_parameters` of every module.
        build: for "fresh", in place of `initialiser`: builds the spiking network anew; its values are taken.

    Returns:
        The twin, on the device of the network and in its training mode; a subclass of the network's own class.

    Raises:
        ValueError: what cannot be translated, with its name and the reason; a graph of torch.fx; no neuron; or fresh
            parameters that cannot be had: without `initialiser` and `build`, some that `reset_parameters` would not
            draw as the network's own initialiser did (or that training has changed since, which looks alike). The
            twin's first call raises it where it can be run in no way, where its forward reads what only a neuron has,
            or where it runs modules of the network itself, which a closure in it keeps.
        TypeError: an `activation` that makes no module; the twin's call, on input without a tensor.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> snn = nn.Sequential(layer.Linear(4, 2, step_mode="m"), neuron.LIFNode(step_mode="m"))
        >>> ann_twin(snn)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    _check_draws(init, initialiser, build)
    check_network(net)
    net = bare(net)
    check_translatable(net)
    twin = _copied(net, activation)
    warn_of_logic(net)
    if init == "fresh" and build is not None:
        built_anew(twin, net, build)
    elif init == "fresh":
        drawn_anew(twin, net, initialiser)
    return twin if is_neuron(net) else untimed(twin, tuple(neurons(net)), net)


def _check_draws(init: str, initialiser: Initialiser | None, build: Callable[[], nn.Module] | None) -> None:
    if init not in ("same", "fresh"):
        raise ValueError(f'expected init "same" or "fresh", got {init!r}')
    if init == "same" and (initialiser is not None or build is not None):
        raise ValueError('initialiser= and build= draw new parameters: pass init="fresh", or leave them out')
    if initialiser is not None and build is not None:
        raise ValueError("expected one of initialiser= and build=, got both")


def _copied(net: nn.Module, activation: Activation) -> nn.Module:
    """A copy of a network with activations in place of its neurons, containers and step modes as they are.

    A neuron that is shared is one activation, and no state is taken over. Hooks behind a forward or backward pass are
    left out, and of those before a forward pass the ones of SpikingJelly's monitors and of this package: the others, as
    torch's that make weights, may be part of the network.
    """
    replaced = _replacements(net, activation)
    twin = copy.deepcopy(net, {**replaced, **live_tensors(net), **no_hooks(net), **no_watching(net)})
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if (make := without_time(child)) is not None:
                setattr(parent, name, make().train(child.training))
    for module in twin.modules():
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is watches_nothing]:
            del module._forward_pre_hooks[key]
    return twin


class _Decoded(nn.Identity):
    """In place of a read-out that turns its steps, of which there is one or which are equal, into one value."""

    def forward(self, x_seq: Tensor) -> Tensor:
        return x_seq.mean(0)


class _MaskOfStep(nn.Dropout2d):
    """Dropout of whole channels in multi-step mode, `[T, N, C, ...]`."""

    def forward(self, x_seq: Tensor) -> Tensor:
        merged: Tensor = functional.seq_to_ann_forward(x_seq, super().forward)
        return merged


def _replacements(net: nn.Module, activation: Activation) -> dict[int, nn.Module]:
    """What stands for each neuron and each dropout, by the id of the module: as a memo of `copy.deepcopy`."""
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    replaced: dict[int, nn.Module] = {}
    old: Any
    new: Any
    for old in outside_neurons(net).values():
        if is_neuron(old):
            new = _read_out(old) or _made(activation, replaced.values()).to(like)
            # what forwards, printing and SpikingJelly's `set_step_mode` and `set_backend` look up
            new.step_mode = "m" if takes_steps(old) else "s"
            for attribute in ("backend", "supported_backends"):
                if hasattr(old, attribute):
                    setattr(new, attribute, getattr(old, attribute))
        elif type(old) is sj_layer.Dropout:
            new = nn.Dropout(old.p)
        elif type(old) is sj_layer.Dropout2d:
            new = (_MaskOfStep if is_multi_step(old) else nn.Dropout2d)(old.p)
        else:
            continue
        replaced[id(old)] = new.train(old.training)
    return replaced


def _made(activation: Activation, before: Iterable[nn.Module]) -> nn.Module:
    """One activation that does not work in place."""
    wanted = "expected activation as what makes a new module, e.g. nn.ReLU or lambda: nn.LeakyReLU(0.1)"
    try:
        new = activation()
    except TypeError as error:  # a function on tensors, or a module in place of its class
        raise TypeError(f"{wanted}; calling {activation!r} without arguments says: {error}") from error
    if not isinstance(new, nn.Module) or any(new is other for other in before):
        raise TypeError(f"{wanted}; got {new!r}{' again' if isinstance(new, nn.Module) else ''}")
    for module in new.modules():
        if "inplace" in vars(module):
            vars(module)["inplace"] = False
    return new


def _read_out(module: nn.Module) -> nn.Module | None:
    """What stands for a neuron that never spikes, by its class or by a threshold out of reach; None for others."""
    threshold = getattr(module, "v_threshold", None)
    never = (
        isinstance(module, _READ_OUTS)
        or any("nonspiking" in cls.__name__.lower().replace("_", "") for cls in type(module).__mro__)
        or (isinstance(threshold, float) and threshold == float("inf"))
    )
    return (nn.Identity() if getattr(module, "decode", None) is None else _Decoded()) if never else None


def drawn_anew(twin: nn.Module, net: nn.Module, initialiser: Initialiser | None) -> None:
    """Draws every parameter of a twin, in place: by `reset_parameters`, then by the initialiser.

    Raises:
        ValueError: a parameter that none of them draws, or, without an initialiser, that `reset_parameters` draws
            otherwise than the network's are distributed.
    """
    before = {name: p.detach() for name, p in _outside(net, net).items()}
    parameters = _outside(twin, net)
    first = _reset(twin, parameters)
    if initialiser is not None:
        initialiser(twin)
        if unset := _unset(parameters):
            raise ValueError(
                f"expected an initialiser that draws every parameter, {listed(unset)} got no value from it"
            )
        return
    how = "pass initialiser= (a function that draws them in place) or build= (one that builds the network)"
    if unset := _unset(parameters):
        raise ValueError(f"no reset_parameters() draws {listed(unset)}: {how}")
    second = _reset(twin, parameters)
    for name, value in before.items():
        if why := _otherwise(value, first[name], second[name]):
            raise ValueError(
                f"reset_parameters() would draw {name!r} otherwise than it is in the network, {why}: the network has "
                f"an initialiser of its own, or was trained; {how}"
            )


def built_anew(twin: nn.Module, net: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Gives a twin the parameters and buffers of a network that is built anew.

    Raises:
        TypeError: what is built is no network.
        ValueError: it has other parameters or shapes than the network.
    """
    new = build()
    if not isinstance(new, nn.Module):
        raise TypeError(f"expected build as a function that returns the spiking network, got {type(new).__name__}")
    given, wanted = ({name: tuple(x.shape) for name, x in one.state_dict().items()} for one in (new, net))
    if given != wanted:
        name = next(name for name in {**wanted, **given} if wanted.get(name) != given.get(name))
        raise ValueError(
            f"expected build to make the same network, {name!r} has shape {given.get(name)} in place of "
            f"{wanted.get(name)}"
        )
    values: dict[str, Tensor] = {**_outside(new, net), **dict(new.named_buffers())}
    with torch.no_grad():
        for name, x in (*_outside(twin, net).items(), *twin.named_buffers()):
            if name in values:
                x.copy_(values[name])


def _outside(model: nn.Module, net: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by the names that those have in a spiking network which are no neuron's."""
    modules = ((path, module) for path, module in outside_neurons(net).items() if not is_neuron(module))
    names = {f"{path}.{key}" if path else key for path, module in modules for key in module._parameters}
    return {name: p for name, p in model.named_parameters() if name in names}


def _reset(twin: nn.Module, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Parameters after `reset_parameters` of every module, members before their block; NaN where none draws."""
    with torch.no_grad():
        for p in parameters.values():
            p.fill_(torch.nan)
    for module in reversed(list(twin.modules())):
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return {name: p.detach().clone() for name, p in parameters.items()}


def _unset(parameters: dict[str, nn.Parameter]) -> list[str]:
    return [name for name, p in parameters.items() if bool(p.isnan().any())]


def _otherwise(value: Tensor, first: Tensor, second: Tensor) -> str:
    """How a parameter's values differ from two draws of them; '' where chance explains it."""
    x = value.double().flatten()
    if torch.equal(first, second):  # constant, not drawn
        return "" if torch.equal(value, first) else "where it sets constants"
    if len(x) < 2:
        return ""
    drawn = torch.cat([first, second]).double().flatten()
    sd, expected = float(x.std()), float(drawn.std())
    tolerance = _SIGMAS / len(x) ** 0.5
    if sd == 0 or (len(x) >= _FEW and not 1 / (1 + tolerance) <= sd / expected <= 1 + tolerance):
        return f"with a standard deviation of {expected:.3g} in place of {sd:.3g}"
    shift = float(x.mean() - drawn.mean())
    if abs(shift) > tolerance * expected * 1.5**0.5:  # the mean of n values against that of 2 n
        return f"with its mean shifted by {-shift:.3g}"
    return ""
