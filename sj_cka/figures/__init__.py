"""Results drawn as Plotly figures: layout only, no computing and no reading of files.

A figure with a slider or buttons holds in `layout.meta["still"]` the layout of a picture without them.
"""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go

from sj_cka.figures.backdoors import backdoors
from sj_cka.figures.curves import curve
from sj_cka.figures.matrices import heatmap, variants
from sj_cka.figures.multiples import heatmaps
from sj_cka.figures.networks import accuracy, training
from sj_cka.figures.robustness import robustness
from sj_cka.figures.steps import accuracy_by_steps, steps_map
from sj_cka.figures.style import GREY, PALETTE, TEMPLATE
from sj_cka.figures.trend import trend

__all__ = [
    "FIGURES",
    "GREY",
    "PALETTE",
    "TEMPLATE",
    "accuracy",
    "accuracy_by_steps",
    "backdoors",
    "curve",
    "heatmap",
    "heatmaps",
    "robustness",
    "steps_map",
    "training",
    "trend",
    "variants",
]

FIGURES: dict[str, Callable[..., go.Figure]] = {
    "heatmap": heatmap,
    "heatmaps": heatmaps,
    "curve": curve,
    "relative_curve": curve,
    "trend": trend,
    "variants": variants,
    "steps": steps_map,
    "dynamics": curve,
    "accuracy": accuracy,
    "accuracy_by_steps": accuracy_by_steps,
    "training": training,
    "robustness": robustness,
    "backdoors": backdoors,
}
