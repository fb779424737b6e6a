"""Tidy tables of a study, on hand numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from sj_cka.cka import CKAResult
from sj_cka.claims import interval
from sj_cka.jobs import DataBlock, Job
from sj_cka.plan import Pair, State
from sj_cka.tables import Compared, accuracy_summary, curve, mean_frames, paired, tidy, undefined

LAYERS = ("conv1", "lif")
JOB = Job("compare", {}, {}, DataBlock({}, {}, ""))


def result(
    values: Sequence[float], *, layers_x: Sequence[str] = LAYERS, layers_y: Sequence[str] = LAYERS, T: int = 2
) -> CKAResult:
    """A result whose CKA of layer l with layer l is values[l], and 0 for other pairs; every step says the same."""
    ones = np.ones((len(layers_x), T, T))
    hsic = np.zeros((len(layers_x), T, len(layers_y), T))
    for i, value in enumerate(values):
        hsic[i, :, i, :] = value
    rows = [
        {"side": "x", "layer": layers_x[i], "step": 1, "reason": "silent"} for i, v in enumerate(values) if np.isnan(v)
    ]
    own_y = np.ones((len(layers_y), T, T))
    return CKAResult.from_hsic(layers_x, layers_y, hsic_xy=hsic, hsic_xx=ones, hsic_yy=own_y, n=8, undefined=rows)


def compared(
    values: Sequence[float], state: State = "trained", seed: int = 0, seed_y: int = 0, kind: str = ""
) -> Compared:
    return Compared(Pair("twins", "all", state, seed, seed_y, kind, JOB), result(values))


def rows(table: pd.DataFrame) -> dict[tuple[str, int, str], float]:
    return {(r.state, r.seed, r.layer): r.cka for r in table.itertuples()}


def test_paired_values_are_those_of_layers_of_one_name() -> None:
    table = paired([compared([0.8, 0.6]), compared([0.3, 0.2], "untrained")])
    assert rows(table) == pytest.approx(
        {
            ("trained", 0, "conv1"): 0.8,
            ("trained", 0, "lif"): 0.6,
            ("untrained", 0, "conv1"): 0.3,
            ("untrained", 0, "lif"): 0.2,
        }
    )


def test_a_seed_against_others_is_the_mean_over_the_others() -> None:
    table = paired(
        [compared([0.8, 0.5], seed=0, seed_y=1), compared([0.6, 0.3], seed=0, seed_y=2), compared([0.1, 0.1], seed=1)]
    )
    found = rows(table)
    assert found["trained", 0, "conv1"] == pytest.approx(0.7)
    assert found["trained", 0, "lif"] == pytest.approx(0.4)
    assert found["trained", 1, "lif"] == pytest.approx(0.1)


def test_a_ceiling_is_the_geometric_mean_of_both_networks_against_their_other_seeds() -> None:
    pairs = [
        compared([0.9, 0.5], "ceiling", 0, 1, "snn"),
        compared([0.7, 0.3], "ceiling", 0, 2, "snn"),
        compared([0.2, -0.1], "ceiling", 0, 1, "ann"),
        compared([0.2, -0.1], "ceiling", 0, 2, "ann"),
    ]
    found = rows(paired(pairs))
    assert found["ceiling", -1, "conv1"] == pytest.approx((0.8 * 0.2) ** 0.5)
    assert np.isnan(found["ceiling", -1, "lif"])  # one is negative: no geometric mean
    both = [*pairs, compared([0.5, 0.5])]
    assert set(paired(both)["state"]) == {"ceiling", "trained"}


def test_two_negative_similarities_have_no_geometric_mean_though_their_product_is_positive() -> None:
    pairs = [compared([-0.2, 0.4], "ceiling", 0, 1, kind) for kind in ("snn", "ann")]
    found = rows(paired(pairs))
    assert np.isnan(found["ceiling", -1, "conv1"])
    assert found["ceiling", -1, "lif"] == pytest.approx(0.4)


def test_networks_without_common_names_have_no_paired_rows() -> None:
    other = result([0.5, 0.5], layers_y=("a", "b"))
    pair = Pair("twins", "all", "trained", 0, 0, "", JOB)
    for table in (paired([Compared(pair, other)]), tidy([Compared(pair, other)])):
        assert table.empty
        assert {"comparison", "variant", "state", "seed", "cka"} <= set(table.columns)


def test_an_undefined_layer_stays_undefined_and_is_named() -> None:
    found = [compared([np.nan, 0.5], seed=3, seed_y=3)]
    assert np.isnan(rows(paired(found))["trained", 3, "conv1"])
    (row,) = undefined(found).to_dict("records")
    assert (row["comparison"], row["seed"], row["side"], row["layer"], row["reason"]) == (
        "twins",
        3,
        "x",
        "conv1",
        "silent",
    )
    assert undefined([compared([0.5, 0.5])]).empty


def test_tidy_rows_are_all_steps_and_each_step() -> None:
    table = tidy([compared([0.8, 0.6]), compared([0.9, 0.9], "ceiling", 0, 1, "ann")])
    assert list(table.columns) == [
        "comparison",
        "variant",
        "state",
        "seed",
        "seed_y",
        "layer_x",
        "layer_y",
        "time",
        "cka",
    ]
    assert set(table["time"]) == {"all steps", "step 1", "step 2"}
    assert set(table["state"]) == {"trained", "ceiling, ann"}
    assert len(table) == 2 * 3 * 2
    assert table[(table.layer_x == "lif") & (table.state == "trained")]["cka"].to_list() == pytest.approx([0.6] * 3)


def test_of_nothing_compared_the_tables_have_columns_and_no_rows() -> None:
    for table in (tidy([]), undefined([]), paired([])):
        assert table.empty
        assert "comparison" in table.columns


def test_a_curve_has_a_row_a_layer_in_order_with_its_interval() -> None:
    table = paired([compared([0.8, 0.6], seed=0), compared([0.9, 0.4], seed=1), compared([0.7, 0.5], seed=2)])
    found = curve(table, "twins", "all", "trained")
    assert list(found.index) == list(LAYERS)
    assert tuple(found.loc["lif"]) == pytest.approx(interval(np.array([0.6, 0.4, 0.5]))[:3])
    assert curve(table, "twins", "none", "trained").empty


def test_means_and_half_widths_of_heatmaps_are_those_of_each_cell() -> None:
    means, spread = mean_frames([[result([v, 0.5])] for v in (0.6, 0.7, 0.8)])
    assert list(means) == ["all steps", "step 1", "step 2"]
    over = interval(np.array([0.6, 0.7, 0.8]))
    assert means["step 2"].loc["conv1", "conv1"] == pytest.approx(over.mean)
    assert spread["step 2"].loc["conv1", "conv1"] == pytest.approx(over.high - over.mean)
    assert means["all steps"].loc["conv1", "lif"] == 0
    means, _ = mean_frames([[result([np.nan, 0.5])], [result([0.6, 0.5])]])
    assert np.isnan(means["all steps"].loc["conv1", "conv1"])


def test_a_heatmap_of_other_seeds_is_first_the_mean_over_the_others_of_each_seed() -> None:
    by_seed = [[result([0.6, 0.5]), result([0.8, 0.5])], [result([0.5, 0.5]), result([0.3, 0.5])]]
    means, spread = mean_frames(by_seed)
    over = interval(np.array([0.7, 0.4]))
    assert means["all steps"].loc["conv1", "conv1"] == pytest.approx(over.mean)
    assert spread["all steps"].loc["conv1", "conv1"] == pytest.approx(over.high - over.mean)


def test_accuracies_are_summed_up_in_the_order_of_the_study() -> None:
    given = [("z.snn", seed, "test", value) for seed, value in enumerate((0.5, 0.6, 0.7))] + [("a.snn", 0, "test", 0.9)]
    table = pd.DataFrame(given, columns=["network", "seed", "split", "accuracy"])
    summary = accuracy_summary(table)
    assert summary["network"].to_list() == ["z.snn", "a.snn"]
    assert tuple(summary.loc[0, ["mean", "low", "high", "seeds"]]) == pytest.approx(interval(np.array([0.5, 0.6, 0.7])))
    assert np.isnan(summary.loc[1, "low"])
