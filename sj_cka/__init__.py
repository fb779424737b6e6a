"""See what spiking neural networks learn: CKA over layers and time steps, and whole studies from recipes.

A public name, or a part such as `sj_cka.models`, is loaded when it is first used: torch alone takes seconds.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "CKA",
    "CKAResult",
    "ComparisonStopped",
    "Space",
    "UndefinedCKA",
    "ann_twin",
    "cka",
    "compare",
    "compare_features",
    "converted_snn",
    "pool",
    "record",
    "run",
    "snn_twin",
]

if TYPE_CHECKING:
    from sj_cka.cka import CKA, CKAResult, Space, UndefinedCKA, cka, compare_features, pool
    from sj_cka.cka.compare import ComparisonStopped, compare
    from sj_cka.recording import record
    from sj_cka.study import run
    from sj_cka.twins import ann_twin, converted_snn, snn_twin
else:  # a type checker that saw this would take any name for one of ours
    # cka is not among them: the package of that name is the function too
    _NAMES = {
        "cka": (
            *("CKA", "CKAResult", "ComparisonStopped", "Space", "UndefinedCKA"),
            *("compare", "compare_features", "pool"),
        ),
        "recording": ("record",),
        "study": ("run",),
        "twins": ("ann_twin", "converted_snn", "snn_twin"),
    }
    _HOME = {name: module for module, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> object:
        if name in _HOME:
            globals()[name] = found = getattr(import_module(f"sj_cka.{_HOME[name]}"), name)
            return found
        if name.startswith("_") or not name.isidentifier() or find_spec(f"sj_cka.{name}") is None:
            raise AttributeError(f"module 'sj_cka' has no attribute {name!r}")
        return import_module(f"sj_cka.{name}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
