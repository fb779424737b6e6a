"""What the page of a study shows: the figure blocks of its recipe, made from its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from sj_cka import figures, tables
from sj_cka.cka import CKAResult
from sj_cka.claims import Finding, Interval
from sj_cka.plan import Plan
from sj_cka.recipe import FigureBlock, network_of
from sj_cka.report import Answer, Panel, Section
from sj_cka.tables import Compared


@dataclass(frozen=True)
class Results:
    """All numbers of a finished study."""

    plan: Plan
    compared: list[Compared]
    accuracy: pd.DataFrame
    history: pd.DataFrame
    pairs: pd.DataFrame

    def of(self, comparison: str, variant: str, state: str = "trained", kind: str = "") -> list[list[CKAResult]]:
        """The results of a comparison by seed: one, or one for each other seed; of a ceiling, those of one kind."""
        found: dict[int, list[CKAResult]] = {}
        for p, result in self.compared:
            if (p.comparison, p.variant, p.state, p.kind) == (comparison, variant, state, kind):
                found.setdefault(p.seed, []).append(result)
        return list(found.values())


def section(block: FigureBlock, results: Results) -> Section:
    """The section of the page that a figure block of the recipe asks for."""
    return _SECTIONS[block.name](block, results)


def answer(finding: Finding) -> Answer:
    """A judged claim as the page states it."""
    parts = [finding.measured, _effect(finding.test, finding.estimate)]
    if finding.learned_estimate is not None:
        parts.append(f"training added {_numbers(finding.learned_estimate)}")
    if finding.note:
        parts.append(finding.note)
    return Answer(finding.says, finding.verdict, finding.learned, "; ".join(parts), finding.source)


def _effect(test: str, estimate: Interval) -> str:
    name = {
        "greater": "difference",
        "less": "difference",
        "differs": "difference",
        "near_ceiling": "share beyond one half",
        "trend": "slope",
    }.get(test, "distance from it")
    return f"{name} {_numbers(estimate)}"


def _numbers(estimate: Interval) -> str:
    if pd.isna(estimate.mean):
        return "undefined"
    if estimate.n < 2:
        return f"{estimate.mean:+.3f} (one seed, no interval)"
    return f"{estimate.mean:+.3f} (95 % interval {estimate.low:+.3f} to {estimate.high:+.3f}, {estimate.n} seeds)"


def _variants(block: FigureBlock, results: Results) -> dict[str, tuple[str, str]]:
    comparison = next(c for c in results.plan.study.recipe.compare if c.name == block.comparison)
    return results.plan.study.sides(comparison)


def _title(block: FigureBlock, otherwise: str) -> str:
    return block.title or otherwise


def _heatmap(block: FigureBlock, results: Results) -> Section:
    comparison, panels = str(block.comparison), []
    for variant, (x, y) in _variants(block, results).items():
        if block.state != "ceiling":
            means, spread = tables.mean_frames(results.of(comparison, variant, block.state))
            suffix = "" if block.state == "trained" else ", untrained"
            figure = figures.heatmap(means, x_title=f"{x}{suffix}", y_title=f"{y}{suffix}", spread=spread)
            panels.append(Panel(variant or comparison, figure))
            continue
        for name in (x, y):
            if found := results.of(comparison, variant, "ceiling", network_of(name)[1]):
                # all pairs as one: pairs of seeds are not independent, so there is no interval over them
                means, _ = tables.mean_frames([[result for of_seed in found for result in of_seed]])
                figure = figures.heatmap(means, x_title=f"{name}, a seed", y_title=f"{name}, another seed")
                panels.append(Panel(name, figure))
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
        note = "Nothing to show: seed against seed takes two seeds, and an SNN compared with an ANN."
    return Section(_title(block, f"Layer by layer: {comparison}, {block.state}"), note, tuple(panels))


def _curve(block: FigureBlock, results: Results) -> Section:
    lines, reference = {}, {}
    for variant in _variants(block, results):
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
        note += "Ceiling: a network against itself trained from another seed, geometric mean of SNN and ANN. "
    note += "Click a name to hide it."
    panels = (Panel("curve", figures.curve(lines, reference=reference)),) if lines else ()
    if not lines:
        note = "No layer has the same name in both networks, so there is no curve of paired layers."
    return Section(_title(block, f"Paired layers: {block.comparison}"), note, panels)


def _accuracy(block: FigureBlock, results: Results) -> Section:
    summary = tables.accuracy_summary(results.accuracy)
    table = pd.DataFrame(
        {
            "network": summary["network"],
            "split": summary["split"],
            "accuracy": [f"{100 * mean:.1f} %" for mean in summary["mean"]],
            "interval": [_percent(low, high) for low, high in zip(summary["low"], summary["high"], strict=True)],
            "seeds": summary["seeds"],
        }
    )
    note = "Accuracy after the last epoch, never that of the best; intervals are 95 % over seeds."
    panel = Panel("accuracy", figures.accuracy(results.accuracy, summary))
    return Section(_title(block, "Accuracy"), note, (panel,), table)


def _percent(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{100 * low:.1f} to {100 * high:.1f}"


def _training(block: FigureBlock, results: Results) -> Section:
    note = "Loss and accuracy on the training split, in training mode, and spikes per neuron and step; one line a seed."
    return Section(_title(block, "Training"), note, (Panel("training", figures.training(results.history)),))


def _steps(block: FigureBlock, results: Results) -> Section:
    panels = []
    for variant in _variants(block, results):
        found = [own[0] for own in results.of(str(block.comparison), variant)]  # x alone is shown, once a seed
        layers = block.layers or [found[0].layers_x[0], found[0].layers_x[-1]]
        frames = {}
        for layer in layers:
            maps = [result.steps(layer) for result in found if layer in result.layers_x]
            if maps:
                frames[layer] = sum(maps[1:], maps[0]) / len(maps)
        if frames:
            panels.append(Panel(variant or str(block.comparison), figures.steps_map(frames)))
    note = (
        "CKA between the time steps of one layer of the spiking network, mean over seeds: 1 off the diagonal is a "
        "layer that says the same at every step. Sparse firing alone makes a layer look less alike over time."
    )
    return Section(_title(block, f"Time step by time step: {block.comparison}"), note, tuple(panels))


_SECTIONS: dict[str, Callable[[FigureBlock, Results], Section]] = {
    "heatmap": _heatmap,
    "curve": _curve,
    "accuracy": _accuracy,
    "training": _training,
    "steps": _steps,
}
