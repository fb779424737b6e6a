"""Fully connected networks, spiking or artificial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from spikingjelly.activation_based import layer
from torch import Tensor

from sj_cka.models.normalisation import Norm, check_norm, draw_unnormalised, normalised
from sj_cka.models.options import whole, wholes
from sj_cka.models.recurrence import Recurrent, add_recurrence, check_recurrent
from sj_cka.models.time_axis import MakeNeuron, NeuronLayer, OverTime, step_mode


def mlp(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 1,
    num_classes: int = 10,
    inputs: int | None = None,
    hidden: Sequence[int] = (256, 256),
    recurrent: bool | Literal["elementwise"] = False,
    norm: Literal["batch", "step", "none"] = "batch",
) -> MLP:
    """A multi-layer perceptron: Linear, BN and neuron for each hidden layer, then a Linear.

    BN stands between, as in the convolutional networks, so that deep layers spike from the start. Names: `layer1.fc`,
    `layer1.bn`, `layer1.lif`, `layer2...`, `fc`. The layout is a common one, of no paper. Parameters at 64 inputs, the
    default hidden layers and 10 classes: 85,514; recurrent, 216,586.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that a sample is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        inputs: values of one sample, which are flattened: C x H x W of an image, 64 for one of 1 x 8 x 8; None:
            `in_channels`, as of vectors.
        hidden: neurons of each hidden layer.
        recurrent: whether a layer feeds its spikes back: its neurons see x[t] + V s[t-1], V = `layer1.recurrent.v`.
            True: V is a dense matrix, "elementwise": one weight a neuron. All other weights are those that the seed
            gives without. In an artificial network V has no effect (`sj_cka.models.recurrence`).
        norm: "batch": batch normalisation over N and all steps; "step": over N at each step, with shared weights and
            running statistics that move at every step, in evaluation equal to "batch" (a layer that a shown sample
            passes once has one step; an artificial network has but one); "none": no `bn`, the Linear has a bias, 0 at
            first, and weights of variance 2 / fan in (He et al. 2015). Two layers of 256 then fire at rates of .12 to
            .39 on digits from the start (LIF and current_lif, T = 8); with LIF the rate falls from layer to layer.

    Returns:
        A network that takes samples `[N, D]` or `[N, C, H, W]`, or steps of them `[T, N, D]` or `[T, N, C, H, W]`, and
        gives logits `[T, N, num_classes]`; an artificial one gives `[N, num_classes]` for samples without time.

    Raises:
        OptionError: inputs, hidden, recurrent, norm or T out of range.
    """
    if inputs is not None:
        whole("inputs", inputs, "the number of values of one sample, from 1")
    hidden = wholes("hidden", hidden, "a list of the neurons of one hidden layer or more, each from 1", count=1)
    return MLP(neuron, T, in_channels, inputs, num_classes, hidden, check_recurrent(recurrent), check_norm(norm))


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
        recurrent: Recurrent,
        norm: Norm,
    ) -> None:
        super().__init__(T, in_channels, num_classes)
        mode = step_mode(T)
        before = self.inputs = in_channels if inputs is None else inputs
        self._hidden = [f"layer{i}" for i in range(1, len(hidden) + 1)]
        for name, after in zip(self._hidden, hidden, strict=True):
            fc = layer.Linear(before, after, bias=norm == "none", step_mode=mode)
            if norm == "none":
                draw_unnormalised(fc)
            bn = normalised(norm, after, mode, images=False)
            self.add_module(name, NeuronLayer(fc=fc, **bn, lif=neuron()))
            before = after
        self.fc = layer.Linear(before, num_classes, step_mode=mode)
        add_recurrence(self, recurrent, T)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        x = x.flatten(1 if T is None else 2)
        if x.shape[-1] != self.inputs:
            raise ValueError(
                f"expected samples of {self.inputs} values, got {x.shape[-1]}; set inputs to {x.shape[-1]}"
            )
        for name in self._hidden:
            x = self.get_submodule(name)(x, T)
        return self.fc(x)
