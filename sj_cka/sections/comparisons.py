"""What two networks have in common, layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sj_cka import figures, over_seeds
from sj_cka.claims import MEASUREMENTS, Measurement, swept
from sj_cka.plan import ceiling_kind
from sj_cka.recipe import FigureBlock
from sj_cka.report import Panel, Section
from sj_cka.sections.results import Results


def heatmap(block: FigureBlock, results: Results) -> Section:
    """Every layer with every layer, a tab a variant."""
    comparison, panels = results.comparison(block), dict[str, Panel]()
    for variant, sides in results.sides(block).items():
        if block.state != "ceiling":
            means, spread = over_seeds.mean_frames(results.of(comparison.name, variant, block.state))
            suffix = "" if block.state == "trained" else ", untrained"
            x_title, y_title = (f"{title}{suffix}" for title in sides.titles)
            figure = figures.heatmap(means, x_title=x_title, y_title=y_title, spread=spread)
            panels[variant] = Panel(variant or comparison.name, figure)
            continue
        for name, title in zip(sides[:2], sides.titles, strict=True):
            if found := results.of(comparison.name, variant, "ceiling", ceiling_kind(comparison, name)):
                # all pairs as one: pairs of seeds are not independent, so there is no interval over them
                means, _ = over_seeds.mean_frames([[result for of_seed in found for result in of_seed]])
                figure = figures.heatmap(means, x_title=f"{title}, a seed", y_title=f"{title}, another seed")
                panels[title] = Panel(title, figure)
    of_what = {
        "trained": "the other",
        "untrained": "the other, both untrained (the floor: what wiring alone gives)",
        "ceiling": "the same network trained from another seed (the ceiling)",
    }[block.state]
    note = (
        f"CKA of every layer of one network with every layer of {of_what}, mean over "
        f"{len(results.plan.study.seeds)} seeds, all steps concatenated; the slider picks a single time step. Grey: "
        "undefined; ±, under the pointer: half of the 95 % interval over seeds. Names are those of the modules: in an "
        "artificial network, ReLU stands where the spiking one has its neuron (lif)."
    )
    if not panels:
        note = "Nothing to show: seed against seed takes two seeds."
    title = block.title or f"Layer by layer: {comparison.name}, {block.state}"
    return Section(title, note, tuple(panels.values()))


def heatmaps(block: FigureBlock, results: Results) -> Section:
    """Every layer with every layer, a picture a variant, side by side."""
    comparison, frames, titles = results.comparison(block), dict[str, pd.DataFrame](), set[tuple[str, str]]()
    for variant, sides in results.sides(block).items():
        means, _ = over_seeds.mean_frames(results.of(comparison.name, variant, block.state))
        frames[variant or comparison.name] = next(iter(means.values()))
        titles.add((sides.x.kind.upper(), sides.y.kind.upper()))
    x_title, y_title = titles.pop() if len(titles) == 1 else ("", "")
    note = (
        f"CKA of every layer with every layer, mean over {len(results.plan.study.seeds)} seeds, all steps "
        "concatenated, in one colour scale; each picture spans its networks from the first layer to the last. Grey: "
        "undefined."
    )
    if block.state == "untrained":
        note += " Both networks are untrained: the floor, what wiring alone gives."
    title = block.title or f"Layer by layer, side by side: {comparison.name}, {block.state}"
    return Section(title, note, (Panel("heatmaps", figures.heatmaps(frames, x_title=x_title, y_title=y_title)),))


def trend(block: FigureBlock, results: Results) -> Section:
    """A measure of a comparison against the swept value."""
    evidence, path = results.evidence, next(iter(results.plan.study.recipe.sweep or {}))
    measurement = Measurement(measure=block.measure, comparison=block.comparison)
    found = swept(measurement, evidence)
    states = {"trained": found.trained, "untrained (the floor)": found.untrained}
    states = {name: table for name, table in states.items() if not table.empty}
    dots = {name: over_seeds.by_value(table, evidence.swept) for name, table in states.items()}
    lines = {name: over_seeds.over_seeds(table, "value", "measured") for name, table in dots.items()}
    reference = {} if found.ceiling.empty else {"seed against seed (the ceiling)": _level(found.ceiling)}
    label = MEASUREMENTS[block.measure].label
    note = f"{label[0].upper()}{label[1:]}, against {path}: means with 95 % intervals over seeds, a dot a seed. "
    if len(states) > 1:
        note += "Floor: the same networks untrained. "
    if reference:
        note += "Ceiling: a network against itself trained from another seed, geometric mean of the two. "
    counts = ", ".join(str(len(layers)) for layers in found.layers.values())
    note += f"Over {counts} layers, those that are defined at every value that has them."
    figure = figures.trend(lines, x_title=path, y_title=label, dots=dots, reference=reference)
    return Section(block.title or f"{path}: {block.comparison}", note, (Panel("trend", figure),))


def _level(values: pd.Series) -> pd.DataFrame:
    """Values without intervals as a line."""
    return pd.DataFrame({"mean": values, "low": np.nan, "high": np.nan})


def curve(block: FigureBlock, results: Results) -> Section:
    """Layers of the same name along depth, a line a variant; over relative depth if the block asks for it."""
    lines, reference = {}, {}
    for variant in results.sides(block):
        name = variant or str(block.comparison)
        lines[name] = over_seeds.curve(results.pairs, str(block.comparison), variant, "trained")
        for state, label in (("untrained", "floor"), ("ceiling", "ceiling")):
            table = over_seeds.curve(results.pairs, str(block.comparison), variant, state)
            if len(table):
                reference[f"{name}: {label}"] = table
    lines = {name: table for name, table in lines.items() if len(table)}
    note = "CKA of layers of the same name, in order of depth, with 95 % intervals over seeds. "
    if any(name.endswith(": floor") for name in reference):
        note += "Floor: the same networks untrained (batch normalisation calibrated). "
    if any(name.endswith(": ceiling") for name in reference):
        note += "Ceiling: a network against itself trained from another seed, geometric mean of the two. "
    note += "Click a name to hide it."
    relative = block.name == "relative_curve"
    panels = (Panel("curve", figures.curve(lines, reference=reference, relative=relative)),) if lines else ()
    if not lines:
        note = "No layer has the same name in both networks, so there is no curve of paired layers."
    return Section(block.title or f"Paired layers: {block.comparison}", note, panels)


def variants(block: FigureBlock, results: Results) -> Section:
    """Every variant with every other, a number a pair."""
    comparison = results.comparison(block)
    found = over_seeds.between(results.compared, comparison.name, results.sides(block))
    note = (
        f"Mean CKA of layers of the same name, over the {found.layers} layers that are defined in every network; ±: "
        "half of the 95 % interval over seeds. On the diagonal a network against itself trained from another seed: no "
        "more than that can be expected. Floor: the same networks untrained."
    )
    if not found.layers:
        return Section(block.title or f"Variant by variant: {comparison.name}", "No layer is defined in every network.")
    figure = figures.variants(found.mean, spread=found.spread, floor=found.floor)
    return Section(block.title or f"Variant by variant: {comparison.name}", note, (Panel("variants", figure),))
