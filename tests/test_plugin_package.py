"""Another package brings one of everything that this one has, and one recipe uses it all, to the page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

PLUGIN = Path(__file__).parent / "plugin"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run(recipe, *arguments)`: the command line, in an environment where the package is installed."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PLUGIN, folder / "source")
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")  # what an installation of it does
    paths = [str(folder / "site"), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def started(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sj_cka", *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return started


def test_one_recipe_uses_all_that_a_package_brings(run: Run, tmp_path: Path) -> None:
    done = run("run", PLUGIN / "stripes.yaml", "--engine", "thread", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "subspace overlap of every layer" in page
    assert "mean subspace overlap of paired layers" in page
    assert "Over time: trace" in page
    assert "step in the middle of what is known" in page
    assert "darken" in page
    centroids = pd.read_csv(tmp_path / "out" / "centroids.csv")
    assert list(centroids.columns) == ["network", "seed", "trace", "centroid"]
    assert centroids["centroid"].between(1, 3, inclusive="neither").all()
    assert len(centroids) == 3
    cka = pd.read_csv(tmp_path / "out" / "cka.csv")
    assert set(cka["measure"]) == {"overlap"}
    assert cka["value"].dropna().between(0, 1 + 1e-9).all()
    claims = pd.read_csv(tmp_path / "out" / "claims.csv")
    assert list(claims["test"]) == ["within", "above"]
    assert claims["verdict"][0] == "holds"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{samples: 4}", "{samples: 0}", "jobs.centroid.samples: expected at least 1, got 0"),
        ("jobs:\n  centroid: {samples: 4}\n", "", "claims[0].a.network: expected a network whose middle_step"),
        (
            "    b: {measure: middle_step, network: base.snn}",
            "    b: {measure: accuracy, network: base.snn}",
            "claims[0].b.measure: expected two arms that can be compared, got accuracy against middle_step",
        ),
        ("{name: stripes, eps: 0.1}", "{name: stripes, epsilon: 0.1}", "data.epsilon: unknown key; did you mean 'eps'"),
        ("{name: stripes, eps: 0.1}", "{name: stripes, eps: -1}", "data.eps: expected a standard deviation from 0"),
        ("    darken:\n", "", "attack.by: expected a gradient-free attack too"),
        ("centroid: {samples: 4}", "centrode: {}", "jobs.centrode: unknown kind of job 'centrode'; did you mean"),
        ("{samples: 4}", "{networks: [bas.snn]}", "jobs.centroid.networks[0]: 'bas.snn': nobody trains a variant"),
        ("    at_most: 1\n", "", "claims[0].at_most: expected this key, it is missing"),
        (
            "measure: overlap",
            "measure: overlay",
            "compare[0].measure: unknown measure 'overlay'; did you mean 'overlap'",
        ),
        ("{name: signs, size: 0.02}", "{name: signs, sizes: 1}", "train.rule.sizes: unknown key; did you mean 'size'"),
        ("column: trace", "colum: trace", "figures[2].colum: unknown key; did you mean 'column'"),
    ],
)
@pytest.mark.sampled
def test_what_a_recipe_says_wrongly_of_a_package_is_told_before_anything_runs(
    run: Run, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (PLUGIN / "stripes.yaml").read_text()
    assert text.count(old) == 1
    (tmp_path / "wrong.yaml").write_text(text.replace(old, new))
    done = run("run", tmp_path / "wrong.yaml", "--dry-run")
    assert done.returncode == 2
    assert message in done.stderr


def test_the_names_of_a_package_are_listed(run: Run) -> None:
    listed = run("list").stdout
    names = (
        "stripes",
        "dim",
        "two_layers",
        "plain",
        "darken",
        "overlap",
        "signs",
        "centroid",
        "middle_step",
        "within",
    )
    assert [name for name in (*names, "thread") if name not in listed] == []
