"""Centred kernel alignment over layers and time steps.

In the order in which a batch passes through: `batches` reads it, `sides` runs the networks, `observation` makes
observables of what their layers put out, `gram` takes centred Grams of these (`layers` holds them), `accumulator` adds
their HSIC (`hsic`, `jackknife`, `measures`), `labelled` makes it a table, and `result` answers questions (`over_time`,
`statistics`). `compare` is the whole way, `features` that of arrays from elsewhere; `outline` and `memory` say what it
takes.
"""

from sj_cka.cka.accumulator import CKA
from sj_cka.cka.compare import ComparisonStopped, compare
from sj_cka.cka.features import compare_features
from sj_cka.cka.hsic import UndefinedCKA, cka
from sj_cka.cka.measures import MEASURES
from sj_cka.cka.result import CKAResult, pool

__all__ = [
    "CKA",
    "MEASURES",
    "CKAResult",
    "ComparisonStopped",
    "UndefinedCKA",
    "cka",
    "compare",
    "compare_features",
    "pool",
]
