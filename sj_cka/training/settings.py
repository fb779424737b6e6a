"""How a network is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

Precision = Literal["float32", "bf16", "fp16", "auto"]
MemoryLayout = Literal["auto", "contiguous", "channels_last"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the defaults are those of Li et al. 2023 but for epochs, batch size and precision.

    A recipe takes each field as a key of `train`, with its type, bounds, default and description. More on some:

    Args:
        batch_size: over all processes; a last batch of one image is left out (batch normalisation needs two).
        decay: "all", as in the paper's code, or "weights" alone: those of convolutions and linear layers, not biases,
            batch normalisation and neurons.
        loss: "tet": Deng et al. 2022, "Temporal efficient training", eq. 10 without its regulariser. Without time it
            is the same as "mean".
        precision: by autocast; of "fp16", as in the paper's code, gradients are scaled. Weights stay float32.
        layout: "auto": see `channels_last`.
        compile: needs a compiler.
        graph: in one process; see `GraphStep`.
        rule: a name of LEARNING_RULES, or a mapping with `name` and options.
    """

    epochs: Annotated[int, Field(ge=1, description="passes over the training split")] = 10
    batch_size: Annotated[int, Field(ge=2, description="images a step")] = 64
    lr: Annotated[float, Field(gt=0, description="learning rate after the warm-up; a cosine takes it to 0")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty")] = 1e-4
    decay: Annotated[
        Literal["all", "weights"],
        Field(description="what the penalty is on: all parameters, or weights without biases and BN"),
    ] = "all"
    warmup: Annotated[int, Field(ge=0, description="epochs in which the learning rate rises to lr")] = 0
    clip: Annotated[
        float | None, Field(gt=0, description="largest norm of all gradients together; no bound by default")
    ] = None
    loss: Annotated[
        Literal["mean", "tet"],
        Field(description="cross-entropy of the mean logits over time, or the mean of that of every step (TET)"),
    ] = "mean"
    precision: Annotated[
        Precision, Field(description="of the forward pass; auto: fp16 on CUDA, float32 on the CPU")
    ] = "float32"
    layout: Annotated[MemoryLayout, Field(description="of images and convolutions in memory")] = "auto"
    compile: Annotated[bool, Field(description="let torch.compile make the forward pass")] = False
    graph: Annotated[bool, Field(description="on CUDA, capture a step as a CUDA graph and replay it")] = True
    rule: Annotated[str | Mapping[str, Any], Field(description="learning rule that gradients come from")] = "bptt"
    sync_bn: Annotated[bool, Field(description="with several processes: batch normalisation over the whole batch")] = (
        False
    )

    def autocast_dtype(self, device: torch.device) -> torch.dtype | None:
        """What the forward pass computes in on a device; None for float32."""
        precision = self.precision
        if precision == "auto":
            precision = "fp16" if device.type == "cuda" else "float32"
        return _DTYPES.get(precision)
