"""New parameters for a twin, drawn as the network's own initialiser draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from sj_cka.recording.state import is_neuron, outside_neurons

Initialiser = Callable[[nn.Module], object]
_SIGMAS = 6.0  # a deviation that chance alone does not bring about
_FEW = 16  # below so many values a standard deviation says nothing


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
            raise ValueError(f"expected an initialiser that draws every parameter, {_some(unset)} got no value from it")
        return
    how = "pass initialiser= (a function that draws them in place) or build= (one that builds the network)"
    if unset := _unset(parameters):
        raise ValueError(f"no reset_parameters() draws {_some(unset)}: {how}")
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
    values, buffers = _outside(new, net), dict(new.named_buffers())
    with torch.no_grad():
        for name, p in _outside(twin, net).items():
            p.copy_(values[name])
        for name, buffer in twin.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])


def _outside(model: nn.Module, net: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by the names that those have in a spiking network which are no neuron's."""
    modules = {name: module for name, module in outside_neurons(net).items() if not is_neuron(module)}
    names = [f"{path}.{key}" if path else key for path, module in modules.items() for key in module._parameters]
    return {name: p for name, p in model.named_parameters() if name in names}


def _reset(twin: nn.Module, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Parameters after `reset_parameters` of every module, members before their block; NaN where none draws."""
    with torch.no_grad():
        for p in parameters.values():
            p.fill_(torch.nan)
    for module in reversed(list(twin.modules())):
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
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


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
