"""An attack on a network, as a job: the samples under attack, and what it did."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Generator, Tensor, nn

from sj_cka import attacks
from sj_cka.attacks import MaskedGradient, PixelModel, RateNotReached, attack_named, pixel_model
from sj_cka.attacks.checks import limits
from sj_cka.attacks.transfer import inside
from sj_cka.data import Images, Samples
from sj_cka.ranges import UNIT, Range

INPUTS = "inputs.safetensors"


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
        attacks.pixels(stored),
        0,
        bounds,
        lambda net: pixel_model(net, data.mean, data.std),
        lambda x: (x - mean) / std,
        lambda x: x * std + mean,
    )


def made(
    aim: Target,
    y: Tensor,
    net: nn.Module,
    args: Mapping[str, Any],
    seed: int,
    source: nn.Module | None = None,
    like: Tensor | None = None,
) -> dict[str, bytes]:
    """The files of an attack: the inputs that the network is shown, and `attack.json`.

    Args:
        aim: the samples.
        y: their labels.
        net: the network.
        args: `attack` (name and options), `batch_size`, and `eps` or `rate` and `most`.
        seed: of what is drawn.
        source: the network that a transfer attacks.
        like: inputs under the attack whose norm noise is to have.
    """
    model, options = aim.model(net), dict(args["attack"])
    name, generator = options.pop("name"), Generator().manual_seed(seed)
    told: dict[str, Any] = {"eps": args.get("eps"), "reached": True}
    if source is not None:
        options["source"] = aim.model(source)
    common = {"batch_size": args["batch_size"], "generator": generator, **options}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", MaskedGradient)
        if like is not None:
            near = aim.from_input(like)  # a rounding out of the bounds at most, which noise_like allows for
            x_adv = attacks.noise_like(aim.x, near, generator=generator, bounds=aim.bounds, sample_axis=aim.axis)
        elif "rate" in args:
            x_adv, told["eps"], told["reached"] = _at_rate(name, model, aim.x, y, args["rate"], args["most"], common)
        else:
            x_adv = attacks.craft(name, model, aim.x, y, eps=args["eps"], **common)
    masked = [str(warning.message) for warning in said if issubclass(warning.category, MaskedGradient)]
    for warning in said:
        if not issubclass(warning.category, MaskedGradient):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    size = attacks.perturbation(aim.x, x_adv, sample_axis=aim.axis)
    told |= {
        "clean": attacks.accuracy(model, aim.x, y),
        "accuracy": attacks.accuracy(model, x_adv, y),
        "success": attacks.success_rate(model, aim.x, x_adv, y),
        "loss_before": float(attacks.losses(model, aim.x, y).mean()),
        "loss": float(attacks.losses(model, x_adv, y).mean()),
        "linf": float(size.linf.mean()),
        "l2": float(size.l2.mean()),
        "changed": float(size.changed.mean()),
        "masked": masked[-1] if masked else "",
    }
    inputs = aim.as_input(x_adv).to("cpu", torch.float32).contiguous()
    return {INPUTS: save_tensors({"x": inputs}), "attack.json": json.dumps(told).encode()}


def _at_rate(
    name: str, model: PixelModel, x: Tensor, y: Tensor, rate: float, eps_max: float, options: dict[str, Any]
) -> tuple[Tensor, float, bool]:
    """Inputs at a success rate, the eps of that, and whether it is reached; if not, those of the largest eps.

    Reached is a rate that is met to two samples, or to 2 %: where few samples are right, the rate jumps.
    """
    right = int(attacks.right(model, x, y).sum())
    try:
        if right == 0:
            raise RateNotReached("expected a sample that is classified right, got none", 0.0)
        found = attacks.eps_for_success(name, model, x, y, rate=rate, eps_max=eps_max, **options)
    except RateNotReached:
        return attacks.craft(name, model, x, y, eps=eps_max, **options), eps_max, False
    return found.x_adv, found.eps, abs(found.rate - rate) <= max(0.02, 2 / right)


def read_inputs(content: bytes) -> Tensor:
    """What a network is shown under an attack, `[N, ...]` or `[T, N, ...]`."""
    return load_tensors(content)["x"]


def _same(x: Tensor) -> Tensor:
    return x
