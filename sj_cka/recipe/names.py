"""How a recipe names networks."""

from __future__ import annotations

KINDS = ("snn", "ann", "converted")


class NetworkName(str):
    """`<variant>.<kind>[@init|@<epoch>]`, taken apart once.

    Args:
        variant: the variant that it is of.
        kind: "snn", "ann" or "converted", unless the recipe has a fault.
        moment: of its training: "init", an epoch, or "" for its end.

    Example:
        >>> name = NetworkName("tau-0.5.snn@init")
        >>> name.variant, name.kind, name.moment, name.trained
        ('tau-0.5', 'snn', 'init', 'tau-0.5.snn')
    """

    variant: str
    kind: str
    moment: str

    def __new__(cls, name: str) -> NetworkName:
        network = super().__new__(cls, name)
        head, _, network.moment = name.partition("@")
        network.variant, _, network.kind = head.rpartition(".")
        return network

    @property
    def trained(self) -> NetworkName:
        """The network at the end of its training."""
        return NetworkName(self.partition("@")[0]) if self.moment else self

    @property
    def spiking(self) -> bool:
        """Whether it has time steps of its own."""
        return self.kind in ("snn", "converted")
