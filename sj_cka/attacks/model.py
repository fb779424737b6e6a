"""The network that is attacked, from inputs in the unit of eps to class scores, and samples in that unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sj_cka.attacks.checks import limits, whole
from sj_cka.attacks.table import attack_named, inside
from sj_cka.data import Images, Samples
from sj_cka.ranges import UNIT, Range
from sj_cka.recording import neurons, reset_states
from sj_cka.recording.state import is_multi_step
from sj_cka.training import class_scores


def pixel_model(
    net: nn.Module,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    T: int | None = None,
    *,
    sample_axis: Literal[0, 1] = 0,
) -> PixelModel:
    """A network as attacks take it: pixels in, class scores `[N, classes]` out, so that eps means pixels.

    It normalises, (x - mean) / std, resets the states of the neurons, runs the network and takes the mean of its logits
    over time. `net` is used, not copied. Mode and statistics of batch normalisation are the caller's; the attacks
    themselves run it in evaluation mode.

    The network gets copies, so that one that works in place changes neither the caller's inputs nor its own next step.
    Where the samples lie is told here once: attacks read `sample_axis` of the network they are given (0 for one that
    has none). Inputs keep their layout, and norms, bests and restarts are those of each sample along that axis.

    Args:
        net: takes images `[N, ...]`, or frames `[T, N, ...]` where `sample_axis` is 1.
        mean, std: of each channel, the third axis from the end, or one number for all; None for inputs that the network
            takes as they are.
        T: how often an image is shown, for a network that does not do so itself: as one input `[T, N, ...]` to
            multi-step neurons, in T calls to single-step ones. None: the network does, needs no time, or gets frames.
        sample_axis: 0 for `[N, ...]`, 1 for `[T, N, ...]`.

    Raises:
        ValueError: mean without std or the reverse, a std that is not above 0, another axis, T below 1 or beside
            frames; a network that is normalised or timed already, or that takes its samples on another axis.

    Example:
        >>> net = pixel_model(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), mean=0.5, std=0.25)
        >>> net(torch.rand(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """
    return PixelModel(net, mean, std, T, sample_axis)


class PixelModel(nn.Module):
    """See `pixel_model`."""

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        mean: float | Sequence[float] | None,
        std: float | Sequence[float] | None,
        T: int | None,
        sample_axis: int,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"expected mean and std together, or neither, got mean={mean!r} and std={std!r}")
        if sample_axis not in (0, 1):
            raise ValueError(f"expected sample_axis 0 for [N, ...] or 1 for [T, N, ...], got {sample_axis!r}")
        if T is not None:
            whole("T", T)
            if sample_axis == 1:
                raise ValueError(f"expected no T beside sample_axis=1, since frames are the steps, got T={T}")
        _check_once(net, mean, T, sample_axis)
        self.net, self.T, self.sample_axis = net, T, sample_axis
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        self.register_buffer("mean", _per_channel(mean, device), persistent=False)
        self.register_buffer("std", _per_channel(std, device), persistent=False)
        if self.std is not None and not bool((self.std > 0).all()):
            raise ValueError(f"expected std above 0 in every channel, got {std!r}")
        stepping = [net.get_submodule(name) for name in neurons(net)]
        self._step_by_step = bool(stepping) and not any(map(is_multi_step, stepping))
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `[N, classes]`.

        Args:
            x: in attack units, `[N, ...]` or frames `[T, N, ...]`.
        """
        reset_states(self.net)
        if self.mean is not None and self.std is not None:
            x = (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)
        else:
            x = x.clone()
        if self.T is None:
            return class_scores(self.net(x))
        if self._step_by_step:
            return torch.stack([self.net(x.clone()) for _ in range(self.T)]).mean(0)
        return class_scores(self.net(x.repeat(self.T, *[1] * x.ndim)))


def pixels(x: Tensor) -> Tensor:
    """Images as attacks take them, float: bytes 0 to 255 become 0 to 1, floating-point numbers stay as they are.

    Raises:
        ValueError: other whole numbers, such as counts of events, whose unit nobody knows here.

    Example:
        >>> pixels(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    if x.dtype == torch.uint8:
        return x.to(torch.float32) / 255
    if not x.is_floating_point():
        raise ValueError(f"expected uint8 or floating-point images, got {x.dtype}; counts of events: x.float()")
    return x


def _per_channel(values: float | Sequence[float] | None, device: torch.device) -> Tensor | None:
    if values is None:
        return None
    with torch.inference_mode(False):  # what is made inside has no gradient
        made = torch.as_tensor(values, dtype=torch.float64, device=device)
        return made.to(torch.float32) if made.ndim == 0 else made.to(torch.float32).view(-1, 1, 1)


def _check_once(net: nn.Module, mean: object, T: int | None, sample_axis: int) -> None:
    """Raises ValueError where a network does already what a pixel model of it would do again."""
    for name, module in net.named_modules():
        inner, where = isinstance(module, PixelModel), f"{type(module).__name__}{f' at {name}' if name else ''}"
        # torchvision's Normalize, and what model zoos call so: mean and std are numbers there, not layers
        normalises = (inner or "normaliz" in type(module).__name__.lower()) and all(
            isinstance(getattr(module, key, None), Tensor | int | float | Sequence) for key in ("mean", "std")
        )
        if mean is not None and normalises:
            raise ValueError(f"expected mean and std once, got them for a network that normalises already: {where}")
        if isinstance(module, PixelModel):
            if T is not None and module.T is not None:
                raise ValueError(
                    f"expected T once, got T={T} for a network that shows images T={module.T} times: {where}"
                )
            if module is net and module.sample_axis != sample_axis:
                raise ValueError(
                    f"expected sample_axis={module.sample_axis}, that of the PixelModel inside, got {sample_axis}"
                )


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
    if "like" in attack:
        return unit(data, attack["like"])
    name, given = inside(attack["name"], attack)
    entry = attack_named(name)
    options = entry.with_defaults(given)
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
        same = nn.Identity()
        return Target(data.as_input(stored), axis, bounds, lambda net: pixel_model(net, sample_axis=axis), same, same)
    mean, std = (torch.tensor(values, device=on).view(-1, 1, 1) for values in (data.mean, data.std))
    return Target(
        pixels(stored),
        0,
        bounds,
        lambda net: pixel_model(net, data.mean, data.std),
        lambda x: (x - mean) / std,
        lambda x: x * std + mean,
    )
