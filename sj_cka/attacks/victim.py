"""A network while it is attacked: in evaluation mode, differentiable, its samples on axis 0; then as it was before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sj_cka.attacks import checks
from sj_cka.ranges import Range
from sj_cka.recording import keep_gradients, preserved, reset_states

Loss = Callable[[Tensor, Tensor], Tensor]


class NoGradient(RuntimeError):
    """An attack needs the gradient of a network's loss with respect to its input, and there is none to follow."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample, `[N]`."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The best other class's logit minus that of the label, `[N]`; above 0 where a sample is classified wrong.

    Its gradient does not fade where the network is sure of itself, as that of cross-entropy does (Carlini & Wagner
    2017, IEEE S&P).
    """
    own = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1) - own


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}


class Slope(NamedTuple):
    """Losses [N], their gradient with respect to the inputs [N, ...], and which samples are classified right, [N].

    `finite` says of which samples the gradient is, `[N]`: away from the CPU it is the caller's to check, once.

    Losses still have their graph, so that what is kept of them is to be detached.
    """

    losses: Tensor
    gradient: Tensor
    right: Tensor
    finite: Tensor


def check_finite(finite: Tensor) -> None:
    """Raises NoGradient unless the gradients of all samples are finite."""
    if not bool(finite.all()):
        raise NoGradient(
            f"expected finite gradients, got NaN or infinity for {int((~finite).sum())} of {len(finite)} samples; a "
            "flatter surrogate at attack time (pgd_surrogates) or an attack without gradients (square) may do"
        )


class Victim(NamedTuple):
    """What `attacked` yields.

    Args:
        net: the network.
        axis: of the samples in its inputs.
        x: its inputs with samples first, `[N, ...]`, detached.
        y: labels `[N]`, on the device of x.
        largest: of the labels.
    """

    net: nn.Module
    axis: int
    x: Tensor
    y: Tensor
    largest: int

    def logits(self, x: Tensor) -> Tensor:
        """Logits `[N, classes]` of inputs `[N, ...]`, samples first; of a copy, on which a network may work in place.

        Raises:
            ValueError: the network gives anything else.
        """
        reset_states(self.net)
        logits: Tensor = self.net(x.clone().movedim(0, self.axis))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"expected a network that gives logits [N, classes] for N = {len(x)} samples, got {got}; "
                "sj_cka.attacks.pixel_model(net, ...) makes one of a network with time"
            )
        if self.largest >= logits.shape[1]:
            raise ValueError(f"expected labels below {logits.shape[1]}, the classes of the network, got {self.largest}")
        return logits

    @torch.no_grad()
    def right(self, x: Tensor) -> Tensor:
        """Which of inputs `[N, ...]` are classified right, `[N]`."""
        return self.logits(x).argmax(1) == self.y

    @torch.no_grad()
    def losses(self, x: Tensor, loss: Loss) -> Tensor:
        """The loss of each of inputs `[N, ...]`, `[N]`."""
        return loss(self.logits(x), self.y)

    def slope(self, x: Tensor, loss: Loss) -> Slope:
        """One forward and one backward pass; weights get no gradient.

        Raises:
            NoGradient: no path leads back to the input, or (on the CPU) the gradient is not finite.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self.logits(x)
            losses = loss(logits, self.y)
            gradient = torch.autograd.grad(losses.sum(), x, allow_unused=True)[0] if losses.requires_grad else None
        if gradient is None:
            raise NoGradient(
                f"expected a network with a gradient to its input, {type(self.net).__name__} has none: a step in it "
                "has no derivative or is detached; take an attack without gradients, e.g. square"
            )
        finite = gradient.isfinite().flatten(1).all(1)
        if x.device.type == "cpu":  # elsewhere a look at it would wait for the device
            check_finite(finite)
        # losses keep their graph, whose memory is free by now: without it glibc gives all memory of a pass back to the
        # system and asks for it anew in the next one, a sixth of the time of a spiking ResNet-20
        return Slope(losses, gradient, logits.detach().argmax(1) == self.y, finite)

    def as_given(self, x: Tensor) -> Tensor:
        """Inputs with samples first in the layout that the attack was given."""
        return x.movedim(0, self.axis).contiguous()


def sample_axis(net: object) -> int:
    """On which axis a network's samples lie: what it says itself (`pixel_model`), else 0."""
    return int(getattr(net, "sample_axis", 0))


@contextmanager
def at_rest(net: nn.Module) -> Iterator[None]:
    """A network in evaluation mode and without gradients of its weights, put back on leaving.

    What is put back: modes, buffers (so the statistics of batch normalisation), states of neurons, `requires_grad` of
    every parameter, and torch's random state.
    """
    learnt = [(p, p.requires_grad) for p in net.parameters()]
    with preserved(net):
        try:
            _evaluating(net)
            keep_gradients(net)
            for parameter, _ in learnt:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, flag in learnt:
                parameter.requires_grad_(flag)


def _evaluating(net: nn.Module) -> None:
    """Evaluation mode; ValueError where a network has no modes."""
    try:
        net.eval()
    except NotImplementedError as error:  # of torch.export
        raise ValueError(
            f"expected a network with training and evaluation mode, {type(net).__name__} has none ({error}): give the "
            "network that was exported"
        ) from error


def _check_usable(net: nn.Module) -> None:
    """Raises ValueError for a network whose gradient nobody can take, or whose state nobody can put back."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"expected a network, an nn.Module, got {type(net).__name__}")
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise ValueError(
            "expected a network of Python modules, got TorchScript, whose neurons and modes cannot be put back: give "
            "the network that was traced or scripted"
        )
    if not torch.is_inference_mode_enabled():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if tensor.is_inference():
                raise ValueError(
                    f"expected a network that was made outside torch.inference_mode, {name} was made in it and has no "
                    "gradient: build or load it outside"
                )


@contextmanager
def differentiable() -> Iterator[None]:
    """A place where gradients can be taken, also inside torch.inference_mode."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False):
        yield


@contextmanager
def attacked(net: nn.Module, x: Tensor, y: Tensor, bounds: Range | None) -> Iterator[Victim]:
    """A network at rest, with checked inputs and labels.

    Raises:
        ValueError: inputs that are not floating point, not finite or out of bounds, labels that do not fit, a network
            of other precision or on another device.
    """
    _check_usable(net)
    axis = sample_axis(net)
    y = checks.labels(x, y, axis)
    devices = [str(p.device) for p in net.parameters()]
    if devices and str(x.device) not in devices:
        raise ValueError(f"expected x on {devices[0]}, as the network, got it on {x.device}: x.to({devices[0]!r})")
    x = checks.continuous(x, bounds)
    with at_rest(net):
        wrong = next((p for p in net.parameters() if p.is_floating_point() and p.dtype != x.dtype), None)
        if wrong is not None and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"expected x of {wrong.dtype}, as the network's weights, got {x.dtype}")
        yield Victim(net, axis, x.detach().movedim(axis, 0), y.to(x.device), int(y.max()))
