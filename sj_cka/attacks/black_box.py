"""Attacks without gradients, by what a network answers: Square, and by its class alone, Boundary and HopSkipJump."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sj_cka.attacks import checks
from sj_cka.attacks.ascent import unit
from sj_cka.attacks.measure import within
from sj_cka.attacks.promise import promises
from sj_cka.attacks.victim import Victim, attacked, margin
from sj_cka.ranges import NORMS, UNIT, Norm, Range, clipped

# iterations out of 10,000 after which p is halved, as in the authors' code
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@promises("radius", norm="linf")
def square(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator | None = None,
    queries: int = 1000,
    p_init: float = 0.05,
    bounds: checks.Bounds = (0.0, 1.0),
) -> Tensor:
    """The Square attack, L-inf (Andriushchenko et al. 2020, ECCV, algorithms 1 and 2).

    It starts with vertical stripes of +-eps, one sign for each channel and column. Then each query sets a random window
    of `side(...)` pixels to +-eps, one sign for each channel, and keeps it where the margin, the label's logit minus
    the best other one, gets strictly smaller. So every value is x +- eps, clipped to the bounds. Each image has windows
    of its own; one that is classified wrong is asked no more, and one that was from the start is returned as it is.

    Differences to the authors' code: the query that finds out whether an image is classified right counts; a window
    reaches the last row and column too; and where it would change nothing all its signs are flipped, instead of drawn
    again until it does. Frames have a sign for each step and channel, and one window for all steps.

    Args:
        net: from inputs in attack units to logits `[N, classes]`, e.g. `pixel_model(...)`; run in evaluation mode and
            left as it was.
        x: images `[N, C, H, W]`, or frames `[T, N, C, H, W]` where `net.sample_axis` is 1; floating point.
        y: labels `[N]`.
        eps: radius in units of x, from 0; 0 gives x itself, bit for bit.
        generator: what stripes and windows are drawn from, on the CPU; None for a new one, seeded 0. As much is drawn
            for images that are asked no more, so that no image changes another's windows.
        queries: forward passes of an image at most, from 2.
        p_init: share of the pixels in the first windows, above 0 and up to 1; halved at set times.
        bounds: smallest and largest value of an input, which is clipped to them; None for none.

    Returns:
        Inputs like x.

    Raises:
        ValueError: an argument out of range, or inputs that are no images.
    """
    limits = checks.limits(bounds)
    checks.whole("queries", queries, least=2)
    if checks.number("p_init", p_init, most=1.0) == 0:
        raise ValueError("expected p_init above 0, got 0")
    generator = checks.own(generator)
    with attacked(net, x, y, limits) as victim, torch.no_grad():
        if victim.x.ndim < 4:
            raise ValueError(f"expected images [N, C, H, W] or frames [T, N, C, H, W], got shape {tuple(x.shape)}")
        return victim.as_given(_searched(victim, eps, limits, generator, queries, p_init))


def _searched(
    victim: Victim, eps: float, limits: Range | None, generator: Generator, queries: int, p_init: float
) -> Tensor:
    """The images of the smallest margins that are found, `[N, ...]`."""
    x = victim.x
    H, W = x.shape[-2:]
    N, C = len(x), x[0].numel() // (H * W)

    def made(signs: Tensor, chosen: Tensor) -> Tensor:
        return clipped(x[chosen] + eps * signs.view(-1, *x.shape[1:]), limits)

    def margins(images: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = victim.logits(images), victim.y[chosen]
        return -margin(logits, labels), logits.argmax(1) == labels

    alive = margins(x, torch.arange(N, device=x.device))[1].nonzero().squeeze(1)
    best = x.clone()
    signs = _signs((N, C, 1, W), generator).to(x).expand(N, C, H, W).clone()
    smallest = x.new_full((N,), torch.inf)
    for i in range(queries - 1):
        if len(alive) == 0:
            break
        tried = signs[alive]
        if i > 0:
            windows, drawn = _windows(N, C, H, W, side(i - 1, queries, p_init, H, W), generator)
            windows, drawn = windows.to(x.device)[alive], drawn.to(x)[alive]
            tried = torch.where(windows, drawn, tried)
            same = made(tried, alive).eq(best[alive]).flatten(1).all(1).view(-1, 1, 1, 1)
            tried = torch.where(windows & same, -drawn, tried)
        images = made(tried, alive)
        values, right = margins(images, alive)
        better = values < smallest[alive]
        kept = alive[better]
        signs[kept], best[kept], smallest[kept] = tried[better], images[better], values[better]
        alive = alive[right | ~better]
    return best


def side(i: int, queries: int, p_init: float, H: int, W: int) -> int:
    """Side of the square window in pixels, of iteration i = 0, 1, ... of an attack with so many queries.

    It covers a share p of the pixels. p is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 iterations of
    10,000, at other numbers of queries in proportion.

    Example:
        >>> [side(i, 10_000, 0.05, 32, 32) for i in (0, 11, 51, 201)]
        [7, 5, 4, 3]
    """
    done = int(i / queries * 10_000)
    p = p_init / 2 ** sum(done > after for after in _HALVED_AFTER)
    return min(max(round(math.sqrt(p * H * W)), 1), H, W)


def _signs(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator) * 2 - 1


def _windows(N: int, C: int, H: int, W: int, s: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Which pixels are in the window of each image, [N, 1, H, W], and the signs of its channels, [N, C, 1, 1]."""
    top = torch.randint(H - s + 1, (N, 1), generator=generator)
    left = torch.randint(W - s + 1, (N, 1), generator=generator)
    rows, columns = torch.arange(H), torch.arange(W)
    inside_rows = (rows >= top) & (rows < top + s)
    inside_columns = (columns >= left) & (columns < left + s)
    window = inside_rows.view(N, 1, H, 1) & inside_columns.view(N, 1, 1, W)
    return window, _signs((N, C, 1, 1), generator)


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
