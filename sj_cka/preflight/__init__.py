"""Trying a study before it runs: its data are read, its networks built and run on a few samples."""

from sj_cka.preflight.data import Data, read_data
from sj_cka.preflight.networks import Preflight, Size, data_options, network_options

__all__ = ["Data", "Preflight", "Size", "data_options", "network_options", "read_data"]
