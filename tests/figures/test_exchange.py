"""Similarity of layers beside the accuracy that their exchange leaves, as a picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sj_cka.figures import exchanges


def table(*means: float, half: float = 0.1) -> pd.DataFrame:
    mean = np.array(means)
    index = [f"lif{i}" for i in range(len(means))]
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half}, index=index)


def test_every_network_has_a_picture_and_every_line_one_entry_in_the_legend() -> None:
    lines = {"similarity": table(0.9, 0.8), "accuracy": table(0.7, 0.2), "self": table(0.9, 0.9)}
    figure = exchanges({"a": lines, "b": lines, "c": lines}, similarity="RSA")
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "c"]
    drawn = [trace for trace in figure.data if trace.meta != "interval"]
    assert len(drawn) == 9
    named = [trace.name for trace in drawn if trace.showlegend]
    assert named == ["RSA", "accuracy left, with the other's layer", "with its own layer, mapped"]
    assert list(drawn[1].y) == pytest.approx([0.7, 0.2])
    assert list(drawn[1].x) == ["lif0", "lif1"]
    assert drawn[1].customdata[1] == " [0.100, 0.300]"


def test_intervals_are_bands_of_similarity_and_of_what_is_left() -> None:
    lines = {"similarity": table(0.9, 0.8), "accuracy": table(0.7, 0.2), "random": table(0.1, 0.1)}
    bands = [trace for trace in exchanges({"a": lines}).data if trace.meta == "interval"]
    assert len(bands) == 2
    assert list(bands[1].y) == [0.6, 0.1, 0.3, 0.8, None]


def test_a_line_that_is_undefined_everywhere_is_not_drawn() -> None:
    lines = {"accuracy": table(0.7, 0.2), "permuted": table(np.nan, np.nan)}
    assert [trace.name for trace in exchanges({"a": lines}).data if trace.meta != "interval"] == [
        "accuracy left, with the other's layer"
    ]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one table"):
        exchanges({})
    with pytest.raises(ValueError, match=r"expected lines out of similarity, accuracy, .* got guess"):
        exchanges({"a": {"guess": table(0.5)}})
    with pytest.raises(ValueError, match=r"\['low'\] missing"):
        exchanges({"a": {"accuracy": table(0.5).drop(columns="low")}})
