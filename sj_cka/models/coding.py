"""How a spiking network is given an image: as it is at every step, or as spikes that an encoder makes of it."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from spikingjelly.activation_based import encoding
from torch import Tensor

from sj_cka.plugins import check_option

Coding = Literal["direct", "poisson", "latency"]
InputRange = tuple[Sequence[float], Sequence[float]]


def check_coding(coding: str, T: int) -> None:
    """Whether a coding can be had in so many steps.

    Raises:
        OptionError: no such coding, or latencies in one step.
    """
    check_option(coding in get_args(Coding), "coding", f"one of {', '.join(get_args(Coding))}", repr(coding))
    fits = coding != "latency" or T >= 2
    check_option(fits, "coding", f"direct or poisson at T = {T}, where all latencies are one", repr(coding))


class Encoder(encoding.StatelessEncoder):
    """Spikes 0 and 1 in place of an image, by SpikingJelly's encoders; they have no gradient to the image.

    Where a network folds steps and samples into one axis, spikes that are drawn hide which is which: a comparison
    leaves such layers out and warns of them.

    p is a pixel brought to 0..1 by the range that its channel may have, and clipped to it.

    - "poisson": at each step a spike with probability p, drawn anew from torch's own generator for every pixel, step,
      sample and run, in evaluation too (`encoding.PoissonEncoder`).
    - "latency": one spike, the brighter the earlier, at step round((T - 1) (1 - p)), ties to the even one: white spikes
      first, black last, so that each pixel spikes once (`encoding.LatencyEncoder`, "linear").

    Args:
        coding: "poisson" or "latency".
        input_range: low and high of each channel, or of all, as the network is given them: what p = 0 and p = 1 are.
            None for 0 and 1.

    Raises:
        OptionError: no such range.

    Example:
        >>> Encoder("latency")(torch.tensor([[[[1.0, 0.5, 0.0]]]]), T=3).squeeze()  # step x pixel
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """

    low: Tensor
    high: Tensor

    def __init__(self, coding: Literal["poisson", "latency"], input_range: InputRange | None = None) -> None:
        super().__init__(step_mode="m")
        self.coding = coding
        low, high = (torch.as_tensor(values) for values in input_range or ((0.0,), (1.0,)))
        fits = low.ndim == 1 and low.shape == high.shape and bool((low < high).all())
        check_option(fits, "input_range", "the lowest and the highest value of each channel, low < high", input_range)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def forward(self, x: Tensor, T: int) -> Tensor:
        """Spikes `[T, N, ...]`.

        Args:
            x: `[N, C, H, W]`, or `[N, D]` with a channel a value.
            T: number of steps.
        """
        low, high = (bound.to(x.dtype).view(-1, *[1] * (x.ndim - 2)) for bound in (self.low, self.high))
        p = ((x.detach() - low) / (high - low)).clamp(0, 1)
        if self.coding == "poisson":
            spikes: Tensor = encoding.PoissonEncoder()(p.expand(T, *p.shape))
            return spikes
        return encoding.LatencyEncoder(T).single_step_encode(p).contiguous()

    def extra_repr(self) -> str:
        """What it is, for the printed network."""
        return self.coding
