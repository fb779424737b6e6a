"""What a user gets who has no checkout, and what `make` does before it installs."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# MAKEFLAGS and PYTHON would hand the settings of the `make test` we may be in to the make under test.
ENV = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON")}

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")


def _setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def _requirements(text: str) -> list[Requirement]:
    lines = (line.strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def _pinned() -> dict[str, str]:
    """Name -> version of every line of constraints.txt, all of which must be `name==version`."""
    pins = {}
    for requirement in _requirements((ROOT / "constraints.txt").read_text()):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        pins[canonicalize_name(requirement.name)] = specifier.version
    return pins


CONFIG = _setup_cfg()
EXTRAS = dict(CONFIG["options.extras_require"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without a network from a copy: a build writes build/ and *.egg-info beside setup.cfg."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("sj_cka", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.parametrize(
    "name",
    [
        "sj_cka/report/page.html.j2",
        "sj_cka/report/style.css",
        "sj_cka/report/script.js",
        "sj_cka/py.typed",
    ],
)
def test_the_wheel_holds_what_is_not_python(wheel: zipfile.ZipFile, name: str) -> None:
    assert name in wheel.namelist()


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = (path for path in (ROOT / "sj_cka").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    here = {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == here


def test_the_wheel_names_its_license_python_and_command(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0\n" in metadata
    assert re.search(r"^Requires-Python: (>=3\.11,<3\.14|<3\.14,>=3\.11)$", metadata, re.M)
    assert "sj-cka = sj_cka.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


@pytest.mark.parametrize("extra", ["cuda12", "cuda13", "dask", "slurm", "attacks", "png", "test"])
def test_every_extra_can_be_asked_for(wheel: zipfile.ZipFile, extra: str) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert f"Provides-Extra: {extra}\n" in wheel.read(metadata).decode()
    assert _requirements(EXTRAS[extra])


def test_constraints_pin_what_decides_the_outcome_of_lint() -> None:
    assert {"ruff", "mypy", "pandas-stubs", "types-pyyaml"} <= _pinned().keys()


def test_constraints_leave_the_gpu_packages_to_torch() -> None:
    assert not [name for name in _pinned() if re.match("nvidia|cuda|triton|cupy", name)]


@pytest.mark.parametrize(
    "requirement",
    _requirements(CONFIG["options"]["install_requires"])
    + [requirement for extra in ("attacks", "png", "test") for requirement in _requirements(EXTRAS[extra])],
    ids=str,
)
def test_the_ranges_admit_the_pinned_versions(requirement: Requirement) -> None:
    version = _pinned()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True), version


def test_the_gpu_extras_ask_for_the_spikingjelly_that_is_pinned() -> None:
    for extra in ("cuda12", "cuda13"):
        asked = {requirement.name: str(requirement.specifier) for requirement in _requirements(EXTRAS[extra])}
        assert asked["spikingjelly"] == f"=={_pinned()['spikingjelly']}"


def _make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=directory, env=ENV, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing is installed."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def _python_that(directory: Path, first: str) -> Path:
    """A Python that runs the statement `first` before the code after its -c."""
    path = directory / "some-python"
    path.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -c "import sys; {first}; exec(sys.argv[1])" "$@"\n')
    path.chmod(0o755)
    return path


@needs_make
@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("sys.version_info = (3, 10, 13)", "needs Python 3.11, 3.12 or 3.13, but .* is Python 3.10"),
        ("sys.version_info = (3, 14, 0)", "needs Python 3.11, 3.12 or 3.13, but .* is Python 3.14"),
        ("sys.modules['pip'] = None", "has no pip"),
        ("import types; sys.modules['pip'] = types.SimpleNamespace(__version__='22.2.9')", "needs pip 22.3 or newer"),
    ],
    ids=["Python too old", "Python too new", "no pip", "pip too old"],
)
def test_make_refuses_what_cannot_work_before_it_touches_anything(checkout: Path, first: str, message: str) -> None:
    done = _make(checkout, "run", f"PYTHON={_python_that(checkout, first)}")
    assert done.returncode != 0
    assert re.search(message, done.stderr)
    assert "PYTHON=python3.12" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkout / ".venv").exists()


@needs_make
def test_make_says_so_if_there_is_no_such_python(checkout: Path) -> None:
    done = _make(checkout, "run", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "no-such-python is not here" in done.stdout


def _install(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv/.installed").write_text(f"{sys.version_info.major}.{sys.version_info.minor}\n")


@needs_make
def test_a_second_make_installs_nothing(checkout: Path) -> None:
    assert " install " in _make(checkout, "-n", "run").stdout
    _install(checkout)
    for python in ([], [f"PYTHON={sys.executable}"]):
        planned = _make(checkout, "-n", "run", *python).stdout.splitlines()
        assert planned == [".venv/bin/python recipes/run.py recipes/residual_ablation.yaml "]


@needs_make
def test_make_installs_anew_where_the_ranges_or_python_have_changed(checkout: Path) -> None:
    _install(checkout)
    other = _python_that(checkout, "sys.version_info = (3, 9)")
    assert " install " in _make(checkout, "-n", "run", f"PYTHON={other}").stdout
    stamp = (checkout / ".venv/.installed").stat()
    os.utime(checkout / "constraints.txt", (stamp.st_atime + 10, stamp.st_mtime + 10))
    assert " install " in _make(checkout, "-n", "run").stdout


@needs_make
def test_make_figures_draws_every_study_of_the_gallery_and_then_the_ledger(checkout: Path) -> None:
    _install(checkout)
    gallery = "depth depth:photos width@4,5 depth:photos@8,9"
    done = _make(checkout, "-n", "figures", f"GALLERY={gallery}")
    run = ".venv/bin/python recipes/run.py recipes"
    again = "--store .sj_cka/again"
    assert done.stdout.splitlines() == [
        f"{run}/depth.yaml --out figures/depth",
        f"{run}/depth.yaml --profile photos --out figures/depth-photos",
        f'{run}/width.yaml --out figures/width-again --set "seeds=[4,5]" {again}',
        f'{run}/depth.yaml --profile photos --out figures/depth-photos-again --set "seeds=[8,9]" {again}',
        ".venv/bin/python -m sj_cka ledger figures/depth figures/depth-photos figures/width-again "
        "figures/depth-photos-again --out figures/README.md",
    ]
    planned = _make(checkout, "-n", "figures").stdout
    names = re.findall(r"recipes/(\w+)\.yaml", planned)
    assert [name for name in names if not (ROOT / "recipes" / f"{name}.yaml").is_file()] == []
    folders = set(re.findall(r"--out (figures/[\w-]+)", planned))
    listed = subprocess.run(["git", "ls-files", "figures"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert set(re.findall(r"^(figures/[^/]+)/claims\.csv$", listed.stdout, re.M)) <= folders


@needs_make
def test_make_run_hands_on_recipe_and_profile(checkout: Path) -> None:
    _install(checkout)
    done = _make(checkout, "-n", "run", "RECIPE=recipes/depth.yaml", "PROFILE=smoke")
    assert done.stdout.strip() == ".venv/bin/python recipes/run.py recipes/depth.yaml --profile smoke"
