"""The arms of a claim as samples: a number that can be taken again without some networks."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from sj_cka.claims.ceilings import Ceilings, without
from sj_cka.claims.evidence import Evidence
from sj_cka.claims.inference import ALL, Cells
from sj_cka.claims.measurements import MEASUREMENTS, Column, Measurement
from sj_cka.claims.statements import Arm

STATES = ("trained", "untrained")
CONTROLS = ("pixels", "half_1", "half_2")  # columns of the table `paired`


class Levels(NamedTuple):
    """What stands side by side for an arm; NaN where there is none.

    Args:
        value: mean over seeds.
        floor: of the same networks untrained.
        ceiling: of a network against itself from another seed, geometric mean of the two networks.
        pixels: of the layers with the input, geometric mean of both networks.
        halves: on every other image, and on the rest.
        layers: that it is a number of; empty for a network.
    """

    value: float
    floor: float = np.nan
    ceiling: float = np.nan
    pixels: float = np.nan
    halves: tuple[float, float] = (np.nan, np.nan)
    layers: tuple[str, ...] = ()

    @property
    def change(self) -> float:
        """What has changed since the first weights: no measure of what was learned, it is mostly the floor's."""
        return self.value - self.floor


class Sample(NamedTuple):
    """An arm over networks.

    Args:
        cells: where its values come from.
        number: origins that are left out -> the mean over all cells that hang on none of them.
        levels: what is shown of it.
        layers: that it is made of; empty for a network.
        note: what a reader must know of it.
    """

    cells: Cells
    number: Callable[[frozenset[str]], float]
    levels: Levels
    layers: tuple[str, ...] = ()
    note: str = ""


def of_network(arm: Arm, evidence: Evidence) -> Sample:
    """What is measured of a network."""
    values, cells = evidence.of_network(arm)
    mean = _mean(values.to_numpy(float), cells)
    return Sample(cells, mean, Levels(mean(ALL)))


def of_comparison(
    arm: Arm, evidence: Evidence, layers: list[str], *, variant: str | None = None, column: Column | None = None
) -> Sample:
    """What is measured of a comparison, at some layers.

    Args:
        arm: of a claim.
        evidence: of the study.
        layers: those that it is made of.
        variant: None for that of the arm.
        column: in place of that of the measurement.
    """
    measurement = MEASUREMENTS[arm.measure]
    if measurement.over_ceiling:
        return over_ceiling(arm, evidence, layers, variant=variant, column=column)
    cells, trained = evidence.cells(arm, variant), evidence.layers(arm, "trained", variant, column)[layers]
    mean = _mean(measurement.value(trained).to_numpy(float), cells)
    levels = _levels(arm, evidence, layers, variant, measurement)
    return Sample(cells, mean, levels._replace(value=mean(ALL)), tuple(layers))


def over_ceiling(
    arm: Arm, evidence: Evidence, layers: list[str], *, variant: str | None = None, column: Column | None = None
) -> Sample:
    """The value of each layer over its noise ceiling, mean over layers: how alike is what trainings have in common.

    mean CKA(x_i, y_j) / sqrt(mean CKA(x_i, x_j) mean CKA(y_i, y_j)), the means over pairs of independently trained
    networks: numerator and denominator are inner products of expected normalised Grams, so that what differs from seed
    to seed cancels, as a correlation corrected for attenuation (Spearman 1904). Networks that start from the same
    weights, or one of which is made of the other, have no such value.

    Args:
        arm, evidence, variant: as of `of_comparison`.
        layers: with a ceiling that is surely high, see `Ceilings.high`.
        column: in place of CKA.
    """
    cells, ceilings = evidence.cells(arm, variant), Ceilings.of(arm, evidence, layers, variant)
    levels = _levels(arm, evidence, layers, variant, MEASUREMENTS[arm.measure])
    why = ""
    if ceilings is None:
        why = "no ceiling: that takes two seeds of both networks"
    elif not ceilings.independent(cells):
        why = "no share of the ceiling: networks that are compared start from equal weights, or are made of each other"
    if ceilings is None or why or not layers:
        return Sample(cells, lambda gone: np.nan, levels, tuple(layers), why)
    top, values = ceilings, evidence.layers(arm, "trained", variant, column or "cka")[layers].to_numpy(float)

    def number(gone: frozenset[str]) -> float:
        chosen = values[without(cells, gone)]
        return float((chosen.mean(0) / top.mean(gone)).mean()) if len(chosen) else np.nan

    return Sample(cells, number, levels, tuple(layers))


def high_layers(arm: Arm, evidence: Evidence, layers: list[str], variant: str | None = None) -> list[str]:
    """Layers whose noise ceiling is surely high; all where there is none."""
    ceilings = Ceilings.of(arm, evidence, layers, variant)
    return layers if ceilings is None else ceilings.high()


def ceiling_of(arm: Arm, evidence: Evidence, layers: list[str], variant: str | None = None) -> float:
    """A measurement of the noise ceiling of some layers; NaN where one of them has none."""
    measurement = MEASUREMENTS[arm.measure]
    if not measurement.of_similarity or arm.minus is not None or not layers:
        return np.nan
    if (ceilings := Ceilings.of(arm, evidence, layers, variant)) is None:
        return np.nan
    return float(measurement.value(pd.DataFrame([ceilings.mean()], columns=layers)).iloc[0])


def _levels(arm: Arm, evidence: Evidence, layers: list[str], variant: str | None, measurement: Measurement) -> Levels:
    def level(state: str, column: str | None = None) -> float:
        table = evidence.layers(arm, state, variant, column)
        there = [layer for layer in layers if layer in table]
        return float(measurement.value(table[there]).mean()) if len(table) and there else np.nan

    top = ceiling_of(arm, evidence, layers, variant)
    levels = Levels(level("trained"), level("untrained"), top, layers=tuple(layers))
    if not measurement.of_similarity or not set(CONTROLS) <= set(evidence.tables["paired"]):
        return levels
    pixels, *halves = (level("trained", column) for column in CONTROLS)
    if measurement.unit != "layers":  # what is made of differences between layers is not made of pixels
        pixels = np.nan
    return levels._replace(pixels=pixels, halves=(halves[0], halves[1]))


def _mean(values: np.ndarray, cells: Cells) -> Callable[[frozenset[str]], float]:
    def mean(gone: frozenset[str]) -> float:
        kept = values[without(cells, gone)]
        return float(kept.mean()) if len(kept) else np.nan

    return mean


def shared_layers(arms: Mapping[str, Arm], evidence: Evidence) -> dict[str, list[str]]:
    """The layers of each arm: arms that name the same ones share those that are defined in all of them.

    Arms may have different layers (no shortcut, no downsampling), and a layer may be undefined in one of them. Trained
    and untrained networks are looked at; under attack there is no floor.
    """
    tables = {(arm, state): evidence.layers(m, state) for arm, m in arms.items() for state in STATES}
    there = {(arm, state): table for (arm, state), table in tables.items() if state == "trained" or not table.empty}
    return {
        arm: defined_in_all(table for (other, _), table in there.items() if arms[other].layers == m.layers)
        for arm, m in arms.items()
    }


def defined_in_all(tables: Iterable[pd.DataFrame]) -> list[str]:
    """Layers that every table `[cell, layer]` has, defined in every cell, in the order of the first."""
    first, *others = [list(table.columns[table.notna().all()]) for table in tables]
    return [layer for layer in first if all(layer in defined for defined in others)]
