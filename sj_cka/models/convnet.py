"""Plain convolutional networks in stages, spiking or artificial: a small one, and VGG for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from sj_cka.models.normalisation import Norm, check_norm, draw_unnormalised, normalised
from sj_cka.models.options import scaled, whole, wholes
from sj_cka.models.recurrence import Recurrent, add_recurrence, check_recurrent
from sj_cka.models.time_axis import MakeNeuron, NeuronLayer, OverTime, step_mode
from sj_cka.plugins import check_option

_VGG_STAGES = {
    5: ((64,), (128,), (256, 256)),
    9: ((64, 64), (128, 128), (256, 256), (512, 512)),
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


def convnet(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 3,
    num_classes: int = 10,
    channels: Sequence[int] = (16, 32),
    pools: int | None = None,
    recurrent: bool | Literal["elementwise"] = False,
    norm: Literal["batch", "step", "none"] = "batch",
) -> ConvNet:
    """A few layers for tests and small studies: 3x3 convolution, BN and neuron each, average over the image, Linear.

    A stage is one such layer and its 2x2 average pooling: `stage1.0.conv`, `.bn`, `.lif`, `stage1.pool`, `stage2.0...`
    The layout is a common one, of no paper. Parameters at the default channels, 3 input channels and 10 classes: 5,466;
    recurrent, 16,986.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that an image is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        channels: of each layer.
        pools: how many of the layers, from the first, have their pooling; None: all of them.
        recurrent: whether a layer feeds its spikes back: its neurons see x[t] + V s[t-1], V = `stage1.0.recurrent.v`.
            True: V is a 3x3 convolution of its feature map, "elementwise": one weight a channel; else as of `mlp`.
        norm: as of `mlp`.

    Returns:
        A network that takes images `[N, C, H, W]` or frames `[T, N, C, H, W]` and gives logits `[T, N, num_classes]`;
        an artificial one gives `[N, num_classes]` for images.

    Raises:
        OptionError: channels, pools, recurrent, norm or T out of range.
    """
    channels = wholes("channels", channels, "a list of the channels of one layer or more, each from 1", count=1)
    return ConvNet(
        neuron,
        T,
        in_channels,
        num_classes,
        [[after] for after in channels],
        pools,
        check_recurrent(recurrent),
        check_norm(norm),
    )


def vgg(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 3,
    num_classes: int = 10,
    depth: int = 11,
    width: float = 1.0,
    pools: int | None = None,
) -> ConvNet:
    """VGG (Simonyan & Zisserman 2015) as used on CIFAR: BN behind every 3x3 convolution, one Linear as classifier.

    Depths 11, 13 and 16 are configurations A, B and D of the paper, their three dense layers replaced by the average
    over the image and one Linear: 8, 10 and 13 convolutions in five stages. Depths 5 and 9 are smaller and count their
    weight layers as they are:

    - 5: 64 | 128 | 256, 256, and the Linear;
    - 9: 64, 64 | 128, 128 | 256, 256 | 512, 512, and the Linear.

    `|` is a 2x2 average pooling, and so is the end of the last stage (why the average: see `ConvNet`). Names:
    `stage1.0.conv`, `.bn`, `.lif`, `stage1.pool`. Parameters of depth 11 at 3 input channels and 10 classes: 9,228,362.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that an image is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        depth: 5, 9, 11, 13 or 16.
        width: factor on the channels, k / 64 from k = 1.
        pools: how many of the stages, from the first, have their pooling; None: all of them. Each halves the image: one
            of 8 x 8 bears three, one of 32 x 32 five.

    Returns:
        A network that takes images `[N, C, H, W]` or frames `[T, N, C, H, W]` and gives logits `[T, N, num_classes]`;
        an artificial one gives `[N, num_classes]` for images.

    Raises:
        OptionError: depth, width, pools or T out of range.
    """
    whole("depth", depth, f"one of {', '.join(map(str, _VGG_STAGES))}", among=_VGG_STAGES)
    factor = scaled(64, width)
    stages = [[channels // 64 * factor for channels in stage] for stage in _VGG_STAGES[depth]]
    return ConvNet(neuron, T, in_channels, num_classes, stages, pools)


class ConvNet(OverTime):
    """Stages of convolutions, the average over the image and one Linear; see `convnet` and `vgg`.

    Pooling is by the average. Of spikes it gives the firing rate of the window, so it is linear, as the convolution
    behind it, and does the same to the rates as to the twin's activations; the maximum would be 1 wherever any of four
    neurons spikes, and the maximum of spikes over time is not that of rates.
    """

    def __init__(
        self,
        neuron: MakeNeuron,
        T: int | None,
        in_channels: int,
        num_classes: int,
        stages: Sequence[Sequence[int]],
        pools: int | None,
        recurrent: Recurrent = False,
        norm: Norm = "batch",
    ) -> None:
        expected = f"a whole number, 0 to {len(stages)}, one for each stage at most"
        pools = len(stages) if pools is None else whole("pools", pools, expected, least=0)
        check_option(pools <= len(stages), "pools", expected, pools)
        super().__init__(T, in_channels, num_classes)
        self.pools = pools
        mode = step_mode(T)
        before = in_channels
        self._stages = [f"stage{i}" for i in range(1, len(stages) + 1)]
        for i, (name, channels) in enumerate(zip(self._stages, stages, strict=True)):
            self.add_module(name, Stage(neuron, mode, before, channels, i < self.pools, norm))
            before = channels[-1]
        self.avgpool = layer.AdaptiveAvgPool2d(1, step_mode=mode)
        self.fc = layer.Linear(before, num_classes, step_mode=mode)
        if norm != "none":
            draw_convolutions(self)
        add_recurrence(self, recurrent, T)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        H, W = x.shape[-2:]
        if min(H, W) < 2**self.pools:
            least, borne = 2**self.pools, min(H, W).bit_length() - 1
            raise ValueError(
                f"expected images of at least {least} x {least} pixels, halved {self.pools} times, got {H} x {W}; "
                f"set pools to at most {borne}"
            )
        for name in self._stages:
            x = self.get_submodule(name)(x, T)
        return self.fc(self.avgpool(x).flatten(-3))


class Stage(nn.Module):
    """Convolutions at one size of the image, then 2x2 average pooling."""

    def __init__(
        self, neuron: MakeNeuron, mode: str, before: int, channels: Sequence[int], pooled: bool, norm: Norm
    ) -> None:
        super().__init__()
        for i, after in enumerate(channels):
            conv = layer.Conv2d(before, after, 3, padding=1, bias=norm == "none", step_mode=mode)
            if norm == "none":
                draw_unnormalised(conv)
            bn = normalised(norm, after, mode, images=True)
            self.add_module(str(i), NeuronLayer(conv=conv, **bn, lif=neuron()))
            before = after
        self.pool = layer.AvgPool2d(2, step_mode=mode) if pooled else None

    def forward(self, x: Tensor, T: int | None) -> Tensor:
        """Output of the stage; x may still be without time, `[1, N, C, H, W]`, where T is given."""
        for module in self.children():
            x = module(x, T) if isinstance(module, NeuronLayer) else module(x)
        return x


def draw_convolutions(network: nn.Module) -> None:
    """Draws the weights of all convolutions in place: normal, variance 2 / (k^2 channels out) (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
