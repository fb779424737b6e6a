"""What the time steps inside a layer have in common."""

from __future__ import annotations

import pandas as pd

from sj_cka import figures, over_seeds
from sj_cka.cka import CKAResult
from sj_cka.claims import selected
from sj_cka.recipe import FigureBlock
from sj_cka.report import Panel, Section
from sj_cka.sections.results import Results

_NULL = (
    "Timing null: every neuron keeps the number of its spikes for every image, but they come at steps drawn at random. "
    "It shows how unlike sparse firing alone makes two steps."
)


def steps(block: FigureBlock, results: Results) -> Section:
    """Time step by time step inside each layer of x, a tab a variant, and another for its timing null."""
    panels, left_out, nulls = [], [], False
    for variant, sides in results.sides(block).items():
        found = [own[0] for own in results.of(str(block.comparison), variant)]  # x alone is shown, once a seed
        if len(found[0].data.step_x) < 2:
            left_out.append(sides.titles[0])
            continue
        name, there = variant or str(block.comparison), found[0].layers_x
        neurons = [layer for layer in there if layer in results.plan.neurons[sides.x.trained]]
        layers = selected(there, block.layers) if block.layers else neurons or there
        panels.append(Panel(name, figures.steps_map(_maps(found, layers))))
        if all(result.permuted_steps is not None for result in found):
            nulls = True
            of_null = [result.permuted_steps for result in found if result.permuted_steps is not None]
            panels.append(Panel(f"{name}, timing null", figures.steps_map(_maps(of_null, layers))))
    note = (
        "CKA between the time steps of one layer of the spiking network, mean over seeds: 1 off the diagonal is a "
        "layer that says the same at every step. "
    )
    note += _NULL if nulls else "Sparse firing alone makes a layer look less alike over time."
    if left_out:
        note += f" Not shown, because there is one step: {', '.join(left_out)}."
    return Section(block.title or f"Time step by time step: {block.comparison}", note, tuple(panels))


def _maps(found: list[CKAResult], layers: list[str]) -> dict[str, pd.DataFrame]:
    """Layer -> its map, mean over seeds."""
    of = {layer: [result.steps(layer) for result in found if layer in result.layers_x] for layer in layers}
    return {layer: sum(maps[1:], maps[0]) / len(maps) for layer, maps in of.items() if maps}


def dynamics(block: FigureBlock, results: Results) -> Section:
    """How alike the steps inside each layer of x are, along depth, beside the timing null."""
    lines, null, left_out = {}, {}, []
    for variant, sides in results.sides(block).items():
        name = variant or str(block.comparison)
        value, other = (
            over_seeds.curve(results.dynamics, str(block.comparison), variant, block.state, column)
            for column in ("cka", "null")
        )
        if value["mean"].isna().all():
            left_out.append(sides.titles[0])
            continue
        lines[name], null[f"{name}: timing null"] = value, other
    note = (
        "Mean CKA between two different steps inside a layer, in order of depth, with 95 % intervals over seeds: a "
        f"layer at 1 says the same at every step. {_NULL} A layer below its null changes more from step to step than "
        "that, one above it less. dynamics.csv tells for every value how many pairs of steps it is a mean over."
    )
    if left_out:
        note += f" Not shown, because no two steps can be compared: {', '.join(left_out)}."
    y_title = "mean CKA between different steps (1 = static)"
    panels = (
        (Panel("dynamics", figures.curve(lines, reference=null, y_title=y_title, from_zero=False)),) if lines else ()
    )
    state = "" if block.state == "trained" else ", untrained"
    return Section(block.title or f"How static each layer is: {block.comparison}{state}", note, panels)
