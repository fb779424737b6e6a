"""What a comparison gives: labelled values, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn

import numpy as np
import pandas as pd
import xarray as xr

from sj_cka.cka import over_time, result_file, statistics
from sj_cka.cka.activity import FIRING
from sj_cka.cka.measures import MEASURES, ratio
from sj_cka.cka.permutations import STEPS
from sj_cka.cka.sums import DIMS, Variables

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
            `silent_x`, `saturated_x` `[layer_x, step_x]` (see `activity`), and alike for y. Of sides with several steps
            the `own_xx` of units, as `hsic_xx`, and their number `units_x` `[layer_x]` (see `dynamics`), and alike for
            y. What was asked for beside:
            `sample_xy` ... (contributions), `size_xy` ..., `group_xy` ..., `permuted_xy`, `hsic_xz` ... (for
            `partial`), `measure_<name>` `[layer_x, layer_y]`. Of each minibatch `batch_n`, `batch_place` (of its first
            sample among all), its HSIC sums, and `batch_seed`, made from its inputs, if it is known.
        also: results of the same pass: of other observables ("rate", "latency", "membrane"), and of permuted steps.
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
        beside: Variables | None = None,
        also: Mapping[str, CKAResult] | None = None,
    ) -> CKAResult:
        """A result from mean HSIC values `[Lx, Tx, Ly, Ty]`, `[Lx, Tx, Tx]` and `[Ly, Ty, Ty]`.

        Args:
            beside: other variables of `data`.
            also: other results of the same pass.
        """
        of_x, of_y = (np.einsum("ltt->lt", within) for within in (hsic_xx, hsic_yy))
        values = ratio(hsic_xy, of_x[:, :, None, None], of_y[None, None])
        hsic = zip(DIMS.items(), (hsic_xy, hsic_xx, hsic_yy), strict=True)
        variables: dict[str, Any] = {"cka": (DIMS["hsic_xy"], values), "n": ((), n)}
        variables |= {name: (dims, value) for (name, dims), value in hsic} | dict(beside or {})
        Tx, Ty = (np.arange(1, within.shape[1] + 1) for within in (of_x, of_y))
        coords: dict[str, Any] = {
            "layer_x": list(layers_x),
            "layer_y": list(layers_y),
            "step_x": Tx,
            "step_x_2": ("step_x_2", Tx),
            "step_y": Ty,
            "step_y_2": ("step_y_2", Ty),
        }
        kept = dict(attrs or {}) | {"undefined": json.dumps([dict(row) for row in undefined])}
        return cls(xr.Dataset(variables, coords=coords, attrs=kept), also or {})

    def __getattr__(self, name: str) -> NoReturn:
        now = {"null": "permuted_steps", "heaviest": "influence"}.get(name)
        hint = f": it is called {now} now" if now else ""
        raise AttributeError(f"'CKAResult' object has no attribute {name!r}{hint}")

    @property
    def layers_x(self) -> list[str]:
        """Names of the layers of the first network, in order."""
        return [str(name) for name in self.data.layer_x.values]

    @property
    def layers_y(self) -> list[str]:
        """Names of the layers of the second network, in order."""
        return [str(name) for name in self.data.layer_y.values]

    @property
    def shared_layers(self) -> list[str]:
        """Names that both networks have, in the order of the first.

        Raises:
            ValueError: there is none.
        """
        shared = [layer for layer in self.layers_x if layer in self.layers_y]
        if not shared:
            raise ValueError(
                f"expected layers of the same name in both networks, got {self.layers_x[:3]} ... and "
                f"{self.layers_y[:3]} ...; use matrix() for networks without common names"
            )
        return shared

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
        held = (result.data for result in results if {"rate_x", "rate_y"} & set(result.data))
        data, parts = next(held, self.data), [pd.DataFrame(columns=["side", "layer", "step", *FIRING])]
        for side in "xy":
            if f"rate_{side}" in data:
                shares = data[[f"{name}_{side}" for name in FIRING]].to_dataframe().dropna()
                shares = shares.rename_axis(["layer", "step"]).rename(columns=lambda name: name[:-2])
                parts.append(shares.reset_index().assign(side=side)[parts[0].columns])
        return pd.concat(parts[1:] or parts, ignore_index=True)

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
        elif upto is not None:
            over_time.step_of_each(self.data, upto)
            values = over_time.up_to(self.data, upto)
        elif time != "concat":
            t, s = over_time.step_of_each(self.data, time)
            values = self.data.cka.sel(step_x=t, step_y=s).values
        else:
            values = over_time.all_steps(self.data)
        return self.framed(values)

    def paired(self, time: Time = "concat", **which: Any) -> pd.Series:
        """CKA, or another measure, of each layer of x with the layer of the same name in y, in the order of x.

        Arguments are those of `matrix`; the measure is the name of what is returned.

        Raises:
            ValueError: the networks have no layer name in common.
        """
        matrix, shared = self.matrix(time, **which), self.shared_layers
        values = matrix.loc[shared, shared].to_numpy().diagonal()
        return pd.Series(values, index=pd.Index(shared, name="layer"), name=which.get("measure", "cka"))

    # what is asked of a result is a function of it, with what belongs to it
    steps, dynamics, cumulative = over_time.steps, over_time.dynamics, over_time.cumulative
    attribution = over_time.attribution
    interval, difference, against_n = statistics.interval, statistics.difference, statistics.against_n
    influence, baseline, partial = statistics.influence, statistics.baseline, statistics.partial
    to_bytes = result_file.to_bytes

    def to_frame(self) -> pd.DataFrame:
        """Tidy table `layer_x, step_x, layer_y, step_y, cka`, a row for each pair."""
        return self.data.cka.to_dataframe().reset_index()[["layer_x", "step_x", "layer_y", "step_y", "cka"]]

    def save(self, path: str | Path) -> Path:
        """Writes the result as netCDF with a checksum; `CKAResult.load` gives it back to the bit."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.to_bytes())
        return path

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
        return result_file.from_file(path, cls, trusted)

    def frames(self, measure: str = "cka") -> dict[str, pd.DataFrame]:
        """The matrices that a heatmap shows: all steps concatenated, then, of CKA over several steps, each step."""
        frames = {"all steps": self.matrix(measure=measure)}
        Tx, Ty = self.data.sizes["step_x"], self.data.sizes["step_y"]
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

    def framed(self, values: np.ndarray) -> pd.DataFrame:
        """Values `[Lx, Ly]` with the names of the layers."""
        return pd.DataFrame(
            values, index=pd.Index(self.layers_x, name="layer_x"), columns=pd.Index(self.layers_y, name="layer_y")
        )

    def _observed(self, name: str) -> CKAResult:
        if name == self.data.attrs.get("observe"):
            return self
        if name not in self.also or name == STEPS:
            known = [other for other in self.also if other != STEPS]
            raise ValueError(
                f'expected time="concat" or a step from 1 to {over_time.last_step(self.data)}, got {name!r}; other '
                f'observables of this result: {", ".join(known) or "none"} (compare(..., observe=("output", "rate")))'
            )
        return self.also[name]

    def _expect_measure(self, measure: str) -> None:
        if measure not in self.measures:
            raise ValueError(
                f"expected a measure of this result, got {measure!r}; it has {', '.join(self.measures)}; ask for "
                'more by compare(..., into=CKA(measures=["rsa"]))'
            )
