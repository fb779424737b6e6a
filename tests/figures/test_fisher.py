"""Fisher information against the number of steps, as a picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sj_cka.figures import fisher
from sj_cka.over_seeds import interval

VALUES = [0.01, 0.1, 10.0]  # of three seeds


def information(layers: dict[str, list[str]]) -> pd.DataFrame:
    """Layer -> the networks that have it."""
    rows = [
        {"network": network, "seed": seed, "layer": layer, "step": step, "fisher": value / step}
        for layer, networks in layers.items()
        for network in networks
        for step in (1, 2)
        for seed, value in enumerate(VALUES)
    ]
    return pd.DataFrame(rows)


def test_means_and_intervals_are_those_of_logarithms() -> None:
    (line,) = fisher(information({"fc": ["a.snn"]})).data
    over = interval(np.log10(VALUES))
    assert list(line.x) == pytest.approx([1.0, 2.0])
    assert list(line.y) == pytest.approx([10**over.mean, 10**over.mean / 2], rel=1e-3)
    assert line.error_y.array[0] == pytest.approx(10**over.high - 10**over.mean)
    assert line.error_y.arrayminus[0] == pytest.approx(10**over.mean - 10**over.low)


def test_every_layer_has_a_picture_and_every_network_one_entry_in_the_legend() -> None:
    figure = fisher(information({"conv1": ["a.snn"], "": ["b.snn"], "all": ["a.snn", "b.snn"]}))
    assert [note.text for note in figure.layout.annotations] == ["conv1", "the network's own", "all weights"]
    assert [(line.name, line.showlegend) for line in figure.data] == [
        ("a.snn", True), ("b.snn", True), ("a.snn", False), ("b.snn", False)
    ]  # fmt: skip
    assert len({line.xaxis for line in figure.data}) == 3
    assert figure.data[0].line.color == figure.data[2].line.color != figure.data[3].line.color
    assert {axis.type for axis in figure.select_yaxes()} == {"log"}


def test_a_step_without_information_in_a_seed_is_left_out() -> None:
    table = information({"fc": ["a.snn"]})
    table.loc[0, "fisher"] = 0
    (line,) = fisher(table).data
    assert np.isnan(line.y[0])
    assert np.isfinite(line.y[1])


def test_one_seed_has_no_interval() -> None:
    table = information({"fc": ["a.snn"]})
    (line,) = fisher(table[table["seed"] == 2]).data
    assert list(line.y) == pytest.approx([10.0, 5.0])
    assert line.error_y.array is None


def test_nothing_to_draw_and_missing_columns_are_refused() -> None:
    table = information({"fc": ["a.snn"]})
    with pytest.raises(ValueError, match="expected at least one row"):
        fisher(table.iloc[:0])
    with pytest.raises(ValueError, match=r"\['step'\] missing"):
        fisher(table.drop(columns="step"))
