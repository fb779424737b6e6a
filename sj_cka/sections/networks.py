"""How accurate the networks are, and how they trained."""

from __future__ import annotations

import pandas as pd

from sj_cka import figures, over_seeds
from sj_cka.cost import ASSUMPTION
from sj_cka.recipe import FigureBlock
from sj_cka.report import Panel, Section
from sj_cka.sections.results import Results

_FOR_ALL = " {name} is one network, the same for every variant: what varies does not concern its kind."


def accuracy(block: FigureBlock, results: Results) -> Section:
    """Accuracy of every network, as a figure and as a table."""
    seen = results.for_all(results.accuracy)
    summary = over_seeds.accuracy_summary(seen)
    table = pd.DataFrame(
        {
            "network": summary["network"],
            "split": summary["split"],
            "accuracy": [f"{100 * mean:.1f} %" for mean in summary["mean"]],
            "interval": [_percent(low, high) for low, high in zip(summary["low"], summary["high"], strict=True)],
            "seeds": summary["seeds"],
        }
    )
    costs = results.for_all(results.cost).groupby("network", sort=False)[["synops", "macs", "energy_nj"]].mean()
    shown = costs.reindex(table["network"])
    table["synaptic operations"] = [_count(value) for value in shown["synops"]]
    table["MACs"] = [_count(value) for value in shown["macs"]]
    table["energy"] = [f"{value / 1e3:.3g} µJ" for value in shown["energy_nj"]]
    note = (
        "Accuracy after the last epoch, never that of the best; intervals are 95 % over seeds. Operations and energy "
        f"are those of one test sample, {ASSUMPTION}."
    )
    panel = Panel("accuracy", figures.accuracy(seen, summary))
    return Section(block.title or "Accuracy", note + _alike(seen), (panel,), table)


def accuracy_by_steps(block: FigureBlock, results: Results) -> Section:
    """Accuracy of trained spiking networks that are run with other numbers of steps."""
    test = results.evaluated[results.evaluated["split"] == "test"]
    own = {network: results.plan.study.steps_of(network) for network in test["network"].unique()}
    lines = {network: over_seeds.over_seeds(test[test["network"] == network], "T") for network in own}
    seen = results.for_all(results.accuracy)
    level = over_seeds.over_seeds(seen[(seen["split"] == "test") & seen["network"].str.endswith(".ann")], "network")
    means = pd.DataFrame({network: line["mean"] for network, line in lines.items()}).sort_index()
    table = means.T.rename(columns=lambda T: f"T = {T}").map(
        lambda mean: "" if pd.isna(mean) else f"{100 * mean:.1f} %"
    )
    table.insert(0, "trained at", [own[network] for network in table.index])
    note = (
        "Accuracy on the test split of trained networks that are run with other numbers of steps than in their "
        "training: the same weights, the same image shown for longer or shorter. Rings: run as trained. Bars: 95 % "
        "intervals over seeds."
    )
    figure = figures.accuracy_by_steps(lines, own=own, reference={str(name): row for name, row in level.iterrows()})
    title = block.title or "Accuracy against the number of steps"
    return Section(title, note + _alike(seen), (Panel("accuracy", figure),), table.rename_axis("network"))


def training(block: FigureBlock, results: Results) -> Section:
    """How every network trained."""
    seen = results.for_all(results.history)
    note = "Loss and accuracy on the training split, in training mode, and spikes per neuron and step; one line a seed."
    return Section(block.title or "Training", note + _alike(seen), (Panel("training", figures.training(seen)),))


def _alike(table: pd.DataFrame) -> str:
    """Says so where one network stands for all variants."""
    names = [name for name in dict.fromkeys(table["network"]) if name.startswith("*")]
    return "".join(_FOR_ALL.format(name=name) for name in names)


def _count(value: float) -> str:
    """Operations in millions."""
    return f"{value / 1e6:.3g} M" if value else "0"


def _percent(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{100 * low:.1f} to {100 * high:.1f}"
