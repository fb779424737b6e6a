"""What repeats from block to block: periodic curves and checkerboards that are there, and that are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sj_cka.claims import MEASUREMENTS, contrast, grid
from sj_cka.claims.block_patterns import in_blocks, place_in_block

PLACES = ["bn1", "lif1", "conv1", "bn2", "lif2", "conv2", ""]


def layers(blocks: int = 3) -> list[str]:
    """A stem, blocks of 7 layers in one stage, a head."""
    inside = [f"layer1.{block}.{place}".removesuffix(".") for block in range(blocks) for place in PLACES]
    return ["conv1", *inside, "bn", "lif"]


def table(values: np.ndarray, names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(np.atleast_2d(values), columns=names)


def place_of(names: list[str]) -> np.ndarray:
    return np.array([PLACES.index(place_in_block(name)[1]) if name.startswith("layer") else -1 for name in names])


def eta_squared(values: pd.Series) -> float:
    """Variance explained by the place, written out with pandas."""
    places = [place_in_block(layer)[1] for layer in values.index]
    means = values.groupby(places).transform("mean")
    return float(((means - values.mean()) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def test_only_what_lies_in_blocks_with_others_counts() -> None:
    names = layers(2)
    assert in_blocks(names) == names[1:-2]
    assert in_blocks(["conv1", "layer1.0.lif1", "layer1.0"]) == []  # one block repeats nothing
    assert in_blocks(["features.0", "features.1", "features.2"]) == []  # numbered layers are no blocks
    assert place_in_block("encoder.blocks.11.mlp.fc1") == ("encoder.blocks.11", "mlp.fc1")


def test_a_curve_that_repeats_exactly_is_explained_but_for_chance() -> None:
    names = layers(3)
    place = place_of(names)
    values = np.where(place < 0, 0.3, 0.9 - 0.05 * place)
    [measured] = MEASUREMENTS["periodicity"].value(table(values, names))
    # a mean over 3 blocks that are shuffled each on its own has a third of the variance
    assert measured == pytest.approx(1 - 1 / 3, abs=0.01)


def test_the_share_is_the_one_of_a_slow_computation_less_its_own_chance() -> None:
    names = layers(4)
    values = np.random.default_rng(1).uniform(0.4, 1, len(names))
    own = pd.Series(values, index=names)[in_blocks(names)]
    generator, by_chance = np.random.default_rng(7), []
    for _ in range(300):
        shuffled = [generator.permutation(own.to_numpy()[i : i + 7]) for i in range(0, 28, 7)]
        by_chance.append(eta_squared(pd.Series(np.concatenate(shuffled), index=own.index)))
    [measured] = MEASUREMENTS["periodicity"].value(table(values, names))
    assert measured == pytest.approx(eta_squared(own) - np.mean(by_chance), abs=0.02)


def test_noise_is_periodic_by_chance_alone() -> None:
    names = layers(4)
    values = np.random.default_rng(0).uniform(size=(300, len(names)))
    measured = MEASUREMENTS["periodicity"].value(table(values, names))
    assert abs(measured.mean()) < 0.02
    assert measured.min() < 0 < measured.max()


def test_a_fall_along_depth_is_not_periodic() -> None:
    names = layers(6)
    [measured] = MEASUREMENTS["periodicity"].value(table(np.linspace(1, 0, len(names)), names))
    assert abs(measured) < 0.05


def test_widening_blocks_have_places_of_their_own() -> None:
    widening = [f"layer2.0.downsample.{part}" for part in ("pool", "conv", "bn")]
    names = ["conv1", *layers(2)[1:-2], *(f"layer2.0.{place}" for place in PLACES[:-1]), *widening, "layer2.0"]
    assert in_blocks(names) == names[1:]
    assert len([name for name in names if name.startswith("layer2.0")]) == 10


def test_without_blocks_there_is_no_measure() -> None:
    values = table(np.full(3, 0.5), ["conv1", "bn", "lif"])
    assert MEASUREMENTS["periodicity"].value(values).isna().all()
    assert MEASUREMENTS["periodicity"].parts(list(values)) == []


def test_a_curve_without_variance_has_no_share() -> None:
    names = layers(3)
    assert MEASUREMENTS["periodicity"].value(table(np.full(len(names), 0.7), names)).isna().all()


def test_a_checkerboard_has_contrast_and_a_fade_along_depth_has_none() -> None:
    names = layers(3)
    place = place_of(names)
    board = pd.DataFrame(np.where(place[:, None] == place, 0.9, 0.5), index=names, columns=names)
    found = contrast(board)
    assert found[in_blocks(names)].to_numpy() == pytest.approx(0.4)
    assert found[["conv1", "bn", "lif"]].isna().all()
    depth = np.arange(len(names))
    fade = pd.DataFrame(1 - np.abs(depth[:, None] - depth) / len(names), index=names, columns=names)
    assert contrast(fade).abs().mean() < 0.1
    assert abs(contrast(fade).mean()) < 0.03


def test_contrast_leaves_out_the_own_block_and_what_is_undefined() -> None:
    names = layers(2)
    values = pd.DataFrame(np.random.default_rng(0).uniform(size=(len(names),) * 2), index=names, columns=names)
    values.loc["layer1.0.lif1", "layer1.1.conv1"] = np.nan
    row = values.loc["layer1.0.lif1"]
    others = [row[f"layer1.1.{place}".removesuffix(".")] for place in PLACES if place not in ("lif1", "conv1")]
    assert contrast(values)["layer1.0.lif1"] == pytest.approx(row["layer1.1.lif1"] - np.mean(others))
    values.loc["layer1.0.bn1", "layer1.1.bn1"] = np.nan
    assert np.isnan(contrast(values)["layer1.0.bn1"])


def test_a_heatmap_of_periodic_rows_and_columns_is_a_grid_and_a_fade_is_none() -> None:
    names = layers(4)
    place = place_of(names)
    loud = np.where(place == 5, 0.4, 1.0)  # conv2 of every block is unlike all else
    found = grid(pd.DataFrame(loud[:, None] * loud, index=names, columns=names))
    assert found.notna().all()
    # one place of 7 in 4 blocks explains all, and a shuffled one a quarter of it
    assert found.to_numpy() == pytest.approx(0.75)
    depth = np.arange(len(names))
    fade = pd.DataFrame(1 - np.abs(depth[:, None] - depth) / len(names), index=names, columns=names)
    assert abs(grid(fade).mean()) < 0.05


def test_a_grid_is_the_mean_of_rows_and_columns_over_what_is_defined() -> None:
    names = layers(3)
    values = pd.DataFrame(np.random.default_rng(2).uniform(size=(len(names),) * 2), index=names, columns=names)
    values.loc["conv1", "layer1.0.bn1"] = np.nan
    row, column = values.loc["conv1"].dropna(), values["conv1"]
    expected = [MEASUREMENTS["periodicity"].value(own.to_frame().T).iloc[0] for own in (row, column)]
    assert grid(values)["conv1"] == pytest.approx(np.mean(expected))
    assert grid(values.drop(columns="conv1"))["conv1"] == pytest.approx(expected[0])
    values.loc["layer1.0.lif1"] = np.nan
    assert np.isnan(grid(values)["layer1.0.lif1"])
