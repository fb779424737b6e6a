"""Twins of a network: the artificial one of a spiking network, and the two ways back."""

from sj_cka.twins.ann import ann_twin
from sj_cka.twins.snn import converted_snn, snn_twin

__all__ = ["ann_twin", "converted_snn", "snn_twin"]
