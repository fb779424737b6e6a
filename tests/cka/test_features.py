"""Features from elsewhere: in memory, npz, HDF5."""

import h5py
import numpy as np
import pytest
import torch

from sj_cka import CKA, compare_features
from sj_cka.files import UnreadableFile


def array(T, N=26, D=5, seed=0):
    return np.random.default_rng(seed).normal(size=(T, N, D))


@pytest.fixture
def sides():
    x = {"core0": array(3), "core1": array(3, D=7, seed=1)}
    return x, {"relu": array(1, seed=2), "relu2": array(1, seed=3) + array(3)[:1]}


def test_arrays_give_what_the_accumulator_gives(sides):
    x, y = sides
    expected = CKA()
    expected.update(*({name: torch.from_numpy(X) for name, X in side.items()} for side in sides))
    found = compare_features(x, y, progress=False)
    assert np.array_equal(found.data.cka, expected.compute().data.cka)
    assert found.interval().equals(expected.compute().interval())


def test_values_equal_the_trace_formula_on_concatenated_steps(sides, trace_cka):
    x, y = sides
    found = compare_features(x, y, progress=False).matrix().loc["core0", "relu2"]
    expected = trace_cka(x["core0"].transpose(1, 0, 2).reshape(26, -1), y["relu2"][0])
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_files_give_what_memory_gives(sides, tmp_path, suffix):
    paths = []
    for name, side in zip("xy", sides, strict=True):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "npz":
            np.savez(path, **side)
        else:
            with h5py.File(path, "w") as file:
                for layer, X in side.items():
                    file.create_dataset(layer, data=X)
        paths.append(path)
    memory = compare_features(*sides, batch_size=10, progress=False)
    files = compare_features(*paths, batch_size=10, progress=False)
    assert files.data.equals(memory.data)


def test_layers_in_groups_of_an_hdf5_file_bear_their_paths(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("chip/core0", data=array(2))
    assert compare_features(tmp_path / "x.h5", progress=False).layers_x == ["chip/core0"]


def test_the_last_minibatch_of_too_few_is_left_out_and_named():
    x = {"a": array(2)}
    found = compare_features(x, batch_size=12, progress=False)
    assert int(found.data.n) == 24
    assert found.data.attrs["batches_left_out"] == "[2]"


def test_groups_nulls_and_a_given_gram_work_on_arrays(sides):
    x, y = sides
    ids = ["even" if i % 2 == 0 else "odd" for i in range(26)]
    given = array(1, seed=9)[0]
    found = compare_features(
        x, y, groups=ids, given=given, into=CKA(permutations={"samples": 9, "steps": 1}), progress=False
    )
    even = compare_features(
        {name: X[:, ::2] for name, X in x.items()}, {name: X[:, ::2] for name, X in y.items()}, progress=False
    )
    assert np.allclose(found.matrix(group="even"), even.matrix(), atol=1e-10)
    assert found.dynamics()["null"].notna().all()
    assert np.isfinite(found.partial()).all(axis=None)
    assert (found.baseline().permutations == 9).all()


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ({"a": array(1)[0]}, None, {}, r"expected features \[T, N, ...\] with an axis.*shape \(26, 5\).*X\[None\]"),
        ({"a": array(2)}, {"a": array(2, N=25)}, {}, r"y: layer 'a': expected.*N = 26, got shape \(2, 25, 5\)"),
        ({"a": array(2), "b": array(3)}, None, {}, "x: layer 'a': expected.*T = 1 or 3"),
        ({}, None, {}, "x: expected at least one layer"),
        ({"a": array(2, N=3)}, None, {}, "at least 4 samples.*got 3 of N = 3"),
        ({"a": array(2)}, None, {"batch_size": 2}, "at least 4 samples.*got 2 of N = 26"),
        ({"a": array(2)}, None, {"given": array(1)[0][:5]}, r"given: expected \[N, ...\] of the same N = 26"),
        ({"a": array(2)}, None, {"groups": ["a"] * 20}, "groups: expected ids of all samples, at least 26"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        compare_features(x, y, progress=False, **options)


def test_files_that_are_not_there_or_of_another_kind_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^x .*no file at .*none\.npz"):
        compare_features(tmp_path / "none.npz")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"expected an \.npz or HDF5 file, got .*notes\.txt"):
        compare_features(tmp_path / "notes.txt")


def test_a_file_is_known_by_what_is_in_it_and_not_by_its_name(tmp_path):
    np.savez(tmp_path / "x.npz", a=array(2))
    (tmp_path / "x.npz").rename(tmp_path / "features")
    assert compare_features(tmp_path / "features", progress=False).layers_x == ["a"]
    kinds = ((b"MATLAB 5.0 MAT-file", "a MATLAB file"), (b"\x80\x04", "a pickle"), (b"\x93NUMPY", r"\.npy"))
    for content, kind in kinds:
        (tmp_path / "features").write_bytes(content)
        with pytest.raises(UnreadableFile, match=rf"got .*features: it is {kind}"):
            compare_features(tmp_path / "features")
    with pytest.raises(UnreadableFile, match=r"^x .*: expected features .*, found a folder at"):
        compare_features(tmp_path)


def in_hdf5(path, make):
    with h5py.File(path, "w") as file:
        file["good"] = array(2)
        make(file)
    return path


FOREIGN = {
    "words": (lambda file: file.create_dataset("bad", data=[b"a", b"b"]), "'bad': expected real numbers .* got object"),
    "complex": (lambda file: file.create_dataset("bad", data=array(2) * 1j), "expected real numbers .* got complex128"),
    "ragged": (
        lambda file: file.create_dataset("bad", (2, 26, 3), dtype=h5py.vlen_dtype(float)),
        "'bad': expected real numbers .* got object",
    ),
    "nothing": (lambda file: file.create_dataset("bad", data=h5py.Empty("f")), r"'bad': expected feat.*shape \(\)"),
    "terabytes": (
        lambda file: file.create_dataset("bad", (2, 26, 10**12), "f8", chunks=(1, 1, 1000)),
        r"x\.h5: bad: expected arrays .*: it announces 416,000,000,000,000 bytes, which a file of .* cannot hold",
    ),
    "ring": (lambda file: file.__setitem__("again", file["/"]), r"x\.h5: expected arrays .*: group .* holds itself"),
}


@pytest.mark.parametrize("kind", sorted(FOREIGN))
def test_what_an_hdf5_file_holds_beside_layers_is_told_by_name(kind, tmp_path):
    make, message = FOREIGN[kind]
    path = in_hdf5(tmp_path / "x.h5", make)
    with pytest.raises(ValueError, match=message):
        compare_features(path, progress=False)
    if kind != "ring":
        assert compare_features(path, layers="good", progress=False).layers_x == ["good"]


def test_a_damaged_hdf5_file_is_one_error_that_names_it(tmp_path):
    path = in_hdf5(tmp_path / "x.h5", lambda file: file.create_dataset("z", data=array(2), compression="gzip"))
    raw = path.read_bytes()
    for damaged in (raw[:2000], raw[:100] + bytes(900) + raw[1000:], raw[:-200] + bytes(200)):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableFile, match=r"x\.h5: .*expected arrays in HDF5, could not read: \w+Error: "):
            compare_features(path, progress=False)


def test_arrays_of_another_byte_order_are_taken_from_memory_and_files(sides, tmp_path):
    expected = compare_features(*sides, into=CKA(permutations={"steps": 1}), progress=False)
    big = [{layer: X.astype(">f8") for layer, X in side.items()} for side in sides]
    for X in big[0].values():
        X.flags.writeable = False
    assert compare_features(*big, into=CKA(permutations={"steps": 1}), progress=False).permuted_steps.data.equals(
        expected.permuted_steps.data
    )
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for layer, X in big[0].items():
            file.create_dataset(layer, data=X)
    found = compare_features(tmp_path / "x.h5", sides[1], progress=False)
    assert found.data.equals(expected.data)


def test_features_with_a_gradient_have_a_null_as_well(sides):
    expected = compare_features(*sides, into=CKA(permutations={"steps": 1}), progress=False)
    learnt = {layer: torch.from_numpy(X).requires_grad_() for layer, X in sides[0].items()}
    assert compare_features(
        learnt, sides[1], into=CKA(permutations={"steps": 1}), progress=False
    ).permuted_steps.data.equals(expected.permuted_steps.data)


@pytest.mark.parametrize("tracked", [True, False])
def test_layers_of_a_file_come_as_they_were_made_or_by_their_numbers(tmp_path, tracked):
    with h5py.File(tmp_path / "x.h5", "w", track_order=tracked) as file:
        for layer in ("stem", "conv10", "block/2", "conv2"):
            file.create_dataset(layer, data=array(2))
    expected = ["stem", "conv10", "block/2", "conv2"] if tracked else ["block/2", "conv2", "conv10", "stem"]
    assert compare_features(tmp_path / "x.h5", progress=False).layers_x == expected


@pytest.mark.parametrize("suffix", ["npz", "h5", ""])
def test_layers_are_chosen_by_names_and_globs_in_the_order_asked(tmp_path, suffix):
    held = {
        "conv1": array(2),
        "conv2": array(2, seed=1),
        "labels": np.arange(26),
        "images": array(26, N=3),
        "fc": array(1),
    }
    x = held
    if suffix == "npz":
        np.savez(x := tmp_path / "x.npz", **held)
    elif suffix:
        with h5py.File(x := tmp_path / "x.h5", "w") as file:
            for layer, X in held.items():
                file.create_dataset(layer, data=X)
    found = compare_features(x, layers=["fc", "conv*", "conv1"], progress=False)
    assert found.layers_x == ["fc", "conv1", "conv2"]
    other = compare_features(x, x, layers={"x": "conv*", "y": "fc"}, progress=False)
    assert (other.layers_x, other.layers_y) == (["conv1", "conv2"], ["fc"])
    alone = compare_features(x, layers={"x": "conv*", "y": "fc"}, progress=False)
    assert alone.data.equals(other.data)
    assert other.matrix().loc["conv2", "fc"] == found.matrix().loc["conv2", "fc"]
    with pytest.raises(ValueError, match=r"layer '(labels|images)': expected features \[T, N, ...\].*layers="):
        compare_features(x, progress=False)
    with pytest.raises(ValueError, match=r"^x.*: layers: 'cnv1' matches none of 5; did you mean 'conv1'"):
        compare_features(x, layers="cnv1", progress=False)


def test_more_steps_than_samples_are_warned_of():
    maps = {"conv": np.random.default_rng(0).normal(size=(40, 16, 3, 3))}
    with pytest.warns(
        UserWarning, match=r"'conv' of shape \(40, 16, 3, 3\) is read as .* 40 steps of 16 samples; if it is"
    ):
        compare_features(maps, progress=False)
