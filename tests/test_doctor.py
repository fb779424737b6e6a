"""What `sj-cka doctor` says, and that its self-test can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from typer.testing import CliRunner

from sj_cka import doctor
from sj_cka.cli import app
from sj_cka.neurons import lif, lif_backend


def call() -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def test_it_names_versions_devices_backend_browser_and_extras_and_passes_its_tests() -> None:
    code, said = call()
    assert code == 0
    for named in ("Python 3.", f"torch {torch.__version__.split('+')[0]}", "spikingjelly 2.0.0", "cpu: ", "cuda"):
        assert named in said
    chosen = lif_backend("cpu")
    assert f"cpu: {chosen.name} ({chosen.reason})" in said
    assert "left to SpikingJelly's own torch code" in said
    assert "    surrogates: MultiLevelSpikeCount, PoissonPass\n" in said
    assert "figures as PNG: " in said
    assert "dask: " in said
    assert "fail" not in said
    assert said.count("  pass  cpu: ") == len(doctor.SELF_TESTS)


def test_without_a_browser_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "why_no_png", lambda: "no Chromium or Chrome found: install one")
    code, said = call()
    assert code == 0
    assert "figures as PNG: no; no Chromium or Chrome found: install one" in said


def test_an_extra_in_another_version_than_it_pins_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["a>=1; extra == 'x'", "b==2.0rc1; extra == 'x'"])
    found = {"a": "1.5", "b": "2.0"}
    monkeypatch.setattr(doctor, "version", found.__getitem__)
    assert list(doctor._extras()) == ["x: has b 2.0, not 2.0rc1: pip install 'sj-cka[x]'"]
    found["b"] = "2.0rc1"
    assert list(doctor._extras()) == ["x: a 1.5, b 2.0rc1"]


def too_eager(**options: object) -> torch.nn.Module:
    return lif(v_threshold=0.9, **options)


def half(X: torch.Tensor, Y: torch.Tensor) -> float:
    return 0.5


def nothing(*networks: object, **options: object) -> None:
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    ("name", "broken", "fault"),
    [
        ("lif", too_eager, "spikes differ"),
        ("cka", half, "0.500000000 instead of"),
        ("compare", nothing, "RuntimeError: out of order"),
    ],
)
def test_what_is_wrong_fails_the_self_test_and_the_command(
    name: str, broken: Callable[..., object], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, name, broken)
    code, said = call()
    assert code == 1
    [failed] = [line for line in said.splitlines() if line.startswith("  fail  cpu: ")]
    assert fault in failed
