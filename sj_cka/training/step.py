"""One step of a training: states reset, forward pass, gradients by a learning rule, update.

The forward pass runs in a layout in memory, in a precision, and compiled or not, as the settings say. On CUDA a whole
step can be one graph: the processor launches it once, in place of some thousand kernels.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sj_cka.plugins import OptionError
from sj_cka.recording import reset_states
from sj_cka.training.credit.rule import Rule
from sj_cka.training.device_loader import check_labels
from sj_cka.training.distributed import sum_gradients
from sj_cka.training.evaluation import class_scores
from sj_cka.training.learning_rules import LearningRule, Preset, named_rule
from sj_cka.training.settings import Settings

_log = logging.getLogger("sj_cka")
_WARM_UP = 3  # real steps before a capture, in which libraries choose kernels and constants are made
# sides of images from which channels-last convolutions are the faster ones on the CPU: benchmarks/training.py
_CHANNELS_LAST_FROM = 16


class Step:
    """`step(x, y, size)` trains the network on a batch and gives its mean loss, a tensor.

    `sums` holds, since `begin_epoch`, the sum over images of their losses and the number of right ones, float64 `[2]`.

    Where it is `deferred`, nothing in a step waits for the device or is decided on the processor, so that a CUDA graph
    can hold all of it: the learning rate is a tensor, SGD is fused, which leaves it to the device whether gradients in
    half precision overflowed, and momentum begins as zeros (fused SGD takes what lies in memory, if the first step
    overflows). Numbers differ from those of the other way by rounding alone.

    Args:
        network: on its device.
        settings: see there.
        deferred: None: on CUDA.
    """

    def __init__(self, network: nn.Module, settings: Settings, deferred: bool | None = None) -> None:
        self.network, self.settings = network, settings
        self.device = next(network.parameters()).device
        self.forward: Callable[[Tensor], Tensor] = network
        self.deferred = self.device.type == "cuda" if deferred is None else deferred
        self.classes: int | None = None  # known with the first logits
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        rate: Any = torch.tensor(settings.lr, device=self.device) if self.deferred else settings.lr
        self.options = {"lr": rate, "fused": True if self.deferred else None}
        self.optimiser = torch.optim.SGD(_groups(network, settings), momentum=settings.momentum, **self.options)
        self.scaler = self.new_scaler()
        rule, options = named_rule(settings.rule)
        _check_rule(rule, options, settings)
        self.rule = functools.partial(rule, network, **options)
        self.capturable: bool = getattr(rule, "capturable", False)

    def new_scaler(self) -> torch.amp.GradScaler:
        """A scaler of gradients as at the beginning, which does nothing but in fp16."""
        enabled = self.settings.autocast_dtype(self.device) == torch.float16
        return torch.amp.GradScaler(self.device.type, enabled=enabled)

    def begin_epoch(self) -> None:
        """Sets the sums to zero."""
        self.sums.zero_()

    def set_rate(self, lr: float) -> None:
        """The learning rate of the steps that follow."""
        if self.deferred:
            self.options["lr"].fill_(lr)
        else:
            for group in self.optimiser.param_groups:
                group["lr"] = lr

    def __call__(self, x: Tensor, y: Tensor, size: int, look: Callable[[Tensor], None] | None = None) -> Tensor:
        """One step.

        Args:
            x: as the network takes it.
            y: labels `[N]`.
            size: N, of all processes together.
            look: called with the loss before any weight is changed.

        Raises:
            ValueError: in the first step, labels outside the network's classes.
            RuntimeError: the learning rule leaves no gradient.
        """
        logits, loss = self.gradients(x, y, size, look)
        sum_gradients(self.network)
        if self.settings.clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        hits = (class_scores(logits.detach()).argmax(1) == y).sum()
        self.sums += torch.stack([loss.double() * size, hits.double()])
        return loss

    def gradients(
        self, x: Tensor, y: Tensor, size: int, look: Callable[[Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Leaves the gradients of a batch, as the learning rule has them; gives logits and loss. Arguments of a step.

        Raises:
            ValueError: the learning rule does not go with the network, or labels outside its classes.
            RuntimeError: the learning rule leaves no gradient.
        """
        reset_states(self.network)
        self.optimiser.zero_grad(set_to_none=True)
        mean_loss = functools.partial(self._loss, size=size)
        logits, loss = self.rule(x, y, forward=self._logits, loss=mean_loss, scale=self.scaler.scale)
        loss = loss.detach()
        if look is not None:
            look(loss)
        if all(parameter.grad is None for parameter in self.network.parameters()):
            raise RuntimeError(f"expected the learning rule {self.settings.rule} to leave gradients, it left none")
        return logits, loss

    def _logits(self, x: Tensor) -> Tensor:
        with autocast(self.settings, self.device):
            return self.forward(x)

    def _loss(self, logits: Tensor, y: Tensor, size: int) -> Tensor:
        if self.classes is None:
            check_labels(y, logits.shape[-1])
            self.classes = logits.shape[-1]
            self._begin_momentum()
        return summed_loss(logits, y, self.settings.loss) / size

    def _begin_momentum(self) -> None:
        """Gives momentum the layout of the weights in memory, which is settled with the first batch."""
        if not self.deferred or not self.settings.momentum:
            return
        for parameter in (p for group in self.optimiser.param_groups for p in group["params"]):
            state = self.optimiser.state[parameter]
            momentum = state.get("momentum_buffer")
            state["momentum_buffer"] = new = torch.zeros_like(parameter)
            if momentum is not None:
                new.copy_(momentum)

    def state_dict(self) -> dict[str, Any]:
        """Of the optimiser and the scaler."""
        return {"optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, of another device too."""
        self.optimiser.load_state_dict(state["optimiser"])
        for group in self.optimiser.param_groups:
            group.update(self.options)
        self.scaler.load_state_dict(state["scaler"])


def _check_rule(rule: LearningRule, options: Mapping[str, Any], settings: Settings) -> None:
    """Raises OptionError where a learning rule does not go with other settings."""
    made = rule.rule(**options) if isinstance(rule, Preset) else None
    if made is None or made == Rule():
        return
    if made.per_step and settings.loss != "tet":
        raise OptionError(
            "loss",
            f'expected loss "tet", the mean of that of every step, for a rule that learns step by step ({made.time}); '
            f'got "{settings.loss}"',
        )
    if settings.compile:
        raise OptionError(
            "compile", f"expected no compile for a learning rule that looks into layers, got {made.space} x {made.time}"
        )


def summed_loss(logits: Tensor, y: Tensor, kind: str) -> Tensor:
    """Sum over the images of their loss, "mean" or "tet": see `Settings`."""
    logits = logits.float()  # also under autocast
    if kind == "tet" and logits.ndim == 3:
        T = len(logits)
        return nn.functional.cross_entropy(logits.flatten(0, 1), y.repeat(T), reduction="sum") / T
    return nn.functional.cross_entropy(class_scores(logits), y, reduction="sum")


def _groups(network: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Parameters with the weight decay of each."""
    named = [p for p in network.parameters() if p.requires_grad]
    if settings.decay == "all":
        return [{"params": named, "weight_decay": settings.weight_decay}]
    parts = [p for p in named if p.ndim > 1], [p for p in named if p.ndim <= 1]
    return [
        {"params": part, "weight_decay": decay}
        for part, decay in zip(parts, (settings.weight_decay, 0.0), strict=True)
        if part
    ]


class GraphStep:
    """`step(x, y, size)` as `Step`, captured after three steps and replayed for every batch of the same shape.

    A batch of another shape (a shorter last one) runs as it is. So do all where the step cannot be captured, because
    something in the network waits for the device, say: the reason is logged. What a network draws at random it draws
    anew in each replay; what it decides on the processor is decided once, at the capture.

    Must be called in `on_side_stream`, with nothing on another stream that a step reads or writes.

    Args:
        step: deferred.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.before = _WARM_UP
        self.graph: torch.cuda.CUDAGraph | None = None
        self.refused = False

    def __call__(self, x: Tensor, y: Tensor, size: int, look: Callable[[Tensor], None] | None = None) -> Tensor:
        if self.refused or look is not None:
            return self.step(x, y, size, look)
        if self.graph is None:
            if self.before > 0:
                self.before -= 1
                return self.step(x, y, size)
            self._capture(x, y, size)
        if self.graph is None or (x.shape, y.shape, size) != (self.x.shape, self.y.shape, self.size):
            return self.step(x, y, size)
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.loss.clone()

    def _capture(self, x: Tensor, y: Tensor, size: int) -> None:
        self.x, self.y, self.size = x.clone(), y.clone(), size
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
                self.loss = self.step(self.x, self.y, size)
        except Exception as error:  # whatever a network does that a graph cannot hold
            self.refused = True
            reason = " ".join(str(error).split("\n\n")[0].split())
            _log.warning("the training step was not captured as a CUDA graph and runs as it is: %s", reason)
            self._put_back()
        else:
            self.graph = graph

    def _put_back(self) -> None:
        """Nothing of a broken capture ran on the device; what it left on the processor goes."""
        step = self.step
        step.optimiser.zero_grad(set_to_none=True)
        scale = step.scaler.state_dict()
        step.scaler = step.new_scaler()
        step.scaler.load_state_dict(scale)
        reset_states(step.network)


@contextmanager
def on_side_stream(device: torch.device) -> Iterator[None]:
    """Runs what stands inside on a CUDA stream of its own, after all before it and before all after it."""
    outside = torch.cuda.current_stream(device)
    side = torch.cuda.Stream(device)
    side.wait_stream(outside)
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        outside.wait_stream(side)


def channels_last(settings: Settings, image: Tensor, device: torch.device) -> bool:
    """Whether images and convolutions lie in memory channel by channel of a pixel, which "auto" takes where it pays.

    That is on CUDA, and on the CPU from 16 pixels a side.

    Args:
        image: one as the network is given it, `[C, H, W]` if it is one.
    """
    if settings.layout != "auto" or image.ndim != 3:
        return settings.layout == "channels_last"
    return device.type == "cuda" or min(image.shape[-2:]) >= _CHANNELS_LAST_FROM


@contextmanager
def in_layout(network: nn.Module, settings: Settings, device: torch.device) -> Iterator[Callable[[Tensor], Tensor]]:
    """Lays the network out in memory as settings say, and back at the end; yields what does so with images."""
    chosen: list[bool] = []

    def as_laid_out(x: Tensor) -> Tensor:
        if not chosen:
            chosen.append(channels_last(settings, x[0, 0] if x.ndim == 5 else x[0], device))
            if chosen[0]:
                _lay_out(network, torch.channels_last)
        if not chosen[0] or x.ndim not in (4, 5):
            return x
        images = x.flatten(0, 1) if x.ndim == 5 else x  # frames of recordings
        return images.contiguous(memory_format=torch.channels_last).view(x.shape)

    try:
        yield as_laid_out
    finally:
        if chosen and chosen[0]:
            _lay_out(network, torch.contiguous_format)


def _lay_out(network: Any, layout: torch.memory_format) -> None:
    network.to(memory_format=layout)


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of the forward pass."""
    dtype = settings.autocast_dtype(device)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def check_precision(network: nn.Module, settings: Settings, device: torch.device) -> None:
    """Raises ValueError where the network's neurons cannot compute in the settings' precision."""
    if settings.autocast_dtype(device) == torch.bfloat16 and device.type == "cuda":
        named = [name for name, module in network.named_modules() if getattr(module, "backend", None) == "cupy"]
        if named:
            raise ValueError(
                f"expected precision fp16 or float32, since the CuPy kernels of {named[0]!r} know no bf16; for bf16 "
                'take another backend of the neurons, e.g. "triton"'
            )


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network's forward, compiled at its first call."""
    optimised: Any = torch.compile(network)

    def forward(x: Tensor) -> Tensor:
        try:
            logits: Tensor = optimised(x)
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).strip().splitlines()[0]
                raise RuntimeError(
                    f"train.compile: torch.compile cannot compile {type(network).__name__} here ({reason}): leave it "
                    "out"
                ) from error
            raise
        return logits

    return forward
