"""Surrogate gradients by name: SpikingJelly's functions, and for the fused neurons their gradients, in place.

A spike is H(d) at d = h - v_threshold, and the derivative of the step H is replaced by g (Neftci et al. 2019, IEEE
Signal Processing Magazine 36(6), 51-63). The shapes are those of `spikingjelly.activation_based.surrogate`, [.] is 1
where the condition holds, else 0:

    sigmoid                   alpha sigma(alpha d) (1 - sigma(alpha d))
    atan                      (alpha / 2) / (1 + (pi/2 alpha d)^2)
    piecewise_quadratic       max(0, alpha - alpha^2 |d|)
    piecewise_exp             (alpha / 2) exp(-alpha |d|)
    soft_sign                 1 / (2 alpha (1 / alpha + |d|)^2)
    super_spike               alpha / (1 + |d|)^2
    nonzero_sign_log_abs      1 / (1 / alpha + |d|)
    erf                       (alpha / sqrt(pi)) exp(-(alpha d)^2)
    rect                      alpha [|d| < 1 / (2 alpha)]
    q_pseudo_spike            (1 + 2 |d| / (alpha - 1))^-alpha
    fake_numerical_gradient   min(1 / |d|, alpha)
    log_tailed_relu           alpha for d <= 0, 1 up to d = 1, then 1 / d
    s2nn                      alpha sigma(alpha d) (1 - sigma(alpha d)) for d < 0, else beta / (1 + d)
    piecewise_leaky_relu      1 / (2 w) for |d| < w, else c
    leaky_k_relu              k for d >= 0, else leak
    squarewave_fourier_series (4 / T_period) sum over i = 1 .. n - 1 of cos((2 i - 1) 2 pi d / T_period)
    deterministic_pass        1
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor

from sj_cka.plugins import OptionError, check_option

SurrogateName = Literal[
    "sigmoid",
    "atan",
    "piecewise_quadratic",
    "piecewise_exp",
    "soft_sign",
    "super_spike",
    "nonzero_sign_log_abs",
    "erf",
    "rect",
    "q_pseudo_spike",
    "fake_numerical_gradient",
    "log_tailed_relu",
    "s2nn",
    "piecewise_leaky_relu",
    "leaky_k_relu",
    "squarewave_fourier_series",
    "deterministic_pass",
]

# gradient(past, into, d, out): out <- past + into g(d), elementwise; d is overwritten, past and into are not
Gradient = Callable[[Tensor, Tensor, Tensor, Tensor], None]


class Surrogate(NamedTuple):
    """SpikingJelly's class, and its gradient, whose keywords are attributes of the class."""

    kind: type[surrogate.SurrogateFunctionBase]
    gradient: Callable[..., None]


def _sigmoid(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    d.mul_(alpha).sigmoid_()
    torch.ops.aten.sigmoid_backward.grad_input(into, d, grad_input=d)  # into sigma (1 - sigma)
    torch.add(past, d, alpha=alpha, out=out)


def _atan(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcmul(d.new_ones(()), d, d, value=(math.pi / 2 * alpha) ** 2, out=d)
    torch.addcdiv(past, into, d, value=alpha / 2, out=out)


def _piecewise_quadratic(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcmul(past, into, d.abs_().mul_(-(alpha**2)).add_(alpha).clamp_(min=0.0), out=out)


def _piecewise_exp(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcmul(past, into, d.abs_().mul_(-alpha).exp_(), value=alpha / 2, out=out)


def _soft_sign(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcdiv(past, into, d.abs_().add_(1 / alpha).pow_(2), value=1 / (2 * alpha), out=out)


def _super_spike(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcdiv(past, into, d.abs_().add_(1.0).pow_(2), value=alpha, out=out)


def _nonzero_sign_log_abs(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcdiv(past, into, d.abs_().add_(1 / alpha), out=out)


def _erf(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcmul(past, into, d.mul_(alpha).pow_(2).neg_().exp_(), value=alpha / math.sqrt(math.pi), out=out)


def _rect(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcmul(past, into, d.abs_().lt_(0.5 / alpha), value=alpha, out=out)


def _q_pseudo_spike(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcmul(past, into, d.abs_().mul_(2 / (alpha - 1)).add_(1.0).pow_(-alpha), out=out)


def _fake_numerical_gradient(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    torch.addcmul(past, into, d.abs_().reciprocal_().clamp_(max=alpha), out=out)


def _log_tailed_relu(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float) -> None:
    tail = d.clamp(min=1.0).reciprocal_()
    torch.addcmul(past, into, tail.add_(d.le_(0.0), alpha=alpha - 1.0), out=out)


def _s2nn(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, alpha: float, beta: float) -> None:
    # Each branch is exactly 0 where the other one counts; `where` takes ten times as long.
    below = torch.lt(d, 0.0, out=torch.empty_like(d))
    above = d.clamp(min=0.0).add_(1.0).reciprocal_().sub_(below)
    d.mul_(alpha).sigmoid_()
    d.addcmul_(d, d, value=-1.0).mul_(below).mul_(alpha).add_(above, alpha=beta)
    torch.addcmul(past, into, d, out=out)


def _piecewise_leaky_relu(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, w: float, c: float) -> None:
    torch.addcmul(past, into, d.abs_().lt_(w).mul_(1 / (2 * w) - c).add_(c), out=out)


def _leaky_k_relu(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, leak: float, k: float) -> None:
    torch.addcmul(past, into, d.ge_(0.0).mul_(k - leak).add_(leak), out=out)


def _squarewave_fourier_series(past: Tensor, into: Tensor, d: Tensor, out: Tensor, *, n: int, T_period: float) -> None:
    cosines = torch.zeros_like(d)
    for i in range(1, n):
        cosines += torch.mul(d, (2 * i - 1) * 2 * math.pi / T_period).cos_()
    torch.addcmul(past, into, cosines, value=4 / T_period, out=out)


def _deterministic_pass(past: Tensor, into: Tensor, d: Tensor, out: Tensor) -> None:
    torch.add(past, into, out=out)


SURROGATES: dict[SurrogateName, Surrogate] = {
    "sigmoid": Surrogate(surrogate.Sigmoid, _sigmoid),
    "atan": Surrogate(surrogate.ATan, _atan),
    "piecewise_quadratic": Surrogate(surrogate.PiecewiseQuadratic, _piecewise_quadratic),
    "piecewise_exp": Surrogate(surrogate.PiecewiseExp, _piecewise_exp),
    "soft_sign": Surrogate(surrogate.SoftSign, _soft_sign),
    "super_spike": Surrogate(surrogate.SuperSpike, _super_spike),
    "nonzero_sign_log_abs": Surrogate(surrogate.NonzeroSignLogAbs, _nonzero_sign_log_abs),
    "erf": Surrogate(surrogate.Erf, _erf),
    "rect": Surrogate(surrogate.Rect, _rect),
    "q_pseudo_spike": Surrogate(surrogate.QPseudoSpike, _q_pseudo_spike),
    "fake_numerical_gradient": Surrogate(surrogate.FakeNumericalGradient, _fake_numerical_gradient),
    "log_tailed_relu": Surrogate(surrogate.LogTailedReLU, _log_tailed_relu),
    "s2nn": Surrogate(surrogate.S2NN, _s2nn),
    "piecewise_leaky_relu": Surrogate(surrogate.PiecewiseLeakyReLU, _piecewise_leaky_relu),
    "leaky_k_relu": Surrogate(surrogate.LeakyKReLU, _leaky_k_relu),
    "squarewave_fourier_series": Surrogate(surrogate.SquarewaveFourierSeries, _squarewave_fourier_series),
    "deterministic_pass": Surrogate(surrogate.DeterministicPass, _deterministic_pass),
}
_PARAMETERS = {kind: (gradient, inspect.getfullargspec(gradient).kwonlyargs) for kind, gradient in SURROGATES.values()}


def gradient_of(function: torch.nn.Module) -> Gradient | None:
    """The gradient of one of SpikingJelly's surrogates with its parameters; None if it has to be left to autograd.

    That is any class not in the table (PoissonPass draws its spikes, MultiLevelSpikeCount counts them), a subclass,
    parameters that are tensors, and a surrogate that is not `spiking`.
    """
    gradient, names = _PARAMETERS.get(type(function), (None, []))
    if gradient is None or not function.spiking:
        return None
    values = {name: getattr(function, name) for name in names}
    if not all(isinstance(value, (int, float)) for value in values.values()):
        return None
    return _bound(gradient, tuple(values.items()))


@functools.cache
def _bound(gradient: Callable[..., None], values: tuple[tuple[str, float], ...]) -> Gradient:
    """One object for equal parameters, so that what is compiled for it can be found again."""
    return functools.partial(gradient, **dict(values))


def make_surrogate(name: str, alpha: float | None = None) -> surrogate.SurrogateFunctionBase:
    """One of SpikingJelly's surrogates.

    Args:
        name: a key of SURROGATES.
        alpha: its steepness. None: 6 for "sigmoid", which is the tanh surrogate of the paper's code, slope 1.5 at the
            threshold; SpikingJelly's default for the others. "log_tailed_relu" has 0 or more (the slope below the
            threshold), "q_pseudo_spike" more than 1, the others more than 0.

    Raises:
        ValueError: no such surrogate, an alpha outside its range, or one for a surrogate that has none.

    Example:
        >>> make_surrogate("erf", 3).alpha
        3.0
    """
    if name not in SURROGATES:
        raise OptionError("surrogate", f"expected surrogate {', '.join(SURROGATES)}; got {name!r}")
    kind = SURROGATES[name].kind
    if alpha is None:
        return kind(alpha=6.0) if name == "sigmoid" else kind()
    has_alpha = "alpha" in _PARAMETERS[kind][1]
    check_option(has_alpha, "alpha", f"no alpha, since surrogate {name!r} has none", alpha)
    low = {"log_tailed_relu": "alpha >= 0", "q_pseudo_spike": "alpha > 1"}.get(name, "alpha > 0")
    fits = alpha >= 0 if name == "log_tailed_relu" else alpha > (1 if name == "q_pseudo_spike" else 0)
    check_option(math.isfinite(alpha) and fits, "alpha", f"a finite {low} for surrogate {name!r}", alpha)
    return kind(alpha=float(alpha))
