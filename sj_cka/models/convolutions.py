"""What the convolutional networks here have in common: a factor on their channels, and how weights are drawn."""

from __future__ import annotations

from torch import nn

from sj_cka.models.options import factor
from sj_cka.plugins import OptionError


def scaled(channels: int, width: float) -> int:
    """Channels times a factor.

    Args:
        channels: the smallest number of channels of a layout, of which all others are multiples.
        width: the factor, > 0.

    Raises:
        OptionError: the factor leaves no whole number of channels.

    Example:
        >>> scaled(64, 0.25)
        16
    """
    expected = f"a factor that leaves whole channels (k / {channels}, from k = 1)"
    product = channels * factor("width", width, expected)
    if product < 1 or product != round(product):
        raise OptionError("width", f"expected {expected}, got {width!r}")
    return round(product)


def draw_convolutions(network: nn.Module) -> None:
    """Draws the weights of all convolutions in place: normal, variance 2 / (k^2 channels out) (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
