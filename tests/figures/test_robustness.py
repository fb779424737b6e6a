"""Accuracy under attack, and backdoors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sj_cka.figures import backdoors, robustness


def line(eps: list[float], values: list[float], half: float = 0.1) -> pd.DataFrame:
    mean = np.array(values)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half}, index=eps)


def test_every_attack_has_a_picture_and_every_network_one_colour() -> None:
    snn, ann = line([0.2, 0.0, 0.1], [0.1, 0.9, 0.5]), line([0.0, 0.1, 0.2], [1.0, 0.6, 0.2])
    figure = robustness({"pgd": {"a.snn": snn, "a.ann": ann}, "from_snn": {"a.ann": ann}})
    assert [note.text for note in figure.layout.annotations] == ["pgd", "from_snn"]
    assert [(trace.name, trace.showlegend) for trace in figure.data] == [
        ("a.snn", True), ("a.ann", True), ("a.ann", False)
    ]  # fmt: skip
    first, second, third = figure.data
    assert list(first.x) == pytest.approx([0.0, 0.1, 0.2])
    assert list(first.y) == pytest.approx([90.0, 50.0, 10.0])
    assert list(first.error_y.array) == pytest.approx([10.0] * 3)
    assert second.line.color == third.line.color != first.line.color
    assert second.xaxis != third.xaxis


def test_without_an_interval_there_is_no_bar() -> None:
    figure = robustness({"pgd": {"a.snn": line([0.0, 0.1], [0.9, 0.5], float("nan"))}})
    assert figure.data[0].error_y.array is None or np.isnan(np.array(figure.data[0].error_y.array, float)).all()


def test_every_network_has_a_row_with_its_shares() -> None:
    shares = pd.DataFrame({"mean": [0.9, 0.8], "low": [0.85, 0.7], "high": [0.95, 0.9]}, index=["a.snn", "a.ann"])
    figure = backdoors({"accuracy": shares, "success": shares / 2})
    assert [trace.name for trace in figure.data] == ["accuracy", "success"]
    assert list(figure.data[1].x) == pytest.approx([45.0, 40.0])
    assert list(figure.data[0].error_x.arrayminus) == pytest.approx([5.0, 10.0])
    assert list(figure.layout.yaxis.categoryarray) == ["a.ann", "a.snn"]


@pytest.mark.parametrize("draw", [robustness, backdoors])
def test_nothing_to_draw_is_refused(draw) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="expected"):
        draw({})
