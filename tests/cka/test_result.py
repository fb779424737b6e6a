"""CKAResult: matrices, steps, tables, files, figures."""

import numpy as np
import pandas as pd
import pytest
import torch

from sj_cka import CKA, CKAResult


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def result(Tx=3, Ty=3, layers=("a", "b")):
    cka = CKA()
    cka.update(
        {name: randn(Tx, 10, 5, seed=i) for i, name in enumerate(layers)},
        {name: randn(Ty, 10, 4, seed=i + 20) for i, name in enumerate(("b", "c", "a"))},
    )
    return cka.compute({"x": "SNN", "y": "ANN"})


def test_a_step_is_step_against_the_same_step():
    r = result()
    assert r.matrix(2).loc["a", "c"] == float(r.data.cka.sel(layer_x="a", step_x=2, layer_y="c", step_y=2))


def test_a_network_without_time_stands_at_every_step():
    r = result(Ty=1)
    assert r.matrix(3).loc["a", "c"] == float(r.data.cka.sel(layer_x="a", step_x=3, layer_y="c", step_y=1))


def test_paired_takes_layers_of_the_same_name_in_the_order_of_x():
    r = result()
    assert r.paired().index.tolist() == ["a", "b"]
    assert r.paired()["a"] == r.matrix().loc["a", "a"]


def test_paired_without_common_names_says_what_there_is():
    with pytest.raises(ValueError, match=r"layers of the same name in both networks, got \['u', 'v'\]"):
        result(layers=("u", "v")).paired()


def test_steps_within_a_layer_are_symmetric_with_ones():
    steps = result().steps("a")
    assert np.allclose(np.diag(steps), 1, rtol=0, atol=1e-12)
    assert np.allclose(steps, steps.T, rtol=0, atol=1e-12)
    assert steps.index.tolist() == [1, 2, 3]


def test_steps_across_networks_come_from_the_pairs():
    r = result(Ty=2)
    assert r.steps("a", layer_y="c").shape == (3, 2)
    assert r.steps("a", layer_y="c").loc[3, 2] == float(r.data.cka.sel(layer_x="a", step_x=3, layer_y="c", step_y=2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.matrix(0), "a step from 1 to 3, got 0"),
        (lambda r: r.matrix(4), "a step from 1 to 3, got 4"),
        (lambda r: r.matrix("mean"), "time=\"concat\" or a step from 1 to 3, got 'mean'"),
        (lambda r: r.matrix(True), "got True"),
        (lambda r: r.steps("A"), "a layer of x, got 'A'"),
        (lambda r: r.steps("a", layer_y="d"), "a layer of y, got 'd'"),
    ],
)
def test_steps_and_layers_that_are_not_there_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(result())


def test_equal_steps_need_equal_numbers_of_steps():
    with pytest.raises(ValueError, match="equal numbers of steps, got 3 and 2"):
        result(Ty=2).matrix(1)


def test_the_table_has_a_row_for_each_pair():
    frame = result(Ty=2).to_frame()
    assert frame.columns.tolist() == ["layer_x", "step_x", "layer_y", "step_y", "cka"]
    assert len(frame) == 2 * 3 * 3 * 2


def test_a_saved_result_comes_back_to_the_bit(tmp_path):
    r = result()
    path = r.save(tmp_path / "new folder" / "r.nc")
    back = CKAResult.load(path)
    assert back.data.identical(r.data)
    pd.testing.assert_frame_equal(back.undefined, r.undefined)


def test_undefined_survives_saving(tmp_path):
    cka = CKA()
    cka.update({"a": torch.zeros(2, 6, 3), "b": randn(2, 6, 3)}, {"a": randn(2, 6, 3)})
    back = CKAResult.load(cka.compute().save(tmp_path / "r.nc"))
    assert back.undefined.reason.tolist() == ["silent", "silent"]
    assert np.isnan(back.matrix().loc["a", "a"])


def test_loading_what_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="found no file at"):
        CKAResult.load(tmp_path / "none.nc")


def test_figures_show_the_numbers_of_the_result():
    r = result()
    heatmap = r.heatmap()
    shown = np.asarray(heatmap.data[0].z, dtype=float)
    assert np.allclose(shown, r.matrix().to_numpy().T, atol=1e-4)  # layers of y run upwards
    assert len(heatmap.layout.sliders[0].steps) == 4  # all steps, and each of three
    curve = r.curve()
    assert any(
        np.allclose(trace.y, r.paired(), atol=1e-4) for trace in curve.data if trace.y is not None and len(trace.y) == 2
    )
    assert len(r.steps_map(["a", "b"]).data) == 2


def test_activity_is_that_of_every_step_whatever_was_observed_first():
    def observed(T, rates):
        data = result().data
        return data.isel(step_x=slice(T)).assign(
            {f"{name}_x": (("layer_x", "step_x"), rates) for name in ("rate", "silent", "saturated")}
        )

    steps = observed(3, np.arange(6.0).reshape(2, 3))
    for found in (
        CKAResult(steps, {"rate": CKAResult(observed(1, np.ones((2, 1))))}),
        CKAResult(observed(1, np.ones((2, 1))), {"output": CKAResult(steps)}),
    ):
        assert found.activity.rate.tolist() == [0, 1, 2, 3, 4, 5]
        assert found.activity.step.tolist() == [1, 2, 3, 1, 2, 3]
