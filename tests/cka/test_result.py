"""CKAResult: matrices, steps, tables, files, figures."""

from io import BytesIO

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from sj_cka import CKA, CKAResult
from sj_cka.files import UnreadableFile


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


def older(r):
    """The file of a version that wrote no checksum."""
    return bytes(r.data.to_netcdf(engine="h5netcdf"))


def test_a_file_of_before_checksums_is_read_as_well(tmp_path):
    (tmp_path / "r.nc").write_bytes(older(result()))
    assert CKAResult.load(tmp_path / "r.nc").data.identical(result().data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sj_cka.cka.result_file.check_hdf5", lambda *args: pytest.fail("it was tried"))
        assert CKAResult.load(tmp_path / "r.nc", trusted=True).data.identical(result().data)
        assert CKAResult.load(result().save(tmp_path / "new.nc")).data.identical(result().data)


def test_results_of_the_same_pass_are_saved_with_it(tmp_path):
    inner = CKAResult(result(Ty=1).data, {"timing null": result()})
    r = CKAResult(result().data, {"rate": inner})
    back = CKAResult.load(BytesIO(CKAResult.load(r.save(tmp_path / "r.nc")).to_bytes()))
    assert back.data.identical(r.data)
    assert back.also["rate"].data.identical(inner.data)
    assert back.also["rate"].permuted_steps.data.identical(result().data)


def test_a_file_is_read_as_xarray_reads_it(tmp_path):
    cka = CKA(permutations={"samples": 3, "classes": 2, "steps": 1}, measures=["rsa"])
    for seed in (1, 2):
        sides = ({f"l{i}": randn(T, 9, 8, seed=10 * seed + i + T) for i in range(2)} for T in (3, 1))
        groups = {"small": torch.arange(9) < 5, "näher": torch.arange(9) > 3}
        labels = torch.arange(9) % 2
        cka.update(*sides, given={"z": randn(1, 9, 4)}, groups=groups, labels=labels, seed=seed)
    cka.update({"l0": randn(3, 9, 8), "l1": 0 * randn(3, 9, 8)}, {"l0": randn(1, 9, 8), "l1": randn(1, 9, 8)},
               given={"z": randn(1, 9, 4)}, groups=groups, labels=labels, seed=3)  # fmt: skip
    path = cka.compute({"x": "SNN", "batches": 3}).save(tmp_path / "r.nc")

    def same(found, group):
        with xr.open_dataset(path, engine="h5netcdf", group=group, phony_dims="access") as file:
            expected = file.load()
        for name in ("sealed", "also"):
            expected.attrs.pop(name, None)
        assert found.data.identical(expected)
        assert list(found.data) == list(expected)
        assert {n: v.dtype for n, v in found.data.variables.items()} == {
            n: v.dtype for n, v in expected.variables.items()
        }
        assert {n: type(v) for n, v in found.data.attrs.items()} == {n: type(v) for n, v in expected.attrs.items()}
        for name, inner in found.also.items():
            same(inner, f"{group or ''}/{name}")

    found = CKAResult.load(path)
    assert len(found.data) > 25
    assert found.permuted_steps is not None
    same(found, None)


OWN = {
    "a bool": lambda data: data.assign(own=("layer_x", np.array([True, False]))),
    "a text": lambda data: data.assign(own=((), "näher")),
    "texts": lambda data: data.assign(own=("layer_x", np.array(["ä", ""], dtype=object))),
    "bytes": lambda data: data.assign(own=("q", np.array([b"ab", b"c"]))),
    "a date": lambda data: data.assign(own=("q", np.array(["2020-01-01"], "M8[ns]"))),
    "a scale": lambda data: data.assign(own=("q", np.ones(2), {"scale_factor": 2.0})),
    "a coordinate": lambda data: data.assign_coords(own=("layer_x", [1, 2])),
    "one sample group": lambda data: data.assign_coords(own="x"),
    "attributes": lambda data: data.assign_attrs(_Note="x", _N=1, texts=["ä", "b"], numbers=[1, 2], one=["a"], none=[]),
    "nothing in it": lambda data: data.assign(own=(("q", "layer_x"), np.zeros((0, 2)))),
}


@pytest.mark.parametrize("own", sorted(OWN))
def test_what_somebody_put_into_a_result_comes_back_as_xarray_has_it(own, tmp_path):
    r = CKAResult(OWN[own](result().data), {})
    path = r.save(tmp_path / "r.nc")
    with xr.open_dataset(path, engine="h5netcdf") as file:
        expected = file.load()
    del expected.attrs["sealed"]
    found = CKAResult.load(path).data
    assert found.identical(expected)
    assert {name: v.dtype for name, v in found.variables.items()} == {n: v.dtype for n, v in expected.variables.items()}
    assert {name: type(value) for name, value in found.attrs.items()} == {n: type(v) for n, v in expected.attrs.items()}


def test_values_that_lie_outside_a_file_are_not_read(tmp_path):
    (tmp_path / "r.nc").write_bytes(bytes(result().data.to_netcdf(engine="h5netcdf")))
    (tmp_path / "secret").write_bytes(bytes(8))
    with h5py.File(tmp_path / "r.nc", "a") as file:
        del file["n"]
        file.create_dataset("n", (1,), "f8", external=[(str(tmp_path / "secret"), 0, 8)])
    with pytest.raises(UnreadableFile, match="it takes the values of n from another file"):
        CKAResult.load(tmp_path / "r.nc", trusted=True)


def test_what_a_file_says_lies_in_another_is_not_read(tmp_path):
    raw = result().data.to_netcdf(engine="h5netcdf")
    (tmp_path / "r.nc").write_bytes(bytes(raw))
    (tmp_path / "other.nc").write_bytes(bytes(raw))
    with h5py.File(tmp_path / "r.nc", "a") as file:
        del file["hsic_xy"]
        file["hsic_xy"] = h5py.ExternalLink(str(tmp_path / "other.nc"), "hsic_xy")
    with pytest.raises(UnreadableFile, match="it lacks hsic_xy"):
        CKAResult.load(tmp_path / "r.nc", trusted=True)


def test_other_programs_read_the_file_as_netcdf(tmp_path):
    with xr.open_dataset(result().save(tmp_path / "r.nc"), engine="h5netcdf") as data:
        assert np.array_equal(data.cka, result().data.cka)


HARMS = {
    "a flipped bit": lambda raw: raw[:9000] + bytes([raw[9000] ^ 4]) + raw[9001:],
    "zeros": lambda raw: raw[:512] + bytes(64) + raw[576:],
    "swapped blocks": lambda raw: raw[:4096] + raw[8192:12288] + raw[4096:8192] + raw[12288:],
    "a byte more": lambda raw: raw + b"?",
    "cut off in its checksum": lambda raw: raw[:-5],
    "cut off": lambda raw: raw[:5000],
    "its checksum alone": lambda raw: raw[-79:],
    "nothing": lambda raw: b"",
    "an archive": lambda raw: b"PK\3\4" + raw,
}


@pytest.mark.parametrize("harm", sorted(HARMS))
def test_a_file_that_is_not_what_was_saved_is_refused_by_its_name(harm, tmp_path):
    path = result().save(tmp_path / "r.nc")
    path.write_bytes(HARMS[harm](path.read_bytes()))
    with pytest.raises(UnreadableFile, match=rf"^{path}: expected (the|a) (result|checksum)"):
        CKAResult.load(path)


def test_a_damaged_file_of_before_checksums_comes_to_an_end(tmp_path):
    raw = older(result())
    (tmp_path / "r.nc").write_bytes(raw[:512] + bytes(64) + raw[576:])  # the HDF5 library never comes back
    with pytest.raises(UnreadableFile, match=r"r\.nc: .*the HDF5 library comes to no end with it"):
        CKAResult.load(tmp_path / "r.nc")


def test_another_file_of_hdf5_is_no_result(tmp_path):
    with h5py.File(tmp_path / "r.nc", "w") as file:
        file["cka"] = np.ones((2, 2))
    with pytest.raises(UnreadableFile, match=r"r\.nc: .*it lacks hsic_xx, hsic_xy"):
        CKAResult.load(tmp_path / "r.nc")
    with pytest.raises(UnreadableFile, match="found a folder at"):
        CKAResult.load(tmp_path)


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
