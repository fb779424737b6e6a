"""What tests of studies share: a small recipe, and a store of their own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch and numpy are imported, here and in all processes that tests start: arrays of tests are so small that a
# second thread only waits, at full load (six times the seconds of CPU on a busy machine), and rounds otherwise.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest

# Studies run on a GPU where there is one, whose numbers are not the same to the bit from run to run, as many tests ask.
# CUDA_VISIBLE_DEVICES=0 in the environment shows it to them all the same.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# H != W; trains in a tenth of a second
TINY = """\
title: Tiny
question: Does it run?
data: {name: npz, path: images.npz}
model: {name: resnet, depth: 8}
snn:
  T: 2
  neuron: {name: lif, tau: 2.0}
train:
  epochs: 1
  batch_size: 32
  lr: 0.1
seeds: 2
variants:
  all: {}
  none:
    model: {residual: []}
cka:
  batch_size: 16
compare:
  - {name: twins, x: "*.snn", y: "*.ann"}
  - {name: shortcuts, x: all.snn, y: none.snn}
figures:
  - {name: curve, comparison: twins}
  - name: steps
    comparison: twins
    layers: [layer1.0.lif2]
claims:
  - test: greater
    says: Shortcuts help.
    source: nobody
    a: {measure: paired_cka, comparison: twins, variant: all}
    b: {measure: paired_cka, comparison: twins, variant: none}
profiles:
  smoke:
    train: {epochs: 1}
"""


# the same on time steps: every key that is about them
TIMES = """\
title: Times
question: What do steps add?
data: {name: npz, path: images.npz}
model: {name: resnet, depth: 8}
train:
  epochs: 1
  batch_size: 32
seeds: 2
sweep: {snn.T: [1, 2, 4]}
cka:
  batch_size: 16
compare:
  - {name: twins, x: "*.snn", y: "*.ann"}
  - {name: across, x: "*.snn", y: "*.snn", variants: pairs, layers: [conv1, "*lif*"]}
  - {name: inside, x: "*.snn", y: "*.snn", layers: ["*lif*"], permutation_test: true}
  - {name: rerun, x: T-2.snn, y: T-2.ann, T_x: [2, 3]}
evaluate:
  - {network: "*.snn", T: [1, 2]}
figures:
  - {name: curve, comparison: rerun}
  - {name: steps, comparison: inside}
  - {name: dynamics, comparison: inside}
  - {name: variants, comparison: across}
  - {name: accuracy_by_steps}
  - {name: accuracy}
  - {name: training}
claims:
  - test: greater
    says: Deep layers are more dynamic.
    source: nobody
    a: {measure: dynamics, comparison: inside, variant: T-4, layers: ["layer3.*"]}
    b: {measure: dynamics, comparison: inside, variant: T-4, layers: ["layer1.*"]}
  - test: near_ceiling
    says: T makes no difference.
    source: nobody
    a: {measure: paired_cka, comparison: across, variant: T-1 and T-2}
  - test: less
    says: It gains little.
    source: nobody
    margin: 0.01
    reason: a point
    a: {measure: accuracy, network: T-4.snn, T: 2}
    b: {measure: accuracy, network: T-4.snn}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every member of the tests that are marked sampled")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first n members of a test that is marked `sampled(n)`, unless --full asks for all of them."""
    if config.getoption("--full"):
        return
    seen: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        sampled = item.get_closest_marker("sampled")
        test = item.nodeid.partition("[")[0]
        seen[test] += 1
        (left_out if sampled and seen[test] > (sampled.args or (2,))[0] else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the checkout or reads the user's store."""
    monkeypatch.setenv("SJ_CKA_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="session")
def soon() -> Callable[..., None]:
    """`soon(tab, expression, arg)`: waits until a JavaScript expression holds in a page of a browser.

    Playwright's own wait polls inside the page, by an eval that the page's Content-Security-Policy forbids: it works
    only where the expression holds at once.
    """

    def wait(tab: Any, expression: str, arg: Any = None) -> None:
        until = time.monotonic() + 30
        while not tab.evaluate(expression, arg):
            assert time.monotonic() < until, f"after 30 seconds still not so: {expression}"
            tab.wait_for_timeout(20)

    return wait


@pytest.fixture(scope="session")
def forked() -> multiprocessing.context.ForkServerContext:
    """Starts processes from one that has imported torch and this package already, which takes seconds."""
    from sj_cka.engine.pool import forks

    return forks("sj_cka.study", "sj_cka.training.distributed")


@pytest.fixture(scope="session")
def together(
    forked: multiprocessing.context.ForkServerContext, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    """`together(code, arguments, ...)`: runs code at once in a process for each of the arguments; what each printed."""

    def run(code: str, *of_each: tuple[Any, ...], seconds: float = 120) -> list[str]:
        folder, until = tmp_path_factory.mktemp("processes"), time.monotonic() + seconds
        running = []
        for i, arguments in enumerate(of_each):
            names = {"argv": ["-c", *map(str, arguments)], "files": [str(folder / f"{i}.{s}") for s in ("out", "err")]}
            running.append(forked.Process(target=exec, args=(_AS_A_SCRIPT + code, names | {"__name__": "__main__"})))
            running[-1].start()
        try:
            for i, process in enumerate(running):
                process.join(max(0.0, until - time.monotonic()))
                assert process.exitcode == 0, (i, process.exitcode, (folder / f"{i}.err").read_text())
        finally:
            for process in running:
                process.kill()
                process.join()
        return [(folder / f"{i}.out").read_text() for i in range(len(running))]

    return run


_AS_A_SCRIPT = """
import os, sys
sys.argv = argv
for descriptor, file in enumerate(files, start=1):
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
"""


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    """Four classes of noisy bars, 8 high and 6 wide: 64 for training, 32 for testing."""
    random = np.random.default_rng(0)
    made = {}
    for split, n in (("train", 64), ("test", 32)):
        y = np.arange(n) % 4
        x = random.normal(size=(n, 1, 8, 6))
        x[np.arange(n), 0, 2 * y] += 2
        made |= {f"x_{split}": x.astype(np.float32), f"y_{split}": y}
    return made


@pytest.fixture(scope="session")
def tiny() -> str:
    """The tiny recipe."""
    return TINY


@pytest.fixture
def recipe_file(tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`recipe_file((old, new), ...)`: the tiny recipe with texts replaced, beside its data, in the working folder."""
    return _writer(TINY, "tiny.yaml", tmp_path, arrays, monkeypatch)


@pytest.fixture
def time_file(tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`time_file((old, new), ...)`: the same of the recipe on time steps."""
    return _writer(TIMES, "times.yaml", tmp_path, arrays, monkeypatch)


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Callable[..., Path]]:
    """`writer(recipe, file)((old, new), ...)`: another recipe with texts replaced, in the working folder."""
    return lambda recipe, file: _writer(recipe, file, tmp_path, {}, monkeypatch)


def _writer(
    recipe: str, file: str, folder: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    monkeypatch.chdir(folder)
    if arrays:
        np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]

    def write(*changes: tuple[str, str], name: str = file) -> Path:
        text = recipe
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the recipe"
            text = text.replace(old, new)
        path = folder / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
