"""What happens over time: step by step inside layers, and accuracy against the number of steps."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
from pydantic import Field

from sj_cka import over_seeds
from sj_cka.claims import selected
from sj_cka.figures.curve import curve
from sj_cka.figures.drawing import FigureBlock, Panel, Results, Section, labels_of, lay_out, small_multiples
from sj_cka.figures.heatmap import cells_of, coloraxis, print_values

PERMUTED = (
    "Timing null: every neuron keeps the number of its spikes for every image, but they come at steps drawn at random. "
    "It shows how unlike sparse firing alone makes two steps."
)
_FEW = 6  # pictures that are drawn large; more are small multiples, five in a row


def steps_map(frames: Mapping[str, pd.DataFrame], *, title: str = "") -> go.Figure:
    """Time step x time step CKA, one small picture for each layer, in the colours of every other CKA figure.

    Args:
        frames: label (a layer, a network) -> matrix [step of x, step of y] of CKA, index and columns the steps 1..T;
            the index runs along the horizontal axis. Values are printed into the cells where they have room.
        title: heading of the figure.

    Returns:
        A figure with one square picture a frame, the first step in the lower left corner.

    Raises:
        ValueError: no frame.

    Example:
        >>> matrix = pd.DataFrame([[1.0, 0.9], [0.9, 1.0]], index=[1, 2], columns=[1, 2])
        >>> figure = steps_map({"layer1.0.lif1": matrix, "layer3.0.lif1": matrix})
        >>> [note.text for note in figure.layout.annotations]
        ['layer1.0.lif1', 'layer3.0.lif1']
    """
    labels = labels_of(frames)
    most_steps = max(max(frame.shape) for frame in frames.values())
    small = len(labels) > _FEW
    columns = 5 if small else min(4 if most_steps <= 5 else 3, len(labels))
    headings = [label.replace(", ", ",<br>") for label in labels]
    lines_of_heading = max(heading.count("<br>") for heading in headings) + 1
    picture, gap = 840 // columns if columns > 2 else 300, (28 if small else 55) + 16 * lines_of_heading  # pixels
    spacing = 0.03 if small else 0.06
    figure, places, _, height = small_multiples(
        headings, columns, picture, gap, 11 if small else 12, horizontal_spacing=spacing
    )
    for i, (at, frame) in enumerate(zip(places, frames.values(), strict=True)):
        steps_x, steps_y = list(frame.index), list(frame.columns)
        for trace in cells_of(frame, steps_x, steps_y, "step %{x} and step %{y}<br>"):
            if most_steps <= (4 if small else 8) and trace.coloraxis:
                print_values(trace, size=11 if most_steps < 5 else 9)
            figure.add_trace(trace, **at)
        every = -(-most_steps // (4 if small else 8))
        lowest = i + columns >= len(labels)
        axis = {"dtick": every, "tick0": 1, "constrain": "domain"}
        figure.update_xaxes(**axis, title_text="" if small and not lowest else "time step", title_standoff=4, **at)
        figure.update_yaxes(**axis, constraintoward="top", **at)
        figure.update_yaxes(scaleanchor=figure.get_subplot(**at).xaxis.plotly_name.replace("axis", ""), **at)
        if at["col"] == 1:
            figure.update_yaxes(title_text="time step", title_standoff=6, **at)
    above = 17 * lines_of_heading
    lay_out(
        figure,
        title,
        height + above + 60,
        above=above,
        width=90 + 330 * columns if columns < 3 else None,
        margin_b=60,
        coloraxis=coloraxis(),
        coloraxis_colorbar={"lenmode": "pixels", "len": 260, "y": 1, "yanchor": "top"},
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure


ShownLayers = Annotated[list[str], Field(min_length=1, description="the layers that it shows")]


def steps_section(block: FigureBlock, results: Results, *, layers: ShownLayers | None = None) -> Section:
    """Time step by time step inside each layer of x, a tab a variant, and another for its timing null."""
    panels, left_out, nulls = [], [], False
    for variant, sides in results.sides(block).items():
        of_seeds = [own[0] for own in results.of(str(block.comparison), variant)]  # x alone is shown, once a seed
        if len(of_seeds[0].data.step_x) < 2:
            left_out.append(sides.titles[0])
            continue
        name, there = variant or str(block.comparison), of_seeds[0].layers_x
        neurons = [layer for layer in there if layer in results.plan.neurons[sides.x.trained]]
        shown = selected(there, layers) if layers else neurons or there
        panels.append(Panel(name, steps_map(_maps(of_seeds, shown))))
        if all(result.permuted_steps is not None for result in of_seeds):
            nulls = True
            of_null = [result.permuted_steps for result in of_seeds if result.permuted_steps is not None]
            panels.append(Panel(f"{name}, timing null", steps_map(_maps(of_null, shown))))
    note = (
        "CKA between the time steps of one layer of the spiking network, mean over seeds: 1 off the diagonal is a "
        "layer that says the same at every step. "
    )
    note += PERMUTED if nulls else "Sparse firing alone makes a layer look less alike over time."
    if left_out:
        note += f" Not shown, because there is one step: {', '.join(left_out)}."
    return Section(block.title or f"Time step by time step: {block.comparison}", note, tuple(panels))


def _maps(of_seeds: Sequence[Any], layers: list[str]) -> dict[str, pd.DataFrame]:
    """Layer -> its map, mean over seeds."""
    of = {layer: [result.steps(layer) for result in of_seeds if layer in result.layers_x] for layer in layers}
    return {layer: sum(maps[1:], maps[0]) / len(maps) for layer, maps in of.items() if maps}


def dynamics_section(block: FigureBlock, results: Results) -> Section:
    """How much each layer of x changes over time, along depth."""
    lines, left_out = {}, []
    for variant, sides in results.sides(block).items():
        name = variant or str(block.comparison)
        value = over_seeds.of_layers(results.tables["dynamics"], str(block.comparison), variant, block.state, "split")
        if value["mean"].isna().all():
            left_out.append(sides.titles[0])
            continue
        lines[name] = value
    note = (
        "How much a layer changes from step to step, in order of depth, with 95 % intervals over seeds: 0 is a layer "
        "that says the same at every step, however noisy its single units are, 1 one whose steps have nothing in "
        "common. Each step of one half of the units is compared with each step of the other half, the mean over all "
        "halves, over what the halves share at one step. dynamics.csv names what is undefined: layers of fewer than 8 "
        "units, and steps at which the halves share nothing."
    )
    if left_out:
        note += f" Not shown, because no two steps can be compared: {', '.join(left_out)}."
    y_title = "change between steps (0 = static)"
    panels = (Panel("dynamics", curve(lines, y_title=y_title)),) if lines else ()
    state = "" if block.state == "trained" else ", untrained"
    return Section(block.title or f"How dynamic each layer is: {block.comparison}{state}", note, panels)
