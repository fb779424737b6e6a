"""Every script in benchmarks/, at sizes that measure nothing: that it runs to its end."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
# the tables that each prints, by words of their last lines; those first that most depends on
SCRIPTS = {
    "cupy_launch": "no CUDA device with CuPy here",
    "training": "300 epochs of CIFAR-10 follow",
    "neuron_backends": "targets",
    "attacks": "foolbox's LinfPGD",
    "cka_accuracy": "shifted by 1000 std",
    "cka_gpu": "largest error of their Grams",
    "events": "events by time",
    "cka_vs_peers": "time of raw Grams",
    "planning": "exponent",
    "fisher": "with labels of the data",
    "exchange": "most that a network with itself loses",
    "verdicts": "share that pass .95",
    "own_terms": "time of own terms over that of Grams",
    "learning_rules": "a step of bptt at T = 2",
    "side_by_side": "target: at most 1.3 times as long",
    "study_cpu": "neither training nor comparing",
}


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    errors = np.geterr()
    yield
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    np.seterr(**errors)


@pytest.mark.sampled
@pytest.mark.usefixtures("torch_as_it_was")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_runs_to_its_end(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(SCRIPTS) == {path.stem for path in FOLDER.glob("*.py")}
    script = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--tiny"])
    monkeypatch.syspath_prepend(FOLDER)  # where Python finds what scripts there import from each other
    if name == "cka_vs_peers":  # else it starts itself anew
        for variable, value in runpy.run_path(str(script))["KEEP"].items():
            monkeypatch.setitem(os.environ, variable, value)
    runpy.run_path(str(script), run_name="__main__")
    assert SCRIPTS[name] in capsys.readouterr().out
