"""What attacks do to the networks."""

from __future__ import annotations

import pandas as pd

from sj_cka import figures, over_seeds
from sj_cka.attacks import attack_named
from sj_cka.claims import interval
from sj_cka.recipe import FigureBlock
from sj_cka.report import Panel, Section
from sj_cka.sections.results import Results

_UNITS = (
    "eps is in pixels, from 0 to 1, of recordings in events a pixel and step, and counts as each attack says: radius "
    "of the ball for fgsm, pgd, square and transfer, standard deviation or half-width of noise, share of pixels or "
    "events."
)


def robustness(block: FigureBlock, results: Results) -> Section:
    """Accuracy against the strength of every attack, what the attacks changed, and signs of masked gradients."""
    table = results.attacks
    lines: dict[str, dict[str, pd.DataFrame]] = {}
    several = table.groupby("attack")["strength"].transform("nunique") > 1  # one strength makes no line
    for (attack, network), rows in table[several].groupby(["attack", "network"], sort=False):
        clean = rows.drop_duplicates("seed").assign(eps=0.0, accuracy=lambda own: own["clean"])
        lines.setdefault(str(attack), {})[str(network)] = over_seeds.over_seeds(
            pd.concat([clean, rows]).sort_values("eps", kind="stable"), "eps"
        )
    count = results.plan.study.recipe.attack
    images = 0 if count is None else count.images
    note = (
        f"Accuracy on {images} test samples, mean and 95 % interval over seeds; at eps 0 without attack. {_UNITS} A "
        "transfer shows a network what was made on another. Below: share of the samples classified right that are "
        "lost, and in brackets the mean L-inf and L2 norms of what was changed, measured; means over seeds."
    )
    note += "".join(f" {sentence}" for sentence in masking(table))
    panels = (Panel("robustness", figures.robustness(lines)),) if lines else ()
    return Section(block.title or "Accuracy under attack", note, panels, _measured(table))


def backdoors(block: FigureBlock, results: Results) -> Section:
    """How well the backdoors work."""
    columns = {"accuracy": "accuracy", "success": "success_rate", "without trigger": "unprompted"}
    lines = {name: over_seeds.over_seeds(results.backdoors, "network", column) for name, column in columns.items()}
    table = pd.DataFrame({name: [_percent(*row) for row in line.to_numpy()] for name, line in lines.items()})
    table.insert(0, "network", list(lines["accuracy"].index))
    note = (
        "Networks that were trained on samples a share of which bore a trigger and the label of one class "
        "(train.poison). Accuracy: on clean test samples. Success: share of the test samples of other classes that are "
        "taken for that class once they bear the trigger; and without it. Means and 95 % intervals over seeds."
    )
    return Section(block.title or "Backdoors", note, (Panel("backdoors", figures.backdoors(lines)),), table)


def _percent(mean: float, low: float, high: float) -> str:
    between = "" if pd.isna(low) else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * mean:.1f} %{between}"


def masking(table: pd.DataFrame) -> list[str]:
    """Sentences on signs of masked gradients: gradient attacks that a gradient-free or transferred one beats.

    Args:
        table: of `tables.attacks`.
    """
    told, compared = [], 0
    own = table[table["rate"].isna() & table["linf_ball"]]
    for network, rows in own.groupby("network", sort=False):
        of_attack = rows.groupby("attack", sort=False)
        by = {str(name): part.set_index(["eps", "seed"])["success"] for name, part in of_attack}
        functions = rows.drop_duplicates("attack").set_index("attack")["function"]
        needs = {name: attack_named(functions[name]).needs for name in by}
        with_gradient = [name for name in by if needs[name] == "gradient"]
        if not with_gradient:
            continue
        best = pd.concat([by[name] for name in with_gradient], axis=1).max(axis=1)
        for name in by:
            if needs[name] not in ("answers", "source"):
                continue
            difference = (by[name] - best).dropna()
            compared += len(difference)
            for eps, values in difference.groupby(level="eps"):
                over = interval(values.to_numpy())
                beats = f"On {network} {name} succeeds more often than every gradient attack at eps {eps:g}"
                if over.low > 0:
                    told.append(
                        f"{beats} (by {100 * over.mean:.0f} points, {100 * over.low:.0f} to {100 * over.high:.0f}): a "
                        "sign that its gradients are masked."
                    )
                elif over.n < 2 and over.mean > 0:
                    told.append(
                        f"{beats} (by {100 * over.mean:.0f} points; one seed does not decide whether by chance)."
                    )
    if not compared:
        told.append("No attack without gradients has the strength of one with them: masked gradients would not show.")
    elif not told:
        told.append("No gradient-free or transferred attack beats the gradient attacks: no sign of masked gradients.")
    said = table[table["masked"].astype(bool)]
    if len(said):
        networks = ", ".join(said["network"].drop_duplicates())
        told.append(f"Some samples had a gradient of exactly zero ({networks}): see the column masked of attacks.csv.")
    return told


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each attack and strength: success on every network, and the size of what was changed."""
    keys = ["attack", "strength"]
    means = table.groupby([*keys, "network"], sort=False)[["success", "linf", "l2"]].mean()
    shown = table[keys].drop_duplicates().reset_index(drop=True)
    for network in table["network"].drop_duplicates():
        own = means.xs(network, level="network").reindex(pd.MultiIndex.from_frame(shown[keys]))
        shown[network] = [
            "" if pd.isna(linf) else f"{100 * success:.1f} % ({linf:.3f}, {l2:.2f})"
            for success, linf, l2 in own.itertuples(index=False)
        ]
    return shown
