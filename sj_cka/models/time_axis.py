"""How the networks here meet time: an image is shown T times, frames are steps, a twin runs without either."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from sj_cka.models.coding import Encoder
from sj_cka.models.options import whole

MakeNeuron = Callable[[], nn.Module]


class OverTime(nn.Module):
    """A network over images or frames; a subclass has its modules, `T` and `layers`.

    `T` is the number of steps that an image is shown; None makes an artificial network, whose layers are in step mode
    "s". A spiking network's are in step mode "m" and see an image as one step until `in_time` shows it T times, in
    front of the first neuron: what lies before it does not change with time. Where it has an `encoder`, it sees the
    spikes that this makes of an image, in all its layers; frames it takes as they are.

    Args:
        T: see above.
        in_channels: channels of the input.
        num_classes: size of the output.

    Raises:
        OptionError: one of them is no whole number from 1.
    """

    axes: ClassVar[tuple[int, ...]] = (4, 5)  # an odd number of them: time is the first
    takes: ClassVar[str] = "images [N, C, H, W] or frames [T, N, C, H, W]"
    input_coding: Encoder | None  # see sj_cka.models.coding; None: an image is shown as it is

    def __init__(self, T: int | None, in_channels: int, num_classes: int) -> None:
        super().__init__()
        step_mode(T)
        whole("in_channels", in_channels, "the number of channels of the input, from 1")
        whole("num_classes", num_classes, "the number of classes, from 1")
        self.T = T
        self.register_module("input_coding", None)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[T, N, classes]`; of an artificial network `[N, classes]` for what comes without time.

        Args:
            x: images `[N, C, H, W]` or frames `[T, N, C, H, W]`.

        Raises:
            ValueError: input of another number of axes.
        """
        if x.ndim not in self.axes:
            raise ValueError(f"expected {self.takes}, got shape {tuple(x.shape)}")
        frames = x.ndim % 2 == 1
        if self.T is None:
            y = self.layers(x.flatten(0, 1) if frames else x, None)
            return y.unflatten(0, x.shape[:2]) if frames else y
        if self.input_coding is not None and not frames:
            x, frames = self.input_coding(x, self.T), True
        return self.layers(x, len(x)) if frames else self.layers(x.unsqueeze(0), self.T)

    def in_steps(self, x: Tensor) -> Tensor:
        """What `forward` takes as frames, `[T, N, ...]`: an image shown T times, without a copy, or its spikes.

        Raises:
            ValueError: an artificial network, which has no steps.
        """
        if x.ndim % 2 == 1:
            return x
        if self.T is None:
            raise ValueError("expected a spiking network for what goes step by step, got an artificial one")
        return x.unsqueeze(0).expand(self.T, *x.shape) if self.input_coding is None else self.input_coding(x, self.T)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        """All layers in turn.

        Args:
            x: `[N, ...]` where T is None, else T frames `[T, N, ...]` or an image that is to be shown, `[1, N, ...]`.
            T: number of steps; None without time.

        Returns:
            Logits, `[N, classes]` where T is None, else `[T, N, classes]`.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define layers")


class NeuronLayer(nn.Module):
    """Modules in turn, the last of them the neurons, which may feed their spikes back.

    Args:
        modules: name -> module, such as conv, bn and lif.
    """

    lays_out_time = True  # to sj_cka.recording: its output is that of the neurons, if need be step after step
    recurrent: Any  # see sj_cka.models.recurrence; None: nothing is fed back

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.register_module("recurrent", None)

    def forward(self, x: Tensor, T: int | None) -> Tensor:
        """What the neurons put out; x may still be without time, `[1, N, ...]`, where T is given."""
        *others, neuron = (module for module in self.children() if module is not self.recurrent)
        for module in others:
            x = module(x)
        x = in_time(x, T)
        return neuron(x) if self.recurrent is None else self.recurrent.over_time(neuron, x)


def in_time(x: Tensor, T: int | None) -> Tensor:
    """A tensor `[1, N, ...]` shown T times, without a copy; any other as it is."""
    return x.expand(T, *x.shape[1:]) if T is not None and x.shape[0] == 1 else x


def sum_frames(network: nn.Module) -> None:
    """Makes a network see the sum over time of what it is given, where that has time: frames `[T, N, ...]`.

    Those have an odd number of axes, see `OverTime`.
    """
    network.register_forward_pre_hook(_summed)


def _summed(network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    [x] = inputs
    return (x.sum(0) if x.ndim % 2 == 1 else x,)


def step_mode(T: int | None) -> str:
    """SpikingJelly's step mode of a network with T steps.

    Raises:
        OptionError: T out of range.
    """
    if T is None:
        return "s"
    time_steps(T)
    return "m"


def time_steps(T: Any) -> int:
    """A number of time steps.

    Raises:
        OptionError: T out of range.
    """
    return whole("T", T, "at least one time step, a whole number of them")
