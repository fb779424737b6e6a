"""Spikformer (Zhou et al. 2023) by SpikingJelly's own classes, spiking or artificial."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

from sj_cka.models.options import factor, whole
from sj_cka.models.time_axis import MakeNeuron, OverTime, in_time
from sj_cka.plugins import check_option
from sj_cka.typed import Depth


def spikformer(
    neuron: MakeNeuron,
    *,
    T: int | None,
    in_channels: int = 3,
    num_classes: int = 10,
    patch: int = 4,
    dim: int = 384,
    heads: int = 12,
    depth: Depth = 4,
    mlp_ratio: float = 4.0,
) -> Spikformer:
    """Spikformer, a transformer of spikes (Zhou et al. 2023, "Spikformer: when spiking neural network meets ...").

    SpikingJelly's network with the neurons given here: a stem of four convolutions that pools until one token stands
    for `patch` x `patch` pixels, a convolution that encodes their place, `depth` blocks of spiking self-attention and
    MLP, the mean over the tokens and one Linear. Names are SpikingJelly's: `patch_embed.stages.0.conv_bn`, `.neuron`,
    `blocks.0.attn.qkv_lif`, `blocks.0.mlp.neuron1`, ..., `head`; weights are drawn by its initialiser. Any size of
    images will do. The defaults are SpikingJelly's `spikformer_cifar10`; `patch: 16` with `dim: 256, heads: 8` is its
    `spikformer_ti`, with `dim: 384, heads: 12, depth: 6` its `spikformer_s`. Parameters at the defaults, 3 input
    channels and 10 classes: 9,310,906.

    The paper's attention has neurons of half the others' threshold. Here all neurons are alike, and their input is
    doubled in place of that, which gives the same spikes where v_reset is 0 or None.

    Args:
        neuron: makes one neuron layer; multi-step spiking neurons where T is given, e.g. `nn.ReLU` where it is None.
        T: time steps that an image is shown; None for an artificial network.
        in_channels: channels of the input.
        num_classes: size of the output.
        patch: side of the patch that one token stands for, in pixels, 4 or 16.
        dim: channels of a token, a multiple of 8.
        heads: of the attention; a divisor of dim.
        depth: number of blocks.
        mlp_ratio: channels inside a block's MLP, as a factor on dim.

    Returns:
        A network that takes images `[N, C, H, W]` or frames `[T, N, C, H, W]` and gives logits `[T, N, num_classes]`;
        an artificial one gives `[N, num_classes]` for images.

    Raises:
        OptionError: patch, dim, heads, depth, mlp_ratio or T out of range.
    """
    whole("patch", patch, "4 or 16, which SpikingJelly's stem can do", among=(4, 16))
    check_option(whole("dim", dim, "a multiple of 8") % 8 == 0, "dim", "a multiple of 8", dim)
    divisor = f"a divisor of dim, {dim}"
    check_option(dim % whole("heads", heads, divisor) == 0, "heads", divisor, heads)
    whole("depth", depth, "the number of blocks, from 1")
    left = f"a factor that leaves channels of dim, {dim}"
    check_option(dim * factor("mlp_ratio", mlp_ratio, left) >= 1, "mlp_ratio", left, mlp_ratio)
    return Spikformer(neuron, T, in_channels, num_classes, patch, dim, heads, depth, mlp_ratio)


class Spikformer(OverTime):
    """The modules of SpikingJelly's `Spikformer`, under their names; see `spikformer`."""

    patch_embed: nn.Module
    blocks: nn.ModuleList
    head: nn.Module

    def __init__(
        self,
        neuron: MakeNeuron,
        T: int | None,
        in_channels: int,
        num_classes: int,
        patch: int,
        dim: int,
        heads: int,
        depth: int,
        mlp_ratio: float,
    ) -> None:
        # imports torchvision
        from spikingjelly.activation_based.model import spikformer as original

        super().__init__(T, in_channels, num_classes)
        built = original.Spikformer(
            in_channels=in_channels,
            patch_size=patch,
            num_classes=num_classes,
            embed_dims=dim,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            depths=depth,
        )
        # 2.0.0rc1 takes no neuron, and 2.0.0 would give the one it takes no half threshold either
        _replace_neurons(built, neuron)
        for block in built.blocks:
            block.attn.scale *= 2
        built.patch_embed.stages[0] = FirstStage(OrderedDict(built.patch_embed.stages[0].named_children()))
        for name, module in built.named_children():
            self.add_module(name, module)

    def layers(self, x: Tensor, T: int | None) -> Tensor:
        x = self.patch_embed(x.unsqueeze(0) if T is None else in_time(x, T))
        for block in self.blocks:
            x = block(x)
        logits = self.head(x.flatten(3).mean(-1))
        return logits.squeeze(0) if T is None else logits


class FirstStage(nn.Sequential):
    """The first stage of the stem; of a shown image, whose steps are one in memory, the convolution runs once."""

    def forward(self, x_seq: Tensor) -> Tensor:
        """What the neurons put out, `[T, N, C, H, W]`."""
        conv_bn, neuron = self
        x = conv_bn(x_seq[:1] if x_seq.stride(0) == 0 else x_seq)
        return neuron(in_time(x, len(x_seq)))


def _replace_neurons(network: nn.Module, neuron: MakeNeuron) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, sj_neuron.BaseNode):
                new: Any = neuron()
                if not hasattr(new, "backend"):
                    new.backend = "torch"  # 2.0.0rc1's attention prints its neurons' backend
                setattr(module, name, new)
