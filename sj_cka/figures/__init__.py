"""Results drawn as Plotly figures, and the sections of a page that show them: of tables alone, no reading of files.

Each file but `drawing`, on which all stand, is a figure: a function that draws tables, and one that makes the section
of a study's page of its results. A figure with a slider or buttons holds in `layout.meta["still"]` the layout of a
picture without them.
"""

from sj_cka.figures.accuracy import accuracy, accuracy_by_steps, accuracy_by_steps_section, accuracy_section
from sj_cka.figures.credit import alignment_section, locality, locality_section
from sj_cka.figures.curve import curve, curve_section, relative_curve_section
from sj_cka.figures.drawing import GREY, PALETTE, TEMPLATE, Figure, Panel, Section, State
from sj_cka.figures.exchange import exchanges, exchanges_section
from sj_cka.figures.fisher import fisher, fisher_section
from sj_cka.figures.heatmap import heatmap, heatmap_section, heatmaps, heatmaps_section
from sj_cka.figures.learning import against_epochs, learning_section, parting_section
from sj_cka.figures.robustness import backdoors, backdoors_section, robustness, robustness_section
from sj_cka.figures.steps_map import dynamics_section, steps_map, steps_section
from sj_cka.figures.training_curves import training, training_section
from sj_cka.figures.trend import trend, trend_section
from sj_cka.figures.variants import variants, variants_section

__all__ = [
    "FIGURES",
    "GREY",
    "PALETTE",
    "TEMPLATE",
    "Figure",
    "Panel",
    "Section",
    "State",
    "accuracy",
    "accuracy_by_steps",
    "against_epochs",
    "backdoors",
    "curve",
    "exchanges",
    "fisher",
    "heatmap",
    "heatmaps",
    "locality",
    "robustness",
    "steps_map",
    "training",
    "trend",
    "variants",
]

FIGURES: dict[str, Figure] = {
    "heatmap": Figure(heatmap_section, "comparison", ("trained", "untrained", "ceiling")),
    "heatmaps": Figure(heatmaps_section, "comparison", ("trained", "untrained")),
    "curve": Figure(curve_section, "comparison"),
    "relative_curve": Figure(relative_curve_section, "comparison"),
    "trend": Figure(trend_section, "sweep"),
    "variants": Figure(variants_section, "pairs of variants"),
    "steps": Figure(steps_section, "comparison"),
    "dynamics": Figure(dynamics_section, "network with itself", ("trained", "untrained")),
    "accuracy": Figure(accuracy_section),
    "accuracy_by_steps": Figure(accuracy_by_steps_section, "evaluations"),
    "training": Figure(training_section),
    "robustness": Figure(robustness_section, "attacks"),
    "backdoors": Figure(backdoors_section, "backdoors"),
    "learning": Figure(learning_section, "epochs"),
    "parting": Figure(parting_section, "epochs"),
    "alignment": Figure(alignment_section, "alignment"),
    "locality": Figure(locality_section, "locality"),
    "fisher": Figure(fisher_section, "fisher"),
    "exchange": Figure(exchanges_section, "exchange"),
}
