"""What the page of a study shows: the figure blocks of its recipe, made from its results."""

from __future__ import annotations

from collections.abc import Callable

from sj_cka.recipe import FigureBlock
from sj_cka.report import Section
from sj_cka.sections import attacks, comparisons, networks, time
from sj_cka.sections.answers import answer
from sj_cka.sections.results import Results

__all__ = ["Results", "Section", "answer", "section"]

_SECTIONS: dict[str, Callable[[FigureBlock, Results], Section]] = {
    "heatmap": comparisons.heatmap,
    "heatmaps": comparisons.heatmaps,
    "curve": comparisons.curve,
    "relative_curve": comparisons.curve,
    "trend": comparisons.trend,
    "variants": comparisons.variants,
    "steps": time.steps,
    "dynamics": time.dynamics,
    "accuracy": networks.accuracy,
    "accuracy_by_steps": networks.accuracy_by_steps,
    "training": networks.training,
    "robustness": attacks.robustness,
    "backdoors": attacks.backdoors,
}


def section(block: FigureBlock, results: Results) -> Section:
    """The section of the page that a figure block of the recipe asks for."""
    return _SECTIONS[block.name](block, results)
