"""How a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Precision = Literal["float32", "bf16", "fp16", "auto"]
Layout = Literal["auto", "contiguous", "channels_last"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the defaults are those of Li et al. 2023 but for epochs, batch size and precision.

    Args:
        epochs: passes over the training split.
        batch_size: images a step, over all processes; a last batch of one image is left out (batch normalisation needs
            two).
        lr: learning rate after the warm-up, falling to 0 along a cosine over all steps that are left.
        momentum: of SGD.
        weight_decay: L2 penalty; on what, says `decay`.
        decay: "all" parameters, as in the paper's code, or "weights" alone: those of convolutions and linear layers,
            not biases, batch normalisation and neurons.
        warmup: epochs in which the learning rate rises linearly to lr.
        clip: largest norm of all gradients together, > 0; None for no bound.
        loss: "mean": cross-entropy of the mean logits over time; "tet": the mean over time of the cross-entropy of
            every step (Deng et al. 2022, "Temporal efficient training", eq. 10 without its regulariser). Without time
            both are the same.
        precision: of the forward pass, by autocast: "float32", "bf16", "fp16" (gradients are scaled), or "auto": "fp16"
            on CUDA, as in the paper's code, and float32 elsewhere. Weights stay float32.
        layout: of images and convolutions in memory; "auto": see `channels_last`.
        compile: whether torch.compile makes the forward pass; it needs a compiler.
        graph: whether on CUDA, in one process, a step is captured as a CUDA graph and replayed: see `GraphStep`.
        rule: a name of LEARNING_RULES, or a mapping with `name` and options.
        sync_bn: with several processes, whether batch normalisation takes the statistics of the whole batch, or of the
            share of each process.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: Literal["all", "weights"] = "all"
    warmup: int = 0
    clip: float | None = None
    loss: Literal["mean", "tet"] = "mean"
    precision: Precision = "float32"
    layout: Layout = "auto"
    compile: bool = False
    graph: bool = True
    rule: str | Mapping[str, Any] = "backprop"
    sync_bn: bool = False

    def autocast_dtype(self, device: torch.device) -> torch.dtype | None:
        """What the forward pass computes in on a device; None for float32."""
        precision = self.precision
        if precision == "auto":
            precision = "fp16" if device.type == "cuda" else "float32"
        return _DTYPES.get(precision)
