"""SEW ResNet (Fang et al. 2021) by SpikingJelly's own classes, spiking or artificial."""

from __future__ import annotations

from typing import Literal, get_args

from spikingjelly.activation_based import functional, layer
from torch import Tensor

from sj_cka.models.convnet import draw_convolutions
from sj_cka.models.options import whole
from sj_cka.models.time_axis import MakeNeuron, OverTime, in_time, step_mode
from sj_cka.plugins import check_option

Connect = Literal["ADD", "AND", "IAND"]

_BLOCKS = {
    18: ("BasicBlock", (2, 2, 2, 2)),
    34: ("BasicBlock", (3, 4, 6, 3)),
    50: ("Bottleneck", (3, 4, 6, 3)),
    101: ("Bottleneck", (3, 4, 23, 3)),
    152: ("Bottleneck", (3, 8, 36, 3)),
}


def sew_resnet(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 3,
    num_classes: int = 1000,
    depth: int = 18,
    connect: Connect = "ADD",
) -> SEWResNet:
    """Spike-element-wise ResNet (Fang et al. 2021, "Deep residual learning in spiking neural networks").

    SpikingJelly's network with the neurons given here: the layout of ResNet for ImageNet, but a block connects what its
    neurons put out with its shortcut, element by element, behind the neurons. Names are SpikingJelly's: `conv1`, `bn1`,
    `sn1`, `layer1.0.conv1`, ..., `layer2.0.downsample_sn`, `fc`; weights are drawn by its initialiser. In the twin,
    ReLU stands for each neuron and the connection stays. Parameters of depth 18 at 3 input channels and 1000 classes:
    11,689,512.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that an image is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        connect: how a block connects its output a and its shortcut b: "ADD" a + b, "AND" a b, "IAND" (1 - a) b; with
            bottlenecks SpikingJelly's "IAND" is a (1 - b).

    Returns:
        A network that takes images `[N, C, H, W]` or frames `[T, N, C, H, W]` and gives logits `[T, N, num_classes]`;
        an artificial one gives `[N, num_classes]` for images.

    Raises:
        OptionError: depth, connect or T out of range.
    """
    whole("depth", depth, f"one of {', '.join(map(str, _BLOCKS))}", among=_BLOCKS)
    known = get_args(Connect)
    check_option(connect in known, "connect", f"one of {', '.join(known)}", repr(connect))
    return SEWResNet(neuron, T, in_channels, num_classes, depth, connect)


class SEWResNet(OverTime):
    """The modules of SpikingJelly's `SEWResNet`, under their names; see `sew_resnet`."""

    def __init__(
        self, neuron: MakeNeuron, T: int | None, in_channels: int, num_classes: int, depth: int, connect: Connect
    ) -> None:
        # imports torchvision
        from spikingjelly.activation_based.model import sew_resnet as original

        super().__init__(T, in_channels, num_classes)
        block, counts = _BLOCKS[depth]
        built = original.SEWResNet(
            getattr(original, block), counts, num_classes=num_classes, cnf=connect, spiking_neuron=neuron
        )
        if in_channels != 3:
            stem = built.conv1
            built.conv1 = layer.Conv2d(
                in_channels, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, bias=False
            )
            draw_convolutions(built.conv1)
        for name, module in built.named_children():
            self.add_module(name, module)
        functional.set_step_mode(self, step_mode(T))

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        for name, module in self.named_children():
            if name == "input_coding":
                continue
            if name == "sn1":
                x = in_time(x, T)
            x = module(x.flatten(-3) if name == "fc" else x)
        return x
