"""Claims: intervals over seeds and verdicts, on hand numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sj_cka.claims import TESTS, Claim, Evidence, Finding, findings
from sj_cka.over_seeds import fisher_interval, half_width, interval

LAYERS = ("conv1", "layer1.0.conv2", "layer1.0")
Arms = dict[str, Any]


def paired(
    variant: str,
    state: str,
    values: Any,
    layers: tuple[str, ...] = LAYERS,
    comparison: str = "twins",
    **columns: float,
) -> pd.DataFrame:
    """Paired CKA of a comparison: `values[seed]`, or `values[seed][layer]`; of a ceiling by pairs of seeds."""
    seeds_of = PAIRS if state == "ceiling" else [(i, i) for i in range(len(values))]
    rows = [
        (comparison, variant, state, kind, *seeds, layer, value)
        for kind in (("snn", "ann") if state == "ceiling" else ("",))
        for seeds, own in zip(seeds_of, values, strict=False)
        for layer, value in zip(layers, np.broadcast_to(own, len(layers)), strict=True)
    ]
    table = pd.DataFrame(rows, columns=["comparison", "variant", "state", "kind", "seed", "seed_y", "layer", "cka"])
    return table.assign(**columns)


PAIRS = [(0, 1), (0, 2), (1, 2)]


def evidence(
    *tables: pd.DataFrame, accuracy: dict[str, list[float]] | None = None, train: float = 0.99, swept: Any = None
) -> Evidence:
    """What a study would give; all networks are trained unless told."""
    variants = ("all", "none", *(swept or {}))
    test = {f"{v}.{kind}": [0.5] * 3 for v in variants for kind in ("snn", "ann")} | (accuracy or {})
    rows = [
        (network, seed, split, value)
        for network, values in test.items()
        for seed, own in enumerate(values)
        for split, value in (("train", train), ("test", own))
    ]
    networks = {("twins", v): (f"{v}.snn", f"{v}.ann") for v in variants}
    accuracies = pd.DataFrame(rows, columns=["network", "seed", "split", "accuracy"])
    return Evidence(
        {"accuracy": accuracies, "paired": pd.concat(tables) if tables else paired("all", "trained", [])},
        networks,
        trained_at=0.9,
        swept=swept or {},
    )


def claim(test: str, **keys: Any) -> Claim:
    reason = {"reason": "it is so"} if "margin" in keys else {}
    said = {"test": test, "says": "It is so.", "source": "nobody", **reason, **keys}
    made: Claim = TESTS[test].block.model_validate(said)
    return made


def cka_of(variant: str, measure: str = "paired_cka") -> Arms:
    return {"measure": measure, "comparison": "twins", "variant": variant}


def accuracy_of(network: str, split: str = "test") -> Arms:
    return {"measure": "accuracy", "network": network, "split": split}


def judged(test: str, given: Evidence, **keys: Any) -> Finding:
    (found,) = findings([claim(test, **keys)], given)
    return found


def welch(a: Any, b: Any) -> tuple[float, float, float, int]:
    a, b = np.asarray(a), np.asarray(b)
    over = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    return float(a.mean() - b.mean()), over.low, over.high, min(len(a), len(b))


HIGH, LOW = [0.80, 0.82, 0.81], [0.50, 0.55, 0.52]
FLOOR = [0.30, 0.31, 0.32]


def two_arms(a: Any, b: Any, floor_a: Any = FLOOR, floor_b: Any = FLOOR) -> Evidence:
    return evidence(
        paired("all", "trained", a),
        paired("none", "trained", b),
        paired("all", "untrained", floor_a),
        paired("none", "untrained", floor_b),
    )


# intervals of figures


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_that_of_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval(values) == pytest.approx((values.mean(), low, high, n), rel=1e-12)


def test_the_interval_of_one_two_three_is_known_by_hand() -> None:
    # mean 2, standard deviation 1, t(2) = 4.302653
    assert interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5, 3))


def test_half_widths_of_many_values_are_those_of_each() -> None:
    values = np.random.default_rng(0).normal(size=(4, 2, 3))
    for i, j in np.ndindex(2, 3):
        over = interval(values[:, i, j])
        assert half_width(values)[i, j] == pytest.approx((over.high - over.low) / 2)


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    assert interval(np.array([0.7]))[:3] == pytest.approx((0.7, np.nan, np.nan), nan_ok=True)
    assert interval(np.array([])) == pytest.approx((np.nan, np.nan, np.nan, 0), nan_ok=True)
    assert np.isnan(half_width(np.ones((1, 2)))).all()


def test_intervals_on_fisher_s_z_stay_within_one_and_hold_the_mean() -> None:
    values = pd.Series([0.90, 0.99, 0.999], index=[(i, i) for i in range(3)])
    over = fisher_interval(values)
    assert interval(values).high > 1
    assert over.low < values.mean() == over.mean < over.high < 1
    z = np.arctanh(values)
    half = 4.302653 * z.std(ddof=1) / 3**0.5
    assert over.high == pytest.approx(np.tanh(np.arctanh(values.mean()) + half))
    assert fisher_interval(values * 0 + 1)[:3] == pytest.approx((1, 1, 1))
    assert np.isnan(fisher_interval(values[:1]).low)


def test_intervals_of_crossed_seeds_are_of_two_samples() -> None:
    seeds = pd.MultiIndex.from_product([range(3), range(3)])
    rows, columns = np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.05, 0.01])
    z = rows[:, None] + columns
    over = fisher_interval(pd.Series(np.tanh(z).ravel(), index=seeds))
    half = 4.302653 * (rows.var(ddof=1) / 3 + columns.var(ddof=1) / 3) ** 0.5
    assert np.arctanh(over.high) - np.arctanh(over.mean) == pytest.approx(half)


# two arms


def test_swapping_the_arms_turns_holds_into_contradicted() -> None:
    given = two_arms(HIGH, LOW)
    there = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    back = judged("greater", given, a=cka_of("none"), b=cka_of("all"))
    assert (there.verdict, back.verdict) == ("holds", "contradicted")
    assert judged("less", given, a=cka_of("all"), b=cka_of("none")).verdict == "contradicted"
    assert judged("less", given, a=cka_of("none"), b=cka_of("all")).verdict == "holds"
    assert there.estimate == pytest.approx(welch(HIGH, LOW))
    assert back.estimate.mean == pytest.approx(-there.estimate.mean)


@pytest.mark.parametrize(("test", "verdict"), [("greater", "equivalent"), ("less", "equivalent"), ("same", "holds")])
def test_the_same_arm_twice_is_equivalent(test: str, verdict: str) -> None:
    given = evidence(accuracy={"all.snn": HIGH})
    assert judged(test, given, a=accuracy_of("all.snn"), b=accuracy_of("all.snn")).verdict == verdict
    assert judged("differs", two_arms(HIGH, LOW), a=cka_of("all"), b=cka_of("all")).verdict == "contradicted"


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_are_undecided(seeds: int) -> None:
    given = two_arms([0.9] * seeds, [0.1] * seeds, [0.2] * seeds, [0.2] * seeds)
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.estimate.n) == ("undecided", seeds)


def test_arms_are_independent_unless_they_share_networks() -> None:
    # each seed lies elsewhere, but within a seed a is always higher by about 0.1
    a, b = np.array([0.9, 0.5, 0.1]), np.array([0.8, 0.41, 0.01])
    given = two_arms(a, b, [0] * 3, [0] * 3)
    apart = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (apart.verdict, apart.estimate) == ("undecided", pytest.approx(welch(a, b)))
    one_ann = given.networks | {("twins", "none"): ("none.snn", "all.ann")}
    shared = judged("greater", dataclasses.replace(given, networks=one_ann), a=cka_of("all"), b=cka_of("none"))
    assert (shared.verdict, shared.estimate) == ("holds", pytest.approx(interval(a - b)))


def test_what_the_evidence_says_of_origins_goes_before_names() -> None:
    a, b = np.array([0.9, 0.5, 0.1]), np.array([0.8, 0.41, 0.01])
    given = two_arms(a, b, [0] * 3, [0] * 3)
    table = given.tables["paired"]
    table["origins"] = [frozenset({f"first weights {seed}"}) for seed in table["seed"]]
    assert judged("greater", given, a=cka_of("all"), b=cka_of("none")).verdict == "holds"


def test_floors_and_change_stand_beside_the_value_and_decide_nothing() -> None:
    # higher by wiring alone, and lower though training added more: the floor is no part of the verdict
    given = two_arms(HIGH, LOW, [v - 0.1 for v in HIGH], [v - 0.4 for v in LOW])
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert found.verdict == "holds"
    assert found.arms["a"].floor == pytest.approx(np.mean(HIGH) - 0.1)
    assert found.arms["b"].change == pytest.approx(0.4)
    assert found.estimate == pytest.approx(welch(HIGH, LOW))


def test_differs_holds_either_way_and_sameness_is_contradicted_either_way() -> None:
    for a, b in (("all", "none"), ("none", "all")):
        assert judged("differs", two_arms(HIGH, LOW), a=cka_of(a), b=cka_of(b)).verdict == "holds"
    accuracy = evidence(accuracy={"all.snn": HIGH, "none.snn": LOW})
    for a, b in (("all", "none"), ("none", "all")):
        found = judged("same", accuracy, a=accuracy_of(f"{a}.snn"), b=accuracy_of(f"{b}.snn"))
        assert found.verdict == "contradicted"
    noisy = two_arms([0.2, 0.9, 0.5], [0.8, 0.3, 0.4])
    assert judged("differs", noisy, a=cka_of("all"), b=cka_of("none")).verdict == "undecided"


# one arm


@pytest.mark.parametrize(
    ("test", "value", "verdict"),
    [
        ("above", 0.5, "holds"),
        ("above", 0.95, "contradicted"),
        ("above", 0.79, "undecided"),
        ("above", 0.81, "equivalent"),
        ("below", 0.95, "holds"),
        ("below", 0.5, "contradicted"),
    ],
)
def test_above_and_below_compare_with_a_fixed_value(test: str, value: float, verdict: str) -> None:
    found = judged(test, two_arms(HIGH, LOW), a=cka_of("all"), value=value)
    assert found.verdict == verdict
    assert found.estimate == pytest.approx(interval(np.array(HIGH) - value))


def ceiling(
    top: Any, values: Any = HIGH, layers: tuple[str, ...] = LAYERS, wrong: float = 0.4, permuted: float = 0.0
) -> Evidence:
    columns = {"wrong": wrong, "best": 0.5, "permuted": permuted}
    return evidence(
        paired("all", "trained", values, layers, **columns),
        paired("all", "untrained", FLOOR, layers, **columns),
        paired("all", "ceiling", top, layers),
    )


TOP = [0.82, 0.81, 0.83]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.81, 0.815, 0.812], "holds"),
        ([0.70, 0.701, 0.699], "contradicted"),
        ([0.76, 0.81, 0.78], "undecided"),
    ],
)
def test_near_ceiling_means_at_least_95_of_100_of_the_ceiling(values: list[float], verdict: str) -> None:
    found = judged("near_ceiling", ceiling(TOP, values), a=cka_of("all"))
    assert found.verdict == verdict
    assert found.estimate.mean == pytest.approx(np.mean(values) / np.mean(TOP) - 0.95)
    assert "50 % of the layers" in found.measured
    # by hand, leaving out one seed and all pairs of seeds that it is in
    left = [
        np.mean([v for i, v in enumerate(values) if i != gone])
        / np.mean([t for pair, t in zip(PAIRS, TOP, strict=True) if gone not in pair])
        for gone in range(3)
    ]
    se = (2 / 3 * np.sum((np.array(left) - np.mean(left)) ** 2)) ** 0.5
    assert found.confidence == 90  # one-sided
    assert found.estimate.high - found.estimate.mean == pytest.approx(stats.t.ppf(0.95, 2) * se)


def test_near_ceiling_asks_for_right_layers_above_wrong_ones() -> None:
    close = [0.81, 0.815, 0.812]
    apart, wrong, alike = (
        judged("near_ceiling", ceiling(TOP, close, wrong=wrong), a=cka_of("all")) for wrong in (0.4, 0.9, 0.8123)
    )
    assert (apart.verdict, apart.gates) == ("holds", "held")
    for found in (wrong, alike):
        assert (found.verdict, found.gates) == ("undecided", "not told from layers of other names")


@pytest.mark.parametrize(
    ("control", "why"), [({"wrong": 0.81}, "layers of other names pass"), ({"permuted": 0.81}, "permuted samples pass")]
)
def test_sameness_is_not_believed_where_a_control_passes_too(control: dict[str, float], why: str) -> None:
    values = [0.81, 0.815, 0.812]
    given = two_arms(values, values)
    given.tables["paired"]["wrong"], given.tables["paired"]["permuted"] = 0.3, 0.0
    arms = {"a": cka_of("all"), "b": cka_of("none")}
    assert (judged("same", given, **arms).verdict, judged("same", given, **arms).gates) == ("holds", "held")
    for column, value in control.items():
        given.tables["paired"][column] = value
    found = judged("same", dataclasses.replace(given), **arms)  # with nothing looked up yet
    assert found.verdict == "undecided"
    assert why in found.note
    assert found.gates == f"{why} as well"


def test_sameness_is_not_believed_where_a_control_could_not_be_tried() -> None:
    found = judged("same", two_arms(HIGH, HIGH), a=cka_of("all"), b=cka_of("none"))
    assert found.verdict == "undecided"
    assert found.note.startswith("layers of other names could not be tried; permuted samples could not be tried")
    assert found.needed == ""


def test_a_control_that_is_undefined_somewhere_could_not_be_tried() -> None:
    given = ceiling(TOP, [0.81, 0.815, 0.812], permuted=0.815)
    assert "permuted samples pass as well" in judged("near_ceiling", given, a=cka_of("all")).note
    table = given.tables["paired"]
    table.loc[(table.seed == 1) & (table.layer == "conv1"), "permuted"] = np.nan
    found = judged("near_ceiling", dataclasses.replace(given), a=cka_of("all"))
    assert (found.verdict, "permuted samples could not be tried" in found.note) == ("undecided", True)


def test_sameness_of_what_has_no_controls_is_not_believed() -> None:
    given = two_arms(values := [0.81, 0.815, 0.812], values)
    given.tables["paired"]["partial"], given.tables["paired"]["wrong"] = given.tables["paired"]["cka"], 0.3
    found = judged("same", given, a=cka_of("all", "partial_cka"), b=cka_of("none", "partial_cka"))
    assert (found.verdict, "could not be tried" in found.note) == ("undecided", True)


def test_layers_whose_ceiling_may_be_low_are_left_out_and_named() -> None:
    top = [[0.82, 0.2, 0.31], [0.81, 0.2, 0.29], [0.83, 0.2, 0.3]]
    found = judged("near_ceiling", ceiling(top, [[0.81, 0.9, 0.9]] * 3), a=cka_of("all"))
    assert "2 layers are left out, their ceiling not surely at least 0.3: layer1.0.conv2, layer1.0" in found.note
    assert found.estimate.mean == pytest.approx(0.81 / 0.82 - 0.95)
    assert "0.810, ceiling 0.820" in found.measured  # of what is left, too


def test_without_a_ceiling_near_ceiling_is_undecided_and_says_why() -> None:
    columns = {"wrong": 0.4, "best": 1.0}
    given = evidence(paired("all", "trained", [0.8], **columns), paired("all", "untrained", [0.3], **columns))
    found = judged("near_ceiling", given, a=cka_of("all"))
    assert found.verdict == "undecided"
    assert "no ceiling: that takes two seeds" in found.note
    assert (found.p, found.needed) == (1.0, "")


def test_value_over_ceiling_may_differ_where_the_value_does_not() -> None:
    given = evidence(
        *(paired(v, "trained", HIGH) for v in ("all", "none")),
        *(paired(v, "untrained", FLOOR) for v in ("all", "none")),
        paired("all", "ceiling", TOP),
        paired("none", "ceiling", [0.95, 0.96, 0.94]),
    )
    arms = {"a": cka_of("all", "cka_over_ceiling"), "b": cka_of("none", "cka_over_ceiling")}
    found = judged("greater", given, **arms)
    assert found.verdict == "holds"
    assert found.estimate.mean == pytest.approx(0.81 / 0.82 - 0.81 / 0.95)
    assert found.arms["a"].ceiling == pytest.approx(0.82)


def test_arms_over_their_ceilings_share_the_layers_that_are_high_in_both() -> None:
    # the same share of the ceiling everywhere; the third layer is low in one arm alone
    values, tops = {"all": [0.8, 0.8, 0.4], "none": [0.8, 0.8, 0.1]}, {"all": [0.9, 0.9, 0.8], "none": [0.9, 0.9, 0.2]}
    noise = np.array([[0.001], [0.0], [-0.001]])
    given = evidence(
        *(paired(v, state, np.array(values[v]) + noise) for v in values for state in ("trained", "untrained")),
        *(paired(v, "ceiling", np.array(tops[v]) + noise) for v in values),
    )
    arms = {"a": cka_of("all", "cka_over_ceiling"), "b": cka_of("none", "cka_over_ceiling")}
    found = judged("differs", given, **arms)
    assert found.estimate.mean == pytest.approx(0)
    assert "1 layer is left out, their ceiling not surely at least 0.3: layer1.0" in found.note
    swept = {"all": 1.0, "none": 2.0}
    trended = dataclasses.replace(given, swept=swept)
    keys = {"measure": "cka_over_ceiling", "comparison": "twins"}
    slope = judged("trend", trended, direction="up", a=keys)
    assert slope.estimate.mean == pytest.approx(0)
    assert "layer1.0" in slope.note
    assert "1: 0.889, 2: 0.889" in slope.measured


def test_networks_from_equal_weights_have_no_share_of_the_ceiling() -> None:
    given = ceiling(TOP, [0.81, 0.815, 0.812])
    table = given.tables["paired"]
    names = {"snn": "s", "ann": "a", "": "s"}
    table["origins"] = [
        frozenset({f"{names[r.kind]}{r.seed}", f"{names[r.kind or 'ann']}{r.seed_y}", f"w{r.seed}", f"w{r.seed_y}"})
        for r in table.itertuples()
    ]
    found = judged("near_ceiling", given, a=cka_of("all"))
    assert found.verdict == "undecided"
    assert "start from equal weights" in found.note


def test_partial_cka_is_that_of_its_column() -> None:
    given = two_arms(HIGH, LOW)
    given.tables["paired"]["partial"] = given.tables["paired"]["cka"] - 0.1
    arms = {"a": cka_of("all", "partial_cka"), "b": cka_of("none", "partial_cka")}
    found = judged("greater", given, **arms)
    assert found.measured == "mean CKA of paired layers given the input 0.710 against 0.423"
    assert np.isnan(found.arms["a"].ceiling)


def test_restoration_is_the_rise_from_the_last_convolution_to_the_block() -> None:
    rows = [[0.9, 0.5, 0.7], [0.9, 0.4, 0.61], [0.9, 0.6, 0.79]]  # conv1, layer1.0.conv2, layer1.0
    given = evidence(paired("all", "trained", rows), paired("all", "untrained", [[0.9, 0.5, 0.5]] * 3))
    found = judged("above", given, a=cka_of("all", "restoration"), value=0)
    assert found.verdict == "holds"
    assert found.estimate == pytest.approx(interval(np.array([0.2, 0.21, 0.19])))


def test_restoration_of_a_network_without_blocks_is_undecided() -> None:
    flat = [paired("all", state, HIGH, layers=("conv1", "conv2")) for state in ("trained", "untrained")]
    assert judged("above", evidence(*flat), a=cka_of("all", "restoration"), value=0).verdict == "undecided"


# layers


@pytest.mark.parametrize(
    "where", [("all", "trained"), ("all", "untrained"), ("none", "trained"), ("none", "untrained")]
)
def test_a_layer_that_one_arm_lacks_for_one_seed_leaves_all_arms(where: tuple[str, str]) -> None:
    tables = {
        (variant, state): paired(variant, state, [[v, v + 0.1, v - 0.1] for v in values])
        for (variant, state), values in {
            ("all", "trained"): HIGH,
            ("none", "trained"): LOW,
            ("all", "untrained"): FLOOR,
            ("none", "untrained"): FLOOR,
        }.items()
    }
    hole = tables[where]
    hole.loc[(hole.seed == 1) & (hole.layer == "layer1.0"), "cka"] = np.nan
    found = judged("greater", evidence(*tables.values()), a=cka_of("all"), b=cka_of("none"))
    assert found.note == "over the 2 layers defined in all arms"
    assert found.measured == "mean CKA of paired layers 0.860 against 0.573"  # mean of v and v + 0.1
    assert found.verdict == "holds"


def test_a_layer_that_one_arm_does_not_have_leaves_the_other_too() -> None:
    given = evidence(
        *(paired("all", state, [[0.5, 0.5, 0.9]] * 3) for state in ("trained", "untrained")),
        *(paired("none", state, [[0.5, 0.5]] * 3, layers=LAYERS[:2]) for state in ("trained", "untrained")),
    )
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.estimate.mean) == ("equivalent", 0)


def test_without_a_common_layer_a_claim_is_undecided_and_says_so() -> None:
    given = evidence(
        *(paired("all", state, HIGH, layers=("a", "b", "c")) for state in ("trained", "untrained")),
        *(paired("none", state, LOW) for state in ("trained", "untrained")),
    )
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert found.verdict == "undecided"
    assert found.note == "no layer is defined in all arms"


# training


def test_a_claim_on_representations_of_untrained_networks_is_not_judged() -> None:
    given = evidence(*(paired(v, s, HIGH) for v in ("all", "none") for s in ("trained", "untrained")), train=0.89)
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.p_corrected) == ("not trained", 1)
    assert found.note.startswith("training accuracy below 0.9: all.snn, all.ann, none.snn, none.ann")
    assert np.isfinite(found.estimate).all()  # what was measured is still shown


def test_one_seed_below_is_enough_to_count_as_not_trained_and_at_the_limit_is_trained() -> None:
    given = two_arms(HIGH, LOW)
    table = given.tables["accuracy"]
    train = table.split == "train"
    table.loc[train, "accuracy"] = 0.9
    assert judged("greater", given, a=cka_of("all"), b=cka_of("none")).verdict == "holds"
    table.loc[train & (table.network == "none.snn") & (table.seed == 2), "accuracy"] = 0.8999
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert found.verdict == "not trained"
    assert found.note.startswith("training accuracy below 0.9: none.snn; over the 3 layers")
    assert judged("above", given, a=cka_of("all"), value=0).verdict == "holds"  # about trained networks alone


def test_accuracy_claims_are_never_gated_and_have_no_floor() -> None:
    given = evidence(accuracy={"all.snn": [0.3, 0.31, 0.32], "none.snn": [0.1, 0.12, 0.11]}, train=0.2)
    found = judged("greater", given, a=accuracy_of("all.snn"), b=accuracy_of("none.snn"))
    assert found.verdict == "holds"
    assert np.isnan(found.arms["a"].floor)
    assert judged("less", given, a=accuracy_of("all.snn"), b=accuracy_of("none.snn")).verdict == "contradicted"
    on_training = judged("greater", given, a=accuracy_of("all.snn", "train"), b=accuracy_of("none.snn", "train"))
    assert on_training.verdict == "equivalent"


def test_an_untrained_network_in_a_comparison_need_not_be_trained() -> None:
    given = two_arms(HIGH, LOW)
    accuracy = given.tables["accuracy"]
    tables = {"accuracy": accuracy[accuracy.network == "all.snn"], "paired": given.tables["paired"]}
    start = Evidence(tables, {("twins", "all"): ("all.snn@init", "all.snn")}, 0.9)
    assert judged("above", start, a=cka_of("all"), value=0).verdict == "holds"


# trends

DEPTHS = {"depth-8": 8.0, "depth-16": 16.0, "depth-32": 32.0}


def trend(trained: dict[str, list[float]], untrained: Any = FLOOR) -> Evidence:
    tables = [paired(v, "trained", values) for v, values in trained.items()]
    return evidence(*tables, *(paired(v, "untrained", untrained) for v in trained), swept=DEPTHS)


def test_a_trend_is_a_slope_against_log2_of_the_swept_value_over_independent_networks() -> None:
    values = {"depth-8": [0.3, 0.31, 0.32], "depth-16": [0.4, 0.4, 0.44], "depth-32": [0.5, 0.53, 0.52]}
    given = trend(values)
    keys: Arms = {"a": {"measure": "paired_cka", "comparison": "twins"}}
    up = judged("trend", given, direction="up", **keys)
    # by hand: (last - first) / 2, with Welch's variance
    whole = welch(values["depth-32"], values["depth-8"])
    assert up.estimate == pytest.approx((whole[0] / 2, whole[1] / 2, whole[2] / 2, 3))
    assert (up.verdict, judged("trend", given, direction="down", **keys).verdict) == ("holds", "contradicted")
    assert "8: 0.310, 16: 0.413, 32: 0.517" in up.measured


def test_a_trend_over_twins_that_share_a_network_is_one_slope_a_seed() -> None:
    given = trend({"depth-8": [0.3, 0.31, 0.32], "depth-16": [0.4, 0.4, 0.44], "depth-32": [0.5, 0.53, 0.52]})
    one_ann = dataclasses.replace(given, networks={("twins", v): (f"{v}.snn", "one.ann") for v in DEPTHS})
    found = judged("trend", one_ann, direction="up", a={"measure": "paired_cka", "comparison": "twins"})
    assert found.estimate == pytest.approx(interval(np.array([0.1, 0.11, 0.1])))


@pytest.mark.parametrize(("spread", "verdict"), [(0.1, "undecided"), (0.001, "equivalent")])
def test_a_flat_trend_is_undecided_or_equivalent(spread: float, verdict: str) -> None:
    given = trend({v: [0.5 - spread, 0.5, 0.5 + spread] for v in DEPTHS})
    found = judged("trend", given, direction="up", a={"measure": "paired_cka", "comparison": "twins"})
    assert (found.verdict, found.estimate.mean) == (verdict, pytest.approx(0))


def test_a_layer_that_is_undefined_for_one_seed_is_left_out_of_a_trend_for_all() -> None:
    given = trend({v: [value] * 3 for v, value in zip(DEPTHS, (0.3, 0.4, 0.5), strict=True)})
    rows = given.tables["paired"]
    odd = (rows.variant == "depth-32") & (rows.state == "trained") & (rows.layer == "conv1")
    rows.loc[odd, "cka"] = [np.nan, 0.9, 0.9]
    found = judged("trend", given, direction="up", a={"measure": "paired_cka", "comparison": "twins"})
    assert found.estimate == pytest.approx((0.1, 0.1, 0.1, 3))


def test_a_layer_undefined_at_one_swept_value_does_not_bend_the_trend_by_counting_at_the_others() -> None:
    given = trend({v: [value] * 3 for v, value in zip(DEPTHS, (0.3, 0.4, 0.5), strict=True)})
    rows = given.tables["paired"]
    trained, conv1 = rows.state == "trained", rows.layer == "conv1"
    rows.loc[trained & conv1 & (rows.variant != "depth-32"), "cka"] = 0.0  # low where it is defined ...
    rows.loc[trained & conv1 & (rows.variant == "depth-32"), "cka"] = np.nan  # ... and silent at the last value
    found = judged("trend", given, direction="up", a={"measure": "paired_cka", "comparison": "twins"})
    assert found.estimate == pytest.approx((0.1, 0.1, 0.1, 3))
    assert found.note == "over 2, 2, 2 layers, those that are defined at every value that has them"


def test_a_layer_that_a_shallower_network_does_not_have_stays_in_a_trend() -> None:
    given = trend({v: [value] * 3 for v, value in zip(DEPTHS, (0.3, 0.4, 0.5), strict=True)})
    shallow = (given.tables["paired"].variant == "depth-8") & (given.tables["paired"].layer == "layer1.0")
    found = judged(
        "trend",
        dataclasses.replace(given, tables=given.tables | {"paired": given.tables["paired"][~shallow]}),
        direction="up",
        a={"measure": "paired_cka", "comparison": "twins"},
    )
    assert found.note.startswith("over 2, 3, 3 layers")


def test_a_trend_of_accuracies_is_over_the_networks_of_that_kind() -> None:
    accuracy = {f"{v}.snn": [value, value + 0.01, value] for v, value in zip(DEPTHS, (0.9, 0.7, 0.5), strict=True)}
    given = evidence(accuracy=accuracy, train=0.1, swept=DEPTHS)
    found = judged("trend", given, direction="down", a={"measure": "accuracy", "network": "snn"})
    assert found.verdict == "holds"
    assert found.estimate.mean == pytest.approx(-0.2)


def test_a_trend_over_untrained_networks_is_not_judged() -> None:
    given = trend(dict.fromkeys(DEPTHS, HIGH))
    given.tables["accuracy"].loc[given.tables["accuracy"].network == "depth-16.ann", "accuracy"] = 0.5
    found = judged("trend", given, direction="up", a={"measure": "paired_cka", "comparison": "twins"})
    assert found.verdict == "not trained"
    assert "depth-16.ann" in found.note


# time

NEURONS = ("layer1.0.lif1", "layer1.1.lif1", "layer3.0.lif1")


def inside(state: str, split: Any, variant: str = "all") -> pd.DataFrame:
    """Change between steps over split halves: `values[seed]`, or `values[seed][layer]`."""
    return paired(variant, state, split, NEURONS, "inside").rename(columns={"cka": "split"})


def dynamic(trained: Any, untrained: Any = 0.5) -> Evidence:
    rows = [inside(s, np.broadcast_to(v, (3, 3))) for s, v in (("trained", trained), ("untrained", untrained))]
    networks = {("inside", "all"): ("all.snn", "all.snn")}
    return dataclasses.replace(evidence(), tables=evidence().tables | {"dynamics": pd.concat(rows)}, networks=networks)


def dynamics_of(layers: list[str] | None = None) -> Arms:
    return {"measure": "dynamics", "comparison": "inside", "variant": "all"} | ({"layers": layers} if layers else {})


DEEP, SHALLOW = ["layer3.*"], ["layer1.*"]
TRAINED = [[0.02, 0.06, 0.30], [0.03, 0.05, 0.28], [0.01, 0.05, 0.29]]


def test_dynamics_is_the_change_between_steps_over_split_halves() -> None:
    found = judged("greater", dynamic(TRAINED), a=dynamics_of(DEEP), b=dynamics_of(SHALLOW))
    # layers of one network: paired; by hand .30 - .04, .28 - .04, .29 - .03
    assert found.estimate == pytest.approx(interval(np.array([0.26, 0.24, 0.26])))
    assert found.verdict == "holds"
    assert found.measured == "change between steps, over split halves of the units 0.290 against 0.037"
    assert found.note == "over 1 and 2 layers, those that are defined trained and untrained"
    assert found.arms["a"].floor == pytest.approx(0.5)


def test_a_claim_on_time_is_not_judged_on_untrained_networks() -> None:
    given = dynamic(TRAINED)
    given.tables["accuracy"].loc[given.tables["accuracy"].network == "all.snn", "accuracy"] = 0.5
    found = judged("greater", given, a=dynamics_of(DEEP), b=dynamics_of(SHALLOW))
    assert found.verdict == "not trained"
    assert found.note.startswith("training accuracy below 0.9: all.snn; ")


def test_a_layer_without_two_steps_that_can_be_compared_leaves_its_arm() -> None:
    holed = np.array(TRAINED)
    holed[1, 1] = np.nan
    found = judged("greater", dynamic(holed), a=dynamics_of(DEEP), b=dynamics_of(SHALLOW))
    assert found.note == "over 1 and 1 layers, those that are defined trained and untrained"
    holed[1, 2] = np.nan
    found = judged("greater", dynamic(holed), a=dynamics_of(DEEP), b=dynamics_of(SHALLOW))
    assert (found.verdict, found.note) == ("undecided", "no layer is defined in all arms")


def test_layers_that_are_named_are_the_ones_that_count() -> None:
    rows = [[0.9, 0.5, 0.7]] * 3
    given = two_arms(rows, [[0.8, 0.1, 0.1]] * 3)
    one = judged("greater", given, a=cka_of("all") | {"layers": ["conv1"]}, b=cka_of("none") | {"layers": ["conv1"]})
    assert one.estimate.mean == pytest.approx(0.1)
    assert one.note == "over the 1 layers defined in all arms"
    blocks = judged("above", given, a=cka_of("all") | {"layers": ["layer*"]}, value=0)
    assert blocks.estimate.mean == pytest.approx(0.6)


def test_a_trend_over_named_layers() -> None:
    given = trend({v: [[x, 0.9, 0.9]] * 3 for v, x in zip(DEPTHS, (0.3, 0.4, 0.5), strict=True)})
    arm = {"measure": "paired_cka", "comparison": "twins", "layers": ["conv1"]}
    assert judged("trend", given, direction="up", a=arm).estimate.mean == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("test", "a", "verdict"),
    [
        ("greater", [0.970, 0.971, 0.972], "holds"),
        ("greater", [0.956, 0.957, 0.955], "equivalent"),
        ("greater", [0.930, 0.931, 0.929], "contradicted"),
        ("greater", [0.955, 0.970, 0.961], "undecided"),
        ("less", [0.970, 0.971, 0.972], "contradicted"),
        ("same", [0.950, 0.951, 0.952], "holds"),
        ("same", [0.970, 0.971, 0.972], "contradicted"),
        ("differs", [0.950, 0.951, 0.952], "contradicted"),
    ],
)
def test_a_verdict_is_against_the_margin(test: str, a: list[float], verdict: str) -> None:
    b = [0.949, 0.951, 0.950]
    given = evidence(accuracy={"all.snn": a, "none.snn": b})
    arms = {"a": accuracy_of("all.snn"), "b": accuracy_of("none.snn")}
    found = judged(test, given, **arms, margin=0.01)
    assert (found.verdict, found.margin, found.reason) == (verdict, 0.01, "it is so")
    over = stats.ttest_ind(a, b, equal_var=False).confidence_interval(found.confidence / 100)
    assert found.confidence == (90 if test == "same" else 95)
    assert found.estimate == pytest.approx((np.mean(a) - 0.95, over.low, over.high, 3))  # the difference itself
    assert judged(test, given, **arms).verdict == verdict  # a point of accuracy is the margin unless told


def test_an_accuracy_may_be_that_of_a_run_with_other_steps() -> None:
    rows = [("all.snn", T, s, "test", value + s / 1000) for T, value in ((2, 0.7), (8, 0.9)) for s in (2, 0, 1)]
    other = pd.DataFrame(rows, columns=["network", "T", "seed", "split", "accuracy"])
    given = evidence(accuracy={"all.snn": [0.8, 0.801, 0.802]})
    given = dataclasses.replace(given, tables=given.tables | {"evaluated": other})
    less = judged("less", given, a=accuracy_of("all.snn") | {"T": 2}, b=accuracy_of("all.snn"))
    assert less.estimate.mean == pytest.approx(-0.1)
    assert less.measured == "accuracy 0.701 against 0.801"
    assert (
        judged("less", given, a=accuracy_of("all.snn") | {"T": 8}, b=accuracy_of("all.snn")).verdict == "contradicted"
    )


# under attack: no floor, several pairs, another comparison taken off


def under_attack(**values: Any) -> Evidence:
    """Comparisons without a floor, by name: CKA by seed, all of one pair of networks."""
    tables = [paired("", "trained", own, comparison=name) for name, own in values.items()]
    made = evidence(*tables)
    return dataclasses.replace(made, networks={(name, ""): ("all.snn", "all.snn") for name in values})


def under(comparison: str, **keys: Any) -> Arms:
    return {"measure": "paired_cka", "comparison": comparison, **keys}


NEAR, FAR = [0.90, 0.91, 0.92], [0.60, 0.62, 0.61]


def test_what_has_no_floor_is_judged_all_the_same() -> None:
    found = judged("greater", under_attack(snn=NEAR, ann=FAR), a=under("snn"), b=under("ann"))
    assert (found.verdict, np.isnan(found.arms["a"].floor)) == ("holds", True)
    assert found.estimate.mean == pytest.approx(0.3)
    untrained = dataclasses.replace(under_attack(snn=NEAR, ann=FAR), trained_at=1.0)
    assert judged("greater", untrained, a=under("snn"), b=under("ann")).verdict == "not trained"


@pytest.mark.parametrize(("reached", "verdict"), [(True, "holds"), (False, "undecided")])
def test_strengths_of_an_attack_are_set_against_each_other_as_ratios(reached: bool, verdict: str) -> None:
    rows = [
        {"network": f"all.{kind}", "attack": "half", "eps": eps, "seed": seed, "reached": reached or kind == "ann"}
        for kind, strengths in (("snn", (0.4, 0.42, 0.38)), ("ann", (0.1, 0.1, 0.11)))
        for seed, eps in enumerate(strengths)
    ]
    given = evidence()
    given = dataclasses.replace(given, tables={**given.tables, "attacks": pd.DataFrame(rows)})
    arms = {
        k: {"measure": "attack_strength", "network": f"all.{v}", "attack": "half"}
        for k, v in zip("ab", ("snn", "ann"), strict=True)
    }
    found = judged("greater", given, **arms)
    assert found.verdict == verdict
    if reached:
        assert found.estimate.mean == pytest.approx(
            np.mean(np.log2([0.4, 0.42, 0.38])) - np.mean(np.log2([0.1, 0.1, 0.11]))
        )
    else:
        assert found.missed == "all.snn, seed 0, 1, 2: no strength up to eps_max has the success rate asked for"
        assert (found.needed, found.missed in found.note) == ("", True)


SNNS, NAKED, ANNS, NAKED_ANNS = [0.90, 0.92, 0.91], [0.80, 0.83, 0.82], [0.95, 0.96, 0.95], [0.94, 0.95, 0.96]


def test_an_interaction_is_one_difference_against_another_over_the_networks_of_all_four() -> None:
    accuracy = {"all.snn": SNNS, "none.snn": NAKED, "all.ann": ANNS, "none.ann": NAKED_ANNS}
    arms = dict(zip("abcd", map(accuracy_of, accuracy), strict=True))
    found = judged("greater", evidence(accuracy=accuracy), **arms)
    variances = np.array([np.var(values, ddof=1) / 3 for values in accuracy.values()])
    mean = np.mean(SNNS) - np.mean(NAKED) - (np.mean(ANNS) - np.mean(NAKED_ANNS))
    df = variances.sum() ** 2 / (variances**2 / 2).sum()  # Satterthwaite
    half = stats.t.ppf(0.975, df) * variances.sum() ** 0.5
    assert found.estimate == pytest.approx((mean, mean - half, mean + half, 3))
    assert found.verdict == "holds"
    assert found.measured.startswith("accuracy 0.910 less 0.817, against 0.953 less 0.950")
    turned = {"a": arms["c"], "b": arms["d"], "c": arms["a"], "d": arms["b"]}
    assert judged("greater", evidence(accuracy=accuracy), **turned).verdict == "contradicted"
    with pytest.raises(ValueError, match="expected c and d, or neither: got c alone"):
        claim("greater", **{key: arms[key] for key in "abc"})


def test_likeness_may_differ_more_between_layers_of_one_variant_than_of_another() -> None:
    given = two_arms(
        [[0.9, 0.5, 0.5], [0.88, 0.52, 0.5], [0.91, 0.49, 0.5]],
        [[0.7, 0.65, 0.5], [0.72, 0.66, 0.5], [0.69, 0.64, 0.5]],
    )
    a, b = ({**cka_of("all"), "layers": [layer]} for layer in LAYERS[:2])
    c, d = ({**cka_of("none"), "layers": [layer]} for layer in LAYERS[:2])
    found = judged("differs", given, a=a, b=b, c=c, d=d)
    assert found.estimate.mean == pytest.approx(0.4 - 0.05, abs=0.02)
    assert found.verdict == "holds"
    assert found.note.startswith("over 1, 1, 1 and 1 layers")
    several = ({**arm, "layers": list(LAYERS[:2])} for arm in (cka_of("all"), cka_of("none")))
    stages = dict(zip("abcd", [*several, c, d], strict=True))
    assert judged("differs", given, **stages).note.startswith("over 2, 2, 1 and 1 layers")


def test_another_network_is_taken_off_seed_by_seed_and_at_every_value_of_a_sweep() -> None:
    accuracy = {"all.snn": SNNS, "none.snn": NAKED, "all.ann": ANNS, "none.ann": NAKED_ANNS}
    arms = ({**accuracy_of(f"{v}.ann"), "minus": f"{v}.snn"} for v in ("none", "all"))
    found = judged("greater", evidence(accuracy=accuracy), **dict(zip("ab", arms, strict=True)))
    gaps = [np.subtract(*pair) for pair in ((NAKED_ANNS, NAKED), (ANNS, SNNS))]
    assert found.estimate.mean == pytest.approx(gaps[0].mean() - gaps[1].mean())
    assert found.measured.startswith("accuracy (less that of none.snn and all.snn) 0.133 against 0.043")
    swept = {"width-1": 1.0, "width-4": 4.0}
    widths = {"width-1.snn": NAKED, "width-4.snn": SNNS, "width-1.ann": ANNS, "width-4.ann": ANNS}
    gap = {"measure": "accuracy", "network": "ann", "minus": "snn"}
    slope = judged("trend", evidence(accuracy=widths, swept=swept), a=gap, direction="down")
    assert slope.estimate.mean == pytest.approx((np.mean(NAKED) - np.mean(SNNS)) / 2)
    assert slope.verdict == "holds"
    fewer = evidence(accuracy=accuracy | {"none.snn": NAKED[:2]})
    with pytest.raises(ValueError, match=r"expected none\.ann and none\.snn with the same seeds"):
        judged("above", fewer, a={**accuracy_of("none.ann"), "minus": "none.snn"}, value=0)


def test_another_comparison_is_taken_off_seed_by_seed_and_layer_by_layer() -> None:
    given = under_attack(snn=NEAR, ann=NEAR, noise_snn=[0.5, 0.6, 0.7], noise_ann=[0.9, 0.8, 0.7])
    found = judged("greater", given, a=under("snn", minus="noise_snn"), b=under("ann", minus="noise_ann"))
    expected = interval(np.array([0.9 - 0.5, 0.8 - 0.6, 0.7 - 0.7]))
    assert found.estimate == pytest.approx(expected)
    assert found.measured.startswith(
        "mean CKA of paired layers (less that of noise_snn and noise_ann) 0.310 against 0.110"
    )


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((NEAR, FAR, NEAR, FAR), "holds"),
        ((NEAR, FAR, FAR, NEAR), "contradicted"),
        ((NEAR, FAR, NEAR, NEAR), "undecided"),
    ],
)
def test_a_claim_in_all_pairs_holds_where_every_pair_does(values: tuple[list[float], ...], verdict: str) -> None:
    given = under_attack(**dict(zip("abcd", values, strict=True)))
    pairs = [{"a": under("a"), "b": under("b")}, {"a": under("c"), "b": under("d")}]
    found = judged("greater_in_all", given, pairs=pairs)
    assert found.verdict == verdict
    assert found.estimate.mean == pytest.approx(0.0 if verdict == "undecided" else 0.3 if verdict == "holds" else -0.3)
    assert found.measured.count("mean CKA of paired layers") == 2


def test_accuracy_under_attack_and_the_success_of_a_backdoor_are_those_of_the_tables() -> None:
    rows = [
        (network, "pgd", eps, seed, value + seed / 100)
        for network, eps, value in (("all.snn", 0.1, 0.8), ("all.snn", 0.2, 0.5), ("all.ann", 0.1, 0.6))
        for seed in range(3)
    ]
    attacked = pd.DataFrame(rows, columns=["network", "attack", "eps", "seed", "accuracy"])
    poisoned = [("all.snn", seed, 0.9 + seed / 100) for seed in range(3)]
    backdoored = pd.DataFrame(poisoned, columns=["network", "seed", "success_rate"])
    given = dataclasses.replace(evidence(), tables=evidence().tables | {"attacks": attacked, "backdoors": backdoored})
    strong = {"measure": "accuracy", "network": "all.snn", "attack": "pgd", "eps": 0.2}
    weak = strong | {"eps": 0.1}
    found = judged("less", given, a=strong, b=weak)
    assert found.verdict == "holds"
    assert found.estimate.mean == pytest.approx(-0.3)
    works = judged("above", given, a={"measure": "backdoor_success", "network": "all.snn"}, value=0.5)
    assert works.estimate.mean == pytest.approx(0.41)
    assert works.measured == "success rate of the backdoor 0.910 against the fixed 0.5"


def test_networks_that_are_taken_off_must_be_trained_too() -> None:
    given = under_attack(snn=NEAR, noise=FAR)
    given = dataclasses.replace(given, networks=given.networks | {("noise", ""): ("none.snn", "none.snn")})
    accuracy = given.tables["accuracy"]
    accuracy.loc[accuracy.network == "none.snn", "accuracy"] = 0.1
    found = judged("above", given, a=under("snn", minus="noise"), value=0.1)
    assert found.verdict == "not trained"
    assert "none.snn" in found.note


def test_a_comparison_that_missed_its_success_rate_decides_nothing() -> None:
    given = dataclasses.replace(
        under_attack(snn=NEAR, ann=FAR), unequal={("ann", ""): "half did not reach success 0.5"}
    )
    found = judged("greater", given, a=under("snn"), b=under("ann"))
    assert found.verdict == "undecided"
    assert found.note.startswith("half did not reach success 0.5; over the 3 layers")
    assert (found.missed, found.gates) == ("half did not reach success 0.5", "")
    assert found.needed == ""
    pairs = [{"a": under("snn"), "b": under("snn")}, {"a": under("snn"), "b": under("ann")}]
    assert judged("greater_in_all", given, pairs=pairs).verdict == "undecided"


def test_a_trend_under_attack_is_judged_without_a_floor() -> None:
    values = {"w-1": [0.3, 0.31, 0.32], "w-2": [0.5, 0.52, 0.51], "w-4": [0.7, 0.72, 0.71]}
    tables = [paired(variant, "trained", own) for variant, own in values.items()]
    given = evidence(*tables, swept={"w-1": 1.0, "w-2": 2.0, "w-4": 4.0})
    found = judged("trend", given, a={"measure": "paired_cka", "comparison": "twins"}, direction="up")
    assert found.verdict == "holds"
    assert found.estimate.mean == pytest.approx(0.2, abs=0.01)


def test_several_rows_a_seed_are_not_taken_for_as_many_seeds() -> None:
    twice = evidence(accuracy={"all.snn": [0.6] * 3})
    twice = dataclasses.replace(twice, tables=twice.tables | {"accuracy": pd.concat([twice.tables["accuracy"]] * 2)})
    with pytest.raises(ValueError, match=r"expected a row a seed for accuracy of all\.snn, got 6 of 3 seeds"):
        judged("above", twice, a=accuracy_of("all.snn"), value=0.5)


# several claims


def test_primary_claims_are_corrected_for_their_number_and_exploratory_ones_are_not() -> None:
    given = two_arms([0.80, 0.82, 0.84], [0.72, 0.74, 0.76])
    keys = {"a": cka_of("all"), "b": cka_of("none")}
    alone = judged("greater", given, **keys)
    assert 0.01 < alone.p <= 0.05
    assert (alone.verdict, alone.role, alone.p_corrected) == ("holds", "exploratory", alone.p)
    assert np.isnan(alone.corrected.low)
    many = findings([claim("greater", primary=True, **keys)] * 4 + [claim("greater", **keys)], given)
    assert [found.verdict for found in many] == ["undecided"] * 4 + ["holds"]
    assert many[0].p_corrected == pytest.approx(4 * alone.p)
    assert many[0].estimate == pytest.approx(alone.estimate)
    wide = stats.t.ppf(1 - 0.05 / 8, 4) / stats.t.ppf(0.975, 4)
    assert many[0].corrected.high - 0.08 == pytest.approx(wide * (alone.estimate.high - 0.08))
    assert "seeds" in many[0].needed


def test_a_claim_of_sameness_that_its_seeds_cannot_decide_is_exploratory() -> None:
    given = evidence(accuracy={"all.snn": [0.5, 0.5001, 0.5002], "none.snn": [0.5, 0.5001, 0.5002]})
    arms = {"a": accuracy_of("all.snn"), "b": accuracy_of("none.snn")}
    weak = judged("same", given, primary=True, **arms)
    assert (weak.role, weak.verdict) == ("exploratory", "holds")
    assert weak.note == "exploratory: with 3 seeds its power is 0.02, 0.8 was needed"
    assert judged("same", given, primary=True, spread=0.002, **arms).role == "primary"


def test_claims_that_were_changed_after_a_first_run_are_exploratory() -> None:
    keys = {"a": cka_of("all"), "b": cka_of("none"), "primary": True}
    (found,) = findings([claim("greater", **keys)], two_arms(HIGH, LOW), {"It is so.": "exploratory: changed"})
    assert (found.role, found.verdict) == ("exploratory", "holds")
    assert found.note.startswith("exploratory: changed; ")
    (found,) = findings([claim("greater", **keys)], two_arms(HIGH, LOW), {"Another.": "exploratory: changed"})
    assert found.role == "primary"


def test_what_is_not_trained_counts_among_the_primary_claims() -> None:
    given = two_arms([0.80, 0.82, 0.84], [0.72, 0.74, 0.76])
    keys = {"a": cka_of("all"), "b": cka_of("none"), "primary": True}
    accuracy = given.tables["accuracy"]
    accuracy.loc[accuracy.network == "none.ann", "accuracy"] = 0.1
    low, fine = findings([claim("greater", **keys), claim("above", a=cka_of("all"), value=0.77, primary=True)], given)
    assert (low.verdict, low.p_corrected) == ("not trained", 1)
    assert fine.p_corrected == pytest.approx(2 * fine.p)


def test_an_undecided_claim_says_how_many_seeds_would_decide_it() -> None:
    found = judged("greater", two_arms([0.80, 0.86, 0.90], LOW_NOISY), a=cka_of("all"), b=cka_of("none"))
    assert found.verdict == "undecided"
    assert found.needed == "about 7 seeds"
    assert judged("greater", two_arms(HIGH, LOW), a=cka_of("all"), b=cka_of("none")).needed == ""


LOW_NOISY = [0.70, 0.80, 0.75]


def test_other_specifications_agree_or_are_named() -> None:
    given = two_arms(HIGH, LOW)
    table = given.tables["paired"]
    # step by step the arms stand the other way round
    turned = table.assign(variant=table["variant"].map({"all": "none", "none": "all"}))
    times = {"concatenated": table, "mean of steps": turned}
    given = dataclasses.replace(given, times=times, neurons=frozenset({"conv1"}))
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert found.agreement is not None
    assert str(found.agreement) == "6 of 12"  # 3 layer sets, raw and angle, 2 times
    sets, scales = ("all", "neurons", "block outputs"), ("raw", "angle")
    assert set(found.agreement.others) == {f"{s}, {scale}, mean of steps" for s in sets for scale in scales}
    assert judged("greater", two_arms(HIGH, LOW), a=cka_of("all"), b=cka_of("none")).agreement is None
    # what is judged against a value or a margin is on the raw scale alone: 3 layer sets, 2 times
    fixed = judged("above", given, a=cka_of("all"), value=0.7)
    assert str(fixed.agreement) == "3 of 6"
    apart = judged("differs", given, a=cka_of("all"), b=cka_of("all"))
    assert (apart.verdict, str(apart.agreement)) == ("contradicted", "6 of 6")


def test_pixels_and_two_halves_of_the_images_stand_beside_a_claim() -> None:
    given = two_arms(HIGH, LOW)
    table = given.tables["paired"]
    table["pixels"], table["half_1"], table["half_2"] = 0.4, table["cka"] + 0.01, table["cka"] - 0.05
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert found.controls[:2] == (
        "a: 0.400 with the pixels",
        "a: 0.820 and 0.760 on the two halves of the images, which do not agree",
    )
