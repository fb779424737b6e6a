"""Tidy tables of a study, on hand numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from sj_cka.cka import CKA, CKAResult, cka, compare_features
from sj_cka.comparison_tables import Compared, between, dynamics, mean_frames, paired, tidy, undefined
from sj_cka.figures import State
from sj_cka.over_seeds import accuracy_summary, interval, of_layers, over_seeds
from sj_cka.recipe import Sides

LAYERS = ("conv1", "lif")


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
    return Compared("twins", "cka", "all", state, seed, seed_y, kind, result(values))


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


def test_every_seed_against_every_other_is_a_row() -> None:
    cells = [
        compared([0.8, 0.5], seed=0, seed_y=1),
        compared([0.6, 0.3], seed=1, seed_y=0),
        compared([0.7, 0.4], seed=0, seed_y=0),
        compared([0.7, 0.4], seed=1, seed_y=1),
    ]
    table = paired(cells)
    conv1 = table[table.layer == "conv1"].set_index(["seed", "seed_y"])["cka"]
    assert conv1.to_dict() == pytest.approx({(0, 1): 0.8, (1, 0): 0.6, (0, 0): 0.7, (1, 1): 0.7})
    band = of_layers(table, "twins", "all", "trained", correlation=True).loc["conv1"]
    assert band["mean"] == pytest.approx(0.7)
    assert band["low"] < 0.6
    assert band["high"] < 1


def test_a_ceiling_is_the_geometric_mean_of_both_networks_against_their_other_seeds() -> None:
    pairs = [
        compared([0.9, 0.5], "ceiling", 0, 1, "snn"),
        compared([0.7, 0.3], "ceiling", 0, 2, "snn"),
        compared([0.2, -0.1], "ceiling", 0, 1, "ann"),
        compared([0.2, -0.1], "ceiling", 0, 2, "ann"),
    ]
    table = paired(pairs)
    assert len(table) == 8  # every pair of seeds is a row
    found = of_layers(table, "twins", "all", "ceiling")
    assert found["mean"]["conv1"] == pytest.approx((0.8 * 0.2) ** 0.5)
    assert found["mean"].isna()["lif"]  # one is negative: no geometric mean
    assert found["low"].isna().all()
    both = [*pairs, compared([0.5, 0.5])]
    assert set(paired(both)["state"]) == {"ceiling", "trained"}


def test_two_negative_similarities_have_no_geometric_mean_though_their_product_is_positive() -> None:
    pairs = [compared([-0.2, 0.4], "ceiling", 0, 1, kind) for kind in ("snn", "ann")]
    found = of_layers(paired(pairs), "twins", "all", "ceiling")["mean"]
    assert np.isnan(found["conv1"])
    assert found["lif"] == pytest.approx(0.4)


def test_what_layers_of_other_names_share_and_which_is_the_best_match() -> None:
    hsic = np.zeros((2, 1, 2, 1))
    hsic[:, 0, :, 0] = [[0.8, 0.5], [0.9, 0.6]]
    own = np.ones((2, 1, 1))
    made = CKAResult.from_hsic(LAYERS, LAYERS, hsic_xy=hsic, hsic_xx=own, hsic_yy=own, n=8)
    table = paired([Compared("twins", "cka", "all", "trained", 0, 0, "", made)]).set_index("layer")
    assert table["wrong"].to_dict() == pytest.approx({"conv1": (0.5 + 0.9) / 2, "lif": (0.9 + 0.5) / 2})
    assert table["best"].to_dict() == {"conv1": 1.0, "lif": 0.0}
    assert table[["pixels", "partial", "half_1", "permuted"]].isna().all(axis=None)


def test_controls_are_those_of_the_features() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 5))
    common = rng.normal(size=(40, 6))
    x, y = (np.concatenate([z, common + rng.normal(size=(40, 6))], axis=1) for _ in range(2))
    halves = {half: np.arange(len(x)) % 2 == i for i, half in enumerate(("half_1", "half_2"))}
    into = CKA(samples=False, permutations=1)
    made = compare_features({"a": x[None]}, {"a": y[None]}, given=z, groups=halves, into=into, progress=False)
    (row,) = paired([Compared("twins", "cka", "all", "trained", 0, 0, "", made)]).to_dict("records")
    assert row["half_1"] == pytest.approx(cka(x[::2], y[::2]))
    assert row["half_2"] == pytest.approx(cka(x[1::2], y[1::2]))
    xz, yz, xy = cka(x, z), cka(y, z), cka(x, y)
    assert row["pixels"] == pytest.approx((xz * yz) ** 0.5)
    assert row["partial"] == pytest.approx((xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5)
    assert abs(row["permuted"]) < 0.2 < row["cka"]


def test_networks_without_common_names_have_no_paired_rows() -> None:
    other = result([0.5, 0.5], layers_y=("a", "b"))
    compared = Compared("twins", "cka", "all", "trained", 0, 0, "", other)
    for table in (paired([compared]), tidy([compared])):
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
    found = of_layers(table, "twins", "all", "trained")
    assert list(found.index) == list(LAYERS)
    assert tuple(found.loc["lif"]) == pytest.approx(interval(np.array([0.6, 0.4, 0.5]))[:3])
    assert of_layers(table, "twins", "none", "trained").empty


def test_means_and_half_widths_of_heatmaps_are_those_of_each_cell() -> None:
    means, spread = mean_frames({(i, i): result([v, 0.5]) for i, v in enumerate((0.6, 0.7, 0.8))})
    assert list(means) == ["all steps", "step 1", "step 2"]
    over = interval(np.array([0.6, 0.7, 0.8]))
    assert means["step 2"].loc["conv1", "conv1"] == pytest.approx(over.mean)
    assert spread["step 2"].loc["conv1", "conv1"] == pytest.approx(over.high - over.mean)
    assert means["all steps"].loc["conv1", "lif"] == 0
    means, _ = mean_frames({(0, 0): result([np.nan, 0.5]), (1, 1): result([0.6, 0.5])})
    assert np.isnan(means["all steps"].loc["conv1", "conv1"])


def test_a_heatmap_across_seeds_is_of_two_crossed_samples() -> None:
    cells = {(0, 0): 0.6, (0, 1): 0.8, (1, 0): 0.5, (1, 1): 0.3}
    means, spread = mean_frames({seeds: result([value, 0.5]) for seeds, value in cells.items()})
    rows, columns = (interval(np.array(of)) for of in ([0.7, 0.4], [0.55, 0.55]))
    assert means["all steps"].loc["conv1", "conv1"] == pytest.approx(rows.mean)
    half = ((rows.high - rows.mean) ** 2 + (columns.high - columns.mean) ** 2) ** 0.5
    assert spread["all steps"].loc["conv1", "conv1"] == pytest.approx(half)


def test_accuracies_are_summed_up_in_the_order_of_the_study() -> None:
    given = [("z.snn", seed, "test", value) for seed, value in enumerate((0.5, 0.6, 0.7))] + [("a.snn", 0, "test", 0.9)]
    table = pd.DataFrame(given, columns=["network", "seed", "split", "accuracy"])
    summary = accuracy_summary(table)
    assert summary["network"].to_list() == ["z.snn", "a.snn"]
    assert tuple(summary.loc[0, ["mean", "low", "high", "seeds"]]) == pytest.approx(interval(np.array([0.5, 0.6, 0.7])))
    assert np.isnan(summary.loc[1, "low"])


# time steps and pairs of variants


class Timed(CKAResult):
    """A result with a table of dynamics, and with a timing null or without."""

    table: pd.DataFrame
    with_null: bool

    @property
    def permuted_steps(self) -> CKAResult | None:
        return self if self.with_null else None

    def dynamics(self, side: str = "x") -> pd.DataFrame:
        return self.table


def timed(seed: int, cka: float, seed_y: int | None = None, null: bool = True) -> Compared:
    made = Timed(result([0.5, 0.5]).data)
    table = pd.DataFrame(
        {"cka": [cka, np.nan], "null": [cka + 0.1, np.nan], "pairs": [1, 0], "undefined": [0, 1]}
        | {"split": [1 - cka, np.nan], "reliability": [0.5, np.nan], "split_undefined": ["", "one step alone"]},
        index=pd.Index(LAYERS, name="layer"),
    )
    object.__setattr__(made, "table", table)
    object.__setattr__(made, "with_null", null)
    return Compared("inside", "cka", "all", "trained", seed, seed if seed_y is None else seed_y, "", made)


def test_dynamics_are_a_row_a_layer_and_seed_of_comparisons_with_a_null() -> None:
    table = dynamics([timed(0, 0.8), timed(1, 0.6), timed(2, 0.1, null=False)])
    assert list(table.columns) == [
        *("comparison", "variant", "state", "kind", "seed", "seed_y", "layer"),
        *("split", "reliability", "split_undefined", "cka", "null", "pairs", "undefined"),
    ]
    assert table[["seed", "layer"]].to_numpy().tolist() == [[seed, layer] for seed in (0, 1) for layer in LAYERS]
    conv1 = of_layers(table, "inside", "all", "trained", "null").loc["conv1"]
    assert tuple(conv1) == pytest.approx(interval(np.array([0.9, 0.7]))[:3])
    assert np.isnan(of_layers(table, "inside", "all", "trained").loc["lif", "mean"])


def test_a_network_that_is_compared_with_several_others_has_its_dynamics_once() -> None:
    table = dynamics([timed(0, 0.8, seed_y=1), timed(0, 0.8, seed_y=2)])
    assert len(table) == len(LAYERS)


def test_of_no_null_the_dynamics_have_columns_and_no_rows() -> None:
    assert dynamics([timed(0, 0.8, null=False)]).empty
    assert "null" in dynamics([]).columns


def test_means_over_seeds_stand_in_the_order_in_which_they_come() -> None:
    rows = pd.DataFrame({"T": [4, 4, 1, 1], "accuracy": [0.9, 0.8, 0.5, 0.7]})
    found = over_seeds(rows, "T")
    assert list(found.index) == [4, 1]
    assert found["mean"].to_list() == pytest.approx([0.85, 0.6])


def of_pair(values: Sequence[float], variant: str, state: State = "trained", seed: int = 0, kind: str = "") -> Compared:
    seed_y = 1 if state == "ceiling" else seed
    return Compared("across", "cka", variant, state, seed, seed_y, kind, result(values))


PAIRS = {"a and b": Sides("a.snn", "b.snn"), "a and c": Sides("a.snn", "c.snn"), "b and c": Sides("b.snn", "c.snn")}


def across() -> list[Compared]:
    """a and b .6 and .8, a and c .4, b and c .2; untrained .1 less; against itself a .9, b .8, c .7."""
    trained = zip(PAIRS, ([0.6, 0.8], [0.4, 0.4], [0.2, 0.2]), strict=True)
    found = [of_pair([v, v], pair, seed=seed) for pair, values in trained for seed, v in enumerate(values)]
    found += [of_pair([v, v], p, "untrained", s) for p, v in zip(PAIRS, (0.5, 0.3, 0.1), strict=True) for s in (0, 1)]
    top = {"a.snn": 0.9, "b.snn": 0.8, "c.snn": 0.7}
    return found + [of_pair([top[n]] * 2, p, "ceiling", kind=n) for p, sides in PAIRS.items() for n in sides[:2]]


def test_every_variant_stands_with_every_other_and_on_the_diagonal_with_itself() -> None:
    found = between(across(), "across", PAIRS)
    names = ["a.snn", "b.snn", "c.snn"]
    assert list(found.mean.index) == list(found.mean.columns) == names
    assert found.mean.to_numpy() == pytest.approx(np.array([[0.9, 0.7, 0.4], [0.7, 0.8, 0.2], [0.4, 0.2, 0.7]]))
    over = interval(np.array([0.6, 0.8]))
    assert found.spread.loc["b.snn", "a.snn"] == found.spread.loc["a.snn", "b.snn"] == pytest.approx(over.high - 0.7)
    assert np.isnan(np.diag(found.spread)).all()
    assert found.floor.loc["c.snn", "a.snn"] == pytest.approx(0.3)
    assert found.layers == len(LAYERS)


def test_a_layer_that_one_network_lacks_counts_in_no_cell() -> None:
    holed = [of_pair([0.6, np.nan], "a and b", seed=0) if i == 0 else one for i, one in enumerate(across())]
    found = between(holed, "across", PAIRS)
    assert found.layers == 1
    assert found.mean.loc["a.snn", "b.snn"] == pytest.approx(0.7)


def test_a_ceiling_of_two_networks_of_one_kind_is_their_geometric_mean_too() -> None:
    both = {"a.snn": [0.9, 0.4], "b.snn": [0.4, -0.1]}
    table = paired([of_pair(values, "a and b", "ceiling", kind=name) for name, values in both.items()])
    found = of_layers(table, "across", "a and b", "ceiling")["mean"]
    assert found.to_list() == pytest.approx([0.6, np.nan], nan_ok=True)
