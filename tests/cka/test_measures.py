"""Measures beside CKA: RSA and Procrustes, against their definitions."""

import re

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist

from sj_cka import CKA, CKAResult
from sj_cka.cka import MEASURES, Measure
from sj_cka.cka.layer_grams import grams
from sj_cka.plugins import UnknownName


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(n=20):
    X = randn(n, 6)
    return X, X @ randn(6, 9, seed=1) + randn(n, 9, seed=2)


def of(name, X, Y):
    return float(MEASURES[name].of(grams({"a": X[None]}).whole, grams({"a": Y[None]}).whole)[0, 0])


def test_rsa_is_the_rank_correlation_of_distances():
    X, Y = pair()
    assert of("rsa", X, Y) == pytest.approx(stats.spearmanr(pdist(X), pdist(Y)).statistic, abs=1e-12)


def test_rsa_of_spikes_shares_ranks_among_equal_distances():
    X, Y = ((randn(25, 40, seed=s) > 0.5).float() for s in (0, 1))
    expected = stats.spearmanr(pdist(X.numpy()), pdist(Y.numpy())).statistic
    assert of("rsa", X, Y) == pytest.approx(expected, abs=1e-12)


def test_procrustes_is_the_least_distance_of_a_rotation():
    X, Y = pair()
    A, B = (side - side.mean(0) for side in (X, Y))
    A, B = A / A.norm(), B / B.norm()
    padded = torch.cat([A, torch.zeros(20, 3, dtype=A.dtype)], 1)
    Q, _ = orthogonal_procrustes(B.numpy(), padded.numpy())
    assert of("procrustes", X, Y) == pytest.approx(float(np.linalg.norm(B.numpy() @ Q - padded.numpy())), abs=1e-7)


def test_cka_in_the_table_is_the_cka():
    X, Y = pair()
    found = CKA()
    found.update({"a": X[None]}, {"a": Y[None]})
    assert of("cka", X, Y) == pytest.approx(found.compute().matrix().iloc[0, 0], abs=1e-12)


def orthogonal(size):
    return torch.linalg.qr(randn(size, size, seed=9)).Q


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("change", [lambda X: X @ orthogonal(6), lambda X: -2.5 * X, lambda X: X + randn(6, seed=4)])
def test_every_measure_ignores_rotation_scale_and_shift(name, change):
    X, Y = pair()
    assert of(name, change(X), Y) == pytest.approx(of(name, X, Y), abs=1e-7)
    assert of(name, X, X) == pytest.approx(0 if MEASURES[name].distance else 1, abs=1e-6)
    assert of(name, X, Y) == pytest.approx(of(name, Y, X), abs=1e-9)


def test_procrustes_obeys_the_triangle_inequality():
    sides = [randn(15, 4, seed=s) for s in range(6)]
    d = [[of("procrustes", a, b) for b in sides] for a in sides]
    for i in range(6):
        for j in range(6):
            assert all(d[i][j] <= d[i][k] + d[k][j] + 1e-9 for k in range(6))


@pytest.mark.parametrize("name", MEASURES)
def test_a_constant_layer_has_no_value(name):
    X, _ = pair()
    assert np.isnan(of(name, X, torch.full((20, 3), 2.5)))
    assert MEASURES[name].of.__doc__


@pytest.mark.parametrize("name", [name for name, measure in MEASURES.items() if not measure.adds])
def test_what_does_not_add_is_the_mean_of_minibatches_by_their_samples(name):
    parts = [pair(20), pair(10)]
    found = CKA(measures=[name])
    for X, Y in parts:
        found.update({"a": X[None]}, {"a": Y[None]})
    values = [of(name, X, Y) for X, Y in parts]
    expected = (20 * values[0] + 10 * values[1]) / 30
    assert found.compute().matrix(measure=name).iloc[0, 0] == pytest.approx(expected, abs=1e-12)


def test_distances_of_concatenated_steps_add():
    X = randn(3, 20, 6)
    Y = pair()[1]
    flat = X.transpose(0, 1).flatten(1)
    found = CKA(measures=["rsa", "procrustes"])
    found.update({"a": X}, {"a": Y[None]})
    for name in ("rsa", "procrustes"):
        assert found.compute().matrix(measure=name).iloc[0, 0] == pytest.approx(of(name, flat, Y), abs=1e-9)


def test_an_unknown_measure_is_refused_with_close_names():
    with pytest.raises(UnknownName, match="unknown measure 'rdm'"):
        CKA(measures=["rdm"])


@pytest.mark.parametrize("name", [name for name, measure in MEASURES.items() if not measure.adds])
def test_a_layer_that_is_nan_takes_no_value_from_another(name):
    X, Y = pair(20)
    found = CKA(measures=[name])
    found.update({"a": X[None], "b": Y[None]})
    found.update({"a": torch.full((1, 10, 6), torch.nan), "b": torch.zeros(1, 10, 9)})
    matrix = found.compute().matrix(measure=name)
    assert np.isnan([matrix.loc["a", "a"], matrix.loc["a", "b"], matrix.loc["b", "a"]]).all()
    assert matrix.loc["b", "b"] == pytest.approx(of(name, Y, Y), abs=1e-12)


@pytest.fixture
def another():
    """A measure that another package adds: the cosine of the raw distances."""

    def cosine(x, y):
        sides = [torch.stack([d / d.norm() for d in side.squared_distances()]) for side in (x, y)]
        return 2 * sides[0] @ sides[1].mT  # up to 2: beyond the colours of CKA

    MEASURES["cosine"] = Measure(cosine, "cosine of distances", adds=False)
    yield "cosine"
    MEASURES.pop("cosine", None)


def test_a_measure_of_a_plugin_reaches_matrix_frames_pairs_figures_and_file_under_its_own_name(another, tmp_path):
    accumulated = CKA(measures=[another])
    X, Y = pair(20)
    accumulated.update({"a": X[None].expand(2, -1, -1), "b": Y[None]}, {"a": X[None], "b": Y[None]})
    path = accumulated.compute().save(tmp_path / "r.nc")
    del MEASURES[another]  # its package may be gone when the file is read
    result = CKAResult.load(path)
    assert result.measures == ["cka", another]
    assert (result.title(), result.title(another)) == ("CKA", "cosine of distances")
    matrix = result.matrix(measure=another)
    assert matrix.loc["a", "a"] == pytest.approx(2)
    assert matrix.loc["a", "b"] != pytest.approx(result.matrix().loc["a", "b"])
    frames = result.frames(another)
    assert list(frames) == ["all steps"]
    assert frames["all steps"].equals(matrix)
    assert list(result.frames()) == ["all steps", "step 1", "step 2"]
    paired = result.paired(measure=another)
    assert (paired.name, paired.tolist()) == (another, [matrix.loc["a", "a"], matrix.loc["b", "b"]])
    heatmap = result.heatmap(another)
    assert heatmap.layout.coloraxis.colorbar.title.text == "cosine of distances"
    assert heatmap.layout.coloraxis.cmax == pytest.approx(2)
    assert "CKA" not in heatmap.to_json()
    assert result.curve(another).layout.yaxis.title.text == "cosine of distances"
    with pytest.raises(ValueError, match="expected a measure of this result, got 'rsa'; it has cka, cosine"):
        result.frames("rsa")


@pytest.mark.parametrize("shape", [(), (2, 1), (3, 2)])
def test_a_measure_that_gives_other_than_a_value_a_pair_of_layers_is_refused(monkeypatch, shape):
    monkeypatch.setitem(MEASURES, "short", Measure(lambda x, y: torch.zeros(shape), "short", adds=False))
    X, Y = pair(20)
    message = rf"measure 'short': expected values \[layers of x, layers of y\], \(2, 2\), got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        CKA(measures=["short"]).update({"a": X[None], "b": Y[None]})
