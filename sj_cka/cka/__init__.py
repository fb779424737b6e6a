"""Centred kernel alignment over layers and time steps.

In the order in which a batch passes through: `minibatches` reads it, an `observed_network` is run on it, `observables`
are made of what its layers put out, `gram` takes centred Grams of these by `products` (`layer_grams` holds them, with
`own_terms` of single units; where launches cost more than arithmetic, products are `waiting` for those of other layers
first; `layer_steps` says which have no CKA), and an `accumulator` adds up what these give: `sums` of HSIC and other
`measures`, `activity` and `permutations`. A `result` labels it, answers questions (`over_time`, `statistics` by a
`jackknife`) and is kept in a `result_file`. `compare` is the whole way, `features` that of arrays from elsewhere; both
take their `arguments` alike. `memory` says what it takes.

This package is also the function of its name: `sj_cka.cka(X, Y)`, see `sj_cka.cka.cka`.
"""

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from sj_cka.cka.accumulator import CKA
from sj_cka.cka.compare import ComparisonStopped, compare
from sj_cka.cka.features import compare_features
from sj_cka.cka.measures import MEASURES, Measure, UndefinedCKA, cka
from sj_cka.cka.memory import Space
from sj_cka.cka.result import CKAResult
from sj_cka.cka.statistics import pool

__all__ = [
    "CKA",
    "MEASURES",
    "CKAResult",
    "ComparisonStopped",
    "Measure",
    "Space",
    "UndefinedCKA",
    "cka",
    "compare",
    "compare_features",
    "pool",
]


class _Package(ModuleType):
    """The package and the function `cka` under one name, whichever of them was asked for first."""

    __call__ = staticmethod(cka)  # no frame of its own: warnings point to who calls
    __signature__ = inspect.signature(cka)

    def __reduce__(self) -> tuple[Any, ...]:  # as a function it can be sent to other processes
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
