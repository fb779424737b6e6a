"""What two networks have in common, layer by layer."""

from __future__ import annotations

from sj_cka import figures, tables
from sj_cka.plan import ceiling_kind
from sj_cka.recipe import FigureBlock
from sj_cka.report import Panel, Section
from sj_cka.sections.results import Results


def heatmap(block: FigureBlock, results: Results) -> Section:
    """Every layer with every layer, a tab a variant."""
    comparison, panels = results.comparison(block), dict[str, Panel]()
    for variant, sides in results.sides(block).items():
        if block.state != "ceiling":
            means, spread = tables.mean_frames(results.of(comparison.name, variant, block.state))
            suffix = "" if block.state == "trained" else ", untrained"
            x_title, y_title = (f"{title}{suffix}" for title in sides.titles)
            figure = figures.heatmap(means, x_title=x_title, y_title=y_title, spread=spread)
            panels[variant] = Panel(variant or comparison.name, figure)
            continue
        for name, title in zip(sides[:2], sides.titles, strict=True):
            if found := results.of(comparison.name, variant, "ceiling", ceiling_kind(comparison, name)):
                # all pairs as one: pairs of seeds are not independent, so there is no interval over them
                means, _ = tables.mean_frames([[result for of_seed in found for result in of_seed]])
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


def curve(block: FigureBlock, results: Results) -> Section:
    """Layers of the same name along depth, a line a variant."""
    lines, reference = {}, {}
    for variant in results.sides(block):
        name = variant or str(block.comparison)
        lines[name] = tables.curve(results.pairs, str(block.comparison), variant, "trained")
        for state, label in (("untrained", "floor"), ("ceiling", "ceiling")):
            table = tables.curve(results.pairs, str(block.comparison), variant, state)
            if len(table):
                reference[f"{name}: {label}"] = table
    lines = {name: table for name, table in lines.items() if len(table)}
    note = (
        "CKA of layers of the same name, in order of depth, with 95 % intervals over seeds. Floor: the same networks "
        "untrained (batch normalisation calibrated). "
    )
    if any(name.endswith(": ceiling") for name in reference):
        note += "Ceiling: a network against itself trained from another seed, geometric mean of the two. "
    note += "Click a name to hide it."
    panels = (Panel("curve", figures.curve(lines, reference=reference)),) if lines else ()
    if not lines:
        note = "No layer has the same name in both networks, so there is no curve of paired layers."
    return Section(block.title or f"Paired layers: {block.comparison}", note, panels)


def variants(block: FigureBlock, results: Results) -> Section:
    """Every variant with every other, a number a pair."""
    comparison = results.comparison(block)
    found = tables.between(results.compared, comparison.name, results.sides(block))
    note = (
        f"Mean CKA of layers of the same name, over the {found.layers} layers that are defined in every network; ±: "
        "half of the 95 % interval over seeds. On the diagonal a network against itself trained from another seed: no "
        "more than that can be expected. Floor: the same networks untrained."
    )
    if not found.layers:
        return Section(block.title or f"Variant by variant: {comparison.name}", "No layer is defined in every network.")
    figure = figures.variants(found.mean, spread=found.spread, floor=found.floor)
    return Section(block.title or f"Variant by variant: {comparison.name}", note, (Panel("variants", figure),))
