"""Attacks that see no more than the class a network chooses: foolbox's Boundary and HopSkipJump."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.ascent import unit
from sj_cka.attacks.measure import within
from sj_cka.attacks.promise import promises
from sj_cka.attacks.victim import Victim, attacked
from sj_cka.ranges import NORMS, UNIT, Norm


@promises("radius", norm="l2", bounds=UNIT)
def boundary(
    net: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: Generator | None = None, steps: int = 1000
) -> Tensor:
    """The Boundary attack (Brendel et al. 2018, ICLR), as foolbox has it: a random walk along the border of the class.

    It looks for the misclassified input of smallest L2 distance. One that is farther than eps is no success, and the
    sample is returned as it is; so are samples that were classified wrong from the start. To see several eps at the
    price of one, take the largest and then `within`.

    Each sample starts from the nearest other input of the batch that the network takes for another class than its
    label (foolbox starts from noise, which a network often takes for one class). Where there is none, the sample is
    returned as it is, with a warning.

    Args:
        net: from inputs in attack units to logits `[N, classes]`, e.g. `pixel_model(...)`; run in evaluation mode and
            left as it was.
        x: inputs from 0 to 1, `[N, ...]`, or `[T, N, ...]` where `net.sample_axis` is 1.
        y: labels `[N]`.
        eps: largest L2 distance in units of x, from 0.
        generator: seeds foolbox's random numbers, which differ between CPU and GPU; None for a new one, seeded 0.
        steps: of the walk, from 1; a forward pass each, with one more at every tenth.

    Returns:
        Inputs like x.

    Raises:
        ValueError: an argument out of range. ImportError: foolbox is not there.
    """
    checks.whole("steps", steps)
    return _nearest(net, x, y, eps, "l2", generator, lambda attacks: attacks.BoundaryAttack(steps=steps))


@promises("radius", bounds=UNIT)
def hop_skip_jump(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    norm: Norm = "l2",
    steps: int = 20,
    evaluations: int = 100,
) -> Tensor:
    """HopSkipJump (Chen et al. 2020, IEEE S&P), by foolbox: gradients of the border, estimated from decisions.

    The step of each sample has the length that the paper gives it. (foolbox divides all of a batch by the norm of the
    batch's gradients together, so that steps are the shorter the more samples there are.) What counts as a success,
    where samples start and the other arguments: see `boundary`.

    Args:
        eps: largest distance in units of x and in the norm, from 0.
        norm: that is minimised.
        steps: from 1.
        evaluations: forward passes of the first estimate of a gradient, from 1; the i-th takes sqrt(i) times as many.

    Raises:
        ValueError: an argument out of range. ImportError: foolbox is not there.
    """
    checks.one_of("norm", norm, NORMS)
    checks.whole("steps", steps)
    checks.whole("evaluations", evaluations)

    def make(attacks: Any) -> Any:
        attack = attacks.HopSkipJumpAttack(steps=steps, initial_gradient_eval_steps=evaluations, constraint=norm)
        estimate = attack.approximate_gradients

        def of_each(*args: Any) -> Any:
            gradient = estimate(*args)
            return type(gradient)(unit(gradient.raw))

        attack.approximate_gradients = of_each
        return attack

    return _nearest(net, x, y, eps, norm, generator, make)


def _nearest(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: Norm,
    generator: Generator | None,
    make: Callable[[Any], Any],
) -> Tensor:
    """What a foolbox attack finds within eps of the samples that are classified right; the others as they are."""
    generator, foolbox = checks.own(generator), _foolbox()
    with attacked(net, x, y, UNIT) as victim, torch.no_grad():
        chosen, starts = _starts(victim)
        best = victim.x.clone()
        if len(chosen):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # put back with the network
            model = foolbox.PyTorchModel(_Classes(victim), bounds=UNIT, device=x.device)
            wanted = foolbox.criteria.Misclassification(victim.y[chosen])
            best[chosen] = make(foolbox.attacks).run(model, victim.x[chosen], wanted, starting_points=starts)
        return victim.as_given(within(victim.x, best, eps=eps, norm=norm))


def _starts(victim: Victim) -> tuple[Tensor, Tensor]:
    """The samples that are attacked, [M], and an input of another class for each, [M, ...]."""
    classes = victim.logits(victim.x).argmax(1)
    right = classes == victim.y
    other = classes.unsqueeze(0) != victim.y.unsqueeze(1)
    flat = victim.x.flatten(1)
    distances = torch.cdist(flat, flat).masked_fill(~other, torch.inf)
    there = other.any(1)
    lost = int((right & ~there).sum())
    if lost:
        warnings.warn(
            f"{lost} of {int(right.sum())} samples that are classified right have no other input in the batch to start "
            "from, since the network takes all for their class: they stay as they are; give larger batches",
            stacklevel=4,
        )
    chosen = (right & there).nonzero().squeeze(1)
    return chosen, victim.x[distances[chosen].argmin(1)]


class _Classes(nn.Module):
    """The victim as a module of foolbox's, which asks for one."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self._ask = victim.logits
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return self._ask(x)


def _foolbox() -> Any:
    try:
        with warnings.catch_warnings():
            # foolbox 3.3.4 imports a name that SciPy has moved
            warnings.simplefilter("ignore", DeprecationWarning)
            import foolbox
    except ImportError as error:
        raise ImportError(
            f"boundary and hop_skip_jump need foolbox, which cannot be imported ({error}): "
            "pip install 'sj-cka[attacks]' (it needs git beside it)"
        ) from error
    return foolbox
