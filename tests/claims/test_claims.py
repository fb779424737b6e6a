"""Claims: intervals over seeds and verdicts, on hand numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sj_cka.claims import TESTS, Claim, Evidence, Finding, judge, verdict_of
from sj_cka.over_seeds import Interval, half_width, interval

LAYERS = ("conv1", "layer1.0.conv2", "layer1.0")
Arms = dict[str, Any]


def paired(
    variant: str, state: str, values: Any, layers: tuple[str, ...] = LAYERS, comparison: str = "twins"
) -> pd.DataFrame:
    """Paired CKA of a comparison: `values[seed]`, or `values[seed][layer]`."""
    rows = [
        (comparison, variant, state, seed if state != "ceiling" else -1, layer, value)
        for seed, own in enumerate(values)
        for layer, value in zip(layers, np.broadcast_to(own, len(layers)), strict=True)
    ]
    return pd.DataFrame(rows, columns=["comparison", "variant", "state", "seed", "layer", "cka"])


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
    accuracy = pd.DataFrame(rows, columns=["network", "seed", "split", "accuracy"])
    return Evidence(
        {"accuracy": accuracy, "paired": pd.concat(tables) if tables else paired("all", "trained", [])},
        networks,
        trained_at=0.9,
        swept=swept or {},
    )


def claim(test: str, **keys: Any) -> Claim:
    made: Claim = TESTS[test].block.model_validate({"test": test, "says": "It is so.", "source": "nobody", **keys})
    return made


def cka_of(variant: str, measure: str = "paired_cka") -> Arms:
    return {"measure": measure, "comparison": "twins", "variant": variant}


def accuracy_of(network: str, split: str = "test") -> Arms:
    return {"measure": "accuracy", "network": network, "split": split}


def judged(test: str, given: Evidence, **keys: Any) -> Finding:
    return judge(claim(test, **keys), given)


HIGH, LOW = [0.80, 0.82, 0.81], [0.50, 0.55, 0.52]
FLOOR = [0.30, 0.31, 0.32]


def two_arms(a: Any, b: Any, floor_a: Any = FLOOR, floor_b: Any = FLOOR) -> Evidence:
    return evidence(
        paired("all", "trained", a),
        paired("none", "trained", b),
        paired("all", "untrained", floor_a),
        paired("none", "untrained", floor_b),
    )


# intervals


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


@pytest.mark.parametrize(
    ("low", "high", "n", "one_sided", "two_sided"),
    [
        (0.1, 0.3, 3, "holds", "holds"),
        (-0.3, -0.1, 3, "contradicted", "holds"),
        (-0.1, 0.3, 3, "undecided", "undecided"),
        (0.0, 0.0, 3, "undecided", "undecided"),
        (1e-9, 1e-8, 3, "undecided", "undecided"),  # rounding that is alike for every seed
        (0.1, 0.3, 2, "undecided", "undecided"),
        (np.nan, np.nan, 3, "undecided", "undecided"),
    ],
)
def test_a_verdict_follows_from_the_interval(low: float, high: float, n: int, one_sided: str, two_sided: str) -> None:
    estimate = Interval((low + high) / 2, low, high, n)
    assert verdict_of(estimate) == one_sided
    assert verdict_of(estimate, two_sided=True) == two_sided


# two arms


def test_swapping_the_arms_turns_holds_into_contradicted() -> None:
    given = two_arms(HIGH, LOW)
    there = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    back = judged("greater", given, a=cka_of("none"), b=cka_of("all"))
    assert (there.verdict, there.learned) == ("holds", "holds")
    assert (back.verdict, back.learned) == ("contradicted", "contradicted")
    assert judged("less", given, a=cka_of("all"), b=cka_of("none")).verdict == "contradicted"
    assert judged("less", given, a=cka_of("none"), b=cka_of("all")).verdict == "holds"
    assert there.estimate.mean == pytest.approx(np.mean(HIGH) - np.mean(LOW))
    assert back.estimate.mean == pytest.approx(-there.estimate.mean)


@pytest.mark.parametrize("test", ["greater", "less", "differs"])
def test_equal_arms_are_undecided(test: str) -> None:
    found = judged(test, two_arms(HIGH, HIGH), a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.learned) == ("undecided", "undecided")
    same = judged(test, two_arms(HIGH, LOW), a=cka_of("all"), b=cka_of("all"))
    assert (same.verdict, same.learned) == ("undecided", "undecided")


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_are_undecided(seeds: int) -> None:
    given = two_arms([0.9] * seeds, [0.1] * seeds, [0.2] * seeds, [0.2] * seeds)
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.learned) == ("undecided", "undecided")
    assert found.estimate.n == seeds


def test_the_interval_is_over_the_differences_of_each_seed() -> None:
    # each seed lies elsewhere, but within a seed a is always higher by about 0.1
    a, b = np.array([0.9, 0.5, 0.1]), np.array([0.8, 0.41, 0.01])
    found = judged("greater", two_arms(a, b, [0] * 3, [0] * 3), a=cka_of("all"), b=cka_of("none"))
    assert found.verdict == "holds"
    assert found.estimate == pytest.approx(interval(a - b))


def test_learned_is_judged_on_trained_minus_untrained() -> None:
    # higher by wiring alone: untrained networks differ just as much
    given = two_arms(HIGH, LOW, [v - 0.1 for v in HIGH], [v - 0.1 for v in LOW])
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.learned) == ("holds", "undecided")
    assert found.learned_estimate is not None
    assert found.learned_estimate.mean == pytest.approx(0)
    # lower, but training added more
    given = two_arms(LOW, HIGH, [0.1, 0.11, 0.1], [0.75, 0.76, 0.75])
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.learned) == ("contradicted", "holds")


def test_differs_holds_either_way_and_is_never_contradicted() -> None:
    for a, b in (("all", "none"), ("none", "all")):
        assert judged("differs", two_arms(HIGH, LOW), a=cka_of(a), b=cka_of(b)).verdict == "holds"
    noisy = two_arms([0.2, 0.9, 0.5], [0.8, 0.3, 0.4])
    assert judged("differs", noisy, a=cka_of("all"), b=cka_of("none")).verdict == "undecided"


# one arm


@pytest.mark.parametrize(
    ("test", "value", "verdict"),
    [
        ("above", 0.5, "holds"),
        ("above", 0.95, "contradicted"),
        ("above", 0.81, "undecided"),
        ("below", 0.95, "holds"),
        ("below", 0.5, "contradicted"),
        ("below", 0.81, "undecided"),
    ],
)
def test_above_and_below_compare_with_a_fixed_value(test: str, value: float, verdict: str) -> None:
    found = judged(test, two_arms(HIGH, LOW), a=cka_of("all"), value=value)
    assert found.verdict == verdict
    assert found.estimate.mean == pytest.approx(0.81 - value)
    # training raised the value: learned speaks for "above" and against "below", wherever the fixed value lies
    assert found.learned == ("holds" if test == "above" else "contradicted")
    assert found.learned_estimate == pytest.approx(interval(np.array(HIGH) - np.array(FLOOR)))


def ceiling(top: Any, floor: Any = FLOOR, values: Any = HIGH) -> Evidence:
    return evidence(
        paired("all", "trained", values), paired("all", "untrained", floor), paired("all", "ceiling", [top])
    )


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.80, 0.82, 0.81], "holds"), ([0.40, 0.42, 0.41], "contradicted"), ([0.50, 0.75, 0.60], "undecided")],
)
def test_near_ceiling_means_more_than_half_way_from_floor_to_ceiling(values: list[float], verdict: str) -> None:
    found = judged("near_ceiling", ceiling(0.9, [0.3] * 3, values), a=cka_of("all"))
    assert found.verdict == verdict
    assert found.estimate == pytest.approx(interval((np.array(values) - 0.3) / (0.9 - 0.3) - 0.5))
    assert found.learned_estimate == pytest.approx(interval(np.array(values) - 0.3))


def test_a_ceiling_that_does_not_lie_above_the_floor_decides_nothing() -> None:
    # the value is far below both: its "share" of a negative way would be large and positive
    found = judged("near_ceiling", ceiling(0.3, [0.9] * 3, [0.1, 0.11, 0.12]), a=cka_of("all"))
    assert found.verdict == "undecided"
    assert "the ceiling does not lie above the floor" in found.note


def test_without_a_ceiling_near_ceiling_is_undecided_and_says_why() -> None:
    given = evidence(paired("all", "trained", [0.8]), paired("all", "untrained", [0.3]))
    found = judged("near_ceiling", given, a=cka_of("all"))
    assert found.verdict == "undecided"
    assert found.measured == "mean CKA of paired layers 0.800, floor 0.300, no ceiling (that takes two seeds)"


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
    assert (found.verdict, found.estimate.mean) == ("undecided", 0)


def test_without_a_common_layer_a_claim_is_undecided_and_says_so() -> None:
    given = evidence(
        *(paired("all", state, HIGH, layers=("a", "b", "c")) for state in ("trained", "untrained")),
        *(paired("none", state, LOW) for state in ("trained", "untrained")),
    )
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.learned) == ("undecided", "undecided")
    assert found.note == "no layer is defined in all arms"


# training


def test_a_claim_on_representations_of_untrained_networks_is_not_judged() -> None:
    given = evidence(*(paired(v, s, HIGH) for v in ("all", "none") for s in ("trained", "untrained")), train=0.89)
    found = judged("greater", given, a=cka_of("all"), b=cka_of("none"))
    assert (found.verdict, found.learned) == ("not trained", "not trained")
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


def test_accuracy_claims_are_never_gated_and_have_no_learned_verdict() -> None:
    given = evidence(accuracy={"all.snn": [0.3, 0.31, 0.32], "none.snn": [0.1, 0.12, 0.11]}, train=0.2)
    found = judged("greater", given, a=accuracy_of("all.snn"), b=accuracy_of("none.snn"))
    assert (found.verdict, found.learned, found.learned_estimate) == ("holds", None, None)
    assert judged("less", given, a=accuracy_of("all.snn"), b=accuracy_of("none.snn")).verdict == "contradicted"
    on_training = judged("greater", given, a=accuracy_of("all.snn", "train"), b=accuracy_of("none.snn", "train"))
    assert on_training.verdict == "undecided"


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


def test_a_trend_is_one_slope_a_seed_against_log2_of_the_swept_value() -> None:
    given = trend({"depth-8": [0.3, 0.31, 0.32], "depth-16": [0.4, 0.4, 0.44], "depth-32": [0.5, 0.53, 0.52]})
    keys: Arms = {"a": {"measure": "paired_cka", "comparison": "twins"}}
    up = judged("trend", given, direction="up", **keys)
    assert up.estimate == pytest.approx(interval(np.array([0.1, 0.11, 0.1])))  # by hand: (last - first) / 2
    assert (up.verdict, up.learned) == ("holds", "holds")
    down = judged("trend", given, direction="down", **keys)
    assert (down.verdict, down.learned) == ("contradicted", "contradicted")
    assert "8: 0.310, 16: 0.413, 32: 0.517" in up.measured


def test_a_trend_of_the_untrained_networks_is_taken_off_what_was_learned() -> None:
    given = trend({v: [value, value, value + 0.01] for v, value in zip(DEPTHS, (0.3, 0.4, 0.5), strict=True)})
    given.tables["paired"].loc[given.tables["paired"].state == "untrained", "cka"] = [0.1] * 9 + [0.2] * 9 + [0.3] * 9
    found = judged("trend", given, direction="up", a={"measure": "paired_cka", "comparison": "twins"})
    assert (found.verdict, found.learned) == ("holds", "undecided")


def test_a_flat_trend_is_undecided() -> None:
    given = trend({v: [0.4, 0.5, 0.6] for v in DEPTHS})
    found = judged("trend", given, direction="up", a={"measure": "paired_cka", "comparison": "twins"})
    assert (found.verdict, found.estimate.mean) == ("undecided", pytest.approx(0))


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
    assert (found.verdict, found.learned) == ("holds", None)
    assert found.estimate == pytest.approx((-0.2, -0.2, -0.2, 3))


def test_a_trend_over_untrained_networks_is_not_judged() -> None:
    given = trend(dict.fromkeys(DEPTHS, HIGH))
    given.tables["accuracy"].loc[given.tables["accuracy"].network == "depth-16.ann", "accuracy"] = 0.5
    found = judged("trend", given, direction="up", a={"measure": "paired_cka", "comparison": "twins"})
    assert found.verdict == "not trained"
    assert "depth-16.ann" in found.note


# time

NEURONS = ("layer1.0.lif1", "layer1.1.lif1", "layer3.0.lif1")


def inside(state: str, cka: Any, null: Any, variant: str = "all") -> pd.DataFrame:
    """Mean CKA between different steps and that of the timing null: `values[seed]`, or `values[seed][layer]`."""
    value, other = (paired(variant, state, values, NEURONS, "inside") for values in (cka, null))
    return value.assign(null=other["cka"])


def dynamic(trained: Any, null: Any, untrained: Any = 0.5, null_untrained: Any = 0.5) -> Evidence:
    rows = [
        inside(state, np.broadcast_to(cka, (3, 3)), np.broadcast_to(own, (3, 3)))
        for state, cka, own in (("trained", trained, null), ("untrained", untrained, null_untrained))
    ]
    networks = {("inside", "all"): ("all.snn", "all.snn")}
    return dataclasses.replace(evidence(), tables=evidence().tables | {"dynamics": pd.concat(rows)}, networks=networks)


def dynamics_of(layers: list[str] | None = None, measure: str = "dynamics") -> Arms:
    return {"measure": measure, "comparison": "inside", "variant": "all"} | ({"layers": layers} if layers else {})


DEEP, SHALLOW = ["layer3.*"], ["layer1.*"]
TRAINED = [[0.98, 0.94, 0.70], [0.97, 0.95, 0.72], [0.99, 0.95, 0.71]]


def test_dynamics_is_one_minus_the_mean_cka_between_steps_and_stands_beside_its_null() -> None:
    given = dynamic(TRAINED, [[0.96, 0.96, 0.8]] * 3, untrained=[[0.9, 0.9, 0.3]] * 3)
    found = judged("greater", given, a=dynamics_of(DEEP), b=dynamics_of(SHALLOW))
    # by hand: .30 - .04, .28 - .04, .29 - .03; untrained .7 - .1
    assert found.estimate == pytest.approx(interval(np.array([0.26, 0.24, 0.26])))
    assert found.learned_estimate == pytest.approx(interval(np.array([0.26, 0.24, 0.26]) - 0.6))
    assert (found.verdict, found.learned) == ("holds", "contradicted")
    label = "1 - mean CKA between different steps"
    assert found.measured == f"{label} 0.290 against 0.037; timing null 0.200 against 0.040"
    assert found.note == "over 1 and 2 layers, those that are defined trained and untrained"


def test_beyond_timing_is_how_far_the_value_lies_below_the_null() -> None:
    given = dynamic(TRAINED, [[0.98, 0.95, 0.8]] * 3)
    measure = "dynamics_beyond_timing"
    found = judged("greater", given, a=dynamics_of(DEEP, measure), b=dynamics_of(SHALLOW, measure))
    # by hand: .10 - .005, .08 - .005, .09 - -.005; untrained 0
    assert found.estimate == pytest.approx(interval(np.array([0.095, 0.075, 0.095])))
    assert found.learned_estimate == pytest.approx(found.estimate)
    assert found.verdict == "holds"
    # a value that differs just as its null does is no dynamics
    nothing = dynamic(TRAINED, TRAINED)
    assert judged("above", nothing, a=dynamics_of(DEEP, measure), value=0).verdict == "undecided"
    assert judged("above", nothing, a=dynamics_of(DEEP), value=0).verdict == "holds"


def test_a_claim_on_time_is_not_judged_on_untrained_networks() -> None:
    given = dynamic(TRAINED, TRAINED)
    given.tables["accuracy"].loc[given.tables["accuracy"].network == "all.snn", "accuracy"] = 0.5
    found = judged("greater", given, a=dynamics_of(DEEP), b=dynamics_of(SHALLOW))
    assert (found.verdict, found.learned) == ("not trained", "not trained")
    assert found.note.startswith("training accuracy below 0.9: all.snn; ")


def test_a_layer_without_two_steps_that_can_be_compared_leaves_its_arm() -> None:
    holed = np.array(TRAINED)
    holed[1, 1] = np.nan
    found = judged("greater", dynamic(holed, 0.9), a=dynamics_of(DEEP), b=dynamics_of(SHALLOW))
    assert found.note == "over 1 and 1 layers, those that are defined trained and untrained"
    holed[1, 2] = np.nan
    found = judged("greater", dynamic(holed, 0.9), a=dynamics_of(DEEP), b=dynamics_of(SHALLOW))
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
        ("less", [0.950, 0.951, 0.952], "holds"),  # a little more than b, but within the margin
        ("less", [0.930, 0.931, 0.929], "holds"),
        ("less", [0.970, 0.971, 0.972], "contradicted"),
        ("less", [0.955, 0.965, 0.961], "undecided"),
        ("greater", [0.945, 0.944, 0.946], "holds"),
        ("greater", [0.930, 0.931, 0.929], "contradicted"),
    ],
)
def test_a_margin_is_how_far_the_other_way_still_counts(test: str, a: list[float], verdict: str) -> None:
    given = evidence(accuracy={"all.snn": a, "none.snn": [0.949, 0.951, 0.950]})
    arms = {"a": accuracy_of("all.snn"), "b": accuracy_of("none.snn")}
    found = judged(test, given, **arms, margin=0.01)
    assert found.verdict == verdict
    assert found.measured.endswith(" against 0.950, margin 0.01")
    assert found.estimate.mean == pytest.approx(np.mean(a) - 0.950)  # what is shown is the difference itself
    assert judged(test, given, **arms, margin=0.0) == judged(test, given, **arms)


def test_an_accuracy_may_be_that_of_a_run_with_other_steps() -> None:
    rows = [("all.snn", T, s, "test", value + s / 1000) for T, value in ((2, 0.7), (8, 0.9)) for s in (2, 0, 1)]
    other = pd.DataFrame(rows, columns=["network", "T", "seed", "split", "accuracy"])
    given = evidence(accuracy={"all.snn": [0.8, 0.801, 0.802]})
    given = dataclasses.replace(given, tables=given.tables | {"evaluated": other})
    less = judged("less", given, a=accuracy_of("all.snn") | {"T": 2}, b=accuracy_of("all.snn"))
    assert less.estimate == pytest.approx((-0.1, -0.1, -0.1, 3))
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


def test_what_has_no_floor_is_judged_once() -> None:
    found = judged("greater", under_attack(snn=NEAR, ann=FAR), a=under("snn"), b=under("ann"))
    assert (found.verdict, found.learned, found.learned_estimate) == ("holds", None, None)
    assert found.estimate.mean == pytest.approx(0.3)
    untrained = dataclasses.replace(under_attack(snn=NEAR, ann=FAR), trained_at=1.0)
    assert judged("greater", untrained, a=under("snn"), b=under("ann")).verdict == "not trained"


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
    assert (found.verdict, found.learned) == (verdict, None)
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


def test_a_comparison_that_missed_its_success_rate_decides_nothing() -> None:
    given = dataclasses.replace(
        under_attack(snn=NEAR, ann=FAR), unequal={("ann", ""): "half did not reach success 0.5"}
    )
    found = judged("greater", given, a=under("snn"), b=under("ann"))
    assert found.verdict == "undecided"
    assert found.note.startswith("half did not reach success 0.5; over the 3 layers")
    pairs = [{"a": under("snn"), "b": under("snn")}, {"a": under("snn"), "b": under("ann")}]
    assert judged("greater_in_all", given, pairs=pairs).verdict == "undecided"


def test_a_trend_under_attack_is_judged_without_a_floor() -> None:
    values = {"w-1": [0.3, 0.31, 0.32], "w-2": [0.5, 0.52, 0.51], "w-4": [0.7, 0.72, 0.71]}
    tables = [paired(variant, "trained", own) for variant, own in values.items()]
    given = evidence(*tables, swept={"w-1": 1.0, "w-2": 2.0, "w-4": 4.0})
    found = judged("trend", given, a={"measure": "paired_cka", "comparison": "twins"}, direction="up")
    assert (found.verdict, found.learned) == ("holds", None)
    assert found.estimate.mean == pytest.approx(0.2, abs=0.01)


def test_several_rows_a_seed_are_not_taken_for_as_many_seeds() -> None:
    twice = evidence(accuracy={"all.snn": [0.6] * 3})
    twice = dataclasses.replace(twice, tables=twice.tables | {"accuracy": pd.concat([twice.tables["accuracy"]] * 2)})
    with pytest.raises(ValueError, match=r"expected a row a seed for accuracy of all\.snn, got 6 of 3 seeds"):
        judged("above", twice, a=accuracy_of("all.snn"), value=0.5)
