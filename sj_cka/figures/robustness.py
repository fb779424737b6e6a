"""Accuracy under attack against its strength, a picture an attack; and how well backdoors work."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from sj_cka import over_seeds
from sj_cka.attacks import attack_named
from sj_cka.figures.drawing import (
    LEGEND_ABOVE,
    SYMBOLS,
    FigureBlock,
    Panel,
    Results,
    Section,
    colour_of,
    interval_texts,
    labels_of,
    lay_out,
    numbers,
    require_means,
    small_multiples,
    whiskers,
)
from sj_cka.over_seeds import interval

_UNITS = (
    "eps is in pixels, from 0 to 1, of recordings in events a pixel and step, and counts as each attack says: radius "
    "of the ball for fgsm, pgd, square and transfer, standard deviation or half-width of noise, share of pixels or "
    "events."
)
_COLUMNS = 3
_PICTURE, _GAP = 230, 92  # pixels


def robustness(lines: Mapping[str, Mapping[str, pd.DataFrame]], *, title: str = "") -> go.Figure:
    """Accuracy of several networks under several attacks, small multiples with one scale of accuracy.

    Args:
        lines: attack -> network -> table indexed by eps, 0 for the clean samples, with the columns `mean`, `low`,
            `high` in 0..1; `low` and `high` are NaN where there is no interval.
        title: heading of the figure.

    Returns:
        A figure with one picture an attack; a network has one colour in all of them.

    Raises:
        ValueError: no attack, or a missing column.

    Example:
        >>> table = pd.DataFrame({"mean": [0.9, 0.2], "low": [0.8, 0.1], "high": [1.0, 0.3]}, index=[0, 0.1])
        >>> figure = robustness({"pgd": {"base.snn": table}, "square": {"base.snn": table}})
        >>> [note.text for note in figure.layout.annotations]
        ['pgd', 'square']
    """
    labels = labels_of(lines)
    require_means(*lines.values())
    networks = list(dict.fromkeys(network for of_attack in lines.values() for network in of_attack))
    figure, places, columns, height = small_multiples(
        labels,
        min(_COLUMNS, len(labels)),
        _PICTURE,
        _GAP,
        shared_yaxes=True,
        horizontal_spacing=0.1 / min(_COLUMNS, len(labels)),
    )
    named = set[str]()
    for at, of_attack in zip(places, lines.values(), strict=True):
        for network, table in of_attack.items():
            trace = _line(network, networks.index(network), 100 * table.sort_index())
            figure.add_trace(trace.update(showlegend=network not in named), **at)
            named.add(network)
        figure.update_xaxes(title_text="eps", title_standoff=4, rangemode="tozero", nticks=5, **at)
        if at["col"] == 1:
            figure.update_yaxes(title_text="accuracy in %", title_standoff=6, **at)
    figure.update_yaxes(range=[-4, 104])
    width = None if columns == _COLUMNS else 120 + 300 * columns
    lay_out(figure, title, height + 122, above=62, width=width, margin_b=60, legend=LEGEND_ABOVE)
    return figure


def _line(network: str, n: int, percent: pd.DataFrame) -> go.Scatter:
    """Accuracy of the n-th network against eps, with its intervals."""
    return go.Scatter(
        x=numbers(pd.Series(percent.index)),
        y=numbers(percent["mean"]),
        name=network,
        legendgroup=network,
        mode="lines+markers",
        line={"color": colour_of(n), "width": 1.5},
        marker={"symbol": SYMBOLS[n % len(SYMBOLS)], "size": 7},
        error_y=whiskers(percent),
        customdata=interval_texts(percent, 1),
        hovertemplate=f"{network}, eps %{{x}}<br>%{{y:.1f}} %%{{customdata}}<extra></extra>",
    )


def robustness_section(block: FigureBlock, results: Results) -> Section:
    """Accuracy against the strength of every attack, what the attacks changed, and signs of masked gradients."""
    table = results.tables["attacks"]
    lines: dict[str, dict[str, pd.DataFrame]] = {}
    several = table.groupby("attack")["strength"].transform("nunique") > 1  # one strength makes no line
    for (attack, network), rows in table[several].groupby(["attack", "network"], sort=False):
        clean = rows.drop_duplicates("seed").assign(eps=0.0, accuracy=lambda own: own["clean"])
        lines.setdefault(str(attack), {})[str(network)] = over_seeds.over_seeds(
            pd.concat([clean, rows]).sort_values("eps", kind="stable"), "eps"
        )
    count = results.study.recipe.attack
    images = 0 if count is None else count.images
    note = (
        f"Accuracy on {images} test samples, mean and 95 % interval over seeds; at eps 0 without attack. {_UNITS} A "
        "transfer shows a network what was made on another. Below: share of the samples classified right that are "
        "lost, and in brackets the mean L-inf and L2 norms of what was changed, measured; means over seeds."
    )
    of_data = dict.fromkeys(data.samples.eps_note for data in results.plan.sets)
    note += "".join(f" {sentence}" for sentence in (*of_data, *masking(table)) if sentence)
    panels = (Panel("robustness", robustness(lines)),) if lines else ()
    return Section(block.title or "Accuracy under attack", note, panels, _measured(table))


def masking(table: pd.DataFrame) -> list[str]:
    """Sentences on signs of masked gradients: gradient attacks that a gradient-free or transferred one beats.

    Args:
        table: of `tables.attacks`.
    """
    told, compared = [], 0
    in_ball = table[table["rate"].isna() & table["linf_ball"]]
    for network, rows in in_ball.groupby("network", sort=False):
        of_attack = rows.groupby("attack", sort=False)
        by = {str(name): part.set_index(["eps", "seed"])["success"] for name, part in of_attack}
        functions = rows.drop_duplicates("attack").set_index("attack")["function"]
        needs = {name: attack_named(functions[name]).needs for name in by}
        with_gradient = [by[name] for name in by if needs[name] == "gradient"]
        for name in (name for name in by if with_gradient and needs[name] in ("answers", "source")):
            difference = (by[name] - pd.concat(with_gradient, axis=1).max(axis=1)).dropna()
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
        of_network = means.xs(network, level="network").reindex(pd.MultiIndex.from_frame(shown[keys]))
        shown[network] = [
            "" if pd.isna(linf) else f"{100 * success:.1f} % ({linf:.3f}, {l2:.2f})"
            for success, linf, l2 in of_network.itertuples(index=False)
        ]
    return shown


def backdoors(lines: Mapping[str, pd.DataFrame], *, title: str = "") -> go.Figure:
    """Shares of several kinds for each network, with intervals.

    Args:
        lines: what is shown (accuracy on clean samples, success of the trigger, ...) -> table indexed by network with
            the columns `mean`, `low`, `high` in 0..1; `low` and `high` are NaN where there is no interval.
        title: heading of the figure.

    Returns:
        A figure with a row a network.

    Raises:
        ValueError: no line, or a missing column.

    Example:
        >>> table = pd.DataFrame({"mean": [0.9], "low": [0.8], "high": [1.0]}, index=["poisoned.snn"])
        >>> [trace.name for trace in backdoors({"success": table}).data]
        ['success']
    """
    labels = labels_of(lines)
    require_means(lines)
    figure = go.Figure()
    for i, label in enumerate(labels):
        percent = 100 * lines[label]
        figure.add_trace(
            go.Scatter(
                x=numbers(percent["mean"]),
                y=list(percent.index),
                name=label,
                mode="markers",
                marker={"color": colour_of(i), "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 10},
                error_x=whiskers(percent, width=5),
                customdata=interval_texts(percent, 1),
                hovertemplate=f"%{{y}}: {label}<br>%{{x:.1f}} %%{{customdata}}<extra></extra>",
            )
        )
    networks = list(next(iter(lines.values())).index)
    lay_out(
        figure,
        title,
        150 + 42 * len(networks),
        above=50,
        legend=LEGEND_ABOVE,
        xaxis={"title": "share of test samples in %", "range": [-3, 103]},
        yaxis={"categoryorder": "array", "categoryarray": networks[::-1]},
    )
    return figure


def backdoors_section(block: FigureBlock, results: Results) -> Section:
    """How well the backdoors work."""
    title, measured = block.title or "Backdoors", results.tables["backdoors"]
    if measured.empty:
        return Section(title, "Nothing to show: nothing compares or judges a network that was trained with a backdoor.")
    columns = {"accuracy": "accuracy", "success": "success_rate", "without trigger": "unprompted"}
    lines = {
        name: over_seeds.over_seeds(results.tables["backdoors"], "network", column) for name, column in columns.items()
    }
    table = pd.DataFrame({name: [_percent(*row) for row in line.to_numpy()] for name, line in lines.items()})
    table.insert(0, "network", list(lines["accuracy"].index))
    note = (
        "Networks that were trained on samples a share of which bore a trigger and the label of one class "
        "(train.poison). Accuracy: on clean test samples. Success: share of the test samples of other classes that are "
        "taken for that class once they bear the trigger; and without it. Means and 95 % intervals over seeds."
    )
    return Section(title, note, (Panel("backdoors", backdoors(lines)),), table)


def _percent(mean: float, low: float, high: float) -> str:
    between = "" if pd.isna(low) else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * mean:.1f} %{between}"
