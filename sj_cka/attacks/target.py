"""The samples of an attack in its unit, and what turns them into a network's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sj_cka.attacks.checks import limits
from sj_cka.attacks.model import PixelModel, pixel_model, pixels
from sj_cka.attacks.table import attack_named
from sj_cka.attacks.transfer import inside
from sj_cka.data import Images, Samples
from sj_cka.ranges import UNIT, Range


class Target(NamedTuple):
    """Samples in the unit of an attack, and what turns them into a network's inputs.

    Args:
        x: `[N, ...]`, or frames `[T, N, ...]`.
        axis: of the samples.
        bounds: smallest and largest value of x; None for none.
        model: from a network to one that takes x.
        as_input: from x, or x under attack, to what the network itself takes.
        from_input: the reverse.
    """

    x: Tensor
    axis: Literal[0, 1]
    bounds: Range | None
    model: Callable[[nn.Module], PixelModel]
    as_input: Callable[[Tensor], Tensor]
    from_input: Callable[[Tensor], Tensor]


class Unit(NamedTuple):
    """In what an attack counts, and between which values.

    Args:
        name: "pixels" of images; "normalised": images as the network takes them; "counts" of events.
        bounds: smallest and largest value of an input; None for none.
    """

    name: Literal["pixels", "normalised", "counts"]
    bounds: Range | None


def unit(data: Samples, attack: Mapping[str, Any]) -> Unit:
    """The unit of an attack as a job names it: of a transfer that of the attack inside, of noise that of its model.

    Args:
        data: what is attacked.
        attack: name and options; `like` of noise, the attack whose norm it has.
    """
    options = dict(attack)
    name = options.pop("name")
    if "like" in options:
        return unit(data, options["like"])
    name, options = inside(name, options)
    entry = attack_named(name)
    options = entry.with_defaults(options)
    bounds = limits(options.get("bounds"))
    if not isinstance(data, Images):
        return Unit("counts", bounds)
    if entry.unit == "normalised":
        return Unit("normalised", None)
    return Unit("pixels", bounds if "bounds" in options else UNIT)


def target(data: Samples, count: int, attack: Mapping[str, Any], on: torch.device) -> Target:
    """The first test samples in the unit of an attack."""
    stored, (name, bounds) = data.x_test[:count].to(on), unit(data, attack)
    if not isinstance(data, Images) or name == "normalised":
        axis: Literal[0, 1] = 0 if data.T is None else 1
        return Target(data.as_input(stored), axis, bounds, lambda net: pixel_model(net, sample_axis=axis), _same, _same)
    mean, std = (torch.tensor(values, device=on).view(-1, 1, 1) for values in (data.mean, data.std))
    return Target(
        pixels(stored),
        0,
        bounds,
        lambda net: pixel_model(net, data.mean, data.std),
        lambda x: (x - mean) / std,
        lambda x: x * std + mean,
    )


def _same(x: Tensor) -> Tensor:
    return x
