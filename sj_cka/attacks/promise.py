"""What an attack promises of its result, and the one place where every attack is held to it, a plugin's too."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sj_cka.attacks import checks
from sj_cka.attacks.victim import differentiable, sample_axis
from sj_cka.ranges import NORMS, Norm, Range, check_eps, check_scale, range_of

AttackFunction = Callable[..., Tensor]
EpsMeaning = Literal["radius", "size", "share", "unknown"]


class BrokenPromise(RuntimeError):
    """An attack whose result is not what it promises, or which changed the inputs that it was given."""


class Promise(NamedTuple):
    """What an eps means to an attack, and so where its results lie.

    Args:
        eps: "radius": no result is farther than eps from its input; "size" of noise in the unit of the inputs, without
            a farthest point; "share", a number without unit; "unknown".
        norm: of the radius; None for what the option `norm` of the attack says.
        bounds: of all results; None for what the option `bounds` says, if the attack has one.
        eps_max: largest eps.
    """

    eps: EpsMeaning = "unknown"
    norm: Norm | None = None
    bounds: Range | None = None
    eps_max: float = math.inf

    def ball(self, options: Mapping[str, Any]) -> Norm | None:
        """The norm in which eps is a radius, with these options of the attack; None where it is none."""
        norm = self.norm or options.get("norm")
        return norm if self.eps == "radius" and norm in NORMS else None

    def limits(self, options: Mapping[str, Any]) -> Range | None:
        """Smallest and largest value of a result, with these options of the attack; None for no limits."""
        return self.bounds or checks.limits(options.get("bounds"))

    def check_eps(self, eps: float, options: Mapping[str, Any], size: int | None, within: Range | None = None) -> None:
        """Raises ValueError for an eps that is out of range, or beyond all that lies within the bounds.

        Args:
            eps: of the attack.
            options: of the attack, those that have defaults too.
            size: number of values of a sample; None where it is not known.
            within: what the inputs span, where that is known, for an attack without bounds.
        """
        checks.strength(eps, eps_max=self.eps_max)
        bounds, norm = self.limits(options) or within, "linf" if self.eps == "size" else self.ball(options)
        if bounds is not None and norm is not None:
            check_eps(eps, bounds, norm, size)


def promises(
    eps: EpsMeaning, *, norm: Norm | None = None, bounds: Range | None = None, eps_max: float = math.inf, **old: float
) -> Callable[[AttackFunction], AttackFunction]:
    """A decorator for an attack, which is then held to what it promises: see `Promise` for the arguments, and `held`.

    Example:
        >>> @promises("radius", norm="linf")
        ... def brighter(net, x, y, *, eps, generator=None, bounds=(0.0, 1.0)):
        ...     return x + 2 * eps
        >>> brighter(None, torch.zeros(1, 3), [0], eps=0.25)
        Traceback (most recent call last):
        sj_cka.attacks.promise.BrokenPromise: brighter: expected a result within eps 0.25 of its input (linf), got 0.5
    """
    if old:
        raise TypeError(f"expected norm, bounds and eps_max, which was most before, got {', '.join(old)}")
    return lambda function: held(function, Promise(eps, norm, bounds, eps_max))


def promise_of(attack: AttackFunction) -> Promise:
    """What an attack promises; of one that does not say so, a ball where it has an option `norm`, else bounds alone."""
    told: Promise | None = getattr(attack, "promise", None)
    if told is not None:
        return told
    return Promise("radius" if "norm" in inspect.signature(attack).parameters else "unknown")


def held(attack: AttackFunction, promise: Promise | None = None) -> AttackFunction:
    """An attack that gets copies of its inputs, and whose result is looked at before it is given away.

    Before it runs: eps is a number that means something within the bounds; inputs are finite, and where they are a
    rounding outside the bounds they are taken as at the bound (`checks.continuous`); labels become a tensor; and
    torch.inference_mode is left, in which there are no gradients. At eps 0 it does not run: the result is x, bit for
    bit. After it: shape, type and device are those of the
    inputs, all values finite and within the bounds, no sample farther than eps where eps is a radius, and the inputs
    that the attack was given are as they were. It costs a few passes over the inputs, less than one of the network.

    Args:
        attack: `attack(net, x, y, *, eps, generator=None, **options) -> x_adv`; one that is held already stays itself.
        promise: what it is held to; None for `promise_of`.

    Raises:
        ValueError: arguments that are none. BrokenPromise: the result is not as promised. Both when it is called.
    """
    if hasattr(attack, "promise"):
        return attack
    signature, terms = inspect.signature(attack), promise or promise_of(attack)
    called = getattr(attack, "__name__", type(attack).__name__)

    @functools.wraps(attack)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        given = _options(call)
        (_, net), (x_name, x), (y_name, y) = list(call.arguments.items())[:3]
        checks.strength(given["eps"], eps_max=terms.eps_max)
        axis, limits = sample_axis(net), terms.limits(given)
        with differentiable():
            y = checks.labels(x, y, axis)
            terms.check_eps(given["eps"], given, x.numel() // x.shape[axis])
            inputs = x.detach()
            if x.is_floating_point() or terms.eps in ("radius", "size"):
                inputs = checks.continuous(inputs, limits)
            if limits is not None and terms.eps in ("radius", "size"):
                check_scale(inputs, limits)
            if given["eps"] == 0 and terms.eps != "unknown":
                return inputs.clone()
            call.arguments[x_name], call.arguments[y_name] = inputs.clone(), y.clone()
            made = attack(*call.args, **call.kwargs)
            if not torch.equal(call.arguments[x_name], inputs):
                raise BrokenPromise(f"{called}: expected the given inputs to stay as they are, the attack changed them")
            _check(called, inputs, made, axis, float(given["eps"]), terms.ball(given), limits)
        return made

    run.promise = terms  # type: ignore[attr-defined]
    return run


def _options(call: inspect.BoundArguments) -> dict[str, Any]:
    """All arguments of a call by name, those of a `**options` among them."""
    found = dict(call.arguments)
    for name, parameter in call.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= found.pop(name)
    return found


def _check(name: str, x: Tensor, made: Tensor, axis: int, eps: float, norm: Norm | None, limits: Range | None) -> None:
    if not isinstance(made, Tensor) or (made.shape, made.dtype, made.device) != (x.shape, x.dtype, x.device):
        got = f"{made.dtype} {list(made.shape)} on {made.device}" if isinstance(made, Tensor) else type(made).__name__
        raise BrokenPromise(f"{name}: expected a result like x, {x.dtype} {list(x.shape)} on {x.device}, got {got}")
    found = range_of(made)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise BrokenPromise(f"{name}: expected a result of finite numbers, got NaN or infinity")
    if limits is not None and not limits.holds(found, x.dtype):
        raise BrokenPromise(f"{name}: expected a result within bounds {limits}, got {found}")
    if norm is None:
        return
    # halves are too coarse to measure what they hold
    wide = torch.promote_types(x.dtype, torch.float32)
    delta = (made.to(wide) - x.to(wide)).movedim(axis, 0).flatten(1)
    if norm == "linf":
        far = float(delta.abs().amax())
    else:
        far = float(torch.linalg.vector_norm(delta, dim=1, dtype=torch.float64).amax())
    largest = max(abs(found.low), abs(found.high))
    if far > eps + rounding(eps, largest, norm, delta.shape[1], x.dtype):
        raise BrokenPromise(f"{name}: expected a result within eps {eps:g} of its input ({norm}), got {far:g}")


def rounding(eps: float, largest: float, norm: Norm, size: int, dtype: torch.dtype) -> float:
    """How far beyond eps the sum x + delta of a delta inside the ball may come to lie, in units of x.

    With u half a unit in the last place of 1: the sum is rounded by u times its size, eps and delta by u each, and so
    is their difference when it is measured. An L2 norm of D values, by which an attack divides, is off by u (D + 2) / 2
    of itself at most, and the roundings of a sum by the root of D times that of one value. Taken twice, for second
    orders.

    Args:
        eps: radius.
        largest: absolute value of x + delta.
        norm: of the radius.
        size: number of values of a sample, D.
        dtype: of x.
    """
    u = torch.finfo(dtype).eps / 2
    if norm == "linf":
        return 2 * u * (largest + 3 * eps)
    # halves are summed in single precision
    sums = min(u, torch.finfo(torch.float32).eps / 2) * (size + 2) / 2
    return 2 * (u * largest * math.sqrt(size) + (sums + 3 * u) * eps)
