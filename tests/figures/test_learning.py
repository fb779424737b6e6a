"""Values against the epoch, and which updates move, as pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sj_cka.figures import against_epochs, locality


def table(means: list[float], half: float = 0.1) -> pd.DataFrame:
    mean = np.array(means)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half}, index=[0, 5][: len(means)])


def test_a_line_has_one_colour_and_one_entry_in_the_legend_in_all_pictures() -> None:
    figure = against_epochs({"a.snn": {"x": table([0.1, 0.9]), "y": table([0.5])}, "b.snn": {"y": table([0.2, 0.3])}})
    assert [note.text for note in figure.layout.annotations] == ["a.snn", "b.snn"]
    assert [(line.name, line.showlegend) for line in figure.data] == [("x", True), ("y", True), ("y", False)]
    assert figure.data[1].line.color == figure.data[2].line.color != figure.data[0].line.color
    assert list(figure.data[0].x) == [0, 5]
    assert list(figure.data[0].y) == pytest.approx([0.1, 0.9])
    assert list(figure.data[0].error_y.array) == pytest.approx([0.1, 0.1])


def test_an_interval_beyond_what_a_cosine_can_be_does_not_stretch_the_axis() -> None:
    figure = against_epochs({"a.snn": {"x": table([0.1, 0.9], half=4.0)}}, y_title="cosine", x_title="step")
    assert list(figure.layout.yaxis.range) == pytest.approx([-1.05, 1.05])
    assert list(against_epochs({"a.snn": {"x": table([0.5])}}).layout.yaxis.range) == pytest.approx([-0.05, 1.05])
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("step", "cosine")


def test_without_intervals_there_are_no_bars() -> None:
    (line,) = against_epochs({"a.snn": {"x": table([0.1, 0.9], half=np.nan)}}).data
    assert line.error_y.array is None


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one table to draw"):
        against_epochs({})
    with pytest.raises(ValueError, match="missing"):
        against_epochs({"a.snn": {"x": pd.DataFrame({"mean": [1.0]})}})


MOVES = pd.DataFrame(
    [
        ("bptt.snn", "layer2", "fc1", 1.0),
        ("bptt.snn", "out", "fc1", 1.0),
        ("bptt.snn", "out", "fc2", 0.5),
        ("le.snn", "layer2", "fc1", 0.0),
        ("le.snn", "out", "fc1", 0.0),
        ("le.snn", "out", "fc2", 0.0),
    ],
    columns=["network", "disturbed", "layer", "moves"],
)


def test_a_cell_is_the_share_of_updates_that_move_and_what_is_not_asked_is_empty() -> None:
    figure = locality(MOVES, rows="disturbed", columns="layer")
    first, second = figure.data
    assert [note.text for note in figure.layout.annotations] == ["bptt.snn", "le.snn"]
    assert (list(first.x), list(first.y)) == (["fc1", "fc2"], ["layer2", "out"])
    assert np.asarray(first.z)[1].tolist() == [1.0, 0.5]
    assert np.isnan(np.asarray(first.z)[0, 1])
    assert np.nansum(np.asarray(second.z)) == 0
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert figure.layout.plot_bgcolor != figure.layout.coloraxis.colorscale[0][1]


def test_moves_without_their_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['layer'\] missing"):
        locality(MOVES.drop(columns="layer"), rows="disturbed", columns="layer")
