"""What a comparison gives: labelled values, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import pandas as pd
import xarray as xr

from sj_cka.cka import over_time, result_file, statistics
from sj_cka.cka.labelled import DIMS, dataset, ratio
from sj_cka.cka.measures import MEASURES
from sj_cka.cka.permutations import STEPS
from sj_cka.plugins import closest

if TYPE_CHECKING:
    import plotly.graph_objects as go

Time = Literal["concat", "rate", "latency", "membrane"] | int
_UNDEFINED_COLUMNS = ["side", "layer", "step", "reason"]
_MEASURE = "measure_"


@dataclass(frozen=True, eq=False)
class CKAResult:
    """CKA between every layer and time step of two networks.

    All values come from `hsic_xy[l, t, m, s]`, the unbiased HSIC between step t of layer l and step s of layer m. The
    Gram of features concatenated over time is the sum of the Grams of the steps, so block sums of it give the CKA of
    concatenated features exactly, and single entries the CKA of single steps.

    Args:
        data: `cka` and `hsic_xy` `[layer_x, step_x, layer_y, step_y]`, `hsic_xx` `[layer_x, step_x, step_x_2]`,
            `hsic_yy` alike, `n` samples; steps count from 1. What is undefined is NaN. Of layers of neurons `rate_x`,
            `silent_x`, `saturated_x` `[layer_x, step_x]` (see `activity`), and alike for y. What was asked for beside:
            `sample_xy` ... (contributions), `size_xy` ..., `group_xy` ..., `permuted_xy`, `hsic_xz` ... (for
            `partial`), `measure_<name>` `[layer_x, layer_y]`. Of each minibatch `batch_n`, `batch_place` (of its first
            sample among all), its HSIC sums, and `batch_seed`, made from its inputs, if it is known.
        also: results of the same pass: of other observables ("rate", "latency", "membrane"), and the timing null.
    """

    data: xr.Dataset
    also: Mapping[str, CKAResult] = field(default_factory=dict)

    @classmethod
    def from_hsic(
        cls,
        layers_x: Sequence[str],
        layers_y: Sequence[str],
        *,
        hsic_xy: np.ndarray,
        hsic_xx: np.ndarray,
        hsic_yy: np.ndarray,
        n: int,
        undefined: Sequence[Mapping[str, Any]] = (),
        attrs: Mapping[str, Any] | None = None,
    ) -> CKAResult:
        """A result from mean HSIC values `[Lx, Tx, Ly, Ty]`, `[Lx, Tx, Tx]` and `[Ly, Ty, Ty]`."""
        values = zip(DIMS.items(), (hsic_xy, hsic_xx, hsic_yy), strict=True)
        variables = {name: (dims, value) for (name, dims), value in values}
        return cls(dataset(layers_x, layers_y, variables, n=n, undefined=undefined, attrs=attrs or {}))

    @property
    def layers_x(self) -> list[str]:
        """Names of the layers of the first network, in order."""
        return [str(name) for name in self.data.layer_x.values]

    @property
    def layers_y(self) -> list[str]:
        """Names of the layers of the second network, in order."""
        return [str(name) for name in self.data.layer_y.values]

    @property
    def undefined(self) -> pd.DataFrame:
        """Every (side, layer, step) without a defined CKA, and the reason."""
        return pd.DataFrame(json.loads(self.data.attrs["undefined"]), columns=_UNDEFINED_COLUMNS)

    @property
    def measures(self) -> list[str]:
        """Measures of similarity that it holds: "cka", and those of MEASURES that were asked for beside it.

        `matrix`, `paired`, `frames`, `heatmap` and `curve` take each of them as `measure=`, `title` says its name.
        """
        return ["cka", *(str(name).removeprefix(_MEASURE) for name in self.data if str(name).startswith(_MEASURE))]

    def title(self, measure: str = "cka") -> str:
        """What figures, tables and claims call a measure: "CKA", or the title in its entry of MEASURES.

        Raises:
            ValueError: the result does not hold it.
        """
        self._expect_measure(measure)
        held = {} if measure == "cka" else self.data[_MEASURE + measure].attrs
        # files of before titles were kept have none; the measure's package may not be installed
        return str(held.get("title", MEASURES[measure].title if measure in MEASURES else measure))

    @property
    def permuted_steps(self) -> CKAResult | None:
        """The same comparison with the order of steps permuted for every unit and sample, if it was asked for."""
        return self.also.get(STEPS)

    @property
    def activity(self) -> pd.DataFrame:
        """Of layers of neurons, a row for each (side, layer, step): `rate`, spikes of a unit and sample; `silent`, the
        share of units that fire for no sample; `saturated`, the share of those that fire for every one.

        The steps are those of the output where it was observed, whatever was observed before it.
        """
        results = [self.also["output"], self] if "output" in self.also else [self]
        data = next((own.data for own in results if {"rate_x", "rate_y"} & set(own.data)), self.data)
        parts = []
        for side in "xy":
            if f"rate_{side}" in data:
                table = data[[f"{name}_{side}" for name in ("rate", "silent", "saturated")]].to_dataframe()
                parts.append(table.dropna().rename_axis(["layer", "step"]).rename(columns=lambda name: name[:-2]))
                parts[-1] = parts[-1].reset_index().assign(side=side)
        columns = ["side", "layer", "step", "rate", "silent", "saturated"]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)

    def matrix(
        self, time: Time = "concat", *, upto: int | None = None, group: str | None = None, measure: str = "cka"
    ) -> pd.DataFrame:
        """Layers of x by layers of y.

        Args:
            time: "concat" for features concatenated over time, as the paper compares them; a step t (from 1) for step t
                against step t; "rate", "latency", "membrane" for another observable of the same pass. A network without
                time has one step, which stands for all.
            upto: steps 1 to `upto` together in place of all.
            group: samples of one group alone (`compare(..., groups=)`).
            measure: one of `measures`, of all steps together.

        Raises:
            ValueError: an unknown `time`, a step that is not there, numbers of steps that do not pair, or what was not
                asked for in the comparison.
        """
        if sum((time != "concat", upto is not None, group is not None, measure != "cka")) > 1:
            raise ValueError("expected one of time, upto, group and measure; they do not combine")
        if group is not None:
            values = statistics.of_group(self.data, group)
        elif measure != "cka":
            self._expect_measure(measure)
            values = np.asarray(self.data[_MEASURE + measure].values)
        elif isinstance(time, str) and time != "concat":
            return self._observed(time).matrix()
        elif time == "concat" and upto is None:
            values = over_time.all_steps(self.data)
        elif upto is not None:
            self._steps_at(upto)
            values = over_time.up_to(self.data, upto)
        else:
            t, s = self._steps_at(time)
            values = self.data.cka.sel(step_x=t, step_y=s).values
        return self._framed(values)

    def paired(self, time: Time = "concat", **which: Any) -> pd.Series:
        """CKA, or another measure, of each layer of x with the layer of the same name in y, in the order of x.

        Arguments are those of `matrix`; the measure is the name of what is returned.

        Raises:
            ValueError: the networks have no layer name in common.
        """
        matrix = self.matrix(time, **which)
        shared = self._shared(matrix)
        return pd.Series(
            [matrix.loc[layer, layer] for layer in shared],
            index=pd.Index(shared, name="layer"),
            name=which.get("measure", "cka"),
        )

    def cumulative(self) -> pd.DataFrame:
        """CKA of steps 1 to t together, for layers of the same name `[layer, t]`; the last column is `paired()`."""
        steps = range(1, max(self._steps) + 1)
        return pd.DataFrame({t: self.paired(upto=t) for t in steps}).rename_axis(columns="step")

    def attribution(self, layer: str | None = None, layer_y: str | None = None) -> pd.DataFrame | pd.Series:
        """Share of every step of x in the CKA of concatenated features.

        A[t] = sum_s H[(l,t),(m,s)] / sqrt(sum of block l times sum of block m). Over t the shares add up to the CKA;
        they may be negative and are not the CKA of step t.

        Args:
            layer: a layer of x; None for all that have a layer of the same name in y.
            layer_y: the layer of y; None for that of the same name.

        Returns:
            `[layer, step]`, or `[step]` for one layer.
        """
        shares = over_time.attribution(self.data)
        steps = pd.Index(self.data.step_x.values, name="step")
        if layer is not None:
            i, j = _known(layer, self.layers_x, "x"), _known(layer_y or layer, self.layers_y, "y")
            return pd.Series(shares[i, :, j], index=steps, name="share")
        shared = self._shared(self.matrix())
        rows = [shares[self.layers_x.index(name), :, self.layers_y.index(name)] for name in shared]
        return pd.DataFrame(rows, index=pd.Index(shared, name="layer"), columns=steps)

    def dynamics(self, side: over_time.Side = "x") -> pd.DataFrame:
        """How much every layer changes over time: mean CKA between its different steps, 1 for a static layer.

        Sparse firing and silent steps alone make a layer look dynamic, so the value stands beside that of the timing
        null (`compare(..., null="timing")`): the order of steps permuted for every unit and sample, counts kept. A
        layer whose steps say different things lies below its null.

        Returns:
            A row for each layer: `cka`; `null`, NaN without one; `pairs` of steps that both are means over; `undefined`
            pairs, left out of both.

        Raises:
            ValueError: another side, or neither time steps nor a null.
        """
        if self.permuted_steps is None:
            self._expect_steps(side)
        return over_time.dynamics(self.data, None if self.permuted_steps is None else self.permuted_steps.data, side)

    def interval(self, level: float = 0.95, *, over: statistics.Over | None = None) -> pd.DataFrame:
        """Two-sided intervals of the CKA of concatenated features, by the jackknife.

        Each sample is left out to first order, from what it contributes to HSIC_1: h_i = sum_j K~_ij L~_ij, HSIC
        without i = (S - 2 h_i) / ((n-1)(n-4)). The interval says how the value would move with other samples of the
        same kind, not with other networks: for that `pool` seeds. For independent features the estimator is degenerate
        and the interval too wide; ask `baseline` whether a value is beyond chance.

        Args:
            level: of the interval.
            over: "samples" (the default where they were kept) or "batches", at least 8 of them.

        Returns:
            Rows (layer_x, layer_y), columns `cka`, `low`, `high`.

        Raises:
            ValueError: a level outside (0, 1); samples that were not kept and fewer than 8 minibatches.
        """
        return statistics.interval(self.data, level, over)

    def difference(self, other: CKAResult, level: float = 0.95, *, over: statistics.Over | None = None) -> pd.DataFrame:
        """This CKA minus that of another comparison over the same samples in the same order, with paired intervals.

        Samples are paired by their place. Where both results know their inputs (`batch_seed`, as those of `compare`
        do) and these differ, a `UserWarning` names the first minibatch in which they do: the samples may be the same
        in another form, such as attacked images beside clean ones, or be others, which cannot be paired. Where a
        result does not know them, the caller answers for the samples.

        Returns:
            Rows (layer_x, layer_y) that both have, columns `difference`, `low`, `high`.

        Raises:
            ValueError: other numbers of samples in the minibatches, or no layers in common.
        """
        return statistics.difference(self.data, other.data, level, over)

    def against_n(self, layer_x: str | None = None, layer_y: str | None = None) -> pd.DataFrame:
        """Is n enough? CKA of the first 64, 128, 256, ... samples of every minibatch, and of all.

        Args:
            layer_x, layer_y: one cell; None for all layers of the same name.

        Returns:
            `[n, layer]` (or one column), n the samples of a minibatch.
        """
        table = {size: self._framed(values) for size, values in statistics.against_n(self.data).items()}
        table[int(self.data.batch_n.values.max())] = self.matrix()
        if layer_x is not None:
            _known(layer_x, self.layers_x, "x")
            _known(layer_y or layer_x, self.layers_y, "y")
            cells = [(layer_x, layer_y or layer_x)]
        else:
            cells = [(layer, layer) for layer in self._shared(self.matrix())]
        rows = {n: [matrix.loc[x, y] for x, y in cells] for n, matrix in table.items()}
        names = [x if x == y else f"{x} | {y}" for x, y in cells]
        return pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis(index="n", columns="layer")

    def influence(self, layer_x: str, layer_y: str | None = None, k: int = 5) -> pd.DataFrame:
        """The samples that move a cell most.

        Args:
            layer_x, layer_y: the cell; None for the layer of the same name in y.
            k: how many.

        Returns:
            Columns `sample` (from 0, in the order of the loader), `influence` (the CKA minus that without the sample,
            to first order) and `cka_without`, largest first.
        """
        _known(layer_x, self.layers_x, "x")
        _known(layer_y or layer_x, self.layers_y, "y")
        return statistics.influence(self.data, layer_x, layer_y or layer_x, k)

    def baseline(self) -> pd.DataFrame:
        """What chance gives: CKA with the samples of y in another order (`compare(..., permutations=200)`).

        Returns:
            Rows (layer_x, layer_y), columns `cka`, `chance` (mean over permutations), `high` (their 95 % quantile), `p`
            ((1 + those at least as large) / (1 + all)), `permutations`.
        """
        return statistics.baseline(self.data)

    def partial(self) -> pd.DataFrame:
        """CKA of concatenated features given a third Gram (`compare(..., given="input")`), layers of x by layers of y.

        What the input (or the labels) explains in both is taken out of each centred Gram by projection, as in the
        partial distance correlation of Szekely & Rizzo 2014, eq. 4.6: with R the CKA,
        (R_xy - R_xz R_yz) / sqrt((1 - R_xz^2)(1 - R_yz^2)). NaN where a layer is the given one.
        """
        if "hsic_zz" not in self.data:
            raise ValueError('expected a result of a comparison with given="input" or given="labels"')
        xy, own_z = self.matrix().to_numpy(), self.data.hsic_zz.values
        xz, yz = (
            ratio(
                self.data[f"hsic_{s}z"].values.sum(1), self.data[f"hsic_{s}{s}"].values.sum((1, 2)), np.asarray(own_z)
            )
            for s in "xy"
        )
        left_x, left_y = (np.where(1 - r**2 > 1e-12, 1 - r**2, np.nan) for r in (xz, yz))
        values = (xy - xz[:, None] * yz[None]) / np.sqrt(left_x)[:, None] / np.sqrt(left_y)[None]
        return self._framed(values)

    def steps(self, layer: str, layer_y: str | None = None) -> pd.DataFrame:
        """Time step by time step CKA inside one layer of x, or, with `layer_y`, between it and a layer of y.

        Returns:
            `[step_x, step_x]` (symmetric, 1 on the diagonal) or `[step_x, step_y]`.

        Raises:
            ValueError: an unknown layer, or networks without time steps.
        """
        self._expect_steps("x" if layer_y is None else "xy")
        _known(layer, self.layers_x, "x")
        if layer_y is None:
            within = self.data.hsic_xx.sel(layer_x=layer).values
            values, columns = ratio(within, np.diag(within)[:, None], np.diag(within)[None]), self.data.step_x
        else:
            _known(layer_y, self.layers_y, "y")
            values, columns = self.data.cka.sel(layer_x=layer, layer_y=layer_y).values, self.data.step_y
        names = ("step_x", "step_x" if layer_y is None else "step_y")
        return pd.DataFrame(
            values,
            index=pd.Index(self.data.step_x.values, name=names[0]),
            columns=pd.Index(columns.values, name=names[1]),
        )

    def to_frame(self) -> pd.DataFrame:
        """Tidy table `layer_x, step_x, layer_y, step_y, cka`, a row for each pair."""
        return self.data.cka.to_dataframe().reset_index()[["layer_x", "step_x", "layer_y", "step_y", "cka"]]

    def save(self, path: str | Path) -> Path:
        """Writes the result as netCDF with a checksum; `CKAResult.load` gives it back to the bit."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.to_bytes())
        return path

    def to_bytes(self) -> bytes:
        """The content of the file that `save` writes."""
        return result_file.to_bytes(self._content())

    @classmethod
    def load(cls, path: str | Path | BinaryIO, *, trusted: bool = False) -> CKAResult:
        """Reads what `save` wrote, from a path or an open file.

        Args:
            path: of the file.
            trusted: whether its content was compared with a checksum already. A file of an older version, which has
                none of its own, is tried in another process first, which takes half a second, unless it is trusted.

        Raises:
            FileNotFoundError: no file there.
            UnreadableFile: it is not what was saved, or no file of a result (a `ValueError`).
        """
        return cls._of(result_file.from_file(path, trusted))

    def _content(self) -> result_file.Content:
        return result_file.Content(self.data, {name: result._content() for name, result in self.also.items()})

    @classmethod
    def _of(cls, content: result_file.Content) -> CKAResult:
        return cls(content.data, {name: cls._of(own) for name, own in content.also.items()})

    def frames(self, measure: str = "cka") -> dict[str, pd.DataFrame]:
        """The matrices that a heatmap shows: all steps concatenated, then, of CKA over several steps, each step."""
        frames = {"all steps": self.matrix(measure=measure)}
        Tx, Ty = self._steps
        if measure == "cka" and max(Tx, Ty) > 1 and (Tx == Ty or 1 in (Tx, Ty)):
            frames |= {f"step {t}": self.matrix(t) for t in range(1, max(Tx, Ty) + 1)}
        return frames

    def heatmap(self, measure: str = "cka") -> go.Figure:
        """Plotly heatmap, layers of x by layers of y, of CKA with a slider for the time step."""
        from sj_cka import figures

        x, y = (str(self.data.attrs.get(side, side)) for side in "xy")
        return figures.heatmap(self.frames(measure), x_title=x, y_title=y, quantity=self.title(measure))

    def curve(self, measure: str = "cka") -> go.Figure:
        """Plotly curve of the paired layers."""
        from sj_cka import figures

        line = pd.DataFrame({"mean": self.paired(measure=measure), "low": np.nan, "high": np.nan})
        name = f"{self.data.attrs.get('x', 'x')} / {self.data.attrs.get('y', 'y')}"
        return figures.curve({name: line}, y_title=self.title(measure))

    def steps_map(self, layer: str | Sequence[str], layer_y: str | None = None) -> go.Figure:
        """Plotly map of time step by time step, of one layer or of several side by side."""
        from sj_cka import figures

        names = [layer] if isinstance(layer, str) else list(layer)
        return figures.steps_map({name: self.steps(name, layer_y) for name in names})

    @property
    def _steps(self) -> tuple[int, int]:
        return self.data.sizes["step_x"], self.data.sizes["step_y"]

    def _framed(self, values: np.ndarray) -> pd.DataFrame:
        """Layers of x by layers of y."""
        return pd.DataFrame(
            values, index=pd.Index(self.layers_x, name="layer_x"), columns=pd.Index(self.layers_y, name="layer_y")
        )

    def _shared(self, matrix: pd.DataFrame) -> list[str]:
        shared = [layer for layer in self.layers_x if layer in matrix.columns]
        if not shared:
            raise ValueError(
                f"expected layers of the same name in both networks, got {self.layers_x[:3]} ... and "
                f"{self.layers_y[:3]} ...; use matrix() for networks without common names"
            )
        return shared

    def _expect_steps(self, sides: str) -> None:
        if set(sides) <= set(str(self.data.attrs.get("without_steps", "")).split()):
            which = " and ".join(f"{side} ({self.data.attrs[side]})" for side in sides)
            raise ValueError(
                f"expected networks with time steps, got {which}, which showed none when they were compared: pass T= "
                "or layout= to compare() where they have some"
            )

    def _observed(self, name: str) -> CKAResult:
        if name == self.data.attrs.get("observe"):
            return self
        if name not in self.also or name == STEPS:
            known = [other for other in self.also if other != STEPS]
            raise ValueError(
                f'expected time="concat" or a step from 1 to {max(self._steps)}, got {name!r}; other '
                f'observables of this result: {", ".join(known) or "none"} (compare(..., observe=("output", "rate")))'
            )
        return self.also[name]

    def _expect_measure(self, measure: str) -> None:
        if measure not in self.measures:
            raise ValueError(
                f"expected a measure of this result, got {measure!r}; it has {', '.join(self.measures)}; ask for "
                'more by compare(..., measures=["rsa"])'
            )

    def _steps_at(self, time: Any) -> tuple[int, int]:
        Tx, Ty = self._steps
        if not isinstance(time, int | np.integer) or isinstance(time, bool):
            raise ValueError(f'expected time="concat" or a step from 1 to {max(Tx, Ty)}, got {time!r}')
        if Tx != Ty and 1 not in (Tx, Ty):
            raise ValueError(
                f"step against the same step needs equal numbers of steps, got {Tx} and {Ty}; use data.cka"
            )
        if not 1 <= time <= max(Tx, Ty):
            raise ValueError(f"expected a step from 1 to {max(Tx, Ty)}, got {time}")
        return (int(time) if Tx > 1 else 1, int(time) if Ty > 1 else 1)


def _known(layer: str, layers: Sequence[str], side: str) -> int:
    """Position of a layer."""
    if layer not in layers:
        raise ValueError(f"expected a layer of {side}, got {layer!r}{closest(layer, layers)}")
    return list(layers).index(layer)


def pool(results: Sequence[CKAResult], level: float = 0.95) -> pd.DataFrame:
    """Mean CKA over networks trained from other seeds, with Student t intervals over the seeds.

    Args:
        results: one for each seed, of the same layers; all steps concatenated.
        level: of the two-sided interval.

    Returns:
        Rows (layer_x, layer_y); columns cka (mean), low, high (NaN for one seed), seeds. A pair that is undefined for
        any seed is NaN.

    Raises:
        ValueError: no result, or other layers in one of them.
    """
    return statistics.pool([result.data for result in results], level)
