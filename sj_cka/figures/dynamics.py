"""How alike the steps inside each layer are, along depth."""

from __future__ import annotations

from sj_cka import over_seeds
from sj_cka.figures.curve import curve
from sj_cka.figures.section import FigureBlock, Panel, Results, Section
from sj_cka.figures.steps_map import PERMUTED


def dynamics_section(block: FigureBlock, results: Results) -> Section:
    """How alike the steps inside each layer of x are, along depth, beside the timing null."""
    lines, null, left_out = {}, {}, []
    for variant, sides in results.sides(block).items():
        name = variant or str(block.comparison)
        value, other = (
            over_seeds.of_layers(results.tables["dynamics"], str(block.comparison), variant, block.state, column)
            for column in ("cka", "null")
        )
        if value["mean"].isna().all():
            left_out.append(sides.titles[0])
            continue
        lines[name], null[f"{name}: timing null"] = value, other
    note = (
        "Mean CKA between two different steps inside a layer, in order of depth, with 95 % intervals over seeds: a "
        f"layer at 1 says the same at every step. {PERMUTED} A layer below its null changes more from step to step "
        "than that, one above it less. dynamics.csv tells for every value how many pairs of steps it is a mean over."
    )
    if left_out:
        note += f" Not shown, because no two steps can be compared: {', '.join(left_out)}."
    y_title = "mean CKA between different steps (1 = static)"
    panels = (Panel("dynamics", curve(lines, reference=null, y_title=y_title, from_zero=False)),) if lines else ()
    state = "" if block.state == "trained" else ", untrained"
    return Section(block.title or f"How static each layer is: {block.comparison}{state}", note, panels)
