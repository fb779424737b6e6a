"""Heatmaps side by side: one scale, square pictures, every variant with its own layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sj_cka.figures import heatmap, heatmaps


def matrix(depth: int) -> pd.DataFrame:
    names = ["conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(depth)), "lif"]
    return pd.DataFrame(np.random.default_rng(depth).uniform(size=(len(names),) * 2), index=names, columns=names)


def test_every_variant_has_a_picture_of_its_own_layers_in_one_scale() -> None:
    frames = {f"depth-{depth}": matrix(depth) for depth in (1, 2, 3, 4)}
    figure = heatmaps(frames, x_title="SNN", y_title="ANN")
    assert [note.text for note in figure.layout.annotations] == list(frames)
    for frame, cells in zip(frames.values(), figure.data, strict=True):
        assert list(cells.x) == list(cells.y) == list(frame.index)
        assert cells.z[1][0] == pytest.approx(frame.iloc[0, 1], abs=5e-5)
        assert cells.coloraxis == "coloraxis"
    single = heatmap({"all": frames["depth-1"]})
    assert figure.layout.coloraxis.colorscale == single.layout.coloraxis.colorscale
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)


def test_stages_are_named_in_the_middle_of_their_layers() -> None:
    axis = heatmaps({"depth-3": matrix(3)}).layout.xaxis
    assert list(axis.ticktext) == ["conv1", "layer1", "layer2", "layer3"]
    assert [round(at) for at in axis.tickvals] == [0, 2, 5, 8]


def test_an_undefined_cell_is_grey() -> None:
    frame = matrix(1)
    frame.iloc[0, 0] = np.nan
    cells, grey = heatmaps({"a": frame}).data
    assert np.isnan(cells.z[0][0])
    assert grey.z[0][0] == 0
    assert np.isnan(grey.z[1][1])


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one table"):
        heatmaps({})
