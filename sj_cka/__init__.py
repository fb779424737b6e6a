"""See what spiking neural networks learn: CKA over layers and time steps, and whole studies from recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sj_cka.cka import CKA, CKAResult, ComparisonStopped, UndefinedCKA, cka, compare, compare_features, pool
from sj_cka.recording import record
from sj_cka.twins import ann_twin, converted_snn, snn_twin

if TYPE_CHECKING:
    from sj_cka.study import StudyResult

__version__ = "0.1.0"
__all__ = [
    "CKA",
    "CKAResult",
    "ComparisonStopped",
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


def run(path: Any, **options: Any) -> StudyResult:
    """Runs a study from its recipe to its report, e.g. "recipes/residual_ablation.yaml"; see `sj_cka.study.run`."""
    from sj_cka import study  # plotly and scikit-learn: only who runs studies waits for them

    return study.run(path, **options)
