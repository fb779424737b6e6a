"""Whole studies: the smoke profile of every recipe to its page, odd recipes, and runs that are disturbed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from torch import nn

import sj_cka
from sj_cka import jobs, study
from sj_cka.engine import JobFailed
from sj_cka.figures import FIGURES, Figure, Panel, Section
from sj_cka.models import MODELS
from sj_cka.recipe import FigureBlock, RecipeError, read, schema
from sj_cka.results import Results
from sj_cka.study import StudyResult
from sj_cka.training import Settings

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Write = Callable[..., Path]


# the smoke profile of every recipe


@pytest.fixture(scope="session")
def pictured(request: pytest.FixtureRequest) -> list[Path]:
    """The recipes whose figures are also drawn to files here: to start a browser for it takes seconds."""
    return [] if BROWSER is None else RECIPES if request.config.getoption("--full") else RECIPES[:2]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory, pictured: list[Path]) -> Callable[[Path], StudyResult]:
    """`smoke(recipe)`: its smoke profile, run in this process, once in a session."""
    folder, finished = tmp_path_factory.mktemp("smoke"), dict[Path, StudyResult]()

    def run(path: Path) -> StudyResult:
        if path not in finished:
            options: dict[str, Any] = {"out": folder / path.stem, "store": folder / "store", "workers": 1}
            with pytest.MonkeyPatch.context() as patch:
                if path not in pictured:
                    patch.setenv("BROWSER_PATH", "/nowhere")
                finished[path] = sj_cka.run(path, profile="smoke", progress=False, **options)
        return finished[path]

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_smoke_profile_of_a_recipe_runs_to_its_page_and_tables(
    path: Path, smoke: Callable[[Path], StudyResult], pictured: list[Path]
) -> None:
    result, recipe = smoke(path), read(path, "smoke").recipe
    assert result.report.is_file()
    cka, accuracy, claims = (pd.read_csv(result.folder / f"{name}.csv") for name in ("cka", "accuracy", "claims"))
    assert {"layer_x", "layer_y", "seed", "time", "cka"} <= set(cka.columns)
    assert set(cka["comparison"]) == {comparison.name for comparison in recipe.compare}
    assert accuracy["accuracy"].between(0, 1).all()
    assert set(accuracy["split"]) == {"train", "test"}
    assert claims["claim"].to_list() == [claim.says for claim in recipe.claims]
    assert set(claims["verdict"]) <= {"holds", "contradicted", "undecided", "not trained"}
    page = result.report.read_text(encoding="utf-8")
    assert recipe.title in page
    assert [claim.says for claim in recipe.claims if claim.says.replace("'", "&#39;") not in page] == []
    if path in pictured:
        # floors and ceilings are on the page alone
        shown = [figure for figure in recipe.figures if figure.state == "trained"]
        assert len(list(result.folder.glob("*.png"))) >= len(shown) > 0
    assert result.summary().splitlines()[-1] == f"report: {result.report}"


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_finished_page_draws_every_figure_in_a_browser_without_complaint(
    path: Path, smoke: Callable[[Path], StudyResult], browser: Any, soon: Callable[..., None]
) -> None:
    page = smoke(path).report
    complaints: list[str] = []
    requests: list[str] = []
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    soon(tab, "document.querySelector('.panel:not([hidden]) .main-svg') !== null")
    for button in tab.get_by_role("tab").all():
        button.click()
    soon(tab, "[...document.querySelectorAll('.plot')].every((plot) => plot.data !== undefined)")
    drawn = tab.evaluate("[...document.querySelectorAll('.plot')].map((plot) => plot.data.length)")
    tab.close()
    assert drawn
    assert all(drawn)
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [page.as_uri()]


# small studies


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a browser takes seconds."""
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def shared_store(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for all tests that do not ask who did the jobs: small studies have most of them in common."""
    monkeypatch.setenv("SJ_CKA_STORE", str(shared_folder))


def run(path: Path, **options: Any) -> StudyResult:
    return sj_cka.run(path, workers=1, progress=False, **options)


QUICKER = ("seeds: 2", "seeds: 1")


@pytest.mark.usefixtures("no_pictures")
def test_a_study_is_written_beside_other_figures_by_the_name_of_its_recipe_and_profile(recipe_file: Write) -> None:
    path = recipe_file(QUICKER)
    quick, smoke = run(path), run(path, profile="smoke")
    assert (quick.folder, smoke.folder) == (Path("figures/tiny"), Path("figures/tiny-smoke"))
    names = {"report.html", "cka.csv", "accuracy.csv", "claims.csv", "undefined.csv"}
    names |= {"cost.csv", "history.csv", "firing_rates.csv", "study.json", "manifest.json"}
    assert {file.name for file in quick.folder.iterdir()} == names
    assert (quick.done > 0, smoke.done) == (True, 0)  # the same networks: only the folder differs


@pytest.mark.usefixtures("no_pictures")
def test_a_report_is_drawn_anew_without_running_a_job(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe_file(QUICKER)
    with pytest.raises(
        JobFailed, match=r"18 jobs of this study are not finished, first: all\.snn, seed 0; run it first"
    ):
        study.redraw(path)
    assert not Path("figures").exists()
    first = run(path)
    files = {file.name: file.read_bytes() for file in first.folder.glob("*.csv")}
    shutil.rmtree(first.folder)

    def no_job(*anything: Any) -> None:
        raise AssertionError("a job was run")

    monkeypatch.setattr(jobs, "run", no_job)
    again = study.redraw(path)
    assert {file.name: file.read_bytes() for file in again.folder.glob("*.csv")} == files
    assert again.report.is_file()
    assert again.done == 0


def test_a_dry_run_counts_jobs_and_runs_none(recipe_file: Write, tmp_path: Path) -> None:
    told = study.outline(recipe_file())
    assert (
        "tiny (quick): 2 variants, seeds 0, 1\n40 jobs (8 init, 8 train, 8 cost, 16 compare), 0 finished before" in told
    )
    assert {file.name for file in tmp_path.iterdir()} == {"tiny.yaml", "images.npz"}


def test_a_report_that_cannot_be_written_is_told_before_the_work(recipe_file: Write, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(NotADirectoryError, match=r"expected a folder for the report, got .*taken is a file"):
            run(recipe_file(QUICKER), out=out)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("store", r"expected a folder for the store of finished jobs, got .*store: it is a file"),
        ("out/tensorboard", r"expected a folder for TensorBoard, got .*tensorboard: .*tensorboard is a file"),
    ],
)
def test_every_place_is_tried_before_the_first_job(
    recipe_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, told: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / place).write_text("")
    monkeypatch.setattr(jobs, "run", lambda *anything: pytest.fail("a job was run"))
    with pytest.raises(NotADirectoryError, match=told):
        run(recipe_file(QUICKER, *BARE), out=tmp_path / "out", store=tmp_path / "store", tensorboard=True)


BARE = [
    ('compare:\n  - {name: twins, x: "*.snn", y: "*.ann"}\n  - {name: shortcuts, x: all.snn, y: none.snn}\n', ""),
    ("figures:\n  - {name: curve, comparison: twins}\n  - name: steps\n    comparison: twins\n", ""),
    ("    layers: [layer1.0.lif2]\n", ""),
    ("claims:\n  - test: greater\n    says: Shortcuts help.\n    source: nobody\n", ""),
    ("    a: {measure: paired_cka, comparison: twins, variant: all}\n", ""),
    ("    b: {measure: paired_cka, comparison: twins, variant: none}\n", ""),
]


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_a_study_without_comparisons_figures_and_claims_still_has_a_page(recipe_file: Write) -> None:
    result = run(recipe_file(QUICKER, *BARE))
    assert result.report.is_file()
    assert set(result.accuracy["network"]) == {"all.snn", "all.ann", "none.snn", "none.ann"}
    assert pd.read_csv(result.folder / "cka.csv").empty
    assert pd.read_csv(result.folder / "claims.csv").empty
    assert "verdict" not in result.summary()


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_a_sweep_ends_with_a_curve_of_every_value_and_a_judged_trend(recipe_file: Write) -> None:
    sweep = ("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", "sweep:\n  snn.T: [1, 2]\n")
    compare = 'compare:\n  - {name: twins, x: "*.snn", y: "*.ann"}\n'
    figures = "figures:\n" + "".join(f"  - {{name: {f}, comparison: twins}}\n" for f in ("curve", "heatmap", "steps"))
    claim = "claims:\n  - {test: trend, direction: up, says: It grows., source: nobody, a: %s}\n"
    trends = claim % "{measure: paired_cka, comparison: twins}"
    changes = (BARE[0][0], compare), (BARE[1][0], figures), BARE[2], (BARE[3][0], trends), *BARE[4:]
    result = run(recipe_file(QUICKER, sweep, *changes))
    (finding,) = result.findings
    assert finding.verdict == "not trained"
    assert "by swept value 1: " in finding.measured
    table = pd.read_csv(result.folder / "cka.csv")
    assert set(table["variant"]) == {"T-1", "T-2"}


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_other_seeds_and_networks_at_init_are_compared(recipe_file: Write) -> None:
    compare = (
        "compare:\n"
        "  - {name: twins, x: all.snn, y: all.ann, seeds: across}\n"
        "  - {name: start, x: all.snn@init, y: all.snn}\n"
        "  - {name: itself, x: none.snn, y: none.snn, seeds: across}\n"
    )
    figures = "figures:\n" + "".join(
        f"  - {{name: {figure}, comparison: {name}}}\n"
        for figure in ("heatmap", "curve", "steps")
        for name in ("twins", "start", "itself")
    )
    above = "{test: above, value: 0, says: s, source: s, a: {measure: paired_cka, comparison: %s}}"
    claims = "claims:\n" + "".join(f"  - {above % name}\n" for name in ("twins", "start", "itself"))
    changes = (BARE[0][0], compare), (BARE[1][0], figures), BARE[2], (BARE[3][0], claims), *BARE[4:]
    result = run(recipe_file(("  lr: 0.1", "  trained_at: 0"), *changes))
    table = pd.read_csv(result.folder / "cka.csv")
    seeds = table[(table.comparison == "twins") & (table.state == "trained")][["seed", "seed_y"]].drop_duplicates()
    assert seeds.to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    itself = table[(table.comparison == "itself") & (table.state == "trained")][["seed", "seed_y"]].drop_duplicates()
    assert itself.to_numpy().tolist() == [[0, 1], [1, 0]]
    untrained = table[(table.comparison == "start") & (table.state == "untrained")]["cka"].dropna()
    assert untrained.to_numpy() == pytest.approx(1)  # at init, all.snn@init and all.snn are one network
    trained = table[(table.comparison == "start") & (table.state == "trained") & (table.time == "all steps")]["cka"]
    assert (trained.dropna() < 0.99).any()
    assert [finding.verdict for finding in result.findings] == ["undecided"] * 3  # two seeds
    assert [finding.estimate.n for finding in result.findings] == [2, 2, 2]


class Renamed(nn.Module):
    """A ResNet under other names."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, inner)

    def forward(self, x: Any) -> Any:
        return self.get_submodule(self.name)(x)


def renamed(neuron: Any, *, T: int | None, in_channels: int, num_classes: int, depth: int = 8) -> nn.Module:
    inner = MODELS["resnet"](neuron, T=T, in_channels=in_channels, num_classes=num_classes, depth=depth)
    return Renamed(inner, "ann" if T is None else "snn")


def best(block: FigureBlock, results: Results, *, count: int = 3, split: str = "test") -> Section:
    """Stands for a figure of a plugin."""
    table = results.tables["accuracy"].query("split == @split").nlargest(count, "accuracy")
    return Section(
        block.title or "The best", "Of all.", (Panel("best", go.Figure(go.Bar(y=table["accuracy"]))),), table
    )


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_a_figure_of_a_plugin_goes_from_the_recipe_to_the_page(
    recipe_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES, "best", Figure(best))
    monkeypatch.setitem(FIGURES, "side", Figure(best, "comparison", ("trained", "untrained")))
    old = "  - {name: curve, comparison: twins}\n"
    for wrong, message in {
        "{name: best, counts: 2}": r"figures\[0\].counts: unknown key; did you mean 'count'\?",
        "{name: best, count: two}": r"figures\[0\].count: expected a number, got 'two'",
        "{name: best, comparison: twins}": r"figures\[0\].comparison: expected none: best shows all networks",
        "{name: side}": r"figures\[0\].comparison: expected the comparison that the side shows",
        "{name: side, comparison: twins, state: ceiling}": r"figures\[0\].state: expected trained or untrained: side",
    }.items():
        with pytest.raises(RecipeError, match=message):
            read(recipe_file((old, f"  - {wrong}\n")))
    blocks = "  - {name: best, count: 2, title: Two}\n  - {name: side, comparison: twins, state: untrained}\n"
    result = run(recipe_file(QUICKER, (old, blocks)))
    assert ["<h2>Two</h2>" in (page := result.report.read_text()), "<h2>The best</h2>" in page] == [True, True]
    entries = schema()["properties"]["figures"]["items"]["oneOf"]
    (of_plugin,) = (entry for entry in entries if entry["properties"]["name"]["const"] == "best")
    assert of_plugin["properties"]["count"]["default"] == 3
    assert of_plugin["required"] == ["name"]


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_networks_without_a_common_layer_name_are_told_on_the_page(
    recipe_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "renamed", renamed)
    compare = 'compare:\n  - {name: twins, x: "*.snn", y: "*.ann"}\n'
    figures = "figures:\n  - {name: curve, comparison: twins}\n  - {name: heatmap, comparison: twins}\n"
    above = "{test: above, value: 0, says: s, source: s, a: {measure: paired_cka, comparison: twins, variant: all}}"
    variants = ("variants:\n  all: {}\n  none:\n    model: {residual: []}\n", "variants: {all: {}}\n")
    changes = (BARE[0][0], compare), (BARE[1][0], figures), BARE[2], (BARE[3][0], f"claims: [{above}]\n"), *BARE[4:]
    result = run(
        recipe_file(QUICKER, ("name: resnet", "name: renamed"), ("  lr: 0.1", "  trained_at: 0"), variants, *changes)
    )
    assert "No layer has the same name in both networks" in result.report.read_text()
    assert pd.read_csv(result.folder / "cka.csv").empty
    (finding,) = result.findings
    assert (finding.verdict, finding.note) == ("undecided", "no layer is defined in all arms")


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_a_short_last_minibatch_is_left_out_and_told(recipe_file: Write) -> None:
    result = run(recipe_file(QUICKER, ("  batch_size: 16", "  batch_size: 29")))
    assert "The last minibatch of 3 test images is left out" in result.report.read_text()
    assert {int(compared.result.data.n) for compared in result.results.compared} == {29}


@pytest.mark.usefixtures("no_pictures")
def test_jobs_of_another_environment_are_told_on_the_page(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, environment = recipe_file(QUICKER), jobs.environment
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(jobs.kinds, "environment", lambda job, on: environment(job, on) | {"device": "toaster"})
        run(path)
    page = run(path).report.read_text()
    assert "18 with device toaster" in page
    assert re.search(r"CPU seconds of jobs</th><td>(train|compare) \d+, ", page)
    shutil.rmtree(path.parent / "store")
    assert "another environment" not in run(path).report.read_text()


@pytest.mark.usefixtures("shared_store")
def test_two_figures_of_one_kind_have_files_of_their_own(recipe_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(study, "write_pngs", lambda stills, folder: drawn.update(stills))
    steps = "  - {name: steps, comparison: shortcuts, layers: [%s]}\n"
    figures = "figures:\n" + steps % "lif" + steps % "conv1" + "  - {name: heatmap, comparison: twins}\n"
    run(recipe_file(QUICKER, (BARE[1][0], figures), BARE[2]))
    assert list(drawn) == ["steps_shortcuts", "steps_shortcuts_again1", "heatmap_twins_all", "heatmap_twins_none"]


def test_bad_data_leave_nothing_behind(recipe_file: Write, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="found no file at"):
        run(recipe_file(("path: images.npz", "path: image.npz")))
    assert {file.name for file in tmp_path.iterdir()} == {"tiny.yaml", "images.npz"}


# a study on time steps


@pytest.mark.usefixtures("shared_store")
def test_a_study_on_time_steps_ends_with_its_tables_figures_and_verdicts(
    time_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(study, "write_pngs", lambda stills, folder: drawn.update(stills))
    result = run(time_file(("  batch_size: 32", "  batch_size: 32\n  trained_at: 0")))
    assert list(drawn) == [
        "curve_rerun",
        *(f"steps_inside_T-{T}{null}" for T in (2, 4) for null in ("", "_timing_null")),
        "dynamics_inside",
        "variants_across",
        "accuracy_by_steps",
        "accuracy",
        "training",
    ]
    folder = result.folder
    dynamics, evaluated, cka = (pd.read_csv(folder / f"{name}.csv") for name in ("dynamics", "evaluated", "cka"))
    assert set(dynamics["variant"]) == {"T-1", "T-2", "T-4"}
    assert set(dynamics["state"]) == {"trained", "untrained"}
    assert dynamics[dynamics["variant"] == "T-1"]["cka"].isna().all()
    assert dynamics[dynamics["variant"] == "T-4"][["null", "split"]].notna().any().all()
    assert set(zip(evaluated["network"], evaluated["T"], strict=True)) == {
        (f"T-{own}.snn", T) for own in (1, 2, 4) for T in {1, 2, own}
    }
    as_trained = evaluated[evaluated["network"].eq("T-4.snn") & evaluated["T"].eq(4)]["accuracy"].to_list()
    own = pd.read_csv(folder / "accuracy.csv").query("network == 'T-4.snn'")["accuracy"].to_list()
    assert as_trained == own
    assert set(cka[cka["comparison"] == "rerun"]["variant"]) == {"at T = 2", "at T = 3"}
    assert [finding.verdict for finding in result.findings] == ["undecided"] * 3  # two seeds
    assert result.findings[0].measured.startswith("change between steps, over split halves of the units ")
    assert result.accuracy["network"].unique().tolist() == ["T-1.snn", "T-2.snn", "T-4.snn", "*.ann"]
    page = result.report.read_text()
    assert "*.ann is one network, the same for every variant" in page
    assert "Not shown, because there is one step: T-1.snn." in page
    layers = [note.text for note in drawn["steps_inside_T-4"].layout.annotations]
    assert layers == list(result.results.plan.neurons["T-4.snn"])


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_steps_show_the_neurons_of_a_network_or_the_layers_that_are_named(time_file: Write) -> None:
    figures = (
        '  - {name: steps, comparison: twins}\n  - {name: steps, comparison: twins, layers: ["layer?.0.lif1", bn]}\n'
    )
    path = time_file(("  - {name: steps, comparison: inside}\n", figures), ("seeds: 2", "seeds: 1"))
    result = run(path)
    shown = [result.results.section(block) for block in result.results.plan.study.recipe.figures[1:3]]
    of_figures = [[note.text for note in section.panels[0].figure.layout.annotations] for section in shown]
    assert of_figures == [
        list(result.results.plan.neurons["T-2.snn"]),
        ["layer1.0.lif1", "layer2.0.lif1", "layer3.0.lif1", "bn"],
    ]
    assert [panel.label for panel in shown[0].panels] == ["T-2", "T-4"]
    assert "Sparse firing alone" in shown[0].note


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_figures_of_time_say_so_where_there_is_nothing_to_show(time_file: Write) -> None:
    changes = ("{snn.T: [1, 2, 4]}", "{snn.T: [1]}"), ("seeds: 2", "seeds: 1")
    text = time_file().read_text()
    path = time_file(
        *changes,
        (text[text.index("  - {name: twins") : text.index("  - {name: inside")], ""),
        (text[text.index("  - {name: rerun") : text.index("figures:")], ""),
        ("  - {name: curve, comparison: rerun}\n", ""),
        (text[text.index("  - {name: variants") : text.index("  - {name: accuracy}")], ""),
        (text[text.index("claims:") :], ""),
    )
    result = run(path)
    page = result.report.read_text()
    assert "Not shown, because there is one step: T-1.snn." in page
    assert "Not shown, because no two steps can be compared: T-1.snn." in page


# a study that is disturbed


def alive(group: int) -> list[int]:
    """Processes of a group that still run, from /proc; dead ones that nobody has collected do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(own) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def finished(store: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("??/[!.]*/manifest.json")}


def wait_for(what: Callable[[], Any], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing came within {seconds:g} s")


def disturb(command: list[str], store: Path, how: Callable[[int], None]) -> tuple[int, str]:
    """Starts a study, disturbs it as soon as it has finished one more job: all its processes end within 20 seconds."""
    before = len(finished(store))
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a background job
    ) as started:
        try:
            wait_for(lambda: started.poll() is not None or len(finished(store)) > before)
            how(started.pid)
            _, told = started.communicate(timeout=20)
            wait_for(lambda: not alive(started.pid), 20)
        finally:
            if alive(started.pid):
                os.killpg(started.pid, signal.SIGKILL)
    return started.returncode, told


def kill_it(group: int) -> None:
    os.kill(group, signal.SIGKILL)


def press_ctrl_c(group: int) -> None:
    os.killpg(group, signal.SIGINT)  # a terminal tells the whole group


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks at processes through /proc")
@pytest.mark.usefixtures("no_pictures")
def test_a_study_that_is_killed_and_interrupted_ends_with_the_numbers_of_an_undisturbed_one(
    recipe_file: Write, tmp_path: Path
) -> None:
    path, store = recipe_file(), tmp_path / "store"
    command = [sys.executable, str(ROOT / "recipes" / "run.py"), str(path), "--store", str(store), "--workers", "2"]
    seen = dict[str, int]()
    for how, code, message in (
        (kill_it, -signal.SIGKILL, ""),
        (press_ctrl_c, 130, "interrupted; what was finished is kept, run the same command to go on"),
    ):
        returned, told = disturb(command, store, how)
        assert returned == code, told
        assert message in told
        assert "Traceback" not in told
        assert code < 0 or told.endswith(f"{message}\n")
        assert not Path("figures").exists()
        now = finished(store)
        assert now.items() > seen.items()
        seen = now
    result = run(path, store=store)
    assert result.done == 40 - len(seen)
    assert finished(store).items() >= seen.items()  # nothing was done twice
    undisturbed = run(path, store=tmp_path / "other", out=tmp_path / "undisturbed")
    assert undisturbed.done == 40
    for name in ("accuracy.csv", "cka.csv", "claims.csv", "undefined.csv"):
        assert (result.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), name
    for job in {job.key for job in result.results.plan.trained.values()}:
        one, other = (
            jobs.weights.load_weights((s / job[:2] / job / "weights.safetensors").read_bytes())
            for s in (store, tmp_path / "other")
        )
        assert all((one[name] == other[name]).all() for name in one)


def test_the_defaults_of_a_recipe_are_those_of_training(recipe_file: Write) -> None:
    train = read(recipe_file(("  epochs: 1\n  batch_size: 32\n  lr: 0.1", "  threads: 1"))).recipe.train
    assert Settings(**train.of("snn")) == Settings(**train.of("ann")) == Settings()


@pytest.mark.usefixtures("no_pictures", "shared_store")
def test_the_terminal_ends_with_accuracies_verdicts_and_the_path(recipe_file: Write) -> None:
    lines = run(recipe_file(QUICKER)).summary().splitlines()
    assert re.match(r"network +train +test +95 % interval of test", lines[1])
    assert re.match(r"all\.snn +\d+\.\d % +\d+\.\d % +one seed", lines[2])
    assert lines[-3] == "not trained   exploratory  Shortcuts help."
    assert lines[-1] == "report: figures/tiny/report.html"


# epochs as they end, and several processes for one training


@pytest.mark.usefixtures("no_pictures")
def test_tensorboard_gets_every_epoch_of_every_training_also_of_one_done_before(
    recipe_file: Write, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = recipe_file(*BARE, ("  epochs: 1", "  epochs: 2"), ("seeds: 2", "seeds: [3]"))
    for folder in ("fresh", "again"):  # the second run does nothing but read
        result = run(path, out=tmp_path / folder, tensorboard=True)
        logs = tmp_path / folder / "tensorboard"
        assert sorted(log.name for log in logs.iterdir()) == [
            f"{variant}.{kind}-seed-3" for variant in ("all", "none") for kind in ("ann", "snn")
        ]
        events = EventAccumulator(str(logs / "all.snn-seed-3")).Reload()
        history = result.results.tables["history"].query("network == 'all.snn'")
        for column in ("loss", "accuracy", "firing_rate", "lr"):
            scalars = events.Scalars(column)
            assert [scalar.step for scalar in scalars] == [1, 2]
            assert [scalar.value for scalar in scalars] == pytest.approx(list(history[column]), rel=1e-5)
        assert len(events.Scalars("firing rate/layer1.0.lif1")) == 2
    rates = pd.read_csv(tmp_path / "fresh" / "firing_rates.csv")
    assert list(rates.columns) == ["network", "seed", "epoch", "layer", "rate"]
    assert set(rates["network"]) == {"all.snn", "none.snn"}


@pytest.mark.usefixtures("no_pictures")
def test_two_processes_of_torchrun_do_a_study_together_as_one_does_alone(recipe_file: Write, tmp_path: Path) -> None:
    path = recipe_file(("  lr: 0.1", "  lr: 0.1\n  sync_bn: true"), ("seeds: 2", "seeds: 1"))
    alone = run(path, out=tmp_path / "alone", store=tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "sj_cka.cli", "run", str(path), "--out", "together", "--store", "two"]
    environment = os.environ | {"BROWSER_PATH": "/nowhere"}
    done = subprocess.run(
        [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: together/report.html") == 1
    for name, columns in (("history", ["loss", "accuracy", "firing_rate"]), ("cka", ["cka"])):
        one, two = (pd.read_csv(tmp_path / folder / f"{name}.csv") for folder in ("alone", "together"))
        assert len(one) == len(two) > 0
        for column in columns:
            # rounding makes a few neurons fire otherwise
            assert (one[column] - two[column]).abs().max() < 0.05
            assert (one[column] - two[column]).abs().mean() < 0.01
    assert (alone.accuracy["mean"] >= 0).all()
