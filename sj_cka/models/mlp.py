"""Fully connected networks, spiking or artificial."""

from __future__ import annotations

from collections.abc import Sequence

from spikingjelly.activation_based import layer
from torch import Tensor

from sj_cka.models.options import whole, wholes
from sj_cka.models.time_axis import MakeNeuron, NeuronLayer, OverTime, step_mode


def mlp(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 1,
    num_classes: int = 10,
    inputs: int | None = None,
    hidden: Sequence[int] = (256, 256),
) -> MLP:
    """A multi-layer perceptron: Linear, BN and neuron for each hidden layer, then a Linear.

    BN stands between, as in the convolutional networks, so that deep layers spike from the start. Names: `layer1.fc`,
    `layer1.bn`, `layer1.lif`, `layer2...`, `fc`. The layout is a common one, of no paper. Parameters at 64 inputs, the
    default hidden layers and 10 classes: 85,514.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that a sample is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        inputs: values of one sample, which are flattened: C x H x W of an image, 64 for one of 1 x 8 x 8; None:
            `in_channels`, as of vectors.
        hidden: neurons of each hidden layer.

    Returns:
        A network that takes samples `[N, D]` or `[N, C, H, W]`, or steps of them `[T, N, D]` or `[T, N, C, H, W]`, and
        gives logits `[T, N, num_classes]`; an artificial one gives `[N, num_classes]` for samples without time.

    Raises:
        OptionError: inputs, hidden or T out of range.
    """
    if inputs is not None:
        whole("inputs", inputs, "the number of values of one sample, from 1")
    hidden = wholes("hidden", hidden, "a list of the neurons of one hidden layer or more, each from 1", count=1)
    return MLP(neuron, T, in_channels, inputs, num_classes, hidden)


class MLP(OverTime):
    """See `mlp`."""

    axes = (2, 3, 4, 5)
    takes = "samples [N, D] or [N, C, H, W], or steps of them [T, N, D] or [T, N, C, H, W]"

    def __init__(
        self,
        neuron: MakeNeuron,
        T: int | None,
        in_channels: int,
        inputs: int | None,
        num_classes: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__(T, in_channels, num_classes)
        mode = step_mode(T)
        before = self.inputs = in_channels if inputs is None else inputs
        self._hidden = [f"layer{i}" for i in range(1, len(hidden) + 1)]
        for name, after in zip(self._hidden, hidden, strict=True):
            fc = layer.Linear(before, after, bias=False, step_mode=mode)
            self.add_module(name, NeuronLayer(fc=fc, bn=layer.BatchNorm1d(after, step_mode=mode), lif=neuron()))
            before = after
        self.fc = layer.Linear(before, num_classes, step_mode=mode)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        x = x.flatten(1 if T is None else 2)
        if x.shape[-1] != self.inputs:
            raise ValueError(
                f"expected samples of {self.inputs} values, got {x.shape[-1]}; set inputs to {x.shape[-1]}"
            )
        for name in self._hidden:
            x = self.get_submodule(name)(x, T)
        return self.fc(x)
