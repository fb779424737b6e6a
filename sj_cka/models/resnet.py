"""The pre-activation ResNet of Li et al. 2023, spiking or artificial."""

from __future__ import annotations

from collections.abc import Sequence

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from sj_cka.models.convolutions import draw_convolutions
from sj_cka.models.options import whole, wholes
from sj_cka.models.time_axis import MakeNeuron, OverTime, in_time, step_mode
from sj_cka.plugins import OptionError
from sj_cka.typed import Depth


def resnet(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 3,
    num_classes: int = 10,
    depth: Depth = 20,
    width: int = 1,
    residual: Sequence[int] = (1, 2, 3),
) -> PreActResNet:
    """Pre-activation ResNet for small images (He et al. 2016), three stages of 16, 32 and 64 channels times `width`.

    The neuron is the only difference between a spiking network and its twin: names and shapes are equal. A block
    without shortcut has neither skip nor downsampling branch.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that an image is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        depth: 6 k + 2 layers, from 8; k blocks a stage.
        width: factor on the channels, from 1.
        residual: stages (of 1, 2, 3) that keep their shortcuts.

    Returns:
        A network that takes images `[N, C, H, W]` or frames `[T, N, C, H, W]` and gives logits `[T, N, num_classes]`;
        an artificial one gives `[N, num_classes]` for images.

    Raises:
        OptionError: depth, width, residual or T out of range.
    """
    layers = "6 k + 2 from 8 (8, 14, 20, ...)"
    if whole("depth", depth, f"a whole number, {layers}", least=0) < 8 or depth % 6 != 2:
        near = sorted(max(8, 6 * k + 2) for k in {(depth - 2) // 6, (depth - 2) // 6 + 1})
        raise OptionError("depth", f"expected {layers}, got {depth}; nearest: {near[0]}, {near[-1]}")
    width = whole("width", width, "a whole factor from 1")
    residual = wholes("residual", residual, expected := "stages out of 1, 2, 3, each once")
    if not set(residual) <= {1, 2, 3} or len(set(residual)) != len(residual):
        raise OptionError("residual", f"expected {expected}, got {residual}")
    return PreActResNet(neuron, T, in_channels, num_classes, (depth - 2) // 6, width, frozenset(residual))


class PreActResNet(OverTime):
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
    ) -> None:
        super().__init__(T, in_channels, num_classes)
        mode = step_mode(T)
        channels = [16 * width, 32 * width, 64 * width]
        self.conv1 = layer.Conv2d(in_channels, channels[0], 3, padding=1, bias=False, step_mode=mode)
        before = channels[0]
        for stage, after in enumerate(channels, start=1):
            members = []
            for i in range(blocks):
                widens = stage > 1 and i == 0
                members.append(PreActBlock(neuron, mode, before, after, 2 if widens else 1, stage in residual))
                before = after
            setattr(self, f"layer{stage}", nn.Sequential(*members))
        self.bn = layer.BatchNorm2d(before, step_mode=mode)
        self.lif = neuron()
        self.avgpool = layer.AdaptiveAvgPool2d(1, step_mode=mode)
        self.fc = layer.Linear(before, num_classes, step_mode=mode)
        draw_convolutions(self)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        x = self.conv1(x)
        for stage in ("layer1", "layer2", "layer3"):
            for block in self.get_submodule(stage).children():  # a Sequential would call them without T
                x = block(x, T)
        x = self.lif(in_time(self.bn(x), T))
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
        self.downsample: Downsample | None = None
        if residual and stride > 1:
            self.downsample = Downsample(mode, before, after, stride)

    def forward(self, x: Tensor, T: int | None) -> Tensor:
        """Output of the block; x may still be without time, `[1, N, C, H, W]`, where T is given."""
        activation = self.lif1(in_time(self.bn1(x), T))
        out = self.conv2(self.lif2(self.bn2(self.conv1(activation))))
        if not self.residual:
            return out
        return out + (x if self.downsample is None else self.downsample(activation))


class Downsample(nn.Sequential):
    """Average pool, 1x1 convolution and BN: the shortcut of a widening block."""

    def __init__(self, mode: str, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.pool = layer.AvgPool2d(stride, step_mode=mode)
        self.conv = layer.Conv2d(before, after, 1, bias=False, step_mode=mode)
        self.bn = layer.BatchNorm2d(after, step_mode=mode)
