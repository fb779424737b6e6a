"""VGG with batch normalisation for small images, spiking or artificial."""

from __future__ import annotations

from sj_cka.models.convnet import ConvNet
from sj_cka.models.convolutions import scaled
from sj_cka.models.options import whole
from sj_cka.models.time_axis import MakeNeuron

_STAGES = {
    5: ((64,), (128,), (256, 256)),
    9: ((64, 64), (128, 128), (256, 256), (512, 512)),
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


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
    expected = f"one of {', '.join(map(str, _STAGES))}"
    whole("depth", depth, expected, among=_STAGES)
    factor = scaled(64, width)
    stages = [[channels // 64 * factor for channels in stage] for stage in _STAGES[depth]]
    return ConvNet(neuron, T, in_channels, num_classes, stages, pools)
