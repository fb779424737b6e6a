"""Centred kernel alignment over layers and time steps."""

from sj_cka.cka.accumulator import CKA
from sj_cka.cka.compare import compare
from sj_cka.cka.hsic import UndefinedCKA, cka
from sj_cka.cka.result import CKAResult

__all__ = ["CKA", "CKAResult", "UndefinedCKA", "cka", "compare"]
