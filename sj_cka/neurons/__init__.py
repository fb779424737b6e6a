"""Spiking neurons of the networks here, from one table, and which implementation of them runs on a device."""

from collections.abc import Callable

from spikingjelly.activation_based import neuron

from sj_cka.neurons.backends import Backend, lif_backend, neuron_backend
from sj_cka.neurons.factories import current_lif, if_, lif, plif
from sj_cka.neurons.nodes import FusedCurrentLIFNode, FusedIFNode, FusedLIFNode, FusedPLIFNode
from sj_cka.neurons.surrogates import SURROGATES

__all__ = [
    "NEURONS",
    "SURROGATES",
    "Backend",
    "FusedCurrentLIFNode",
    "FusedIFNode",
    "FusedLIFNode",
    "FusedPLIFNode",
    "current_lif",
    "if_",
    "lif",
    "lif_backend",
    "neuron_backend",
    "plif",
]

NEURONS: dict[str, Callable[..., neuron.BaseNode]] = {
    "lif": lif,
    "if": if_,
    "plif": plif,
    "current_lif": current_lif,
}
