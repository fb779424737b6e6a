"""The command line: what it prints, and one message with the right exit code for every fault."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sj_cka import __version__, study
from sj_cka.attacks import ATTACKS
from sj_cka.cli import app
from sj_cka.data import AUGMENTATIONS, DATASETS
from sj_cka.engine import JobFailed

ROOT = Path(__file__).resolve().parents[1]
Write = Callable[..., Path]


def call(*arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


# one of each kind of bad input; the mark <-- is in the line to be named
BAD = {
    "unknown key": (("title: Tiny", "titel: Tiny # <--"), "titel: unknown key; did you mean 'title'?"),
    "unknown option": (("depth: 8}", "dept: 8} # <--"), "model.dept: unknown key; did you mean 'depth'?"),
    "wrong type": (("  T: 2", "  T: two # <--"), "snn.T: expected a number, got 'two'"),
    "unknown name": (
        ("{name: npz, path: images.npz}", "{name: imagenet} # <--"),
        "data.name: unknown data set 'imagenet'; known: digits, digits_dvs, npz, photos, photos_dvs, cifar10, "
        "cifar100, mnist, fashion_mnist, nmnist, cifar10_dvs, dvs128_gesture, ...",
    ),
    "nobody trains it": (
        ("y: none.snn}", "y: bare.snn} # <--"),
        "compare[1].y: 'bare.snn': nobody trains a variant 'bare'; known: all, none",
    ),
    "depth 21": (
        ("{residual: []}", "{depth: 21} # <--"),
        "variants.none.model.depth: expected 6 k + 2 from 8 (8, 14, 20, ...), got 21; nearest: 20, 26",
    ),
    "T of 0": (("  T: 2", "  T: 0 # <--"), "snn.T: expected at least 1, got 0"),
    "missing data": (
        ("images.npz}", "image.npz} # <--"),
        "data.path: expected an .npz file, found no file at {folder}/image.npz (it is to hold x_train, y_train, "
        "x_test, y_test)",
    ),
    "batch too small": (("  batch_size: 16", "  batch_size: 3 # <--"), "cka.batch_size: expected at least 4, got 3"),
    "key given twice": (("  T: 2", "  T: 2\n  T: 2 # <--"), "snn.T: expected each key once, it is given twice"),
}


@pytest.mark.parametrize("command", ["run", "report"])
@pytest.mark.parametrize("fault", BAD)
def test_bad_input_ends_with_code_2_one_message_and_nothing_written(
    fault: str, command: str, recipe_file: Write, tmp_path: Path
) -> None:
    change, message = BAD[fault]
    path = recipe_file(change)
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if "<--" in text)
    code, out, told = call(command, path)
    assert (code, out) == (2, "")
    assert told == f"error: {path}:{line}: {message.format(folder=tmp_path)}\n"
    assert {file.name for file in tmp_path.iterdir()} == {"tiny.yaml", "images.npz"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_test": np.zeros((0, 1, 8, 6), np.float32)},
            "expected at least one image, got an empty array [0, 1, 8, 6]",
        ),
        ({"x_train": np.full((64, 1, 8, 6), np.nan)}, "expected finite numbers, got NaN or infinity in 64 images"),
        (
            {"x_test": np.ones((3, 1, 8, 6), np.float32), "y_test": np.arange(3)},
            "expected at least 4 test images, got 3",
        ),
    ],
    ids=["empty", "NaN", "three test images"],
)
def test_bad_arrays_end_with_code_2_one_message_and_nothing_written(
    change: dict[str, Any], message: str, recipe_file: Write, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = recipe_file()
    np.savez(tmp_path / "images.npz", **arrays | change)
    code, out, told = call("run", path)
    assert (code, out) == (2, "")
    assert told.startswith(f"error: {path}:3: data.path: ")
    assert message in told
    assert told.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"tiny.yaml", "images.npz"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "error: {path}: expected a recipe, found no such file\n"),
        ("", "error: {path}:1: expected a recipe, a map of keys, got nothing\n"),
        ("[]", "error: {path}:1: expected a recipe, a map of keys, got []\n"),
        (
            "title: x\nseeds: [1\n",
            "error: {path}:3:1: seeds[1]: not valid YAML: expected ',' or ']', but got '<stream end>' "
            "(while parsing a flow sequence)\n",
        ),
    ],
    ids=["missing", "empty", "list", "syntax"],
)
def test_what_is_no_recipe_ends_with_code_2_and_one_message(text: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    assert call("run", path) == (2, "", told.format(path=path))


def test_the_script_works_from_anywhere_and_tells_a_fault_without_a_traceback(
    tmp_path: Path, recipe_file: Write
) -> None:
    path = recipe_file(("  T: 2", "  T: ★"))
    odd = path.rename(path.with_name(os.fsdecode(b"caf\xe9.yaml")))  # a name and a terminal without UTF-8
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, str(ROOT / "recipes" / "run.py"), f"../{odd.name}"]
    env = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: ../caf\\udce9.yaml:6: snn.T: expected a number, got '\\u2605'\n"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_run_prints_the_plan_first_and_the_results_last(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    code, out, told = call("run", recipe_file(("seeds: 2", "seeds: 1")), "--workers", 1, "--out", "here")
    assert code == 0
    assert out.startswith(
        "tiny (quick): 2 variants, seeds 0\n"
        "18 jobs (4 init, 4 train, 4 cost, 6 compare), 0 finished before\n"
        "neurons on cpu: lif: fused (first that runs on cpu; "
    )
    assert out.endswith("\nreport: here/report.html\n")
    assert "18/18 jobs" in told


def test_a_job_that_fails_ends_with_code_1_and_names_network_epoch_and_step(recipe_file: Write) -> None:
    code, _, told = call("run", recipe_file(("  lr: 0.1", "  lr: 1e30")), "--workers", 1)
    assert code == 1
    assert "error: all.ann, seed 0: the loss became nan in epoch 1, step 2 of 2: lower train.lr (now 1e+30)" in told
    assert "Traceback" not in told
    assert not Path("figures").exists()


def test_a_report_before_its_run_ends_with_code_1(recipe_file: Write) -> None:
    code, out, told = call("report", recipe_file())
    assert (code, out) == (1, "")
    assert told == "error: 40 jobs of this study are not finished, first: all.snn, seed 0; run it first\n"


def test_a_dry_run_runs_nothing(recipe_file: Write, tmp_path: Path) -> None:
    code, out, _ = call("run", recipe_file(), "--dry-run")
    assert code == 0
    lines = out.splitlines()
    assert lines[:3] == [
        "tiny (quick): 2 variants, seeds 0, 1",
        "40 jobs (8 init, 8 train, 8 cost, 16 compare), 0 finished before",
        "data: npz: 64 training and 32 test images [1, 8, 6], 4 classes; training split as stored: 0 MB",
    ]
    networks = {line.split()[0]: line.split()[1:] for line in lines[5:10]}
    assert list(networks) == ["all.snn", "all.ann", "none.snn", "none.ann", "all"]
    assert networks["all.snn"][0] == networks["all.ann"][0] == "77,364"
    assert networks["all.snn"][2:4] == ["2", "1"]  # trainings, epochs
    assert lines[11].startswith("What the seeds can decide with a power of 0.8")
    assert lines[12].split()[0] == "exploratory"
    assert lines[12].endswith("expected: Shortcuts help.")
    # what is behind the first neuron is multiplied twice, T = 2
    assert 1.8 < float(networks["all.snn"][1]) / float(networks["all.ann"][1]) <= 2  # of one decimal
    assert {file.name for file in tmp_path.iterdir()} == {"tiny.yaml", "images.npz"}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; what was finished is kept, run the same command to go on\n"),
        (JobFailed("all.snn: broken"), 1, "error: all.snn: broken\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
    ],
    ids=["Ctrl-C", "failed job", "full disk"],
)
def test_every_end_has_its_code(error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(study, "run", end)
    assert call("run", "any.yaml") == (code, "", message)


def test_an_engine_is_chosen_by_its_name(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def stop(*jobs: Any, engine: str | None, **options: Any) -> None:
        asked.append(engine)
        raise JobFailed("enough")

    monkeypatch.setattr(study, "execute", stop)
    path = recipe_file()
    assert [call("run", path, *arguments)[0] for arguments in ((), ("--engine", "here"))] == [1, 1]
    assert asked == [None, "here"]
    code, _, told = call("run", path, "--engine", "her")
    assert (code, told) == (2, "error: unknown engine 'her'; did you mean 'here'?\n")


def test_what_a_recipe_may_name_is_listed() -> None:
    code, out, _ = call("list")
    table = {line.split()[0]: line.split(maxsplit=1)[1].split(", ") for line in out.splitlines()}
    assert code == 0
    assert table["data"] == list(DATASETS)
    of_networks = {"data", "augment", "model", "neuron", "rule", "attack"}
    assert set(table) == of_networks | {"measure", "measurement", "test", "job", "figure", "engine"}
    assert table["augment"] == list(AUGMENTATIONS)
    assert table["attack"] == [*ATTACKS, "noise_like"]


def test_the_schema_is_printed_as_it_lies_in_the_checkout() -> None:
    assert call("schema") == (0, (ROOT / "recipes" / "schema.json").read_text(encoding="utf-8"), "")


def test_without_a_command_there_is_help() -> None:
    _, out, told = call()
    assert "report" in out + told
    assert "schema" in out + told


@pytest.mark.skipif(os.name != "posix", reason="closes streams by a shell")
def test_the_command_line_works_whatever_its_streams_are() -> None:
    def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
        line = line.replace("sj-cka", f"{sys.executable} -m sj_cka")
        return subprocess.run(["bash", "-c", line], env=os.environ | env, capture_output=True, text=True, check=False)

    help_ = shell("sj-cka run -h", PYTHONIOENCODING="ascii")
    assert (help_.returncode, help_.stderr) == (0, "")
    assert help_.stdout.isascii()
    assert "--dry-run" in help_.stdout
    for line in ("sj-cka --version 2>&-", "sj-cka --version <&-", "sj-cka --version | head -1"):
        assert shell(line).stdout == f"sj_cka {__version__}\n", line
    for line in ("sj-cka -h >&-", "sj-cka -h | true; exit ${PIPESTATUS[0]}", "sj-cka -h >/dev/null 2>&-"):
        done = shell(line)
        assert (done.stdout, done.stderr) == ("", ""), line
    # a file that is opened where a stream was closed does not get what is meant for the stream
    code = "import sys; sys.argv = ['x', '--version']; from sj_cka.cli import main\ntry: main()\nfinally: f = open('/dev/null'); print(f.fileno())"  # fmt: skip # noqa: E501
    assert int(shell(f'{sys.executable} -c "{code}" 2>&-').stdout.split()[-1]) > 2


# values set on the command line


def test_a_value_set_on_the_command_line_is_laid_over_the_recipe(recipe_file: Write, tmp_path: Path) -> None:
    (tmp_path / "images.npz").rename(tmp_path / "mine.npz")
    path = recipe_file()
    code, _, told = call("run", path, "--dry-run")
    assert code == 2
    assert "found no file at" in told
    code, out, _ = call("run", path, "--dry-run", "--set", "data.path=mine.npz", "--set", "seeds=[4, 7, 8]")
    assert code == 0
    assert "seeds 4, 7, 8" in out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epochs", "error: --set: expected KEY.PATH=VALUE, e.g. data.path=mine.npz, got 'train.epochs'"),
        ("train..epochs=2", "error: --set: expected KEY.PATH=VALUE, e.g. data.path=mine.npz, got 'train..epochs=2'"),
        ("train.epochs=0", "error: --set: train.epochs: expected at least 1, got 0"),
        ("train.epoch=2", "error: --set: train.epoch: unknown key; did you mean 'epochs'?"),
        ("data.path=nowhere.npz", "error: --set: data.path: expected an .npz file"),
        ("seeds.first=1", "error: --set seeds.first: expected a map of keys at seeds, but seeds is 2"),
        ("train.epochs=[", "error: --set train.epochs: expected a value in YAML, got '['"),
    ],
)
def test_a_bad_setting_is_told_as_one(setting: str, message: str, recipe_file: Write) -> None:
    code, out, told = call("run", recipe_file(), "--dry-run", "--set", setting)
    assert (code, out) == (2, "")
    assert told.startswith(message)
