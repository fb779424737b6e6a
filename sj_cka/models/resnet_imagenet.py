"""The ResNet-18 and -34 of He et al. 2016 in the layout for ImageNet, spiking or artificial."""

from __future__ import annotations

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from sj_cka.models.convolutions import draw_convolutions, scaled
from sj_cka.models.options import whole
from sj_cka.models.time_axis import MakeNeuron, OverTime, in_time, step_mode

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


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
    expected = f"one of {', '.join(map(str, _BLOCKS))}"
    whole("depth", depth, expected, among=_BLOCKS)
    return PostActResNet(neuron, T, in_channels, num_classes, _BLOCKS[depth], scaled(64, width))


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
        before = channels
        for stage, count in enumerate(blocks):
            after = channels * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            members = []
            for stride in strides:
                members.append(PostActBlock(neuron, mode, before, after, stride))
                before = after
            self.add_module(f"layer{stage + 1}", nn.Sequential(*members))
        self._stages = [f"layer{stage + 1}" for stage in range(len(blocks))]
        self.avgpool = layer.AdaptiveAvgPool2d(1, step_mode=mode)
        self.fc = layer.Linear(before, num_classes, step_mode=mode)
        draw_convolutions(self)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        x = self.maxpool(self.lif1(in_time(self.bn1(self.conv1(x)), T)))
        for name in self._stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(-3))
        return logits


class PostActBlock(nn.Module):
    """Convolution, BN, neuron, convolution, BN, plus the shortcut, neuron."""

    def __init__(self, neuron: MakeNeuron, mode: str, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(before, after, 3, stride, padding=1, bias=False, step_mode=mode)
        self.bn1 = layer.BatchNorm2d(after, step_mode=mode)
        self.lif1 = neuron()
        self.conv2 = layer.Conv2d(after, after, 3, padding=1, bias=False, step_mode=mode)
        self.bn2 = layer.BatchNorm2d(after, step_mode=mode)
        self.downsample = Projection(mode, before, after, stride) if stride > 1 else None
        self.lif2 = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block."""
        out = self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x)))))
        fired: Tensor = self.lif2(out + (x if self.downsample is None else self.downsample(x)))
        return fired


class Projection(nn.Sequential):
    """1x1 convolution of stride 2 and BN: the shortcut of a widening block."""

    def __init__(self, mode: str, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = layer.Conv2d(before, after, 1, stride, bias=False, step_mode=mode)
        self.bn = layer.BatchNorm2d(after, step_mode=mode)
