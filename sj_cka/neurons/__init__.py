"""Spiking neurons of the networks here, from one table, and which implementation of them runs on a device."""

from __future__ import annotations

from collections.abc import Callable

from spikingjelly.activation_based import neuron

from sj_cka.neurons.backends import Backend, lif_backend
from sj_cka.neurons.factories import lif
from sj_cka.neurons.fused import FusedLIFNode

__all__ = ["NEURONS", "Backend", "FusedLIFNode", "lif", "lif_backend"]

NEURONS: dict[str, Callable[..., neuron.BaseNode]] = {"lif": lif}
