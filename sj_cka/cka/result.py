"""What a comparison gives: labelled values, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import pandas as pd
import xarray as xr

if TYPE_CHECKING:
    import plotly.graph_objects as go

Time = Literal["concat"] | int
_UNDEFINED_COLUMNS = ["side", "layer", "step", "reason"]


@dataclass(frozen=True, eq=False)
class CKAResult:
    """CKA between every layer and time step of two networks.

    All values come from `hsic_xy[l, t, m, s]`, the unbiased HSIC between step t of layer l and step s of layer m. The
    Gram of features concatenated over time is the sum of the Grams of the steps, so block sums of it give the CKA of
    concatenated features exactly, and single entries the CKA of single steps.

    Args:
        data: `cka` and `hsic_xy` `[layer_x, step_x, layer_y, step_y]`, `hsic_xx` `[layer_x, step_x, step_x_2]`,
            `hsic_yy` alike, `n` samples; steps count from 1. What is undefined is NaN.
    """

    data: xr.Dataset

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
        own_x, own_y = (np.einsum("ltt->lt", own) for own in (hsic_xx, hsic_yy))
        cka = _ratio(hsic_xy, own_x[:, :, None, None], own_y[None, None])
        pairs, steps_x, steps_y = (
            ("layer_x", "step_x", "layer_y", "step_y"),
            ("step_x", "step_x_2"),
            ("step_y", "step_y_2"),
        )
        Tx, Ty = (np.arange(1, own.shape[1] + 1) for own in (hsic_xx, hsic_yy))
        data = xr.Dataset(
            {
                "cka": (pairs, cka),
                "hsic_xy": (pairs, hsic_xy),
                "hsic_xx": (("layer_x", *steps_x), hsic_xx),
                "hsic_yy": (("layer_y", *steps_y), hsic_yy),
                "n": ((), n),
            },
            coords={
                "layer_x": list(layers_x),
                "layer_y": list(layers_y),
                "step_x": Tx,
                "step_x_2": ("step_x_2", Tx),
                "step_y": Ty,
                "step_y_2": ("step_y_2", Ty),
            },
            attrs=dict(attrs or {}) | {"undefined": json.dumps([dict(row) for row in undefined])},
        )
        return cls(data)

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

    def matrix(self, time: Time = "concat") -> pd.DataFrame:
        """Layers of x by layers of y.

        Args:
            time: "concat" for features concatenated over time, as the paper compares them; a step t (from 1) for step t
                against step t. A network without time has one step, which stands for all.

        Raises:
            ValueError: an unknown `time`, a step that is not there, or numbers of steps that do not pair.
        """
        if time == "concat":
            d = self.data
            own_x = d.hsic_xx.sum(("step_x", "step_x_2"), skipna=False).values[:, None]
            own_y = d.hsic_yy.sum(("step_y", "step_y_2"), skipna=False).values[None]
            values = _ratio(d.hsic_xy.sum(("step_x", "step_y"), skipna=False).values, own_x, own_y)
        else:
            t, s = self._steps_at(time)
            values = self.data.cka.sel(step_x=t, step_y=s).values
        return pd.DataFrame(
            values, index=pd.Index(self.layers_x, name="layer_x"), columns=pd.Index(self.layers_y, name="layer_y")
        )

    def paired(self, time: Time = "concat") -> pd.Series:
        """CKA of each layer of x with the layer of the same name in y, in the order of x.

        Raises:
            ValueError: the networks have no layer name in common.
        """
        matrix = self.matrix(time)
        shared = [layer for layer in self.layers_x if layer in matrix.columns]
        if not shared:
            raise ValueError(
                f"expected layers of the same name in both networks, got {self.layers_x[:3]} ... and "
                f"{self.layers_y[:3]} ...; use matrix() for networks without common names"
            )
        return pd.Series(
            [matrix.loc[layer, layer] for layer in shared], index=pd.Index(shared, name="layer"), name="cka"
        )

    def steps(self, layer: str, layer_y: str | None = None) -> pd.DataFrame:
        """Time step by time step CKA inside one layer of x, or, with `layer_y`, between it and a layer of y.

        Returns:
            `[step_x, step_x]` (symmetric, 1 on the diagonal) or `[step_x, step_y]`.
        """
        _known(layer, self.layers_x, "x")
        if layer_y is None:
            within = self.data.hsic_xx.sel(layer_x=layer).values
            values, columns = _ratio(within, np.diag(within)[:, None], np.diag(within)[None]), self.data.step_x
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
        """Writes the result as netCDF; `CKAResult.load` gives it back to the bit."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.data.to_netcdf(path, engine="h5netcdf")
        return path

    def to_bytes(self) -> bytes:
        """The content of the file that `save` writes."""
        return bytes(self.data.to_netcdf(engine="h5netcdf"))

    @classmethod
    def load(cls, path: str | Path | BinaryIO) -> CKAResult:
        """Reads what `save` wrote, from a path or an open file."""
        if isinstance(path, str | Path) and not Path(path).is_file():
            raise FileNotFoundError(f"expected a result written by CKAResult.save, found no file at {path}")
        with xr.open_dataset(path, engine="h5netcdf") as data:
            return cls(data.load())

    def frames(self) -> dict[str, pd.DataFrame]:
        """The matrices that a heatmap shows: all steps concatenated, then, if there are several, each step."""
        frames = {"all steps": self.matrix()}
        Tx, Ty = self.data.sizes["step_x"], self.data.sizes["step_y"]
        if max(Tx, Ty) > 1 and (Tx == Ty or 1 in (Tx, Ty)):
            frames |= {f"step {t}": self.matrix(t) for t in range(1, max(Tx, Ty) + 1)}
        return frames

    def heatmap(self) -> go.Figure:
        """Plotly heatmap, layers of x by layers of y, with a slider for the time step."""
        from sj_cka import figures

        x, y = (str(self.data.attrs.get(side, side)) for side in "xy")
        return figures.heatmap(self.frames(), x_title=x, y_title=y)

    def curve(self) -> go.Figure:
        """Plotly curve of the paired layers."""
        from sj_cka import figures

        paired = self.paired()
        line = pd.DataFrame({"mean": paired, "low": np.nan, "high": np.nan})
        return figures.curve({f"{self.data.attrs.get('x', 'x')} / {self.data.attrs.get('y', 'y')}": line})

    def steps_map(self, layer: str | Sequence[str], layer_y: str | None = None) -> go.Figure:
        """Plotly map of time step by time step, of one layer or of several side by side."""
        from sj_cka import figures

        names = [layer] if isinstance(layer, str) else list(layer)
        return figures.steps_map({name: self.steps(name, layer_y) for name in names})

    def _steps_at(self, time: Any) -> tuple[int, int]:
        Tx, Ty = self.data.sizes["step_x"], self.data.sizes["step_y"]
        if not isinstance(time, int | np.integer) or isinstance(time, bool):
            raise ValueError(f'expected time="concat" or a step from 1 to {max(Tx, Ty)}, got {time!r}')
        if Tx != Ty and 1 not in (Tx, Ty):
            raise ValueError(
                f"step against the same step needs equal numbers of steps, got {Tx} and {Ty}; use data.cka"
            )
        if not 1 <= time <= max(Tx, Ty):
            raise ValueError(f"expected a step from 1 to {max(Tx, Ty)}, got {time}")
        return (int(time) if Tx > 1 else 1, int(time) if Ty > 1 else 1)


def _ratio(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), NaN where a side has no structure."""
    # two roots: the product of two tiny or huge HSICs leaves the range of float64
    scale = np.sqrt(np.where(xx > 0, xx, np.nan)) * np.sqrt(np.where(yy > 0, yy, np.nan))
    return np.asarray(xy / scale)


def _known(layer: str, layers: Sequence[str], side: str) -> None:
    from sj_cka.plugins import closest

    if layer not in layers:
        raise ValueError(f"expected a layer of {side}, got {layer!r}{closest(layer, layers)}")
