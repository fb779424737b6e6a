"""Twins of a network: the artificial one of a spiking network, and the ways back."""

from sj_cka.twins.ann import ann_twin

__all__ = ["ann_twin"]
