"""The small things: a function a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Generator, Tensor, nn

from sj_cka.data import Images
from sj_cka.data.samples import fingerprint
from sj_cka.engine import Engine, do
from sj_cka.job import Job
from sj_cka.models.time_axis import OverTime, in_time
from sj_cka.plugins import OptionError
from sj_cka.store import Store
from sj_cka.training import LEARNING_RULES


def stripes(eps: float = 0.3, train: int = 48) -> Images:
    """Noisy images 1 x 8 x 6 of four classes: which pair of rows is bright.

    Args:
        eps: standard deviation of the noise.
        train: training images; there are 32 for testing.
    """
    if eps < 0:
        raise OptionError("eps", f"expected a standard deviation from 0, got {eps}")
    random, arrays = np.random.default_rng(0), []
    for count in (train, 32):
        y = np.arange(count) % 4
        x = random.normal(0.2, eps, size=(count, 1, 8, 6))
        x[np.arange(count), 0, 2 * y] += 0.6
        arrays += [x.clip(0, 1).astype(np.float32), y]
    x_train, y_train, x_test, y_test = map(torch.from_numpy, arrays)
    return Images(
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=4,
        fingerprint=fingerprint(arrays),
        mean=(0.3,),
        std=(0.3,),
    )


def dim(samples: Tensor, generator: Generator, *, least: float = 0.5) -> Tensor:
    """Images, each at a random part of its brightness, from `least` to 1."""
    brightness = least + (1 - least) * torch.rand(len(samples), 1, 1, 1, generator=generator)
    return samples * brightness.to(samples)


class TwoLayers(OverTime):
    """See `two_layers`."""

    axes = (4, 5)
    takes = "images [N, C, H, W], or steps of them [T, N, C, H, W]"

    def __init__(self, make: Callable[[], nn.Module], T: int | None, channels: int, classes: int, width: int) -> None:
        super().__init__(T, channels, classes)
        mode = "s" if T is None else "m"
        self.conv1 = layer.Conv2d(channels, width, 3, padding=1, step_mode=mode)
        self.lif1 = make()
        self.conv2 = layer.Conv2d(width, width, 3, padding=1, step_mode=mode)
        self.lif2 = make()
        self.fc = nn.Linear(width, classes)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        """Logits."""
        x = self.lif1(in_time(self.conv1(x), T))  # what no neuron has seen yet is the same at every step
        logits: Tensor = self.fc(self.lif2(self.conv2(x)).mean((-2, -1)))
        return logits


def two_layers(
    neuron: Callable[[], nn.Module], *, T: int | None, in_channels: int, num_classes: int, width: int = 8
) -> nn.Module:
    """Two convolutions and their neurons."""
    return TwoLayers(neuron, T, in_channels, num_classes, width)


def plain(*, v_threshold: float = 0.5, device: torch.device | str = "cpu") -> nn.Module:
    """SpikingJelly's integrate-and-fire neuron as it is."""
    return neuron.IFNode(v_threshold=v_threshold, step_mode="m")


def darken(net: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: Generator | None = None) -> Tensor:
    """Every pixel darker by eps."""
    return (x - eps).clamp(0, 1)


def overlap(x: Any, y: Any) -> Tensor:
    """Square of the cosine between centred Grams."""
    rows = [side.rows / side.rows.norm(dim=1, keepdim=True) for side in (x, y)]
    return (rows[0] @ rows[1].mT).square().double()


def signs(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    forward: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    scale: Callable[[Tensor], Tensor],
    size: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Backpropagation of which only the signs are kept, `size` each."""
    logits, value = LEARNING_RULES["bptt"](network, x, y, forward=forward, loss=loss, scale=scale)
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.grad = size * parameter.grad.sign()
    return logits, value


@contextmanager
def thread(store: Store, missing: Sequence[Job], workers: int | None) -> Iterator[Engine]:
    """One thread of this process."""
    with ThreadPoolExecutor(1, thread_name_prefix="stripes") as pool:

        def submit(job: Job) -> Future[None]:
            return pool.submit(do, job, store)

        yield Engine(submit, room=1)
