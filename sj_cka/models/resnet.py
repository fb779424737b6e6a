"""ResNets, spiking or artificial: the one of Li et al. 2023 for small images, and the layout for ImageNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from sj_cka.models.convnet import draw_convolutions
from sj_cka.models.options import scaled, whole, wholes
from sj_cka.models.time_axis import MakeNeuron, OverTime, in_time, step_mode
from sj_cka.plugins import OptionError, check_option
from sj_cka.typed import Depth

Order = Literal["preact", "released"]

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def resnet(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 3,
    num_classes: int = 10,
    depth: Depth = 20,
    width: int = 1,
    residual: Sequence[int] = (1, 2, 3),
    order: Order = "preact",
) -> SmallResNet:
    """ResNet for small images with neurons in front of convolutions, three stages of 16, 32, 64 channels times `width`.

    The neuron is the only difference between a spiking network and its twin: names and shapes are equal. A block
    without shortcut has neither skip nor downsampling branch. Batch normalisation has one of two places, with as many
    parameters and layers in both:

    - "preact": a block is twice BN, neuron, convolution, and a last BN stands in front of the last neuron (He et al.
      2016, "Identity mappings in deep residual networks");
    - "released": a block is twice neuron, convolution, BN, and the first BN stands behind the first convolution, as in
      the code that Li et al. 2023 published.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that an image is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        depth: 6 k + 2 layers, from 8; k blocks a stage.
        width: factor on the channels, from 1.
        residual: stages (of 1, 2, 3) that keep their shortcuts.
        order: "preact" or "released", see above.

    Returns:
        A network that takes images `[N, C, H, W]` or frames `[T, N, C, H, W]` and gives logits `[T, N, num_classes]`;
        an artificial one gives `[N, num_classes]` for images.

    Raises:
        OptionError: depth, width, residual, order or T out of range.
    """
    layers = "6 k + 2 from 8 (8, 14, 20, ...)"
    if whole("depth", depth, f"a whole number, {layers}", least=0) < 8 or depth % 6 != 2:
        near = sorted(max(8, 6 * k + 2) for k in {(depth - 2) // 6, (depth - 2) // 6 + 1})
        raise OptionError("depth", f"expected {layers}, got {depth}; nearest: {near[0]}, {near[-1]}")
    width = whole("width", width, "a whole factor from 1")
    residual = wholes("residual", residual, expected := "stages out of 1, 2, 3, each once")
    fits = set(residual) <= {1, 2, 3} and len(set(residual)) == len(residual)
    check_option(fits, "residual", expected, residual)
    check_option(order in get_args(Order), "order", f"one of {', '.join(get_args(Order))}", repr(order))
    return SmallResNet(neuron, T, in_channels, num_classes, (depth - 2) // 6, width, frozenset(residual), order)


def resnet_imagenet(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 3,
    num_classes: int = 1000,
    depth: int = 18,
    width: float = 1.0,
) -> PostActResNet:
    """ResNet for large images (He et al. 2016, "Deep residual learning", table 1), neurons behind the addition.

    A 7x7 convolution of stride 2, max pooling of stride 2, then four stages of 64, 128, 256 and 512 channels times
    `width`, the last three halving the image: 224 x 224 pixels become 7 x 7, 32 x 32 become 1 x 1. A block's second
    neuron fires on the sum of its second BN and the shortcut; the shortcut of a widening block is a 1x1 convolution of
    stride 2 and BN. Names: `conv1`, `bn1`, `lif1`, `maxpool`, `layer1.0.conv1`, `.bn1`, `.lif1`, `.conv2`, `.bn2`,
    `.lif2`, `layer2.0.downsample.conv`, ..., `fc`. Parameters of depth 18 at 3 input channels and 1000 classes:
    11,689,512.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that an image is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        depth: 18 or 34.
        width: factor on the channels, k / 64 from k = 1.

    Returns:
        A network that takes images `[N, C, H, W]` or frames `[T, N, C, H, W]` and gives logits `[T, N, num_classes]`;
        an artificial one gives `[N, num_classes]` for images.

    Raises:
        OptionError: depth, width or T out of range.
    """
    whole("depth", depth, f"one of {', '.join(map(str, _BLOCKS))}", among=_BLOCKS)
    return PostActResNet(neuron, T, in_channels, num_classes, _BLOCKS[depth], scaled(64, width))


def _blocks(channels: Sequence[int], counts: Sequence[int]) -> Iterator[list[tuple[int, int, int]]]:
    """Channels before and after, and stride, of each block of each stage; the first widens behind the first stage."""
    for before, after, count in zip([channels[0], *channels], channels, counts, strict=False):
        yield [(before, after, 1 if before == after else 2), *[(after, after, 1)] * (count - 1)]


class SmallResNet(OverTime):
    """See `resnet`."""

    def __init__(
        self,
        neuron: MakeNeuron,
        T: int | None,
        in_channels: int,
        num_classes: int,
        blocks: int,
        width: int,
        residual: frozenset[int],
        order: Order,
    ) -> None:
        super().__init__(T, in_channels, num_classes)
        mode, self.order = step_mode(T), order
        channels = [16 * width, 32 * width, 64 * width]
        self.conv1 = layer.Conv2d(in_channels, channels[0], 3, padding=1, bias=False, step_mode=mode)
        if order == "released":
            self.bn1 = layer.BatchNorm2d(channels[0], step_mode=mode)
        block = PreActBlock if order == "preact" else ReleasedBlock
        for stage, members in enumerate(_blocks(channels, [blocks] * 3), start=1):
            made = [block(neuron, mode, *member, stage in residual) for member in members]
            self.add_module(f"layer{stage}", nn.Sequential(*made))
        if order == "preact":
            self.bn = layer.BatchNorm2d(channels[-1], step_mode=mode)
        self.lif = neuron()
        self.avgpool = layer.AdaptiveAvgPool2d(1, step_mode=mode)
        self.fc = layer.Linear(channels[-1], num_classes, step_mode=mode)
        draw_convolutions(self)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        x = self.conv1(x)
        if self.order == "released":
            x = self.bn1(x)
        for stage in ("layer1", "layer2", "layer3"):
            for block in self.get_submodule(stage).children():  # a Sequential would call them without T
                x = block(x, T)
        if self.order == "preact":
            x = self.bn(x)
        x = self.lif(in_time(x, T))
        return self.fc(self.avgpool(x).flatten(-3))


class PreActBlock(nn.Module):
    """Two times BN, neuron, 3x3 convolution, plus the shortcut.

    The shortcut of a widening block goes off behind its first neuron: average pool, 1x1 convolution, BN.
    """

    def __init__(self, neuron: MakeNeuron, mode: str, before: int, after: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.bn1 = layer.BatchNorm2d(before, step_mode=mode)
        self.lif1 = neuron()
        self.conv1 = layer.Conv2d(before, after, 3, stride, padding=1, bias=False, step_mode=mode)
        self.bn2 = layer.BatchNorm2d(after, step_mode=mode)
        self.lif2 = neuron()
        self.conv2 = layer.Conv2d(after, after, 3, padding=1, bias=False, step_mode=mode)
        self.downsample = Shortcut(mode, before, after, stride, pooled=True) if residual and stride > 1 else None

    def forward(self, x: Tensor, T: int | None) -> Tensor:
        """Output of the block; x may still be without time, `[1, N, C, H, W]`, where T is given."""
        activation = self.lif1(in_time(self.bn1(x), T))
        out = self.conv2(self.lif2(self.bn2(self.conv1(activation))))
        if not self.residual:
            return out
        return out + (x if self.downsample is None else self.downsample(activation))


class ReleasedBlock(nn.Module):
    """Two times neuron, 3x3 convolution, BN, plus the shortcut.

    The shortcut of a widening block goes off behind its first neuron, and is taken first: average pool, 1x1
    convolution, BN.
    """

    def __init__(self, neuron: MakeNeuron, mode: str, before: int, after: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.lif1 = neuron()
        self.downsample = Shortcut(mode, before, after, stride, pooled=True) if residual and stride > 1 else None
        self.conv1 = layer.Conv2d(before, after, 3, stride, padding=1, bias=False, step_mode=mode)
        self.bn1 = layer.BatchNorm2d(after, step_mode=mode)
        self.lif2 = neuron()
        self.conv2 = layer.Conv2d(after, after, 3, padding=1, bias=False, step_mode=mode)
        self.bn2 = layer.BatchNorm2d(after, step_mode=mode)

    def forward(self, x: Tensor, T: int | None) -> Tensor:
        """Output of the block; x may still be without time, `[1, N, C, H, W]`, where T is given."""
        activation = self.lif1(in_time(x, T))
        shortcut = x if self.downsample is None else self.downsample(activation)
        out = self.bn2(self.conv2(self.lif2(self.bn1(self.conv1(activation)))))
        return out + shortcut if self.residual else out


class PostActResNet(OverTime):
    """See `resnet_imagenet`."""

    def __init__(
        self,
        neuron: MakeNeuron,
        T: int | None,
        in_channels: int,
        num_classes: int,
        blocks: tuple[int, ...],
        channels: int,
    ) -> None:
        super().__init__(T, in_channels, num_classes)
        mode = step_mode(T)
        self.conv1 = layer.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False, step_mode=mode)
        self.bn1 = layer.BatchNorm2d(channels, step_mode=mode)
        self.lif1 = neuron()
        self.maxpool = layer.MaxPool2d(3, 2, padding=1, step_mode=mode)
        after = [channels * 2**stage for stage in range(len(blocks))]
        self._stages = [f"layer{stage}" for stage in range(1, len(blocks) + 1)]
        for stage, members in zip(self._stages, _blocks(after, blocks), strict=True):
            self.add_module(stage, nn.Sequential(*(PostActBlock(neuron, mode, *member) for member in members)))
        self.avgpool = layer.AdaptiveAvgPool2d(1, step_mode=mode)
        self.fc = layer.Linear(after[-1], num_classes, step_mode=mode)
        draw_convolutions(self)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        x = self.maxpool(self.lif1(in_time(self.bn1(self.conv1(x)), T)))
        for name in self._stages:
            x = self.get_submodule(name)(x)
        return self.fc(self.avgpool(x).flatten(-3))


class PostActBlock(nn.Module):
    """Convolution, BN, neuron, convolution, BN, plus the shortcut, neuron."""

    def __init__(self, neuron: MakeNeuron, mode: str, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(before, after, 3, stride, padding=1, bias=False, step_mode=mode)
        self.bn1 = layer.BatchNorm2d(after, step_mode=mode)
        self.lif1 = neuron()
        self.conv2 = layer.Conv2d(after, after, 3, padding=1, bias=False, step_mode=mode)
        self.bn2 = layer.BatchNorm2d(after, step_mode=mode)
        self.downsample = Shortcut(mode, before, after, stride, pooled=False) if stride > 1 else None
        self.lif2 = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block."""
        out = self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x)))))
        return self.lif2(out + (x if self.downsample is None else self.downsample(x)))


class Shortcut(nn.Sequential):
    """1x1 convolution and BN: the shortcut of a widening block; a pool in front takes over the stride."""

    def __init__(self, mode: str, before: int, after: int, stride: int, *, pooled: bool) -> None:
        super().__init__()
        if pooled:
            self.pool = layer.AvgPool2d(stride, step_mode=mode)
        self.conv = layer.Conv2d(before, after, 1, 1 if pooled else stride, bias=False, step_mode=mode)
        self.bn = layer.BatchNorm2d(after, step_mode=mode)
