"""A value against the swept one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sj_cka.figures import curve, trend


def means(values: list[float], half_width: float = 0.1) -> pd.DataFrame:
    mean = np.linspace(0.7, 0.9, len(values))
    return pd.DataFrame({"mean": mean, "low": mean - half_width, "high": mean + half_width}, index=values)


def test_lines_stand_side_by_side_at_their_values_with_intervals_and_dots() -> None:
    dots = pd.DataFrame({"value": [1, 2, 1, 2], "seed": [0, 0, 1, 1], "measured": [0.7, 0.8, 0.72, 0.88]})
    lines = {"trained": means([1, 2]), "untrained": means([1, 2])}
    figure = trend(lines, dots={"trained": dots}, reference={"ceiling": means([1, 2], float("nan"))}, x_title="width")
    by_name = {trace.name: trace for trace in figure.data if trace.name}
    assert list(by_name) == ["ceiling", "trained", "untrained"]
    assert by_name["ceiling"].line.dash
    assert by_name["ceiling"].error_y.array is None
    for name, table in lines.items():
        line = by_name[name]
        assert line.y == pytest.approx(table["mean"], abs=1e-4)
        assert line.error_y.array == pytest.approx([0.1, 0.1], abs=1e-4)
        assert np.asarray(line.x) == pytest.approx([1, 2], rel=0.05)
    assert by_name["trained"].x[0] < by_name["untrained"].x[0]
    [points] = [trace for trace in figure.data if trace.mode == "markers"]
    assert list(points.y) == pytest.approx(dots["measured"])
    assert points.legendgroup == "trained"
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis.title.text == "width"


def test_values_that_have_no_logarithm_are_refused() -> None:
    with pytest.raises(ValueError, match="'trained': expected swept values above 0, got 0"):
        trend({"trained": means([0, 1])})


def test_curves_over_relative_depth_span_0_to_1_whatever_the_number_of_layers() -> None:
    lines = {
        name: pd.DataFrame({"mean": 0.5, "low": 0.4, "high": 0.6}, index=[f"{name}.{i}" for i in range(count)])
        for name, count in (("shallow", 3), ("deep", 5))
    }
    figure = curve(lines, relative=True)
    by_name = {trace.name: trace for trace in figure.data if trace.name}
    assert list(by_name["shallow"].x) == [0, 0.5, 1]
    assert list(by_name["deep"].x) == [0, 0.25, 0.5, 0.75, 1]
    assert list(by_name["deep"].text) == list(lines["deep"].index)
    bands = [trace for trace in figure.data if trace.meta == "interval"]
    assert next(list(band.x) for band in bands) == [0, 0.5, 1, 1, 0.5, 0, None]
    assert figure.layout.xaxis.type != "category"
